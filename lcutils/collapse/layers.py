"""Measurements of inner layers: those of class means as everywhere, those of the head by the logit lens.

Also the prediction residual of a layer, whose fall from layer to layer He and Su (2024) found to be a law.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lcutils.collapse.catalogue import COUNTS, KEYS, MEASUREMENTS
from lcutils.collapse.classes import ratio, weighted_between
from lcutils.collapse.measure import measure_collapse
from lcutils.collapse.variability import RANK_CUTOFF
from lcutils.features.statistics import ClassStatistics
from lcutils.tensors import pieces

OF_HEAD = {"NC3", "UNC3", "NC4"}  # properties that compare features with the head: at inner layers by the logit lens


def measure_layer(
    stats: ClassStatistics,
    lens: ClassStatistics | None,
    classifier: Tensor,
    *,
    min_count: int = 1,
    riesz_s: float = 1.0,
) -> dict[str, float]:
    """`measure_collapse` of an inner layer, and its prediction residual where its covariance is known.

    NC3 and UNC3 compare the head's rows with class means of `lens`: the logit lens, which puts the head behind the
    layer, through the model's final norm. All else is of `stats`.

    Args:
        stats: of the layer's features, D of any size.
        lens: of the same features behind the final norm; `stats` itself if they went through it already. None where the
            model has no such norm: the measurements of the head are then absent.
        classifier, min_count, riesz_s: as of `measure_collapse`.

    Raises:
        ValueError: as of `measure_collapse`.
    """
    of_head = [key for key in KEYS if key not in COUNTS and MEASUREMENTS[key].property in OF_HEAD]
    others = [key for key in KEYS if key not in of_head]
    # The layer may be of another width than the head, which takes no part in these.
    no_head = torch.zeros((), device=stats.device).expand(len(stats.classes), stats.dim)
    values = measure_collapse(stats, no_head, min_count=min_count, riesz_s=riesz_s, only=others)
    if lens is not None:
        values |= measure_collapse(lens, classifier, min_count=min_count, riesz_s=riesz_s, only=of_head)
    return {key: values[key] for key in KEYS if key in values} | prediction_residual(stats)


def prediction_residual(stats: ClassStatistics) -> dict[str, float]:
    """The share of the next token's variance that a least-squares prediction from a layer's features leaves.

    He and Su (2024) regress y, the number of the next token in the vocabulary, on the features h of a layer, with an
    intercept, and call PR = mean (y - y_hat)² / Var(y) the prediction residual: 1 where h says nothing of y, 0 where it
    says all. With S_T the covariance of all features and b = Cov(h, y),

        PR = 1 - bᵀ pinv(S_T) b / Var(y).

    Both follow from class sums: with p_c = N_c / N, mu_G = sum p_c mu_c and S_W the pooled within-class covariance,
    S_T = S_W + sum p_c (mu_c - mu_G)(mu_c - mu_G)ᵀ and b = sum p_c (c - y_bar)(mu_c - mu_G). All classes with samples
    take part, whatever min_count is. The number of a token means nothing, so `prediction_residual_one_hot` stands
    beside it: y is then the indicator of each class, squared errors and variances are summed over classes,

        1 - sum p_c² (mu_c - mu_G)ᵀ pinv(S_T) (mu_c - mu_G) / (1 - sum p_c²).

    Neither depends on an invertible linear map of the features, or on their origin. They are in-sample: with N samples
    and D features, fitting alone makes a residual smaller by about D/N of itself. Features are divided by their
    standard deviations before pinv, so that a few large ones do not hide the others; eigenvalues below 1e-10 of the
    largest are dropped.

    Returns:
        `prediction_residual` and `prediction_residual_one_hot`, nan with fewer than two classes; nothing without the
        covariance.
    """
    within = stats.covariance  # (D, D)
    if within is None:
        return {}
    counts = stats.counts
    ids = counts.nonzero()[:, 0]  # (K,)
    shares = counts[ids].double() / counts.sum()  # (K,) p_c
    mean, between = weighted_between(stats)
    means = stats.means_of(ids) - mean  # (K, D)
    total = within + between
    deviations = total.diagonal().clamp(min=0).sqrt()  # (D,)
    inverse = torch.where(deviations > 0, 1 / deviations, 0.0)
    eigenvalues, vectors = torch.linalg.eigh(inverse[:, None] * total * inverse)  # (D,), (D, D)
    kept = eigenvalues > RANK_CUTOFF * eigenvalues[-1]
    # whiten maps (K, D) means to coordinates in which S_T is an identity
    whiten = inverse[:, None] * vectors * torch.where(kept, eigenvalues.clamp(min=0).rsqrt(), 0.0)
    numbers = ids.double() - shares @ ids.double()  # (K,) y - y_bar
    explained = ((shares * numbers) @ means @ whiten).square().sum()
    one_hot = sum(
        ((shares[piece, None] * (means[piece] @ whiten)).square().sum() for piece in pieces(len(ids), stats.dim)),
        torch.zeros((), dtype=torch.float64, device=stats.device),
    )
    residuals = torch.stack(
        [
            1 - ratio(explained, (shares * numbers.square()).sum()),
            1 - ratio(one_hot, 1 - shares.square().sum()),
        ]
    )
    return dict(zip(("prediction_residual", "prediction_residual_one_hot"), residuals.tolist(), strict=True))
