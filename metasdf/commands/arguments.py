"""Command lines that know the curriculums and their keys."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from metasdf.commands.command_line import CommandLine
from metasdf.errors import InputError
from metasdf.learning.curriculum import (
    KEYS,
    KEYS_2D,
    REQUIRED,
    Key,
    keys_of,
    load_curriculum,
    read_curriculums,
)
from metasdf.learning.device import DEVICES


class CurriculumCommandLine(CommandLine):
    """A command line on which every curriculum key is an option."""

    def add_curriculum(self, file: Path | None = None, shown: str = "curriculum") -> None:
        """Accept a curriculum's name, the file it stands in, and the device to run on.

        file: the default; None: the curriculums that are shipped. shown: what help calls it.
        """
        self.add_argument(
            "curriculum", metavar=shown, help="`metasdf curriculums` lists curriculums"
        )
        self.add_curriculums_file(file)
        self.add_argument("--device", default="auto", help=f"one of {', '.join(DEVICES)}")

    def add_curriculums_file(self, file: Path | None = None) -> None:
        self.add_argument(
            "--curriculums",
            metavar="FILE",
            default=file,
            help="a Python file of your own curriculums, instead of those that are shipped",
        )

    def add_curriculum_keys(
        self,
        keys: Mapping[str, Key] = KEYS,
        title: str = "curriculum keys (override what the curriculum says)",
        defaults: bool = True,
        shown: bool = True,
    ) -> None:
        """Accept every curriculum key as `--key value`; see `overrides`.

        defaults: whether help tells them. shown: whether help lists the keys at all.
        """
        group = self.add_argument_group(title)
        for name, key in keys.items():
            told = defaults and key.default is not REQUIRED
            default = f" (default {key.default})" if told else ""
            choices = f", one of {key.accepted()}" if key.choices else ""
            group.add_argument(
                f"--{name}",
                type=_parser(name, key),
                metavar=key.type.__name__.upper(),
                default=argparse.SUPPRESS,
                help=f"{key.help}{choices}{default}".replace("%", "%%")
                if shown
                else argparse.SUPPRESS,
            )

    def parse(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """As of `CommandLine`; also values of keys that begin with "-", as argparse does not."""
        joined: list[str] = []
        for word in sys.argv[1:] if arguments is None else arguments:
            key = KEYS.get(joined[-1].removeprefix("--")) if joined else None
            if word.startswith("-") and key is not None and word in key.choices:
                joined[-1] += f"={word}"
            else:
                joined.append(word)
        return super().parse(joined)

    @staticmethod
    def overrides(options: argparse.Namespace) -> dict[str, Any]:
        """The curriculum keys that were given on the command line."""
        known = KEYS.keys() | KEYS_2D.keys()
        return {name: value for name, value in vars(options).items() if name in known}

    def chosen_curriculum(self, options: argparse.Namespace) -> dict[str, Any]:
        """The complete curriculum that the command line names, with its overrides."""
        overrides = self.overrides(options)
        return load_curriculum(options.curriculum, overrides, file=options.curriculums)


def named_keys(
    arguments: Sequence[str], otherwise: Mapping[str, Key], file: Path | None = None
) -> Mapping[str, Key]:
    """The keys of the curriculum that a command line names, before it is parsed.

    Curriculums of 3D and of 2D have different keys. otherwise: where none is named, as with --help.
    """
    finder = CurriculumCommandLine(add_help=False)
    finder.add_curriculums_file(file)
    options, _ = finder.parse_known_args(arguments)
    curriculums = read_curriculums(options.curriculums)
    name = next((a for a in arguments if a in curriculums), None)
    return otherwise if name is None else keys_of(curriculums[name])


def _parser(name: str, key: Key) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return key.parse(name, text)
        except InputError as error:  # argparse would replace the message of a ValueError
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse
