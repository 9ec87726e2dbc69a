"""The terms that are summed over pairs of classes: which there are, the pairs that each is over, and their formulas.

To add one: an entry in `TERMS`, its formula in `term_sums`, and the formula's twin in `kernels._reduce_strip`.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Every sum, and the pairs that it is over:
#   apart         means that differ
#   spread        of these, the pairs with a variance above 0
#   directed      two means that differ from mu_bar
#   distinct      of these, means and directions that differ
#   raw_distinct  un-centred means other than zero that differ, as do their directions
TERMS = {
    "cdnv": "apart",
    "galanti": "apart",
    "log_cdnv": "spread",
    "log": "distinct",  # l = log(1 - cos) of centred means
    "log_squares": "distinct",  # l²
    "riesz": "distinct",  # r = (1 - cos)^(-s/2) - 1: deviations from orthogonal means, so that squares lose nothing
    "riesz_squares": "distinct",  # r²
    "coherence": "directed",  # |cos + 1/(K-1)|
    "raw_log": "raw_distinct",  # l of un-centred means
    "raw_log_squares": "raw_distinct",
}


def term_sums(
    d2: Tensor,
    variance: Tensor,
    directed: Tensor,
    distinct: Tensor,
    raw_distinct: Tensor,
    riesz_s: float,
    number: int,
) -> Tensor:
    """Every term summed over the pairs that it is defined for: (T,) in the order of `TERMS`.

    Args:
        d2, variance: squared distance and mean variance of the pairs apart, one value per pair, in any shape.
        directed, distinct, raw_distinct: 1 - cos of those pairs. The last is overwritten.
        riesz_s: exponent of the Riesz kernel.
        number: K.
    """
    flat = 1 + 1 / (number - 1)  # |cos + 1/(K-1)| = |flat - (1 - cos)|
    sums = {
        **_variability_sums(d2, variance),
        **_kernel_sums(distinct, riesz_s),
        "coherence": (flat - directed).abs_().sum(),
        **_moments("raw_log", raw_distinct.log_()),
    }
    return torch.stack([sums[term] for term in TERMS])


def _variability_sums(d2: Tensor, variance: Tensor) -> dict[str, Tensor]:
    """CDNV with power 2, with power 1, and the log of the former (0 for a pair without variance)."""
    inverse = d2.reciprocal()
    galanti = variance * inverse
    cdnv = inverse.mul_(galanti)
    return {
        "cdnv": cdnv.sum(),
        "galanti": galanti.sum(),
        "log_cdnv": cdnv.masked_fill_(variance == 0, 1.0).log_().sum(),
    }


def _kernel_sums(one_minus_cos: Tensor, riesz_s: float) -> dict[str, Tensor]:
    log = one_minus_cos.log()
    log_sums = _moments("log", log)
    return log_sums | _moments("riesz", log.mul_(-riesz_s / 2).expm1_())


def _moments(term: str, values: Tensor) -> dict[str, Tensor]:
    return {term: values.sum(), f"{term}_squares": torch.linalg.vecdot(values.flatten(), values.flatten())}
