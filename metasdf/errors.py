"""Errors that a user can mend, and words for their messages."""

import difflib
from collections.abc import Iterable, Sequence


class InputError(ValueError):
    """Bad input. The message says what is wrong, where (file, key, line) and what to do."""


def listed(names: Iterable[str]) -> str:
    """Names, with commas between."""
    return ", ".join(names)


def near_matches(word: str, names: Sequence[str]) -> str:
    """ "; did you mean a or b?" or, if nothing is near, "; known: ..."."""
    by_lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(word.lower(), by_lower, n=3, cutoff=0.5)
    if near:
        return f"; did you mean {' or '.join(by_lower[n] for n in near)}?"
    return f"; known: {listed(sorted(names))}"
