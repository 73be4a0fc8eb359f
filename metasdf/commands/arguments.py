"""Curriculums: plain dictionaries of values that say what to train, on what and how.

This module knows every key, its default, its meaning and what values it takes. Any key can be
overridden on a command line as `--key value`.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from metasdf.errors import InputError
from metasdf.learning.curriculum import KEYS, KEYS_2D, REQUIRED, Key, listed, near_matches


class CommandLine(argparse.ArgumentParser):
    """A parser whose errors are InputErrors with near matches, and that knows curriculum keys."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options
        )

    def error(self, message: str) -> None:
        raise InputError(f"{message} (see {self.prog} --help)")

    def add_curriculum_keys(
        self,
        keys: Mapping[str, Key] = KEYS,
        title: str = "curriculum keys (override what the curriculum says)",
    ) -> None:
        """Accept every curriculum key as `--key value`; see `overrides`."""
        group = self.add_argument_group(title)
        for name, key in keys.items():
            default = "" if key.default is REQUIRED else f" (default {key.default})"
            choices = f", one of {listed(key.choices)}" if key.choices else ""
            group.add_argument(
                f"--{name}",
                type=_parser(name, key),
                metavar=key.type.__name__.upper(),
                default=argparse.SUPPRESS,
                help=f"{key.help}{choices}{default}".replace("%", "%%"),
            )

    def parse(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """Parse; an unknown option is an InputError that names the near matches."""
        options, unknown = self.parse_known_args(arguments)
        if unknown:
            known = [o for a in self._actions for o in a.option_strings if o.startswith("--")]
            word = unknown[0].split("=")[0]
            if not word.startswith("-"):
                self.error(f"{word!r} is one argument too many")
            raise InputError(f"unknown argument {word!r}{near_matches(word, known)}")
        return options

    @staticmethod
    def overrides(options: argparse.Namespace) -> dict[str, Any]:
        """The curriculum keys that were given on the command line."""
        known = KEYS.keys() | KEYS_2D.keys()
        return {name: value for name, value in vars(options).items() if name in known}


def whole_number(text: str) -> int:
    """A command-line value that counts something: 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 0 or more")
    return int(text)


def _parser(name: str, key: Key) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return key.parse(name, text)
        except InputError as error:  # argparse would replace the message of a ValueError
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse
