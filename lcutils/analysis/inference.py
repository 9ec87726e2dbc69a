"""Uncertainty of correlations: permutation tests, bootstrap intervals, Holm's adjustment, partial correlations.

Shapes: n rows (models), M measurements. Everything random takes a seed and gives the same numbers again.
"""

from __future__ import annotations

import warnings
from math import atanh, factorial, nan, sqrt, tanh
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

Vector = NDArray[np.float64]

FEWEST_ROWS = 3  # two points always lie on a line
LEVEL = 0.95  # of every interval
FEWEST_FOR_BOOTSTRAP = 5  # with fewer rows, many resamples hold a single point
NO_INTERVAL = "too few points for an interval"
_SAYS_NOTHING = 0.95  # an interval over this share of all possible values or more is none
_CHUNK = 2_000_000  # permuted values held at once (16 MB)
_ROUNDING = 1e-12  # of a correlation: a permutation that repeats the observed one reaches it


class Permutation(NamedTuple):
    """Outcome of a permutation test.

    Attributes:
        p: (1 + exceed) / (1 + trials), two-sided.
        low, high: exact (Clopper-Pearson) 95 % interval of the p of infinitely many trials.
        r2: the observed R^2.
        exceed: trials whose R^2 reached the observed one.
        trials: number of random permutations.
        smallest: the smallest p that this test can find: 1 / n! of n rows, or 1 / (1 + trials).
    """

    p: float
    low: float
    high: float
    r2: float
    exceed: int
    trials: int
    smallest: float


class Partial(NamedTuple):
    """A partial correlation: coefficient, two-sided p, Fisher's interval, degrees of freedom."""

    r: float
    p: float
    low: float
    high: float
    df: int


def _unit(values: ArrayLike) -> Vector:
    """Centre along the last axis and scale to length 1; `ValueError` if that is impossible."""
    values = np.asarray(values, dtype=np.float64)
    if values.shape[-1] < FEWEST_ROWS:
        raise ValueError(f"a correlation needs at least {FEWEST_ROWS} rows, not {values.shape[-1]}")
    if not np.isfinite(values).all():
        raise ValueError("a correlation needs finite values")
    if is_constant(values):
        raise ValueError("a correlation needs values that differ")
    centred = values - values.mean(axis=-1, keepdims=True)
    return centred / np.linalg.norm(centred, axis=-1, keepdims=True)


def is_constant(values: Vector) -> bool:
    """True if the values along the last axis (of any row) differ by rounding at most."""
    spread = np.ptp(values, axis=-1)
    return bool((spread <= 1e-13 * np.abs(values).max(axis=-1)).any())


def permutation_tests(xs: ArrayLike, y: ArrayLike, trials: int = 10_000, seed: int = 0) -> list[Permutation]:
    """Test R^2 of each row of `xs` with `y` against random re-pairings; all rows share the permutations.

    Args:
        xs: (M, n) measurements.
        y: (n,) target.
        trials, seed: of the random permutations; more of them take more time, not more memory.

    Raises:
        ValueError: fewer than 3 rows, values that are not finite or do not differ, lengths that differ.
    """
    unit_y = _unit(y)  # (n,)
    unit_xs = _unit(np.atleast_2d(np.asarray(xs, dtype=np.float64)))  # (M, n)
    if unit_xs.shape[1] != unit_y.size:
        raise ValueError(f"x and y differ in length: {unit_xs.shape[1]} and {unit_y.size}")
    if trials < 1:
        raise ValueError(f"a permutation test needs at least one trial, not {trials}")
    observed = unit_xs @ unit_y  # (M,)
    reach = np.abs(observed) - _ROUNDING
    exceed = np.zeros(len(unit_xs), dtype=np.int64)
    random = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // unit_y.size)
    for start in range(0, trials, chunk):
        rows = min(chunk, trials - start)
        shuffled = random.permuted(np.broadcast_to(unit_y, (rows, unit_y.size)), axis=1)  # (rows, n)
        for number, unit_x in enumerate(unit_xs):
            exceed[number] += np.count_nonzero(np.abs(shuffled @ unit_x) >= reach[number])
    results = []
    for count, r in zip(exceed.tolist(), observed.tolist(), strict=True):
        interval = scipy.stats.binomtest(count, trials).proportion_ci(LEVEL, method="exact")
        p, smallest = (1 + count) / (1 + trials), max(1 / factorial(unit_y.size), 1 / (1 + trials))
        low, high = said_interval(float(interval.low), float(interval.high), 1)
        results.append(Permutation(p, low, high, r**2, count, trials, smallest))
    return results


def permutation_test(x: ArrayLike, y: ArrayLike, trials: int = 10_000, seed: int = 0) -> Permutation:
    """Two-sided permutation test of the R^2 of `x` and `y`, both (n,).

    p = (1 + trials whose R^2 reaches the observed one) / (1 + trials), never 0 and valid at any number of
    trials (Phipson & Smyth 2010). R^2 is reached where |r| is, so both signs count.

    >>> permutation_test([1, 2, 3, 4, 5, 6], [2, 1, 4, 3, 6, 5], trials=999).r2.__round__(3)
    0.687

    Raises:
        ValueError: as `permutation_tests`.
    """
    return permutation_tests(np.asarray(x)[None], y, trials, seed)[0]


