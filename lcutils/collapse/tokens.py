"""Measurements of single classes (tokens), each averaged over the class's pairs: Table 5 of the paper."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lcutils.collapse.classes import KeptClasses, keep_classes, kept_head
from lcutils.collapse.duality import head_cosines
from lcutils.collapse.pairs import CUDA_ROWS, squared_distances
from lcutils.features.statistics import ClassStatistics

CPU_ROWS = 64


def measure_tokens(
    stats: ClassStatistics, classifier: Tensor, *, min_count: int = 1, neighbours: int = 5, tile: int | None = None
) -> dict[str, np.ndarray]:
    """One entry per kept class, ordered by class id.

    | key | shape | meaning |
    |---|---|---|
    | token_id, count | (K,) int64 | class id, number of samples |
    | variance | (K,) | sigma_c² |
    | norm | (K,) | ||mu_c - mu_bar|| |
    | cdnv | (K,) | mean over partners c' of ((sigma_c² + sigma_c'²) / 2) / ||mu_c - mu_c'||^4, equal means left out |
    | interference | (K,) | mean over partners c' of cos(mu_c - mu_bar, mu_c' - mu_bar) |
    | head_cosine | (K,) | cos(w_c, mu_c - mu_bar) |
    | nearest | (K, min(neighbours, K-1)) int64 | ids of the classes with the nearest means, nearest first |

    Interference is the paper's name for the cosine of two centred means (section 3.2); averaged over all partners
    of a class it is ``(u_c·sum u - 1) / (K - 1)``. (The released code of October 2024 gives this name to the product
    without normalisation too, whose average over partners is just ``-||mu_c - mu_bar||² / (K - 1)``.) Values that
    have no meaning, such as cosines of a mean equal to mu_bar, are nan.

    Arguments and errors are those of `measure_collapse`.
    """
    classes = keep_classes(stats, min_count)
    head = kept_head(classifier, stats, classes)  # (K, D)
    units = classes.units()  # (K, D)
    partners = int((~classes.central).sum()) - 1
    interference = (units @ units.sum(0) - 1) / partners if partners else torch.full_like(classes.norms, torch.nan)
    cdnv, nearest = _cdnv_and_nearest(classes, min(neighbours, classes.number - 1), tile)
    columns = {
        "token_id": classes.ids,
        "count": classes.counts,
        "variance": classes.variances,
        "norm": classes.norms,
        "cdnv": cdnv,
        "interference": torch.where(classes.central, torch.nan, interference),
        "head_cosine": head_cosines(classes, head)[0],
        "nearest": classes.ids[nearest],
    }
    return {name: values.cpu().numpy() for name, values in columns.items()}


def _cdnv_and_nearest(classes: KeptClasses, neighbours: int, tile: int | None) -> tuple[Tensor, Tensor]:
    """CDNV averaged over partners (K,), and positions of the nearest means (K, neighbours)."""
    number, device = classes.number, classes.means.device
    rows = tile or (CUDA_ROWS // 2 if classes.means.is_cuda else CPU_ROWS)
    squares = classes.norms.square()
    cdnv = torch.empty_like(squares)
    nearest = torch.empty(number, neighbours, dtype=torch.int64, device=device)
    for top in range(0, number, rows):
        i = slice(top, min(top + rows, number))
        d2 = squared_distances(classes, squares, i)  # (r, K), 0 for equal means
        nearest[i] = d2.topk(neighbours, largest=False).indices
        d2[d2 == 0] = torch.inf
        left = number - (d2 == torch.inf).sum(1)  # partners that count
        inverse = d2.reciprocal_().square_()
        # sum over c' of (sigma_c² + sigma_c'²) / 2 / d⁴
        cdnv[i] = (classes.variances[i] * inverse.sum(1) + inverse @ classes.variances) / 2 / left
    return cdnv, nearest
