"""Fit and measure test images: python run_eval.py CURRICULUM --checkpoint FILE

Digits are also measured rotated, in pairs and in threes, which training has not seen. Prints a
table and writes evaluation.json and evaluation.csv into <output_dir>/evaluation.
"""

from pathlib import Path

from metasdf.commands.arguments import CommandLine, whole_number
from metasdf.errors import InputError, run_command
from metasdf.evaluation.tables import write_results
from metasdf.images.evaluation import evaluate, table, test_parts
from metasdf.images.pictures import write_plane_gallery
from metasdf.learning.checkpoints import check_kind, load_model
from metasdf.learning.curriculum import KEYS_2D, load_curriculum
from metasdf.learning.device import DEVICES, choose_device, keep_freed_memory
from metasdf.learning.models import CODE_FITTING

CURRICULUMS = Path(__file__).resolve().parents[1] / "curriculums.py"


def main() -> int:
    parser = CommandLine(description=__doc__)
    parser.add_argument("curriculum", help="name in curriculums.py")
    parser.add_argument("--checkpoint", required=True, help="a .pth file that run_train.py wrote")
    parser.add_argument("--steps", type=whole_number, help="steps of a fit (default: as trained)")
    parser.add_argument("--gallery", metavar="PNG", help="also draw some fits, step by step")
    parser.add_argument("--device", default="auto", help=f"one of {', '.join(DEVICES)}")
    parser.add_curriculum_keys(KEYS_2D)
    options = parser.parse()
    if options.gallery and not options.gallery.lower().endswith(".png"):
        raise InputError(f"--gallery {options.gallery}: must end in .png")
    curriculum = load_curriculum(CURRICULUMS, options.curriculum, parser.overrides(options))
    device = choose_device(options.device)
    keep_freed_memory()
    model, trained = load_model(options.checkpoint, curriculum)
    check_kind(options.checkpoint, trained, want_2d=True)
    if (data := curriculum["data"]) != trained["data"]:
        raise InputError(f"{options.checkpoint}: was trained on {trained['data']}, not on {data}")
    curriculum |= {name: trained[name] for name, key in KEYS_2D.items() if key.shapes_network}
    for name in ("context_mode", "distance", *CODE_FITTING):
        if curriculum[name] != trained[name]:
            print(f"note: {name} is {curriculum[name]}, but was {trained[name]} in training")
    model.to(device)
    test = test_parts(curriculum)
    result = evaluate(model, curriculum, device, options.steps, test)
    result["checkpoint"], result["curriculum"] = options.checkpoint, curriculum
    write_results(Path(curriculum["output_dir"], "evaluation"), result)
    print(table(result))
    if options.gallery:
        write_plane_gallery(options.gallery, model, test, device, options.steps)
    return 1 if result["num_failed"] else 0


if __name__ == "__main__":
    run_command(main)
