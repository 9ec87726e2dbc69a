"""NC2 and its generalisation GNC2: the shape that the class means form."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lcutils.collapse.classes import KeptClasses, Moments, gram, ratio
from lcutils.collapse.pairs import PairSums, choose


def equal_norms(classes: KeptClasses) -> dict[str, float]:
    """Equinorm: CoV of n_c = ||mu_c - mu_bar||, CoV and std of log n_c (the CoV of logs depends on the unit of n_c).

    A mean equal to mu_bar has no log norm and is left out of the logs.
    """
    log_norms = Moments.of(classes.norms[~classes.central].log())
    return {
        "nc2_norm_cov": Moments.of(classes.norms).cov,
        "nc2_log_norm_cov": log_norms.cov,
        "nc2_log_norm_std": log_norms.std,
    }


def equal_angles(classes: KeptClasses, pairs: PairSums) -> dict[str, float]:
    """Equiangularity: mean, std, CoV over pairs of cos(mu_c - mu_bar, mu_c' - mu_bar), and their coherence.

    With unit vectors u in the rows of U (K, D): the sum over pairs of u·u' is (||sum u||² - K) / 2 and that of
    (u·u')² is (||UᵀU||² - K) / 2, so the cosines need no pairs. Coherence is the mean over pairs of
    |cos + 1 / (K-1)|, 0 for a simplex equiangular tight frame.
    """
    directed = ~classes.central
    units = classes.centred[directed] / classes.norms[directed, None]  # (K', D)
    number = len(units)
    count = choose(number)
    total = (float(units.sum(0).square().sum()) - number) / 2
    squares = (float(gram(units).square().sum()) - number) / 2
    mean = ratio(total, count)
    cosine = Moments.from_sums(count, mean, squares - count * mean**2)
    return {
        "nc2_cosine_mean": cosine.mean,
        "nc2_cosine_std": cosine.std,
        "nc2_cosine_cov": cosine.cov,
        "nc2_coherence": ratio(pairs.sums["coherence"], pairs.cosine_number),
    }


def kernels(pairs: PairSums, riesz_s: float) -> dict[str, float]:
    """Hyperspherical uniformity (Liu et al. 2023): kernels of ||u_c - u_c'|| over pairs, mean, std and CoV.

    `gnc2_log`: log(1 / ||u - u'||) of centred means; `gnc2_log_uncentred`: the same of un-centred means (the
    paper's Table 1); `gnc2_riesz`: ||u - u'||^-s of centred means. Pairs of equal means or equal directions have
    no finite kernel and are left out.
    """
    sums = pairs.sums
    # ||u - u'||² = 2 (1 - cos): the log kernel is -(log 2 + l) / 2, the Riesz kernel 2^(-s/2) (1 + r).
    unit = 2 ** (-riesz_s / 2)
    triples = {
        "gnc2_log": _affine(pairs.kernel_number, sums["log"], sums["log2"], -math.log(2) / 2, -0.5),
        "gnc2_log_uncentred": _affine(pairs.raw_number, sums["raw_log"], sums["raw_log2"], -math.log(2) / 2, -0.5),
        "gnc2_riesz": _affine(pairs.kernel_number, sums["riesz"], sums["riesz2"], unit, unit),
    }
    return {
        f"{name}_{part}": getattr(moments, part) for name, moments in triples.items() for part in ("mean", "std", "cov")
    }


def _affine(number: int, total: float, squares: float, intercept: float, slope: float) -> Moments:
    """Moments of intercept + slope x from the sums of x and x²."""
    mean = ratio(total, number)
    return Moments.from_sums(number, intercept + slope * mean, slope**2 * (squares - number * mean**2))


def frame_error(product_trace: float, product_total: float, product_norm: float, number: int) -> float:
    """|| S / ||S|| - (I - 11ᵀ/K) / sqrt(K-1) || of a K x K matrix S, from its trace, its sum and its norm.

    Equal to sqrt(2 - 2 (tr S - 1ᵀ S 1 / K) / (||S|| sqrt(K-1))), Frobenius norms throughout (Kothapalli 2023).
    """
    likeness = ratio(product_trace - product_total / number, product_norm * math.sqrt(number - 1))
    return math.sqrt(max(2 - 2 * likeness, 0.0)) if not math.isnan(likeness) else math.nan


def etf_error(classes: KeptClasses, between: Tensor) -> dict[str, float]:
    """Distance of the centred means' Gram matrix from a simplex equiangular tight frame's, both of norm 1.

    Args:
        classes: the kept classes.
        between: (D, D) sum over c of (mu_c - mu_bar)(mu_c - mu_bar)ᵀ, which has the Gram matrix's norm.
    """
    trace = float(classes.norms.square().sum())
    total = float(classes.centred.sum(0).square().sum())
    return {"nc2_etf_error": frame_error(trace, total, float(torch.linalg.matrix_norm(between)), classes.number)}
