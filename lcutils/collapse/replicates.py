"""Measurements of parts of a text, from class statistics of its sections: of growing shares, and of all but one part.

Sections are those of `lcutils.features.sections`: the first two are the halves of part 0, the others are parts 1 to 7.
Here they are functions that load them, because no more than a few are to lie in memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from lcutils.collapse.classes import kept_ids
from lcutils.collapse.entries import Extra
from lcutils.collapse.measure import measure_beside_foreign
from lcutils.features.statistics import ClassStatistics

Load = Callable[[], ClassStatistics]
SHARES = {1: 1 / 16, 2: 1 / 8, 3: 1 / 4, 5: 1 / 2}  # of the text, after so many sections


@dataclass(frozen=True)
class MeasuredSections:
    """A text whose class statistics are there by sections, and how it is measured.

    Attributes:
        whole: statistics of the whole text.
        head: (C, D), or (R, D) one row per class of `whole`.
        sections: give the statistics of the nine sections, in order.
        min_count, riesz_s, extras: as of `measure_collapse`.
        ood_mean: (D,) mean feature of out-of-distribution text, for NC5.
    """

    whole: ClassStatistics
    head: Tensor
    sections: Sequence[Load]
    min_count: int = 1
    riesz_s: float = 1.0
    ood_mean: np.ndarray | None = None
    extras: Collection[Extra] = ()

    def growing(self) -> list[dict[str, float]]:
        """Measure the first 1/16, 1/8, 1/4 and 1/2 of the text: what its measurements would be if it ended there.

        Returns:
            For each share `share`, `samples` (labelled tokens in it) and the measurements and counts by key. Classes
            with fewer samples in a share are left out of it; a share that keeps fewer than two is left out.
        """
        grown, rows = self.whole.empty(), []
        for number, load in enumerate(self.sections[: max(SHARES)], 1):
            grown.merge(load())
            if number in SHARES and len(kept_ids(grown, self.min_count)) >= 2:
                values = self._measure(grown, self.min_count)
                rows.append({"share": SHARES[number], "samples": int(grown.counts.sum())} | values)
        return rows

    def without_each(self) -> list[dict[str, float]]:
        """Measure the text without each of its eight parts: the replicates of a jackknife, by key, in the parts' order.

        Classes are those that the whole text keeps; one that does not occur in a replicate is left out of it.
        """
        kept = self.whole.counts >= self.min_count  # (C,)
        parts = [self.sections[:2], *([load] for load in self.sections[2:])]
        return [self._measure(rest, 1, kept) for rest in without_each(parts, self.whole.empty())]

    def _measure(self, stats: ClassStatistics, min_count: int, among: Tensor | None = None) -> dict[str, float]:
        options: dict[str, Any] = {"riesz_s": self.riesz_s, "extras": self.extras}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the whole text's measurement has named what is nan
            return measure_beside_foreign(stats, self.head, self.ood_mean, min_count=min_count, among=among, **options)


def without_each(parts: Sequence[Sequence[Load]], others: ClassStatistics) -> Iterator[ClassStatistics]:
    """Yield `others` merged with all parts but the first, but the second, and so on.

    The parts are halved again and again: P log P parts are merged, and log P statistics lie in memory.
    """
    if len(parts) == 1:
        yield others
        return
    half = len(parts) // 2
    for inside, outside in ((parts[:half], parts[half:]), (parts[half:], parts[:half])):
        rest = deepcopy(others)
        for part in outside:
            for load in part:
                rest.merge(load())
        yield from without_each(inside, rest)
