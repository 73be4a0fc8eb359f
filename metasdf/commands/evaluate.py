"""Measure a folder of reconstructions, or fit and measure test images (2D).

    metasdf evaluate RECONSTRUCTION_DIR --gallery gallery.png
    metasdf evaluate mnist --checkpoint RUN/checkpoints/latest.pth --gallery digits.png

The first form prints a table and writes evaluation.json and evaluation.csv beside the meshes. The
second (see `metasdf evaluate mnist --checkpoint FILE --help`) does so below the output_dir of a
curriculum of 2D.

Exit codes: 0 all shapes were measured, 1 some failed (by name and reason), 2 bad input.
"""

import os
import sys
from collections.abc import Sequence

from metasdf.commands import evaluate_images
from metasdf.commands.command_line import CommandLine
from metasdf.errors import InputError
from metasdf.evaluation.folder import evaluate
from metasdf.evaluation.gallery import write_gallery
from metasdf.evaluation.tables import metrics, table, write_results
from metasdf.files import write_json


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command; the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if any(argument.split("=")[0] == "--checkpoint" for argument in arguments):
        return evaluate_images.main(arguments, prog)
    parser = CommandLine(prog=prog, description=__doc__)
    parser.add_argument("folder", help="reconstruction_output_dir of a reconstruction")
    parser.add_argument(
        "--data_source", help="folder of the ground truth, if not the one of the curriculum"
    )
    parser.add_argument(
        "--no_nearest", action="store_true", help="skip the search for the nearest training shape"
    )
    parser.add_argument("--metrics", metavar="JSON", help="also write the means, one flat object")
    parser.add_argument("--gallery", metavar="PNG", help="also draw truth beside reconstruction")
    options = parser.parse(arguments)
    evaluate_images.check_gallery(options.gallery)
    data_source = options.data_source and os.path.abspath(options.data_source)
    if data_source and not os.path.isdir(data_source):
        raise InputError(f"--data_source {options.data_source}: is not a folder")
    result = evaluate(options.folder, data_source, not options.no_nearest)
    write_results(options.folder, result)
    print(table(result))
    if options.metrics:
        write_json(options.metrics, metrics(result))
    if options.gallery:
        write_gallery(options.gallery, options.folder, data_source)
    return 1 if result["num_failed"] else 0
