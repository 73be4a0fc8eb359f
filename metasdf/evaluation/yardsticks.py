"""Yardsticks for the measures: the sampling floor and the nearest training shape."""

import logging
import os
from collections.abc import Sequence

import numpy as np

from metasdf.data.names import ShapeName
from metasdf.data.samples import Samples
from metasdf.errors import InputError
from metasdf.evaluation.measures import F_SCORE_THRESHOLD, Matching, match
from metasdf.geometry.normalisation import Normalisation

SCREENING_POINTS = 1000  # surface points of each training shape that are compared first
SCREENED = 5  # training shapes that are then measured with all of their points
log = logging.getLogger(__name__)


def match_halves(truth: np.ndarray) -> Matching:
    """Match a random half of the truth (n, 3) with the other, in place of a second sample."""
    order = np.random.default_rng(0).permutation(len(truth))
    half = len(truth) // 2
    return match(truth[order[:half]], truth[order[half : 2 * half]])


def sampling_floor(halves: Matching) -> float:
    """Chamfer distance of a perfect reconstruction: truth against a second sample of itself.

    Squared nearest distances on a surface fall as 1 / n. Those of `match_halves`, n / 2 points
    against n / 2, are therefore halved.
    """
    return halves.chamfer() / 2


def f_score_ceiling(halves: Matching) -> float:
    """F-score of a perfect reconstruction: truth against a second sample of itself.

    Half as many points lie sqrt(2) times as far apart, so with `match_halves` the threshold is
    larger by that factor.
    """
    return halves.f_score(F_SCORE_THRESHOLD * np.sqrt(2))


class NearestShape:
    """Finds the shape of a set that is closest to another in Chamfer distance.

    All are screened with SCREENING_POINTS points; the SCREENED most promising are then measured
    with all of their points. Shapes without surface samples are left out and logged by name.

    Raises:
        InputError: no shape has surface samples.
    """

    def __init__(self, data_source: str | os.PathLike, shapes: Sequence[ShapeName]) -> None:
        self.names, self.surfaces = [], []
        for shape in shapes:
            try:
                self.surfaces.append(Samples(data_source, shape).surface())
                self.names.append(str(shape))
            except InputError as error:
                log.warning("left out: %s: %s", shape, error)
        if not self.surfaces:
            raise InputError(f"{data_source}: no training shape has surface samples")

    def find(self, truth: np.ndarray, normalisation: Normalisation) -> tuple[str, float]:
        """Name and Chamfer distance of the shape nearest to truth (n, 3) in its original frame.

        normalisation: of the truth; it places the others, all normalised, in the same frame.
        """
        screening = truth[:SCREENING_POINTS]
        rough = [
            match(normalisation.invert(surface[:SCREENING_POINTS]), screening).chamfer()
            for surface in self.surfaces
        ]
        distance, best = min(
            (match(normalisation.invert(self.surfaces[i]), truth).chamfer(), i)
            for i in np.argsort(rough)[:SCREENED]
        )
        return self.names[best], distance
