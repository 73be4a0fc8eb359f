"""Fit and measure test images with a trained model.

    metasdf evaluate mnist --checkpoint RUN/checkpoints/latest.pth
    metasdf evaluate cifar --checkpoint RUN/checkpoints/latest.pth --data_source MY_PHOTOS

Digits are also measured rotated, in pairs and in threes, which training has not seen. Prints a
table and writes evaluation.json and evaluation.csv into <output_dir>/evaluation.

Exit codes: 0 all images were measured, 1 some could not be used, 2 bad input.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metasdf.commands.arguments import CurriculumCommandLine
from metasdf.commands.command_line import whole_number
from metasdf.errors import InputError
from metasdf.evaluation.tables import write_results
from metasdf.images.evaluation import evaluate, table, test_parts, write_image_gallery
from metasdf.learning.checkpoints import check_kind
from metasdf.learning.curriculum import KEYS_2D, is_2d
from metasdf.learning.device import choose_device, keep_freed_memory
from metasdf.learning.model_files import load_model
from metasdf.learning.models import CODE_FITTING


def main(
    arguments: Sequence[str] | None = None,
    prog: str | None = None,
    curriculums: Path | None = None,
) -> int:
    """Run the command; the exit code. curriculums: the file that they stand in."""
    parser = CurriculumCommandLine(prog=prog, description=__doc__)
    parser.add_curriculum(curriculums)
    parser.add_argument("--checkpoint", required=True, help="a .pth file that training wrote")
    parser.add_argument("--steps", type=whole_number, help="steps of a fit (default: as trained)")
    parser.add_argument("--gallery", metavar="PNG", help="also draw some fits, step by step")
    parser.add_curriculum_keys(KEYS_2D)
    options = parser.parse(arguments)
    check_gallery(options.gallery)
    curriculum = parser.chosen_curriculum(options)
    if not is_2d(curriculum):
        raise InputError(
            f"{options.curriculum}: is a curriculum of 3D; reconstruct its shapes first, then "
            "evaluate the folder"
        )
    device = choose_device(options.device)
    keep_freed_memory()
    model = load_model(options.checkpoint, curriculum)
    check_kind(options.checkpoint, model.curriculum, want_2d=True)
    curriculum = merged(curriculum, model.curriculum, options.checkpoint)
    model.to(device)
    test = test_parts(curriculum)
    result = evaluate(model, curriculum, device, options.steps, test)
    result["checkpoint"], result["curriculum"] = options.checkpoint, curriculum
    write_results(Path(curriculum["output_dir"], "evaluation"), result)
    print(table(result))
    if options.gallery:
        write_image_gallery(options.gallery, model, test, device, options.steps)
    return 1 if result["num_failed"] else 0


def merged(
    curriculum: Mapping[str, Any], trained: Mapping[str, Any], checkpoint: str
) -> dict[str, Any]:
    """The curriculum in use, with the checkpoint's values of all that shapes the network."""
    if (data := curriculum["data"]) != trained["data"]:
        raise InputError(f"{checkpoint}: was trained on {trained['data']}, not on {data}")
    fixed = {name: trained[name] for name, key in KEYS_2D.items() if key.shapes_network}
    result = {**curriculum, **fixed}
    for name in ("context_mode", "distance", *CODE_FITTING):
        if result[name] != trained[name]:
            print(f"note: {name} is {result[name]}, but was {trained[name]} in training")
    return result


def check_gallery(path: str | None) -> None:
    """InputError unless a gallery's path, if given, is that of a PNG file."""
    if path and not path.lower().endswith(".png"):
        raise InputError(f"--gallery {path}: must end in .png")
