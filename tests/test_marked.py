"""Rows that a fit leans on, and numbers with little behind them: the smallest p, intervals that say nothing."""

from itertools import permutations
from math import factorial

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from lcutils.analysis import correlations, influence, partial_correlations, table_1
from lcutils.analysis.inference import NO_INTERVAL, bootstrap_interval, permutation_test, said_interval
from lcutils.analysis.marked import cooks_distance, influential, r_without
from lcutils.parameters import ROOT

SAMPLE = ROOT / "outputs" / "tinystories-sample" / "results.csv"


def table(x: np.ndarray, y: np.ndarray, key: str = "nc2_norm_cov") -> pd.DataFrame:
    return pd.DataFrame({key: x, "val_loss": y, "model": [f"m{i}" for i in range(len(x))], "checkpoint": 0})


def made(n: int = 20, outliers: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """A cloud without a relation, and a few rows far away on both axes that make one."""
    random = np.random.default_rng(0)
    x, y = random.uniform(1, 2, n), random.uniform(3, 4, n)
    x[:outliers], y[:outliers] = [4.0, 5.0, 6.0][:outliers], [9.0, 6.0, 10.0][:outliers]
    return x, y


def test_cooks_distance_is_how_far_all_fitted_values_move():
    x, y = made()
    n = len(x)
    fitted = np.polyval(np.polyfit(x, y, 1), x)
    variance = ((y - fitted) ** 2).sum() / (n - 2)
    by_hand = []
    for i in range(n):
        kept = np.arange(n) != i
        without = np.polyval(np.polyfit(x[kept], y[kept], 1), x)
        by_hand.append(((fitted - without) ** 2).sum() / (2 * variance))
    assert cooks_distance(x, y) == pytest.approx(by_hand, rel=1e-8)
    assert influential(x, y).tolist() == [d > 4 / n for d in by_hand]


def test_three_rows_that_carry_a_relation_are_marked_and_it_is_gone_without_them():
    x, y = made()
    marked = influential(x, y)
    assert marked.tolist() == [True] * 3 + [False] * 17
    assert np.corrcoef(x, y)[0, 1] > 0.85
    expected = np.corrcoef(x[3:], y[3:])[0, 1]
    assert r_without(x, y, marked) == pytest.approx(expected)
    assert abs(expected) < 0.4


def test_the_only_row_with_an_x_of_its_own_carries_the_line():
    """The line always meets it, so its Cook's distance is 0 / 0."""
    x, y = np.array([1.0] * 7 + [2.0]), np.array([1.0, 2.0, 1.5, 1.2, 1.7, 1.1, 1.9, 9.0])
    assert influential(x, y)[-1]
    assert np.isnan(r_without(x, y, influential(x, y)))  # the other rows share one x


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.arange(8.0), 3 * np.arange(8.0) + 1e-15),  # on a line
        (np.ones(8), np.arange(8.0)),
        (np.arange(8.0), np.ones(8)),
        (np.arange(3.0), np.array([1.0, 5.0, 2.0])),
    ],
)
def test_no_row_is_marked_where_none_can_be_told_from_another(x, y):
    assert influential(x, y).dtype == bool
    assert not influential(x, y).any()


def test_tables_mark_the_rows_that_carry_a_relation():
    x, y = made()
    row = correlations(table(x, y), trials=99, resamples=99).iloc[0]
    assert (row["influential"], row["collapse"]) == (3, "with")
    assert row["r_without"] == pytest.approx(np.corrcoef(x[3:], y[3:])[0, 1])
    logs = influential(np.log(x), y)
    assert row["influential_log"] == logs.sum() > 0
    assert row["r_log_without"] == pytest.approx(np.corrcoef(np.log(x[~logs]), y[~logs])[0, 1])
    rows = influence(table(x, y)).set_index("model")
    assert rows.index[rows["influential"]].sort_values().tolist() == ["m0", "m1", "m2"]
    assert ((rows["cooks_distance"] > 4 / len(x)) == rows["influential"]).all()


