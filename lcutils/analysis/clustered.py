"""Correlations of points that are no independent draws: within strata, with errors from leaving whole units out.

A grid measures each architecture under many recipes and at several checkpoints. Such points share what is peculiar to
their architecture, so that an interval over single points would be too narrow. Here an architecture (or whatever else
`units` names) is left out as a whole: the jackknife over clusters, with t of G - 1 degrees of freedom for G units
(MacKinnon, Nielsen and Webb 2023 find it reliable for few clusters of unequal size).

Shapes: n rows (points), G units.
"""

from __future__ import annotations

from collections.abc import Callable
from math import atanh, isfinite, nan, tanh
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from lcutils.analysis.errors import jackknife_error
from lcutils.analysis.inference import FEWEST_FOR_BOOTSTRAP, LEVEL, Vector

Mask = NDArray[np.bool_]
Codes = NDArray[np.intp]
FEWEST_UNITS = FEWEST_FOR_BOOTSTRAP  # with fewer, an interval of t with so few degrees of freedom says nothing
NO_UNITS = f"fewer than {FEWEST_UNITS} architectures: no interval"
_ONE = 1 - 1e-12  # |r| that is taken for 1: its z would be infinite


class Line(NamedTuple):
    """A least-squares line within strata: its correlation, and its slope in y per unit of x; nan without one."""

    r: float
    slope: float


class Clustered(NamedTuple):
    """A line with 95 % intervals of r and slope, the two-sided p of r, and how many units there are; nan if too few."""

    r: float
    low: float
    high: float
    p: float
    slope: float
    slope_low: float
    slope_high: float
    units: int


def within_line(x: Vector, y: Vector, strata: Codes) -> Line:
    """The line of `y` on `x`, both (n,), through deviations from the means of `strata` (n,): points of two strata are
    never compared. One stratum gives the ordinary line.
    """
    dx, dy = (_deviations(values, strata) for values in (x, y))
    xx, yy, xy = float(dx @ dx), float(dy @ dy), float(dx @ dy)
    if not (xx > 0 and yy > 0):
        return Line(nan, nan)
    return Line(float(np.clip(xy / np.sqrt(xx * yy), -1, 1)), xy / xx)


def _deviations(values: Vector, strata: Codes) -> Vector:
    """Values less the mean of their stratum; exactly 0 where that is rounding only."""
    codes = np.unique(strata, return_inverse=True)[1]
    means = np.bincount(codes, values) / np.bincount(codes)
    deviations: Vector = values - means[codes]
    deviations[np.abs(deviations) <= 1e-13 * np.abs(values).max(initial=0)] = 0
    return deviations


def comparable(x: Vector, strata: Codes) -> Mask:
    """Mask of the rows whose stratum has two values of `x` or more: the others take no part in a line within strata."""
    codes = np.unique(strata, return_inverse=True)[1]
    pairs = np.unique(np.column_stack([codes, x]), axis=0)  # one row per stratum and value
    mask: Mask = np.bincount(pairs[:, 0].astype(np.intp), minlength=codes.max(initial=-1) + 1)[codes] >= 2
    return mask


def clustered(line: Callable[[Mask], Line], units: Codes) -> Clustered:
    """A line with the errors of the jackknife over units.

    The interval of r is that of Fisher's z = atanh r, turned back. Its p is of the same t, so both say the same of 0.

    Args:
        line: gives the line of the rows of a mask (n,).
        units: (n,) which unit each row belongs to.
    """
    names = np.unique(units)
    whole = line(np.ones(len(units), dtype=bool))
    few = Clustered(whole.r, nan, nan, nan, whole.slope, nan, nan, len(names))
    if len(names) < FEWEST_UNITS or not isfinite(whole.r) or abs(whole.r) > _ONE:
        return few
    again = [line(units != name) for name in names]
    if not all(isfinite(one.r) and abs(one.r) <= _ONE for one in again):
        return few
    df = len(names) - 1
    t = float(scipy.stats.t.ppf((1 + LEVEL) / 2, df))
    z, error = atanh(whole.r), jackknife_error(np.array([atanh(one.r) for one in again]))
    half = t * jackknife_error(np.array([one.slope for one in again]))
    p = 2 * float(scipy.stats.t.sf(abs(z) / error, df)) if error > 0 else nan
    return few._replace(
        low=tanh(z - t * error),
        high=tanh(z + t * error),
        p=p,
        slope_low=whole.slope - half,
        slope_high=whole.slope + half,
    )
