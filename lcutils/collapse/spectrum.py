"""How many directions features, class means and within-class scatter fill, from covariances that are there already."""

from __future__ import annotations

import torch
from torch import Tensor

from lcutils.collapse.classes import ratio, weighted_between
from lcutils.collapse.inputs import MeasurementInputs
from lcutils.collapse.variability import RANK_CUTOFF


def spectra(inputs: MeasurementInputs) -> dict[str, Tensor]:
    """Effective rank, decay and participation ratio of three covariances, and the share of variance between classes.

    Features: S_T = S_W + sum_c n_c (mu_c - mu)(mu_c - mu)ᵀ / N, mu the mean of all N features. Class means: S_B of the
    kept classes, each counted once. Within: S_W. S_W and S_T are of all samples, whatever `min_count` is. Without S_W
    the measurements of features and within are absent; the share, 1 - tr S_W / tr S_T, needs its trace alone.

    All are free of scale. Class means of few samples each have noise in all directions, which raises the rank of the
    means and the share between classes.
    """
    stats, covariance = inputs.stats, inputs.covariance
    _, weighted = weighted_between(stats)
    values: dict[str, Tensor] = {}
    if covariance is not None:
        values |= spectrum("features", covariance + weighted)
    values |= spectrum("means", inputs.between)
    if covariance is not None:
        values |= spectrum("within", covariance)
    between = weighted.trace()
    return values | {"spectrum_share_between": ratio(between, between + inputs.total_within)}


def spectrum(of: str, covariance: Tensor) -> dict[str, Tensor]:
    """Three numbers of the eigenvalues lambda_1 >= lambda_2 >= … of a covariance (D, D).

    Effective rank (RankMe, Garrido et al. 2023): exp(-sum p_j log p_j), p_j = s_j / sum s, s_j = sqrt(lambda_j) as the
    singular values of the centred vectors are. Decay (alpha-ReQ, Agrawal et al. 2022): alpha of the least-squares line
    log lambda_j = a - alpha log j. Participation ratio: (sum lambda)² / sum lambda². Eigenvalues below 1e-10 of the
    largest are rounding, and left out. A covariance of zeros has none of the three, and one of rank 1 no decay: nan.
    """
    eigenvalues = torch.linalg.eigvalsh(covariance).flip(0)  # (D,)
    kept = (eigenvalues > RANK_CUTOFF * eigenvalues[0]) & (eigenvalues > 0)
    eigenvalues = torch.where(kept, eigenvalues, 0.0)
    roots = eigenvalues.sqrt()
    entropy = torch.special.entr(ratio(roots, roots.sum())).sum()
    x = torch.arange(1, len(kept) + 1, dtype=torch.float64, device=kept.device).log()
    x = torch.where(kept, x - torch.where(kept, x, 0.0).sum() / kept.sum(), 0.0)
    y = torch.where(kept, eigenvalues, 1.0).log()
    return {
        f"spectrum_rank_{of}": entropy.exp(),
        f"spectrum_decay_{of}": -ratio((x * y).sum(), x.square().sum()),
        f"spectrum_participation_{of}": ratio(eigenvalues.sum().square(), eigenvalues.square().sum()),
    }