def _correlation(x: Vector, y: Vector, axis: int = -1) -> Vector:
    """r along an axis; 0 for a resample that holds a single point."""
    x = x - x.mean(axis=axis, keepdims=True)
    y = y - y.mean(axis=axis, keepdims=True)
    length = np.sqrt((x * x).sum(axis=axis) * (y * y).sum(axis=axis))
    product = (x * y).sum(axis=axis)
    return np.divide(product, length, out=np.zeros_like(product), where=length > 0)


def bootstrap_interval(x: ArrayLike, y: ArrayLike, resamples: int = 2_000, seed: int = 0) -> tuple[float, float]:
    """Bias-corrected and accelerated (BCa) 95 % bootstrap interval of r over resampled rows (Efron 1987).

    `x` and `y` are (n,) each. Both ends are nan when n < 5, and where they would span nearly all from -1 to 1.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.size < FEWEST_FOR_BOOTSTRAP:
        return np.nan, np.nan
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):  # points on a line are handled below
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        result = scipy.stats.bootstrap(
            (x, y),
            _correlation,
            n_resamples=resamples,
            confidence_level=LEVEL,
            paired=True,
            vectorized=True,
            rng=np.random.default_rng(seed),
        )
        low, high = result.confidence_interval
        if np.isnan(low) or np.isnan(high):  # all resamples are equal, as for points on a line
            low, high = np.quantile(result.bootstrap_distribution, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return said_interval(float(low), float(high), 2)


def said_interval(low: float, high: float, whole: float) -> tuple[float, float]:
    """The interval, or nan twice where it covers 95 % or more of the `whole` range: such a one says nothing."""
    return (low, high) if high - low < _SAYS_NOTHING * whole else (nan, nan)


def squared_interval(low: float, high: float) -> tuple[float, float]:
    """The interval of R^2 for an interval of r: the squares of its values, so from 0 on if its ends differ in sign.

    It covers R^2 whenever the interval of r covers r. Percentiles of resampled R^2, never negative, do not near 0.
    """
    ends = sorted((low**2, high**2))
    return (0.0 if low < 0 < high else ends[0]), ends[1]


def holm(p: ArrayLike) -> Vector:
    """Holm's step-down adjustment of the p of one family; nan stays nan and does not count.

    The k-th smallest of m is multiplied by m - k + 1, and never falls below the one before it (Holm 1979).
    """
    p = np.asarray(p, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]  # nan sorts last
    # statsmodels' multipletests gives the same, but collects all garbage at each call: 0.1 s beside 10 us.
    steps = np.arange(len(order), 0, -1) * p[order]
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def independent_columns(columns: Vector) -> list[int]:
    """Indices of the columns of (n, k) that a constant and the earlier columns do not determine."""
    kept: list[int] = []
    basis = np.empty((len(columns), 0))  # orthonormal, (n, kept)
    for number, column in enumerate(columns.T):
        if is_constant(column):
            continue
        unit = _unit(column)
        rest = unit - basis @ (basis.T @ unit)
        rest -= basis @ (basis.T @ rest)  # again, for the rounding errors of the first projection
        if np.linalg.norm(rest) > 1e-9:
            basis = np.column_stack([basis, rest / np.linalg.norm(rest)])
            kept.append(number)
    return kept


def partial_correlation(x: ArrayLike, y: ArrayLike, controls: Vector) -> Partial | str:
    """Correlation of `x` and `y` (n,) without what `controls` (n, k) explain linearly in both.

    From the t of x in the regression of y on x and the controls: r = t / sqrt(t^2 + df), df = n - 2 - k,
    which equals the correlation of both residuals. The controls must not determine one another
    (`independent_columns`).

    Returns:
        The result, or a plain reason why there is none.
    """
    unit_x, unit_y, unit_controls = _unit(x), _unit(y), _unit(controls.T).T  # r does not depend on units
    n, count = controls.shape
    df = n - 2 - count
    if df < 1:
        return f"{n} rows are too few for {count} controls"
    for name, values in (("the measurement", unit_x), ("the target", unit_y)):
        if count not in independent_columns(np.column_stack([unit_controls, values])):
            return f"the controls determine {name}"
    # Centred columns need no constant, but the constant costs a degree of freedom.
    from statsmodels.regression.linear_model import OLS

    fit = OLS(unit_y, np.column_stack([unit_x, np.ones(n), unit_controls])).fit()
    t = float(fit.tvalues[0])
    r = t / sqrt(t * t + df)
    low, high = (np.nan, np.nan)
    if df > 1 and abs(r) < 1:  # Fisher's z with k controls has variance 1 / (n - k - 3)
        half = scipy.stats.norm.ppf((1 + LEVEL) / 2) / sqrt(df - 1)
        low, high = said_interval(tanh(atanh(r) - half), tanh(atanh(r) + half), 2)
    return Partial(r, float(fit.pvalues[0]), low, high, df)
