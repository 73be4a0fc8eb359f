"""Command lines whose errors are one clear line."""

import argparse
from collections.abc import Sequence
from typing import Any

from metasdf.errors import InputError, near_matches


class CommandLine(argparse.ArgumentParser):
    """A parser whose errors are InputErrors, with near matches for misspelt options."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options
        )

    def error(self, message: str) -> None:
        raise InputError(f"{message} (see {self.prog} --help)")

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


def whole_number(text: str) -> int:
    """A command-line value that counts something: 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 0 or more")
    return int(text)
