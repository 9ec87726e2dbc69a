"""NC2 and its generalisation GNC2: the shape that the class means form."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lcutils.collapse.classes import Moments, gram, ratio
from lcutils.collapse.inputs import MeasurementInputs


def equal_norms(inputs: MeasurementInputs) -> dict[str, Tensor]:
    """Equinorm: CoV of n_c = ||mu_c - mu_bar||, CoV and std of log n_c (the CoV of logs depends on the unit of n_c).

    A mean equal to mu_bar has no log norm and is left out of the logs.
    """
    classes = inputs.classes
    norms = classes.norms
    log_norms = Moments.of(norms.log(), ~classes.central)
    return {
        "nc2_norm_cov": Moments.of(norms, torch.ones_like(classes.central)).cov,
        "nc2_log_norm_cov": log_norms.cov,
        "nc2_log_norm_std": log_norms.std,
    }


def equal_angles(inputs: MeasurementInputs) -> dict[str, Tensor]:
    """Equiangularity: mean, std, CoV over pairs of cos(mu_c - mu_bar, mu_c' - mu_bar).

    With unit vectors u in the rows of U (K, D): the sum over pairs of u·u' is (||sum u||² - K) / 2 and that of
    (u·u')² is (||UᵀU||² - K) / 2, so the cosines need no pairs. Means equal to mu_bar are left out.
    """
    classes = inputs.classes
    units = classes.units()  # (K, D)
    number = (~classes.central).sum()
    count = number * (number - 1) / 2
    total = (units.sum(0).square().sum() - number) / 2
    squares = (gram(units).square().sum() - number) / 2
    mean = total / count
    cosine = Moments.from_sums(count, mean, squares - count * mean.square())
    return {"nc2_cosine_mean": cosine.mean, "nc2_cosine_std": cosine.std, "nc2_cosine_cov": cosine.cov}


def coherence(inputs: MeasurementInputs) -> dict[str, float]:
    """Mean over pairs of |cos + 1 / (K-1)| of centred means: 0 for a simplex equiangular tight frame."""
    return {"nc2_coherence": inputs.pairs.mean("coherence")}


def uniformity(inputs: MeasurementInputs) -> dict[str, float]:
    """Hyperspherical uniformity (Liu et al. 2023): kernels of ||u_c - u_c'|| over pairs, mean, std and CoV.

    `gnc2_log`: log(1 / ||u - u'||) of centred means; `gnc2_log_uncentred`: the same of un-centred means (the
    paper's Table 1); `gnc2_riesz`: ||u - u'||^-s of centred means. Pairs of equal means or equal directions have
    no finite kernel and are left out.
    """
    # ||u - u'||² = 2 (1 - cos): the log kernel is -(log 2 + l) / 2, the Riesz kernel 2^(-s/2) (1 + r).
    unit = 2 ** (-inputs.riesz_s / 2)
    half = -math.log(2) / 2
    kernels = {
        "gnc2_log": ("log", half, -0.5),
        "gnc2_log_uncentred": ("raw_log", half, -0.5),
        "gnc2_riesz": ("riesz", unit, unit),
    }
    values: dict[str, float] = {}
    for name, (term, intercept, slope) in kernels.items():
        mean, std = inputs.pairs.affine_mean_std(term, intercept, slope)
        values |= {f"{name}_mean": mean, f"{name}_std": std, f"{name}_cov": std / mean if mean else math.nan}
    return values


def frame_error(product_trace: Tensor, product_total: Tensor, product_norm: Tensor, number: int) -> Tensor:
    """|| S / ||S|| - (I - 11ᵀ/K) / sqrt(K-1) || of a K x K matrix S, from its trace, its sum and its norm.

    Equal to sqrt(2 - 2 (tr S - 1ᵀ S 1 / K) / (||S|| sqrt(K-1))), Frobenius norms throughout (Kothapalli 2023).
    """
    likeness = ratio(product_trace - product_total / number, product_norm * math.sqrt(number - 1))
    return (2 - 2 * likeness).clamp(min=0).sqrt()


def etf_error(inputs: MeasurementInputs) -> dict[str, Tensor]:
    """Distance of the centred means' Gram matrix from a simplex equiangular tight frame's, both of norm 1.

    With C the centred means, CᵀC (D, D) has the norm of the Gram matrix CCᵀ (K, K), so the latter is not needed.
    """
    classes = inputs.classes
    trace = classes.norms.square().sum()
    total = classes.centred.sum(0).square().sum()
    return {"nc2_etf_error": frame_error(trace, total, torch.linalg.matrix_norm(inputs.between), classes.number)}
