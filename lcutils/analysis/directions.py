"""Which way collapse lies for a measurement, and whether a relation with the loss goes with collapse or against it."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from lcutils.analysis.few import PER_CHARACTER
from lcutils.collapse.catalogue import MEASUREMENTS

LOWER_IS_BETTER = ("val_loss", PER_CHARACTER, "perplexity")
HIGHER_IS_BETTER = ("val_accuracy",)
CLEAR = 0.05  # the p (t test, two-sided) below which the sign of a correlation is said
POLE = 5.0  # size of a CoV whose mean is so near to 0 (a fifth of the spread) that it decides more than the spread
POLE_WORDS = (
    "A CoV divides by a mean: where that mean is near 0, the CoV runs to plus or minus infinity while the spread "
    "hardly changes. Read the standard deviation of the same values beside it."
)


def towards(key: str, values: ArrayLike) -> Literal["down", "up", "none"]:
    """Which way collapse lies from `values` of a measurement.

    A measurement whose size falls (`direction` "zero") falls where all values are positive and rises where all are
    negative; among values of both signs neither is the way. nan does not count.
    """
    direction = MEASUREMENTS[key].direction
    if direction != "zero":
        return direction
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    if not known.size or (known.min() < 0 < known.max()):
        return "none"
    return "down" if known.max() > 0 else "up"


def sign_with_collapse(key: str, values: ArrayLike, target: str = "val_loss") -> int:
    """Sign of r with `target` that says "better models are more collapsed": 1, -1, or 0 where that is not known."""
    better = -1 if target in LOWER_IS_BETTER else 1 if target in HIGHER_IS_BETTER else 0
    return better * {"down": -1, "up": 1, "none": 0}[towards(key, values)]


def collapse_words(key: str, values: ArrayLike, r: float, p: float, target: str = "val_loss") -> str:
    """Whether better models are more collapsed.

    Args:
        key: the measurement.
        values: (n,) of it.
        r: its correlation with `target`, of the values or of any rising function of them.
        p: of the t test of `r`, two-sided.
        target: the column that `r` is with.

    Returns:
        "with" (collapse), "against" (it), "unclear" (p of 0.05 or more), or "" where the direction is not known.
    """
    sign = sign_with_collapse(key, values, target)
    if not sign or np.isnan(r):
        return ""
    if not p < CLEAR:
        return "unclear"
    return "with" if sign * r > 0 else "against"


def near_pole(key: str, values: ArrayLike) -> str:
    """Why a CoV of these `values` says more of its divisor than of the spread, in a few words; "" if it does not."""
    if MEASUREMENTS[key].direction != "zero":
        return ""
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    if known.size and known.min() < 0 < known.max():
        return "near its pole: the mean crosses 0"
    return "near its pole: the mean is next to 0" if known.size and np.abs(known).max() > POLE else ""
