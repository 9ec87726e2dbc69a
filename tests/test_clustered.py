"""Lines within strata and the jackknife over units, against plain loops; how often they find what is not there."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lcutils.analysis.clustered import FEWEST_UNITS, Clustered, clustered, comparable, within_line


def invented(seed=0, rows=60, link=0.5):
    """x, y, strata and units; y follows x by `link`, and whole strata are shifted."""
    random = np.random.default_rng(seed)
    strata, units = random.integers(0, 7, rows), random.integers(0, 9, rows)
    x = random.normal(size=rows) + strata
    y = link * x + 3 * random.normal(size=7)[strata] + random.normal(size=9)[units] + random.normal(size=rows)
    return x, y, strata, units


def naive_line(x, y, strata):
    """Least squares with one dummy per stratum; r of the residuals of both."""
    dummies = pd.get_dummies(pd.Series(strata)).to_numpy(dtype=float)
    rest = [values - dummies @ np.linalg.lstsq(dummies, values, rcond=None)[0] for values in (x, y)]
    fit = np.linalg.lstsq(np.column_stack([x, dummies]), y, rcond=None)[0]
    return stats.pearsonr(*rest).statistic, fit[0]


def estimate(x, y, strata, units) -> Clustered:
    return clustered(lambda mask: within_line(x[mask], y[mask], strata[mask]), units)


def test_a_line_within_strata_is_that_with_a_dummy_per_stratum():
    x, y, strata, _ = invented()
    line = within_line(x, y, strata)
    assert (line.r, line.slope) == pytest.approx(naive_line(x, y, strata), abs=1e-10)


def test_one_stratum_is_the_ordinary_line():
    x, y, strata, _ = invented()
    plain = stats.linregress(x, y)
    assert within_line(x, y, strata * 0) == pytest.approx((plain.rvalue, plain.slope), abs=1e-12)


def test_without_variation_within_strata_there_is_no_line():
    strata = np.array([0, 0, 1, 1])
    rounding = 1 + strata + 1e-16 * np.arange(4)
    assert np.isnan(within_line(rounding, np.arange(4.0), strata).r)
    assert np.isnan(within_line(np.arange(4.0), rounding, strata).r)


def test_rows_without_a_partner_take_no_part():
    x, strata = np.array([1.0, 2, 1, 1, 5]), np.array([0, 0, 4, 4, 9])
    assert comparable(x, strata).tolist() == [True, True, False, False, False]
    assert comparable(x[:0], strata[:0]).tolist() == []


def test_intervals_are_those_of_leaving_each_unit_out():
    x, y, strata, units = invented()
    found = estimate(x, y, strata, units)
    r, slope = naive_line(x, y, strata)
    again = [naive_line(x[units != u], y[units != u], strata[units != u]) for u in range(9)]
    t = stats.t.ppf(0.975, 8)

    def error(values):
        return np.sqrt(8 / 9 * ((values - np.mean(values)) ** 2).sum())

    z = error(np.arctanh([one[0] for one in again]))
    b = error(np.array([one[1] for one in again]))
    assert found.units == 9
    assert (found.low, found.high) == pytest.approx((np.tanh(np.arctanh(r) - t * z), np.tanh(np.arctanh(r) + t * z)))
    assert (found.slope_low, found.slope_high) == pytest.approx((slope - t * b, slope + t * b))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(np.arctanh(r)) / z, 8))


def test_few_units_and_perfect_lines_have_no_interval():
    x, y, strata, units = invented()
    few = estimate(x, y, strata, units % (FEWEST_UNITS - 1))
    assert np.isfinite(few.r)
    assert np.isnan([few.low, few.high, few.p, few.slope_low]).all()
    assert np.isnan(estimate(x, 2 * x, strata, units).p)


@pytest.mark.parametrize("size", [8, 20])
def test_what_is_not_there_is_found_once_in_twenty_times(size):
    """Units of unequal size share a peculiarity in x and in y; of single rows, half of the tests find something."""
    random, trials = np.random.default_rng(1), 400
    by_unit, by_row = 0, 0
    for _ in range(trials):
        units = np.repeat(np.arange(size), random.integers(2, 13, size))
        x, y = (random.normal(size=size)[units] + 0.3 * random.normal(size=len(units)) for _ in range(2))
        by_unit += estimate(x, y, units * 0, units).p < 0.05
        by_row += stats.pearsonr(x, y).pvalue < 0.05
    assert 0.01 <= by_unit / trials <= 0.12
    assert by_row / trials > 0.3
