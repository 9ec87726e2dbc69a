"""Measurements of parts of a text, from class statistics of its sections: of growing shares, and of all but one part.

Sections are those of `lcutils.features.sections`: the first two are the halves of part 0, the others are parts 1 to 7.
Here they are functions that load them, because no more than a few are to lie in memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor

from lcutils.collapse.duality import ood_deviation
from lcutils.collapse.entries import Extra
from lcutils.collapse.measure import measure_collapse
from lcutils.features.statistics import ClassStatistics

Load = Callable[[], ClassStatistics]
SHARES = {1: 1 / 16, 2: 1 / 8, 3: 1 / 4, 5: 1 / 2}  # of the text, after so many sections


def measure_growing(
    whole: ClassStatistics,
    head: Tensor,
    sections: Sequence[Load],
    min_count: int = 1,
    riesz_s: float = 1.0,
    ood_mean: np.ndarray | None = None,
    extras: Collection[Extra] = (),
) -> list[dict[str, float]]:
    """Measure the first 1/16, 1/8, 1/4 and 1/2 of a text: what its measurements would be if it ended there.

    Args:
        whole: statistics of the whole text.
        head: (C, D), or (R, D) one row per class of `whole`.
        sections: give the statistics of the nine sections, in order.
        min_count, riesz_s, extras: as of `measure_collapse`; a share leaves out classes with fewer samples in it.
        ood_mean: (D,) mean feature of out-of-distribution text, for NC5.

    Returns:
        For each share `share`, `samples` (labelled tokens in it) and the measurements and counts by key. A share that
        keeps fewer than two classes is left out.
    """
    grown, rows = whole.empty(), []
    for number, load in enumerate(sections[: max(SHARES)], 1):
        grown.merge(load())
        if number in SHARES and int((grown.counts >= min_count).sum()) >= 2:
            values = _measure(grown, head, min_count, riesz_s, ood_mean, extras)
            rows.append({"share": SHARES[number], "samples": int(grown.counts.sum())} | values)
    return rows


def measure_without(
    whole: ClassStatistics,
    head: Tensor,
    sections: Sequence[Load],
    min_count: int = 1,
    riesz_s: float = 1.0,
    ood_mean: np.ndarray | None = None,
    extras: Collection[Extra] = (),
) -> list[dict[str, float]]:
    """Measure a text without each of its eight parts: the replicates of a jackknife, by key, in the parts' order.

    Classes are those that the whole text keeps; one that does not occur in a replicate is left out of it. Arguments as
    of `measure_growing`.
    """
    kept = whole.counts >= min_count  # (C,)
    rests = without_each([sections[:2], *([load] for load in sections[2:])], whole.empty())
    return [_measure(rest, head, 1, riesz_s, ood_mean, extras, kept) for rest in rests]


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


def _measure(
    stats: ClassStatistics,
    head: Tensor,
    min_count: int,
    riesz_s: float,
    ood_mean: np.ndarray | None,
    extras: Collection[Extra],
    among: Tensor | None = None,
) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the whole text's measurement has named what is nan
        values = measure_collapse(stats, head, min_count=min_count, riesz_s=riesz_s, among=among, extras=extras)
    if ood_mean is not None:
        keep = stats.counts >= min_count
        means = stats.means_of((keep if among is None else keep & among).nonzero()[:, 0])
        every = torch.ones(len(means), dtype=torch.bool, device=stats.device)
        mean = torch.from_numpy(ood_mean).to(stats.device)
        values["nc5_ood_deviation"] = ood_deviation(means, every, mean)
    return values
