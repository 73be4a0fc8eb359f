"""Which methods are compared: a curriculum each, shipped ones or the user's own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metasdf.errors import InputError, near_matches
from metasdf.learning.curriculum import complete, is_2d, load_curriculum, read_curriculums

LABELS = {  # of the methods, by short name, for tables and pictures
    "metasdf": "MetaSDF",
    "autodecoder": "auto-decoder",
    "autodecoder_concat": "auto-decoder, concatenation",
    "autodecoder_hyper": "auto-decoder, hypernetwork",
    "cnn_concat": "CNN encoder, concatenation",
    "cnn_hyper": "CNN encoder, hypernetwork",
    "set_concat": "set encoder, concatenation",
    "set_hyper": "set encoder, hypernetwork",
    "metasdf_siren": "MetaSDF, SIREN",
    "cnn_concat_siren": "CNN encoder, concatenation, SIREN",
    "set_concat_siren": "set encoder, concatenation, SIREN",
}


@dataclass(frozen=True)
class ComparedMethod:
    """A method of a comparison.

    Attributes:
        name: short, for folders and JSON.
        label: for tables and pictures.
        curriculum: the name of its curriculum.
        file: the user's file that holds the curriculum; None: it is shipped.
        fits_codes: whether it is an auto-decoder, whose training sees no context.
    """

    name: str
    label: str
    curriculum: str
    file: str | None
    fits_codes: bool

    def complete_curriculum(self, keys: Mapping[str, Any]) -> dict[str, Any]:
        """Its complete curriculum with the comparison's keys, whose paths are absolute.

        A curriculum in the user's file need not have the keys that the comparison sets.
        """
        if self.file is None:
            return load_curriculum(self.curriculum, keys)
        values = {**read_curriculums(self.file)[self.curriculum], **keys}
        where = f"{Path(self.file).name}, {self.curriculum}"
        return complete(values, where, Path(self.file).parent)


def choose_methods(
    names: Sequence[str], file: str | Path | None = None, *, want_2d: bool = False
) -> dict[str, ComparedMethod]:
    """The methods whose curriculums are named, by short name.

    The short name of a shipped curriculum lacks "compare_" (3D) or "digits_" (2D).

    Args:
        names: of curriculums in the user's file, or else of shipped ones.
        file: the user's curriculums; None: shipped ones only.
        want_2d: whether they are to be of 2D.

    Raises:
        InputError: there is no such curriculum, it is one of the other dimension, or two methods
            would have the same short name.
    """
    prefix = "digits_" if want_2d else "compare_"
    shipped = read_curriculums()
    own = {} if file is None else read_curriculums(file)
    known = {**shipped, **own}
    methods: dict[str, ComparedMethod] = {}
    for curriculum in dict.fromkeys(names):
        if curriculum not in known:
            raise InputError(f"no curriculum {curriculum!r}{near_matches(curriculum, list(known))}")
        if is_2d(known[curriculum]) != want_2d:
            kind, other = ("2D", "3D") if want_2d else ("3D", "2D")
            raise InputError(
                f"{curriculum}: is a curriculum of {other}; here are methods of {kind}"
            )
        name = curriculum if curriculum in own else curriculum.removeprefix(prefix)
        if name in methods:
            raise InputError(f"{curriculum}: another method is called {name}; rename it")
        methods[name] = ComparedMethod(
            name=name,
            label=curriculum if curriculum in own else LABELS.get(name, curriculum),
            curriculum=curriculum,
            file=str(Path(file).resolve()) if curriculum in own else None,
            fits_codes=str(known[curriculum].get("method")).startswith("autodecoder"),
        )
    return methods
