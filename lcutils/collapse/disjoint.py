"""The noise of class means without the assumption that samples are independent: cross products of disjoint parts.

`lcutils.collapse.corrected` subtracts sigma²/n from squared distances, which is right for independent samples. Tokens
of one story are not: their class mean errs by more. Errors of two parts of the text that share no story are
independent, so the product of one part's mean with another's has no noise to subtract.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lcutils.collapse.classes import KeptClasses, centre_classes
from lcutils.collapse.corrected import RepeatedClasses, within_trace
from lcutils.features.statistics import ClassStatistics

VALUES = (
    "trace_between", "trace_between_corrected", "trace_between_crossed", "noise_ratio", "nc1_quotient_corrected",
    "nc1_quotient_crossed",
)  # fmt: skip


def compare_parts(parts: Sequence[ClassStatistics], min_count: int = 1) -> dict[str, float]:
    """tr S_B of the whole text three ways: plain, corrected by sigma²/n, and from cross products of two halves.

    The first half merges parts 0, 2, 4 …, the second the others. With A and B the class means of the halves, each
    centred at its own mean over classes,

        tr S_B = mean over c of A_c·B_c

    has no bias if the halves are independent, however dependent samples within a half are: E A_c·B_c = ||m_c - m_bar||²
    (a mean squared distance over pairs is 2K/(K-1) times as much). All three values are over the same K classes: those
    with samples in both halves. With few classes or much noise the third may be negative; it is given as it is.

    Args:
        parts: two or more statistics of parts of one text that share no story, on one device.
        min_count: samples that a class needs in the whole text.

    Returns:
        `n_classes`: K. `trace_between`, `trace_between_corrected`, `trace_between_crossed`. `noise_ratio`: (plain -
        crossed) / (plain - corrected), 1 for independent samples and larger the more the samples of a class are alike;
        nan where there is no noise. `nc1_quotient_corrected` of these classes' tr S_B, and `nc1_quotient_crossed`,
        nan where tr S_B is not above 0; both have the corrected tr S_W of the whole text. All but `n_classes` are nan
        if fewer than two classes have samples in both halves.

    Raises:
        ValueError: fewer than two parts, or parts that cannot be merged.
    """
    if len(parts) < 2:
        raise ValueError(f"a comparison needs two parts of the text or more, not {len(parts)}")
    halves = [merged(parts[start::2]) for start in (0, 1)]
    whole = merged(halves)
    counts = [half.counts for half in halves]
    ids = ((counts[0] > 0) & (counts[1] > 0) & (whole.counts >= min_count)).nonzero()[:, 0]
    if len(ids) < 2:
        return {"n_classes": float(len(ids))} | dict.fromkeys(VALUES, math.nan)
    repeated = RepeatedClasses.of(_chosen(whole, ids))
    assert repeated is not None  # one sample in each half are two
    crossed = torch.linalg.vecdot(*(_chosen(half, ids).centred for half in halves)).mean()
    traces = torch.stack(
        [repeated.classes.norms.square().mean(), repeated.squares.mean(), crossed, within_trace(whole)]
    )
    plain, corrected, cross, within = traces.tolist()
    return {
        "n_classes": float(len(ids)),
        "trace_between": plain,
        "trace_between_corrected": corrected,
        "trace_between_crossed": cross,
        "noise_ratio": (plain - cross) / (plain - corrected) if plain > corrected else math.nan,
        "nc1_quotient_corrected": within / corrected if corrected > 0 else math.nan,
        "nc1_quotient_crossed": within / cross if cross > 0 else math.nan,
    }


def merged(parts: Sequence[ClassStatistics]) -> ClassStatistics:
    """The statistics of several parts as one, which are left as they are; errors as of `ClassStatistics.merge`."""
    first = parts[0]
    rows = torch.cat([part.classes for part in parts]).unique()
    whole = ClassStatistics(first.num_classes, first.dim, first.covariance is not None, first.device, rows)
    for part in parts:
        whole.merge(part)
    return whole


def _chosen(stats: ClassStatistics, ids: Tensor) -> KeptClasses:
    return centre_classes(ids, stats.counts[ids], stats.variances[ids], stats.means_of(ids))
