"""Measure a folder of reconstructions: python run_eval.py RECONSTRUCTION_DIR

Prints a table and writes evaluation.json and evaluation.csv beside the meshes.
"""

import os

from metasdf.commands.arguments import CommandLine
from metasdf.errors import InputError, run_command
from metasdf.evaluation.evaluate import evaluate_folder
from metasdf.evaluation.gallery import write_gallery
from metasdf.evaluation.tables import metrics, table, write_results
from metasdf.files import write_json


def main() -> int:
    parser = CommandLine(description=__doc__)
    parser.add_argument("folder", help="reconstruction_output_dir of run_reconstruct.py")
    parser.add_argument(
        "--data_source", help="folder of the ground truth, if not the one of the curriculum"
    )
    parser.add_argument(
        "--no_nearest", action="store_true", help="skip the search for the nearest training shape"
    )
    parser.add_argument("--metrics", metavar="JSON", help="also write the means, one flat object")
    parser.add_argument("--gallery", metavar="PNG", help="also draw truth beside reconstruction")
    options = parser.parse()
    if options.gallery and not options.gallery.lower().endswith(".png"):
        raise InputError(f"--gallery {options.gallery}: must end in .png")
    data_source = options.data_source and os.path.abspath(options.data_source)
    if data_source and not os.path.isdir(data_source):
        raise InputError(f"--data_source {options.data_source}: is not a folder")
    result, failed = evaluate_folder(options.folder, data_source, not options.no_nearest)
    write_results(options.folder, result)
    print(table(result))
    if options.metrics:
        write_json(options.metrics, metrics(result))
    if options.gallery:
        write_gallery(options.gallery, options.folder, data_source)
    return 1 if failed else 0


if __name__ == "__main__":
    run_command(main)
