"""Rows that carry a fit: Cook's distance, and what a relation becomes without them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lcutils.analysis.inference import FEWEST_ROWS, Vector, is_constant

INFLUENCE_WORDS = "Cook's distance above 4/n"


def cooks_distance(x: Vector, y: Vector) -> Vector:
    """Cook's distance (1977) of each row in the least-squares line of `y` on `x`, (n,) each.

    D_i = e_i² h_i / (2 s² (1 - h_i)²): how far all fitted values move without row i, h_i its leverage, e_i its residual
    and s² the residual variance. nan where that is 0 / 0: a perfect fit, or a row that the line always meets.
    """
    from statsmodels.regression.linear_model import OLS
    from statsmodels.tools import add_constant

    with np.errstate(divide="ignore", invalid="ignore"):
        distance: Vector = OLS(y, add_constant(x)).fit().get_influence().cooks_distance[0]
    return distance


def influential(x: Vector, y: Vector) -> NDArray[np.bool_]:
    """Mask of the rows that carry the line of `y` on `x`: Cook's distance above 4 / n (Bollen and Jackman 1990).

    So does the only row with an x of its own beside rows that share one: the line always meets it. No row is marked
    where there are fewer than four, where nothing varies, or where all rows lie on a line. Rows that lie far out in the
    same direction may hide one another, since each is judged beside the others.
    """
    n = len(x)
    if n <= FEWEST_ROWS or is_constant(x) or is_constant(y):
        return np.zeros(n, dtype=bool)
    unit = x - x.mean()
    unit /= np.linalg.norm(unit)
    leverage = 1 / n + unit**2
    if 1 - (unit @ (y - y.mean())) ** 2 / ((y - y.mean()) ** 2).sum() < 1e-12:
        return np.zeros(n, dtype=bool)
    marked: NDArray[np.bool_] = (cooks_distance(x, y) > 4 / n) | (1 - leverage < 1e-9)
    return marked


def r_without(x: Vector, y: Vector, left_out: NDArray[np.bool_]) -> float:
    """Pearson's r of the rows that are not `left_out`; nan where fewer than three remain, or nothing varies."""
    x, y = x[~left_out], y[~left_out]
    if len(x) < FEWEST_ROWS or is_constant(x) or is_constant(y):
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])
