"""NC1: how much features vary within a class, beside the distance between classes."""

from __future__ import annotations

import torch
from torch import Tensor

from lcutils.collapse.classes import KeptClasses, ratio
from lcutils.collapse.pairs import PairSums

# Eigenvalues of S_B below this share of the largest are rounding: a final LayerNorm takes one dimension away.
RANK_CUTOFF = 1e-10


def distance_normalised_variance(pairs: PairSums) -> dict[str, float]:
    """CDNV of pairs of classes: ((sigma_c² + sigma_c'²) / 2) / ||mu_c - mu_c'||^(2p), averaged.

    `nc1_cdnv` has p = 2 (the paper, section 3.1), `nc1_cdnv_log` is the mean of its natural log without the pairs
    where both variances are 0 (`nc1_zero_pairs` counts those), and `nc1_cdnv_galanti` has p = 1 (Galanti et al.
    2022). Pairs of equal means (`coincident_pairs`) are in none of them.
    """
    return {
        "nc1_cdnv": pairs.mean("cdnv"),
        "nc1_cdnv_log": pairs.mean("log_cdnv"),
        "nc1_zero_pairs": float(pairs.zero_variances),
        "nc1_cdnv_galanti": pairs.mean("galanti"),
    }


def covariance_ratios(
    classes: KeptClasses, covariance: Tensor | None, total_within: Tensor, between: Tensor
) -> dict[str, Tensor]:
    """Within-class beside between-class covariance: tr(S_W pinv(S_B)) / K and tr S_W / tr S_B.

    S_B = sum_c (mu_c - mu_bar)(mu_c - mu_bar)ᵀ / K over the kept classes, S_W the within-class covariance pooled
    over all samples. Papyan, Han, Donoho (2020); Tirer, Huang, Niles-Weed (2023).

    Args:
        classes: the kept classes.
        covariance: S_W (D, D), or None: then `nc1_pinv` is absent.
        total_within: tr S_W.
        between: (D, D) K S_B.
    """
    values = {}
    if covariance is not None:
        values["nc1_pinv"] = _trace_with_inverse(covariance, between / classes.number) / classes.number
    values["nc1_quotient"] = ratio(total_within, classes.norms.square().mean())
    return values


def _trace_with_inverse(within: Tensor, between: Tensor) -> Tensor:
    """tr(S_W pinv(S_B)) = sum over eigenpairs (lambda, v) of S_B that are kept of vᵀ S_W v / lambda."""
    eigenvalues, vectors = torch.linalg.eigh(between)  # (D,), (D, D)
    kept = eigenvalues > RANK_CUTOFF * eigenvalues[-1]
    shares = torch.linalg.vecdot(vectors, within @ vectors, dim=0) / eigenvalues
    return torch.where(kept.any(), torch.where(kept, shares, 0.0).sum(), torch.nan)