@pytest.mark.skipif(not SAMPLE.is_file(), reason="the sample's table is not in this checkout")
def test_in_the_committed_sample_the_almost_untrained_models_are_marked():
    """Eight models near the entropy of the text carry relations; scale-free NC1 goes another way than the paper's."""
    results = pd.read_csv(SAMPLE)
    untrained = set(results.nlargest(8, "val_loss")["model"])
    rows = influence(results)
    for key in ("nc1_quotient", "gnc2_log_uncentred_cov", "nc3_cosine_mean", "unc3_cosine_cov"):
        marked = rows[(rows["measurement"] == key) & rows["influential"]]
        assert untrained <= set(marked["model"])
        assert len(marked) <= 14
    table = correlations(results, trials=99, resamples=99).set_index("measurement")
    assert table.loc["nc1_cdnv", "collapse_log"] == table.loc["nc4_agreement", "collapse"] == "with"
    assert table.loc["nc1_quotient", "collapse_log"] == "against"
    assert table.loc["nc1_pinv", "collapse_log"] == "unclear"
    assert table.loc["gnc2_log_uncentred_cov", "collapse"] == ""  # values of both signs
    assert table.loc["nc1_quotient", "r_log_without"] < -0.7 < table.loc["nc1_quotient", "r_log"]


def test_the_sign_of_a_relation_is_said_only_where_it_is_clear():
    random = np.random.default_rng(3)
    loss = random.normal(size=30)
    clear, unclear = loss + random.normal(size=30), random.normal(size=30)
    for values, expected in ((clear, "with"), (-clear, "against"), (unclear, "unclear")):
        related = correlations(table(np.exp(values), loss), trials=99, resamples=99).iloc[0]
        assert related["collapse_log"] == expected
        assert (scipy_stats.pearsonr(values, loss).pvalue < 0.05) == (expected != "unclear")


def test_the_smallest_p_of_four_rows_is_one_in_24():
    x, y = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.1, 2.9, 8.0])
    reached = [abs(np.corrcoef(x, order)[0, 1]) >= abs(np.corrcoef(x, y)[0, 1]) - 1e-12 for order in permutations(y)]
    assert permutation_test(x, y, trials=9_999).smallest == pytest.approx(1 / 24)
    assert np.mean(reached) >= 1 / factorial(4)
    assert permutation_test(x, y, trials=9).smallest == pytest.approx(0.1)  # 9 orders cannot show less
    assert permutation_test(np.arange(300.0), np.arange(300.0) ** 2, trials=99).smallest == pytest.approx(0.01)


def test_tables_say_the_smallest_p():
    seeds = [f"01x0064_01d{seed:02}" for seed in range(4)]
    rows = table(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.1, 2.9, 8.0]), "nc1_cdnv").assign(model=seeds)
    rows = rows.assign(seed=range(4), depth=1, width=64, epochs=1, weight_decay=5e-4)
    first = table_1(rows, trials=999).iloc[0]
    assert first["p_smallest"] == pytest.approx(1 / 24)
    clear = scipy_stats.pearsonr(rows["nc1_cdnv"], rows["val_loss"]).pvalue < 0.05
    assert first["collapse"] == ("with" if clear else "unclear")
    assert correlations(rows, trials=999).iloc[0]["p_smallest"] == pytest.approx(1 / 24)
    assert correlations(rows, trials=9).iloc[0]["p_smallest"] == pytest.approx(0.1)


@pytest.mark.parametrize("n", [5, 6, 7])
def test_no_table_has_an_interval_over_nearly_all_there_is(n):
    """Few rows that differ wildly: a bootstrap then finds anything from -1 to 1."""
    for seed in range(4):
        random = np.random.default_rng(seed)
        rows = table(random.normal(size=n) ** 3 + 9, random.normal(size=n) ** 3)
        rows = rows.assign(n_params=random.uniform(1, 9, n), depth=random.integers(1, 9, n))
        related = correlations(rows, trials=99, resamples=400).iloc[0]
        for low, high, whole in (("r_low", "r_high", 2), ("r2_low", "r2_high", 1), ("r2_log_low", "r2_log_high", 1),
                                 ("p_low", "p_high", 1)):  # fmt: skip
            assert not related[high] - related[low] >= 0.95 * whole
        assert (NO_INTERVAL in related["note"]) == bool(np.isnan(related["r2_low"]))
        given = partial_correlations(rows)
        assert not (given["high"] - given["low"] >= 1.9).any()
        assert (given["low"].isna() == given["note"].str.contains(NO_INTERVAL)).all()


def test_an_interval_is_given_where_it_says_something():
    assert said_interval(0.1, 0.9, 1) == (0.1, 0.9)
    assert np.isnan(said_interval(0.01, 0.97, 1)).all()
    assert np.isnan(said_interval(np.nan, np.nan, 1)).all()
    x = np.arange(30.0)
    assert not np.isnan(bootstrap_interval(x, x + np.random.default_rng(0).normal(size=30))).any()
