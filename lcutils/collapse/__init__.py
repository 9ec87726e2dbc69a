"""Measurements of neural collapse: class statistics and a head in, plain numbers out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from lcutils.collapse.agreement import AgreementCounter, classifier_agreement
from lcutils.collapse.classes import gram, keep_classes, kept_head
from lcutils.collapse.duality import ood_deviation, self_duality
from lcutils.collapse.geometry import coherence, equal_angles, equal_norms, etf_error, uniformity
from lcutils.collapse.pairs import PairSweep
from lcutils.collapse.tokens import measure_tokens
from lcutils.collapse.variability import covariance_ratios, distance_normalised_variance
from lcutils.features.statistics import ClassStatistics

__all__ = [
    "KEYS", "AgreementCounter", "classifier_agreement", "measure_by_count", "measure_collapse", "measure_tokens",
    "ood_deviation",
]  # fmt: skip

KEYS = (
    "nc1_cdnv", "nc1_cdnv_log", "nc1_cdnv_galanti", "nc1_pinv", "nc1_quotient",
    "nc2_norm_cov", "nc2_log_norm_cov", "nc2_log_norm_std",
    "nc2_cosine_mean", "nc2_cosine_std", "nc2_cosine_cov", "nc2_coherence", "nc2_etf_error",
    "gnc2_log_mean", "gnc2_log_std", "gnc2_log_cov",
    "gnc2_log_uncentred_mean", "gnc2_log_uncentred_std", "gnc2_log_uncentred_cov",
    "gnc2_riesz_mean", "gnc2_riesz_std", "gnc2_riesz_cov",
    "nc3_cosine_mean", "nc3_duality_error", "unc3_cosine_cov",
    "n_classes", "nc1_zero_pairs", "coincident_pairs", "central_classes",
)  # fmt: skip


def measure_collapse(
    stats: ClassStatistics,
    classifier: Tensor,
    *,
    min_count: int = 1,
    riesz_s: float = 1.0,
    tile: int | None = None,
) -> dict[str, float]:
    """Every measurement of neural collapse that needs no text (Wu & Papyan 2024, section 3), in the order of `KEYS`.

    All work is in float64, on the device of the statistics.

    With mu_c the mean of class c, mu_bar the unweighted mean of the kept means, u_c the direction of mu_c - mu_bar,
    sigma_c² the class variance, w_c row c of the head, pairs c < c' of kept classes, CoV = std / mean:

    | key | definition |
    |---|---|
    | nc1_cdnv, nc1_cdnv_log | mean over pairs of (sigma_c² + sigma_c'²) / 2 / ||mu_c - mu_c'||⁴; mean of its log |
    | nc1_cdnv_galanti | the same with ||mu_c - mu_c'||² |
    | nc1_pinv, nc1_quotient | tr(S_W pinv(S_B)) / K (absent without the covariance); tr S_W / tr S_B |
    | nc2_norm_cov, nc2_log_norm_cov, nc2_log_norm_std | spread of ||mu_c - mu_bar|| and of its log |
    | nc2_cosine_mean, _std, _cov; nc2_coherence | u_c·u_c' over pairs; mean of abs(u_c·u_c' + 1 / (K-1)) |
    | nc2_etf_error, nc3_duality_error | distance of C Cᵀ, of W Cᵀ from a simplex frame, C = M - mu_bar |
    | gnc2_log_mean, _std, _cov | log(1 / ||u_c - u_c'||) over pairs; gnc2_log_uncentred_*: of mu_c / ||mu_c|| |
    | gnc2_riesz_mean, _std, _cov | ||u_c - u_c'||^-s |
    | nc3_cosine_mean, unc3_cosine_cov | cos(w_c, mu_c - mu_bar) over classes: mean, CoV |
    | n_classes, coincident_pairs, central_classes, nc1_zero_pairs | K; pairs of equal means (left out of CDNV and
      kernels); means equal to mu_bar (left out of cosines, kernels, log norms); pairs of two zero variances (left
      out of nc1_cdnv_log) |

    Stds have the n - 1 divisor. A value that is not defined (a std of fewer than two values) is nan, with a
    RuntimeWarning that names its key. Means are equal when nearer than 16 float64 roundings of their norm.

    Args:
        stats: class statistics, on any device: the work is done there.
        classifier: (C, D) rows of the head, any float type.
        min_count: samples that a class needs to be kept; classes without samples never are.
        riesz_s: exponent s > 0 of the Riesz kernel (the released library takes D - 2).
        tile: rows of means multiplied at a time (default 1024 on a GPU, 64 on a CPU); memory grows with it.

    Raises:
        ValueError: fewer than two kept classes, a head that is no tensor or of another shape, features or a head
            that are not finite, min_count or tile below 1, riesz_s not above 0.

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
    classes = keep_classes(stats, min_count)
    head = kept_head(classifier, stats, classes)
    counts, covariance = stats.counts, stats.covariance
    total_within = (stats.variances * counts).sum() / counts.sum()
    # Reading `stats` waits for the GPU, so it comes first: the rest is handed over while the sweep runs.
    sweep = PairSweep(classes, riesz_s, tile)
    between = gram(classes.centred)  # (D, D)
    scalars = {
        **covariance_ratios(classes, covariance, total_within, between),
        **equal_norms(classes),
        **equal_angles(classes),
        **etf_error(classes, between),
        **self_duality(classes, head, between),
        "n_classes": counts.new_tensor(classes.number),
        "central_classes": classes.central.sum(),
    }
    values = dict(zip(scalars, torch.stack([value.double() for value in scalars.values()]).tolist(), strict=True))
    pairs = sweep.finish()
    values |= {
        **distance_normalised_variance(pairs),
        **coherence(pairs),
        **uniformity(pairs, riesz_s),
        "coincident_pairs": float(pairs.coincident),
    }
    values = {key: values[key] for key in KEYS if key in values}
    for key, value in values.items():
        if math.isnan(value):
            reason = f"with {classes.number} classes it has too few values or a zero divisor"
            if "nc3" in key and not bool(head.any()):
                reason = "the classifier's rows are all zero"
            warnings.warn(f"{key} is nan: {reason}", RuntimeWarning, stacklevel=2)
    return values


def measure_by_count(
    stats: ClassStatistics,
    classifier: Tensor,
    *,
    min_counts: Iterable[int],
    riesz_s: float = 1.0,
    ood_mean: np.ndarray | None = None,
) -> dict[int, dict[str, float]]:
    """`measure_collapse` for several smallest class counts, in ascending order.

    Args:
        stats, classifier, riesz_s: as there.
        min_counts: the first one must keep two classes; others that do not are left out.
        ood_mean: (D,) mean feature of out-of-distribution text; with it `nc5_ood_deviation` is measured too.
    """
    first, *others = min_counts
    values = {}
    for min_count in sorted({first, *others}):
        keep = stats.counts >= min_count
        if min_count != first and int(keep.sum()) < 2:
            continue
        values[min_count] = measure_collapse(stats, classifier, min_count=min_count, riesz_s=riesz_s)
        if ood_mean is not None:
            mean = torch.from_numpy(ood_mean).to(stats.device)
            values[min_count]["nc5_ood_deviation"] = ood_deviation(stats.means, keep, mean)
    return values
