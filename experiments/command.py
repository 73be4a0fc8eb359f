"""The command line that the comparisons share."""

from pathlib import Path
from typing import Any, NamedTuple

from metasdf.commands.command_line import CommandLine, whole_number

ROOT = Path(__file__).resolve().parents[1]  # the project's folder


class Choices(NamedTuple):
    """What a comparison's command line asks for, besides its own options.

    Attributes:
        plan: how much is done.
        output: folder of the runs; with --quick, below that of the full comparison.
        docs: folder of the tables and pictures.
        processes: runs at once; None: as many as there are cores.
        options: everything that was parsed.
    """

    plan: Any
    output: Path
    docs: Path
    processes: int | None
    options: Any


class ComparisonCommand(CommandLine):
    """A command line with --quick, --output, --docs and --processes.

    Args:
        name: of the module.
        folder: of its runs, below output.
        description: for --help.
        quick: what --quick does, for --help.
    """

    def __init__(self, name: str, folder: str, description: str, quick: str) -> None:
        super().__init__(prog=f"python -m experiments.{name}", description=description)
        output = ROOT / "output" / folder
        self.add_argument("--quick", action="store_true", help=quick)
        self.add_argument("--output", default=output, type=Path, help="default: %(default)s")
        self.add_argument("--docs", type=Path, help="default: the folder of the runs")
        self.add_argument("--processes", type=whole_number, help="runs at once (default: cores)")

    def choices(self, full: Any, quick: Any) -> Choices:
        """Parse; the plan is one of the two."""
        options = self.parse()
        output = options.output.absolute()
        output = output / "quick" if options.quick else output
        plan = quick if options.quick else full
        return Choices(plan, output, options.docs or output, options.processes or None, options)
