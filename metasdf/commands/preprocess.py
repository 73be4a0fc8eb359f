"""Turn meshes into SDF samples on disk, in DeepSDF's format.

    metasdf preprocess MESH_OR_FOLDER --out DIR
    metasdf preprocess --data_dir DIR --source FOLDER --name NAME --split FILE.json \\
        [--test | --surface | --partial]

The first form finds the meshes by itself (<class>/<instance>.obj, ShapeNet's layout, a folder of
meshes, one mesh; obj ply stl off glb) and writes SDF samples, surface samples, normalisation and
train/test splits, with --partial a depth scan as well. It leaves finished files alone unless
--no-skip is given. The second form takes DeepSDF's flags and writes SDF samples, or with --surface
the surface samples, with --partial a depth scan, and the normalisation. It redoes everything unless
--skip is given. Either tells in DIR/report.json how each shape fared.

Exit codes: 0 all shapes are there, 1 some were rejected (by name and reason), 2 bad arguments.
"""

import argparse
from collections import Counter
from collections.abc import Sequence

from metasdf.commands.command_line import CommandLine
from metasdf.data.names import NORMALISATION, PARTIAL_SAMPLES, SDF_SAMPLES, SURFACE_SAMPLES
from metasdf.geometry.bodies import OPEN_RULES
from metasdf.preparation.dataset import preprocess
from metasdf.preparation.discover import meshes_of_split
from metasdf.preparation.preprocessor import (
    NUM_SAMPLES,
    NUM_TEST_SAMPLES,
    USUAL_OUTPUTS,
    Settings,
    preprocess_meshes,
)

SIMPLE_FORM = ("out", "classes", "train_fraction", "num_test", "num_surface")
DEEPSDF_FORM = ("data_dir", "source", "split", "surface")


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command; the exit code."""
    parser = command_line(prog)
    args = parser.parse(arguments)
    check(parser, args)
    options = {name: getattr(args, name) for name in ("num_samples", "seed", "test", "open")}
    for name in ("noise", "num_partial", "num_surface"):
        if getattr(args, name) is not None:
            options[name] = getattr(args, name)
    scan = (PARTIAL_SAMPLES,) if args.partial else ()
    if args.meshes is not None:
        split = {"train_fraction": args.train_fraction, "num_test": args.num_test}
        records = preprocess(
            args.meshes,
            args.out,
            Settings(**options, outputs=USUAL_OUTPUTS + scan),
            name=args.name,
            classes=args.classes,
            threads=args.threads,
            skip=args.skip is not False,
            **{key: value for key, value in split.items() if value is not None},
        )
    else:
        points = (SURFACE_SAMPLES,) if args.surface else scan
        options["outputs"] = (*points, NORMALISATION) if points else (SDF_SAMPLES,)
        meshes = meshes_of_split(args.source, args.name, args.split)
        settings = Settings(**options)
        records = preprocess_meshes(
            meshes, args.data_dir, settings, threads=args.threads, skip=bool(args.skip)
        )
    counts = Counter(record.status for record in records.values())
    summary = ", ".join(f"{counts[key]} {key}" for key in ("sampled", "skipped", "rejected"))
    print(f"{summary}; see {args.out or args.data_dir}/report.json")
    return 1 if counts["rejected"] else 0


def command_line(prog: str | None) -> CommandLine:
    """The command's options."""
    parser = CommandLine(prog=prog, description=__doc__)
    add = parser.add_argument
    add("--name", help="the dataset's name on disk (default: its folder's)")
    add("--skip", action=argparse.BooleanOptionalAction, help="leave finished shapes alone")
    add("--threads", type=int, help="meshes at once (default: the number of cores)")
    add("--test", action="store_true", help="DeepSDF's wider, smaller samples for test shapes")
    add("--seed", type=int, default=0)
    usual = f"{NUM_SAMPLES}, with --test {NUM_TEST_SAMPLES}"
    add("--num_samples", type=int, help=f"SDF samples a shape (default: {usual})")
    add("--open", choices=OPEN_RULES, default="reject", help="what becomes of open meshes")
    add("--partial", action="store_true", help="a virtual depth scan, seen from one place")
    add("--noise", type=float, help="its error in depth (default: 0; the shape's radius is 1)")
    add("--num_partial", type=int, help="its points, at most (default: 10000)")
    add = parser.add_argument_group("first form").add_argument
    add("meshes", nargs="?", metavar="MESH_OR_FOLDER")
    add("--out", metavar="DIR", help="the data folder")
    add("--classes", nargs="+", metavar="CLASS", help="only these class folders")
    add("--train_fraction", type=float, help="share of each class for training (default: 0.8)")
    add("--num_test", type=int, help="instead: number of test shapes of each class")
    add("--num_surface", type=int, help="surface samples a shape (default: 30000)")
    add = parser.add_argument_group("second form, DeepSDF's").add_argument
    add("--data_dir", metavar="DIR", help="the data folder")
    add("--source", metavar="FOLDER", help="the folder that holds the class folders")
    add("--split", metavar="FILE.json", help="{dataset: {class: [instance, ...]}}")
    add("--surface", action="store_true", help="surface samples and normalisation")
    return parser


def check(parser: CommandLine, args: argparse.Namespace) -> None:
    """InputError if options are missing or exclude each other."""
    simple = args.meshes is not None
    for option in DEEPSDF_FORM if simple else SIMPLE_FORM:
        if getattr(args, option) not in (None, False):
            parser.error(f"--{option} goes {'without' if simple else 'with'} MESH_OR_FOLDER")
    if not simple and args.data_dir is None:
        parser.error("give MESH_OR_FOLDER and --out, or --data_dir, --source and --split")
    for option in ("out",) if simple else ("source", "split"):
        if getattr(args, option) is None:
            parser.error(f"--{option} is missing")
    if args.train_fraction is not None and args.num_test is not None:
        parser.error("--train_fraction and --num_test exclude each other")
    if not simple and args.test + args.surface + args.partial > 1:
        parser.error("--test, --surface and --partial exclude each other")
    for option in () if args.partial else ("noise", "num_partial"):
        if getattr(args, option) is not None:
            parser.error(f"--{option} goes with --partial")
