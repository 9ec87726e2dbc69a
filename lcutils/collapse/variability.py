"""NC1: how much features vary within a class, compared with the distance between classes."""

from __future__ import annotations

import torch
from torch import Tensor

from lcutils.collapse.classes import ratio
from lcutils.collapse.inputs import MeasurementInputs

# Eigenvalues of S_B below this share of the largest are rounding: a final LayerNorm takes one dimension away.
RANK_CUTOFF = 1e-10


def distance_normalised_variance(inputs: MeasurementInputs) -> dict[str, float]:
    """CDNV of pairs of classes: ((sigma_c² + sigma_c'²) / 2) / ||mu_c - mu_c'||^(2p), averaged.

    `nc1_cdnv` has p = 2 (the paper, section 3.1), `nc1_cdnv_log` is the mean of its natural log without the pairs
    where both variances are 0 (`nc1_zero_pairs`), and `nc1_cdnv_galanti` has p = 1 (Galanti et al.
    2022). Pairs of equal means (`coincident_pairs`) are in none of them.
    """
    pairs = inputs.pairs
    return {
        "nc1_cdnv": pairs.mean("cdnv"),
        "nc1_cdnv_log": pairs.mean("log_cdnv"),
        "nc1_cdnv_galanti": pairs.mean("galanti"),
    }


def covariance_ratios(inputs: MeasurementInputs) -> dict[str, Tensor]:
    """Within-class over between-class covariance: tr(S_W pinv(S_B)) / K and tr S_W / tr S_B.

    S_B = sum_c (mu_c - mu_bar)(mu_c - mu_bar)ᵀ / K over the kept classes, S_W the within-class covariance pooled
    over all samples. Without S_W `nc1_pinv` is absent. Papyan, Han, Donoho (2020); Tirer, Huang, Niles-Weed (2023).
    """
    number, covariance = inputs.classes.number, inputs.covariance
    values = {}
    if covariance is not None:
        values["nc1_pinv"] = _trace_with_inverse(covariance, inputs.between / number) / number
    values["nc1_quotient"] = ratio(inputs.total_within, inputs.classes.norms.square().mean())
    return values


def _trace_with_inverse(within: Tensor, between: Tensor) -> Tensor:
    """tr(S_W pinv(S_B)): the sum of vᵀ S_W v / lambda over the eigenpairs (lambda, v) of S_B that are kept."""
    eigenvalues, vectors = torch.linalg.eigh(between)  # (D,), (D, D)
    kept = eigenvalues > RANK_CUTOFF * eigenvalues[-1]
    shares = torch.linalg.vecdot(vectors, within @ vectors, dim=0) / eigenvalues
    return torch.where(kept.any(), torch.where(kept, shares, 0.0).sum(), torch.nan)
