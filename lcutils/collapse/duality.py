"""NC3, UNC3 and NC5: class means compared with the head's rows, and with the mean of other text."""

from __future__ import annotations

import torch
from torch import Tensor

from lcutils.collapse.classes import KeptClasses, Moments, gram
from lcutils.collapse.geometry import frame_error
from lcutils.collapse.inputs import MeasurementInputs
from lcutils.tensors import SPLIT


def head_cosines(classes: KeptClasses, head: Tensor) -> tuple[Tensor, Tensor]:
    """cos(w_c, mu_c - mu_bar) of every kept class, nan where one of the two is zero, and w_c·(mu_c - mu_bar).

    (K,) each, in float64 without a float64 copy of the whole head (K, D).
    """
    dots, lengths = [], []
    for rows, centred in zip(head.split(SPLIT), classes.centred.split(SPLIT), strict=True):
        wide = rows.double()
        dots.append(torch.linalg.vecdot(wide, centred))
        lengths.append(torch.linalg.vector_norm(wide, dim=1))
    products, norms = torch.cat(dots), torch.cat(lengths)
    defined = ~classes.central & (norms > 0)
    return torch.where(defined, products / (norms * classes.norms), torch.nan), products


def self_duality(inputs: MeasurementInputs) -> dict[str, Tensor]:
    """Mean and CoV of cos(w_c, mu_c - mu_bar), and the distance of W (M - mu_bar)ᵀ from a simplex frame.

    W is not centred. The K x K product's norm follows from two D x D matrices: ||W Cᵀ||² = tr(WᵀW CᵀC), C = M - mu_bar.
    """
    classes, head = inputs.classes, inputs.head
    cosines, products = head_cosines(classes, head)
    moments = Moments.of(cosines, ~cosines.isnan())
    total = head.sum(0, dtype=torch.float64) @ classes.centred.sum(0)
    norm = (gram(head) * inputs.between).sum().clamp(min=0).sqrt()
    return {
        "nc3_cosine_mean": moments.mean,
        "nc3_duality_error": frame_error(products.sum(), total, norm, classes.number),
        "unc3_cosine_cov": moments.cov,
    }


def ood_deviation(means: Tensor, keep: Tensor, ood_mean: Tensor) -> float:
    """NC5 (Ammar et al. 2024): mean over kept classes of |cos(mu_c, m)|, m the mean feature of other text.

    Args:
        means: (C, D) class means, not centred.
        keep: (C,) bool, the kept classes.
        ood_mean: (D,) mean feature over all tokens of out-of-distribution text.

    Raises:
        ValueError: no class is kept, or m or every mean is zero.

    Example:
        >>> ood_deviation(torch.eye(2), torch.tensor([True, True]), torch.tensor([1.0, 0.0]))
        0.5
    """
    chosen = means[keep].double()
    other = ood_mean.double().to(chosen.device)
    norms = torch.linalg.vector_norm(chosen, dim=1)
    size = torch.linalg.vector_norm(other)
    defined = norms > 0
    if not bool(defined.any()) or not float(size) > 0:
        raise ValueError("a cosine with the out-of-distribution mean needs a kept class and vectors other than zero")
    return float(((chosen @ other)[defined] / (norms[defined] * size)).abs().mean())
