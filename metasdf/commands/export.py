"""Turn a checkpoint into a model file: the weights and a card, without what only training needs.

    metasdf export RUN/checkpoints/latest.pth model.pt --card card.json --resolution 128

The keys say how shapes are reconstructed unless the user of the model asks for something else. The
card is a JSON file of texts, by the words use, data, frame, training, measures, limits
and fallback.

    metasdf reconstruct scan.ply --model model.pt
"""

from collections.abc import Sequence
from pathlib import Path

from metasdf.commands.arguments import CurriculumCommandLine
from metasdf.errors import InputError
from metasdf.files import read_json
from metasdf.learning.curriculum import KEYS, OPEN_KEYS
from metasdf.learning.model_files import export_model


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command; the exit code."""
    usage = "%(prog)s CHECKPOINT MODEL.pt [options]"
    parser = CurriculumCommandLine(prog=prog, description=__doc__, usage=usage)
    parser.add_argument("checkpoint", type=Path, help="a .pth file that training wrote")
    parser.add_argument("model", type=Path, help="the file to write, which ends in .pt")
    parser.add_argument("--card", type=Path, metavar="FILE.json")
    keys = {name: key for name, key in KEYS.items() if name in OPEN_KEYS and not key.is_path}
    parser.add_curriculum_keys(keys)
    options = parser.parse(arguments)
    card = {} if options.card is None else read_json(options.card)
    if not isinstance(card, dict) or not all(isinstance(text, str) for text in card.values()):
        raise InputError(f"{options.card}: is no object of texts")
    export_model(options.checkpoint, options.model, card, parser.overrides(options))
    size = options.model.stat().st_size / 1e6
    print(f"{options.model}: {size:.2f} MB")
    return 0
