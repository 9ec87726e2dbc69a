"""All measurements of the catalogue that need no text: class statistics and a head in, plain numbers out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Iterable
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from lcutils.collapse.catalogue import COUNTS, MEASUREMENTS, load_function
from lcutils.collapse.classes import kept_ids
from lcutils.collapse.duality import ood_deviation
from lcutils.collapse.entries import Count, Extra, Measurement, Source
from lcutils.collapse.inputs import MeasurementInputs
from lcutils.features.statistics import ClassStatistics


def measure_collapse(
    stats: ClassStatistics,
    classifier: Tensor,
    *,
    min_count: int = 1,
    riesz_s: float = 1.0,
    tile: int | None = None,
    among: Tensor | None = None,
    extras: Collection[Extra] = (),
    only: Collection[str] | None = None,
) -> dict[str, float]:
    """Every measurement of neural collapse that needs no text (Wu & Papyan 2024, section 3), in the catalogue's order.

    The keys and what each means: `lcutils.collapse.catalogue.MEASUREMENTS` and `COUNTS`, whose functions are called.
    All work is in float64, on the device of the statistics. `nc1_pinv` is absent without the covariance. A value that
    is not defined (a std of fewer than two values) is nan, with a RuntimeWarning that names its key. Means are equal
    when they are nearer than 16 float64 roundings of their norm; `COUNTS` says what is then left out.

    Args:
        stats: class statistics, on any device: the work is done there.
        classifier: (C, D) rows of the head, or one per class of `stats.classes`, (R, D); any float type.
        min_count: samples that a class needs to be kept; classes without samples never are.
        riesz_s: exponent s > 0 of the Riesz kernel (the released library takes D - 2).
        tile: rows of means multiplied at a time (default 1024 on a GPU, 64 on a CPU); memory grows with it.
        among: (C,) bool; only these classes may be kept. None for all.
        extras: groups of the catalogue that are measured too, behind all others: "corrected" for small samples,
            "spectrum". Without the covariance, spectra of features and within classes are absent.
        only: keys that are wanted; what the others alone need is not computed. None for all.

    Raises:
        ValueError: fewer than two kept classes, a head that is not a tensor or has another shape, features or a head
            that are not finite, min_count or tile below 1, riesz_s not above 0, or an extra that there is not.

    Example:
        Three classes on the corners of an equilateral triangle, each with some spread:

        >>> import torch
        >>> corners = torch.tensor([[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]], dtype=torch.float64)
        >>> stats = ClassStatistics(num_classes=3, dim=2)
        >>> stats.update(corners.repeat(2, 1) + torch.tensor([0.1, 0.0]), torch.tensor([0, 1, 2, 0, 1, 2]))
        >>> stats.update(corners - torch.tensor([0.2, 0.0]), torch.tensor([0, 1, 2]))
        >>> values = measure_collapse(stats, classifier=corners)
        >>> [round(values[key], 6) for key in ("nc2_cosine_mean", "nc3_cosine_mean", "nc1_cdnv_galanti")]
        [-0.5, 1.0, 0.006667]
    """
    if not riesz_s > 0:
        raise ValueError(f"riesz_s must be above 0, not {riesz_s}: the kernel is ||u - u'||^-s")
    if unknown := set(extras) - set(get_args(Extra)):
        known = ", ".join(get_args(Extra))
        raise ValueError(f"extras: {sorted(unknown)[0]!r} is no group of measurements; choose among {known}")
    entries = {key: entry for key, entry in (MEASUREMENTS | COUNTS).items() if entry.group in ("paper", *extras)}
    if only is not None:
        entries = {key: entry for key, entry in entries.items() if key in only}
    of_classes, of_pairs = (_functions(entries.values(), source) for source in ("classes", "pairs"))
    inputs = MeasurementInputs.of(stats, classifier, min_count, riesz_s, tile, among, bool(of_pairs))
    # A GPU is waited for twice: once for all that needs no pairs, once for the sweep that runs meanwhile.
    scalars: dict[str, Tensor] = {}
    for function in of_classes:
        scalars |= function(inputs)
    measured = dict(zip(scalars, torch.stack([value.double() for value in scalars.values()]).tolist(), strict=True))
    for function in of_pairs:
        measured |= function(inputs)
    order = sorted(entries, key=lambda key: entries[key].group != "paper")  # extras stand behind
    values = {key: measured[key] for key in order if key in measured}
    for key, value in values.items():
        if math.isnan(value):
            reason = f"with {inputs.classes.number} classes it has too few values or a zero divisor"
            if "nc3" in key and not bool(inputs.head.any()):
                reason = "the classifier's rows are all zero"
            elif key.endswith("_corrected"):
                reason = "too few classes have two samples, or no squared distance is above its noise"
            warnings.warn(f"{key} is nan: {reason}", RuntimeWarning, stacklevel=2)
    return values


def _functions(
    entries: Iterable[Measurement | Count], source: Source
) -> list[Callable[[MeasurementInputs], dict[str, Any]]]:
    """The functions of these entries that read this, each once, in the entries' order."""
    names = dict.fromkeys(entry.function for entry in entries if entry.reads == source)
    return [load_function(name) for name in names]


def measure_beside_foreign(
    stats: ClassStatistics,
    classifier: Tensor,
    ood_mean: np.ndarray | None,
    *,
    min_count: int = 1,
    riesz_s: float = 1.0,
    among: Tensor | None = None,
    extras: Collection[Extra] = (),
) -> dict[str, float]:
    """`measure_collapse`, and `nc5_ood_deviation` where the mean feature of out-of-distribution text (D,) is known."""
    values = measure_collapse(stats, classifier, min_count=min_count, riesz_s=riesz_s, among=among, extras=extras)
    if ood_mean is not None:
        mean, means = torch.from_numpy(ood_mean).to(stats.device), stats.means_of(kept_ids(stats, min_count, among))
        every = torch.ones(len(means), dtype=torch.bool, device=stats.device)
        values["nc5_ood_deviation"] = ood_deviation(means, every, mean)
    return values


def measure_by_count(
    stats: ClassStatistics,
    classifier: Tensor,
    *,
    min_counts: Iterable[int],
    riesz_s: float = 1.0,
    extras: Collection[Extra] = (),
    ood_mean: np.ndarray | None = None,
) -> dict[int, dict[str, float]]:
    """`measure_collapse` for several minimum class counts, in ascending order.

    Args:
        stats, classifier, riesz_s, extras: as of `measure_collapse`.
        min_counts: the first one must keep two classes; others that do not are left out.
        ood_mean: (D,) mean feature of out-of-distribution text; with it `nc5_ood_deviation` is measured too.
    """
    first, *others = min_counts
    values = {}
    for min_count in sorted({first, *others}):
        keep = stats.counts >= min_count
        if min_count != first and int(keep.sum()) < 2:
            continue
        values[min_count] = measure_beside_foreign(
            stats, classifier, ood_mean, min_count=min_count, riesz_s=riesz_s, extras=extras
        )
    return values
