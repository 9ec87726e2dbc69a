"""Permutation tests, bootstrap, Holm and partial correlations against independent computations and simulations."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from lcutils.analysis.inference import (
    bootstrap_interval,
    holm,
    independent_columns,
    partial_correlation,
    permutation_test,
    permutation_tests,
    squared_interval,
)


def naive_r(x, y):
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    product = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return product / (sum((a - mean_x) ** 2 for a in x) * sum((b - mean_y) ** 2 for b in y)) ** 0.5


def exact_p(x, y):
    """Share of all n! pairings whose |r| reaches the observed one."""
    observed = abs(naive_r(x, y)) - 1e-12
    reached = [abs(naive_r(x, other)) >= observed for other in permutations(y)]
    return sum(reached) / len(reached)


def test_permutation_p_tends_to_the_exact_one():
    random = np.random.default_rng(1)
    for _ in range(3):
        x, y = random.normal(size=6).tolist(), random.exponential(size=6).tolist()
        test = permutation_test(x, y, trials=40_000, seed=3)
        exact = exact_p(x, y)
        assert test.low <= exact <= test.high
        assert test.p == (1 + test.exceed) / (1 + test.trials)
        assert test.r2 == pytest.approx(naive_r(x, y) ** 2, abs=1e-14)


def test_permutation_p_is_two_sided_and_blind_to_units():
    random = np.random.default_rng(2)
    x, y = random.normal(size=15), random.normal(size=15)
    test = permutation_test(x, y, 2_000, seed=5)
    turned = permutation_test(-1e6 * x + 3, 1e-9 * y, 2_000, seed=5)
    assert turned.exceed == test.exceed
    assert turned.r2 == pytest.approx(test.r2, rel=1e-9)


def test_permutation_matches_scipy():
    random = np.random.default_rng(3)
    x = random.normal(size=20)
    y = 0.4 * x + random.normal(size=20)
    theirs = stats.permutation_test(
        (x,),
        lambda x: stats.pearsonr(x, y).statistic ** 2,
        permutation_type="pairings",
        n_resamples=5_000,
        alternative="greater",
        vectorized=False,
        rng=np.random.default_rng(0),
    )
    ours = permutation_test(x, y, 5_000, seed=0)
    spread = np.sqrt(theirs.pvalue * (1 - theirs.pvalue) / 5_000)
    assert abs(ours.p - theirs.pvalue) < 5 * spread


def test_permutation_interval_is_clopper_pearson():
    random = np.random.default_rng(4)
    test = permutation_test(random.normal(size=12), random.normal(size=12), 300, seed=1)
    # The ends solve P(X >= k | low) = 2.5 % and P(X <= k | high) = 2.5 %.
    assert 0 < test.exceed < 300
    assert stats.binom.sf(test.exceed - 1, 300, test.low) == pytest.approx(0.025, rel=1e-6)
    assert stats.binom.cdf(test.exceed, 300, test.high) == pytest.approx(0.025, rel=1e-6)


def test_permutation_interval_covers_the_exact_p():
    random = np.random.default_rng(5)
    x, y = random.normal(size=6), random.normal(size=6)
    exact = exact_p(x.tolist(), y.tolist())
    tests = [permutation_test(x, y, 400, seed=seed) for seed in range(400)]
    covered = sum(test.low <= exact <= test.high for test in tests)
    assert stats.binomtest(covered, 400, 0.95).pvalue > 0.001 or covered > 380
    assert covered < 400  # an interval that always covers would say nothing


def test_permutation_p_is_uniform_under_the_null():
    random = np.random.default_rng(61)
    # Skewed and heavy-tailed values: no normal theory would do here.
    ps = [
        permutation_test(random.standard_t(2, size=11), random.exponential(size=11) ** 2, 199, seed=n).p
        for n in range(1_500)
    ]
    assert stats.kstest(ps, "uniform").pvalue > 0.02
    for level in (0.05, 0.1, 0.5):  # never above the level it names
        assert np.mean(np.array(ps) <= level) < level + 3 * np.sqrt(level * (1 - level) / len(ps))


def test_permutation_finds_a_relation():
    x = np.arange(20.0)
    test = permutation_test(x, -3 * x + np.tile([1, -1], 10), 5_000)
    assert test.exceed == 0
    assert test.p == 1 / 5_001
    assert test.low == 0
    assert test.high == pytest.approx(1 - 0.025 ** (1 / 5_000), rel=1e-6)


def test_permutation_is_reproducible_and_shared_over_rows():
    random = np.random.default_rng(7)
    xs, y = random.normal(size=(4, 30)), random.normal(size=30)
    together = permutation_tests(xs, y, 3_000, seed=9)
    assert together == permutation_tests(xs, y, 3_000, seed=9)
    assert [test.exceed for test in together] == [permutation_test(x, y, 3_000, seed=9).exceed for x in xs]
    assert together != permutation_tests(xs, y, 3_000, seed=10)


def test_permutation_counts_do_not_depend_on_chunks(monkeypatch):
    random = np.random.default_rng(8)
    x, y = random.normal(size=10), random.normal(size=10)
    whole = permutation_test(x, y, 1_000, seed=2)
    monkeypatch.setattr("lcutils.analysis.inference._CHUNK", 70)
    assert permutation_test(x, y, 1_000, seed=2) == whole


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        ([1.0, 2.0], [1.0, 2.0], "at least 3 rows"),
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], "differ"),
        ([1.0, 2.0, np.nan], [1.0, 2.0, 3.0], "finite"),
        ([1.0, 2.0, 4.0, 3.0], [1.0, 2.0, 3.0], "length"),
    ],
)
def test_permutation_refuses_what_it_cannot_test(x, y, words):
    with pytest.raises(ValueError, match=words):
        permutation_test(x, y)


def test_permutation_refuses_no_trials():
    with pytest.raises(ValueError, match="one trial"):
        permutation_test([1, 2, 3], [1, 3, 2], trials=0)


def test_bootstrap_interval_covers_r():
    random = np.random.default_rng(10)
    rho, covered, covered_squared, sides = 0.6, 0, 0, []
    for number in range(300):
        x = random.normal(size=30)
        y = rho * x + np.sqrt(1 - rho**2) * random.normal(size=30)
        low, high = bootstrap_interval(x, y, 400, seed=number)
        covered += low <= rho <= high
        low2, high2 = squared_interval(low, high)
        covered_squared += low2 <= rho**2 <= high2
        sides.append((rho < low, rho > high))
    assert 0.90 <= covered / 300 <= 0.985
    assert covered_squared >= covered
    assert np.mean(sides, axis=0).min() > 0.004  # misses on both sides


def test_bootstrap_interval_of_no_relation_contains_zero():
    random = np.random.default_rng(11)
    inside = 0
    for number in range(200):
        low, high = bootstrap_interval(random.normal(size=25), random.normal(size=25), 300, seed=number)
        inside += low <= 0 <= high
        if low < 0 < high:
            assert squared_interval(low, high)[0] == 0
    assert 0.89 <= inside / 200 <= 0.99


def test_bootstrap_interval_holds_r_and_repeats():
    random = np.random.default_rng(12)
    x = random.normal(size=40)
    y = x + random.normal(size=40)
    low, high = bootstrap_interval(x, y)
    assert low < stats.pearsonr(x, y).statistic < high
    assert (low, high) == bootstrap_interval(x, y)


def test_bootstrap_interval_at_the_edges():
    assert np.isnan(bootstrap_interval([1.0, 2.0, 3.0, 5.0], [1.0, 2.0, 4.0, 3.0])).all()
    line = np.arange(8.0)
    assert bootstrap_interval(line, 2 * line + 1) == pytest.approx((1.0, 1.0))
    low, high = bootstrap_interval([0.0, 0, 0, 0, 1], [1.0, 2, 3, 4, 9])  # many resamples hold one value of x
    assert -1 <= low <= high <= 1


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(0, 1))
def test_squared_interval_is_the_image(a, b, share):
    low, high = min(a, b), max(a, b)
    low2, high2 = squared_interval(low, high)
    inner = low + share * (high - low)
    assert low2 - 1e-12 <= inner**2 <= high2 + 1e-12
    assert {low2, high2} <= {0.0, low**2, high**2}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_against_the_step_down_rule(p):
    order = sorted(range(len(p)), key=lambda i: p[i])
    expected, largest = [0.0] * len(p), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        expected[index] = largest
    np.testing.assert_allclose(holm(p), expected, atol=1e-12)


def test_holm_matches_statsmodels():
    p = np.random.default_rng(18).uniform(size=25) ** 3
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1], rtol=1e-12)


def test_holm_leaves_nan_out_of_the_family():
    np.testing.assert_allclose(holm([0.01, np.nan, 0.04]), [0.02, np.nan, 0.04])
    assert np.isnan(holm([np.nan])).all()


def residual(values, controls):
    design = np.column_stack([np.ones(len(values)), controls])
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]


def test_partial_correlation_is_that_of_residuals():
    random = np.random.default_rng(13)
    controls = random.normal(size=(40, 3)) * [1e6, 1, 1e-4] + [5e6, 0, 0]
    x = controls @ [1e-6, 0.5, 2e3] + random.normal(size=40)
    y = controls @ [2e-6, -1, 1e3] - 0.3 * x + random.normal(size=40)
    partial = partial_correlation(x, y, controls)
    r = stats.pearsonr(residual(x, controls), residual(y, controls)).statistic
    assert partial.r == pytest.approx(r, abs=1e-10)
    assert partial.df == 35
    t = r * np.sqrt(35 / (1 - r**2))
    assert partial.p == pytest.approx(2 * stats.t.sf(abs(t), 35), rel=1e-8)
    assert partial.low < r < partial.high


def test_partial_correlation_of_one_control_has_a_closed_form():
    random = np.random.default_rng(14)
    z = random.normal(size=25)
    x, y = z + random.normal(size=25), -z + random.normal(size=25)
    (xy, xz, yz) = (naive_r(*pair) for pair in ((x, y), (x, z), (y, z)))
    expected = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert partial_correlation(x, y, z[:, None]).r == pytest.approx(expected, abs=1e-12)


def test_partial_p_is_uniform_and_the_interval_covers_when_only_controls_relate():
    random = np.random.default_rng(15)
    ps, covered = [], 0
    for _ in range(600):
        z = random.normal(size=(18, 2))
        partial = partial_correlation(z @ [2, 1] + random.normal(size=18), z @ [-1, 3] + random.normal(size=18), z)
        ps.append(partial.p)
        covered += partial.low <= 0 <= partial.high
    assert stats.kstest(ps, "uniform").pvalue > 0.02
    assert 0.925 <= covered / 600 <= 0.975


def test_partial_correlation_says_why_it_cannot():
    random = np.random.default_rng(16)
    z = random.normal(size=(8, 2))
    x, y = random.normal(size=8), random.normal(size=8)
    assert partial_correlation(z @ [1, 2], y, z) == "the controls determine the measurement"
    assert partial_correlation(x, z @ [1, 2] + 7, z) == "the controls determine the target"
    assert partial_correlation(x[:4], y[:4], z[:4]) == "4 rows are too few for 2 controls"
    perfect = partial_correlation(x, 3 * x + z @ [1, 1], z)
    assert perfect.r == pytest.approx(1)
    assert perfect.p < 1e-12


def test_independent_columns_drops_what_earlier_ones_determine():
    random = np.random.default_rng(17)
    a, b = random.normal(size=30) + 100, 1e-6 * random.normal(size=30)
    columns = np.column_stack([np.full(30, 0.1), a, 3 * a - 2, b, a + 1e6 * b, random.normal(size=30)])
    assert independent_columns(columns) == [1, 3, 5]
