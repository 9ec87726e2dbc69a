"""measure_collapse against loops over pairs, on random and degenerate input."""

import doctest
import math
import warnings

import naive_collapse as naive
import numpy as np
import pytest
import torch

from lcutils.collapse import agreement, catalogue, duality
from lcutils.collapse import measure as measure_module
from lcutils.collapse.catalogue import KEYS
from lcutils.collapse.duality import ood_deviation
from lcutils.collapse.measure import measure_collapse
from lcutils.collapse.tokens import measure_tokens
from lcutils.features.statistics import ClassStatistics


def stats_of(features, labels, classes):
    stats = ClassStatistics(classes, features.shape[1])
    stats.update(torch.as_tensor(features), torch.as_tensor(labels))
    return stats


def compare(features, labels, head, rtol=1e-6, same=0.0, **options):
    """Measure both ways; every key agrees to 1e-6, and to 1e-7 absolute where theory gives 0."""
    features, head = np.asarray(features, dtype=np.float64), np.asarray(head, dtype=np.float64)
    stats = stats_of(features, labels, len(head))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        measured = measure_collapse(stats, torch.from_numpy(head), **options)
        options.pop("tile", None)
        expected = naive.measurements(
            *naive.class_statistics(features, np.asarray(labels), len(head)), head, same=same, **options
        )
    assert measured.keys() == expected.keys()
    assert tuple(measured) == KEYS
    for key, value in expected.items():
        assert isinstance(measured[key], float)
        assert measured[key] == pytest.approx(value, rel=rtol, abs=1e-7 if abs(value) < 1e-6 else 0, nan_ok=True), key
    return measured


def sample(number, dim, classes, seed=0, offset=1.0, exponent=0.0):
    random = np.random.default_rng(seed)
    weights = (np.arange(classes) + 1.0) ** -exponent
    labels = random.choice(classes, number, p=weights / weights.sum())
    features = offset + random.normal(size=(classes, dim))[labels] + 0.4 * random.normal(size=(number, dim))
    return features, labels, random.normal(size=(classes + 3, dim))


@pytest.mark.parametrize("module", [catalogue, measure_module, duality, agreement])
def test_docstring_examples(module):
    result = doctest.testmod(module)
    assert result.failed == 0
    assert result.attempted > 0


@pytest.mark.parametrize("tile", [None, 1, 7, 1000])
def test_random_classes(tile):
    compare(*sample(400, 6, 40), tile=tile)


def test_more_classes_than_a_tile_has_columns():
    from lcutils.collapse import pairs

    columns, pairs.CPU_COLUMNS = pairs.CPU_COLUMNS, 16
    try:
        compare(*sample(400, 5, 45), tile=13)
    finally:
        pairs.CPU_COLUMNS = columns


@pytest.mark.parametrize("seed", range(3))
def test_skewed_counts_with_singletons_and_unseen_classes(seed):
    features, labels, head = sample(150, 4, 60, seed=seed, exponent=1.2)
    measured = compare(features, labels, head)
    counts = np.bincount(labels, minlength=60)
    singles = int((counts == 1).sum())
    assert singles > 1
    assert measured["n_classes"] == (counts > 0).sum()
    assert measured["nc1_zero_pairs"] == singles * (singles - 1) / 2


@pytest.mark.parametrize("min_count", [2, 5])
def test_min_count(min_count):
    features, labels, head = sample(300, 4, 50, exponent=1.0)
    measured = compare(features, labels, head, min_count=min_count)
    assert measured["n_classes"] == (np.bincount(labels) >= min_count).sum()


@pytest.mark.parametrize("riesz_s", [0.5, 1.0, 2.0, 6.0])
def test_riesz_exponent(riesz_s):
    compare(*sample(200, 8, 20), riesz_s=riesz_s)


def test_more_dimensions_than_classes():
    compare(*sample(90, 64, 9))


def test_float32_and_bfloat16_heads():
    features, labels, head = sample(200, 8, 20)
    for dtype in (torch.float32, torch.bfloat16):
        narrow = torch.from_numpy(head).to(dtype)
        measured = measure_collapse(stats_of(features, labels, len(head)), narrow)
        wide = measure_collapse(stats_of(features, labels, len(head)), narrow.double())
        assert measured["nc3_cosine_mean"] == pytest.approx(wide["nc3_cosine_mean"], rel=1e-12)
        assert measured["nc3_duality_error"] == pytest.approx(wide["nc3_duality_error"], rel=1e-12)


def test_two_classes_have_one_pair_and_say_which_values_are_nan():
    features, labels, head = sample(30, 5, 2)
    measured = compare(features, labels, head)
    with pytest.warns(RuntimeWarning) as caught:
        measure_collapse(stats_of(features, labels, len(head)), torch.from_numpy(head))
    undefined = {key for key, value in measured.items() if math.isnan(value)}
    stems = ("nc2_cosine", "gnc2_log", "gnc2_log_uncentred", "gnc2_riesz")
    assert undefined == {f"{stem}_{part}" for stem in stems for part in ("std", "cov")}
    assert {str(warning.message).split()[0] for warning in caught} == undefined
    assert measured["nc2_cosine_mean"] == pytest.approx(-1, rel=1e-12)
    assert measured["nc2_norm_cov"] == pytest.approx(0, abs=1e-7)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_one_dimension():
    # All directions are +1 or -1, so equal directions abound: their kernels are left out.
    features, labels, head = sample(300, 1, 30, offset=0.0)
    measured = compare(features, labels, head, same=1e-12)
    assert measured["gnc2_log_mean"] == pytest.approx(-math.log(2), rel=1e-12)
    assert measured["gnc2_log_std"] == pytest.approx(0, abs=1e-7)


def test_duplicate_means_are_left_out_and_counted():
    features, labels, head = sample(200, 4, 20)
    features = np.concatenate([features, [[1.0, 2.0, 3.0, 4.0]] * 4])
    labels = np.concatenate([labels, [20, 21, 21, 22]])
    measured = compare(features, labels, head)
    assert measured["coincident_pairs"] == 3
    assert all(math.isfinite(value) for value in measured.values())


def test_duplicates_summed_in_another_order_are_still_equal():
    features, labels, head = sample(200, 4, 20)
    twin = features[labels == 3]
    assert len(twin) > 2
    features, labels = np.concatenate([features, twin[::-1]]), np.concatenate([labels, np.full(len(twin), 20)])
    assert measure_collapse(stats_of(features, labels, 23), torch.from_numpy(head))["coincident_pairs"] == 1


def test_a_mean_equal_to_the_centre_is_left_out_and_counted():
    features, labels, head = sample(60, 3, 10)
    centre = np.mean([features[labels == c].mean(0) for c in range(10)], axis=0)
    features, labels = np.concatenate([features, [centre]]), np.concatenate([labels, [10]])
    measured = compare(features, labels, head, same=1e-12)
    assert measured["central_classes"] == 1
    assert all(math.isfinite(value) for value in measured.values())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_all_means_equal():
    stats = stats_of(np.array([[1.0, 2.0]] * 6), np.array([0, 0, 1, 1, 2, 2]), 3)
    measured = measure_collapse(stats, torch.randn(3, 2))
    assert measured["coincident_pairs"] == 3
    assert measured["central_classes"] == 3
    assert measured["n_classes"] == 3
    for key in ("nc1_cdnv", "nc2_cosine_mean", "gnc2_log_mean", "nc3_cosine_mean", "nc2_etf_error", "nc1_pinv"):
        assert math.isnan(measured[key]), key


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_two_singletons_have_no_log_cdnv():
    with pytest.warns(RuntimeWarning, match="nc1_cdnv_log is nan"):
        measured = measure_collapse(stats_of(np.eye(2), np.arange(2), 2), torch.eye(2))
    assert measured["nc1_cdnv"] == 0
    assert measured["nc1_zero_pairs"] == 1


def test_means_a_millionth_apart_with_and_without_a_common_offset():
    for offset in (0.0, 1e3):
        random = np.random.default_rng(5)
        points = offset + random.normal(size=(12, 4))
        points[6:9] = points[5] + 1e-6 * random.normal(size=(3, 4))
        features = np.concatenate([points + 1e-7 * random.normal(size=points.shape) for _ in range(3)])
        compare(features, np.tile(np.arange(12), 3), random.normal(size=(12, 4)), rtol=1e-6)


def test_all_means_near_each_other_under_a_large_offset():
    random = np.random.default_rng(6)
    points = 1e4 + 1e-5 * random.normal(size=(15, 3))
    features = np.concatenate([points, points[::-1] * (1 + 1e-11)])
    labels = np.concatenate([np.arange(15), np.arange(15)[::-1]])
    compare(features, labels, random.normal(size=(15, 3)), rtol=1e-5)


def test_directions_nearly_equal():
    random = np.random.default_rng(7)
    points = random.normal(size=(10, 5))
    points[4] = points[3] * 2 + 1e-7 * random.normal(size=5)  # un-centred directions 1e-7 apart, means far apart
    compare(np.concatenate([points, points + 0.01]), np.tile(np.arange(10), 2), random.normal(size=(10, 5)))


@pytest.mark.parametrize("number", [0, 1])
def test_fewer_than_two_classes_are_an_error(number):
    stats = stats_of(np.ones((number, 3)), np.zeros(number, dtype=int), 4)
    with pytest.raises(ValueError, match="two or more classes"):
        measure_collapse(stats, torch.randn(4, 3))


def test_wrong_arguments_are_errors():
    stats = stats_of(*sample(40, 3, 4)[:2], 4)
    for head in (torch.randn(5, 3), torch.randn(4, 2), torch.randn(4)):
        with pytest.raises(ValueError, match=r"classifier must be \(4, 3\)"):
            measure_collapse(stats, head)
    with pytest.raises(ValueError, match="min_count must be at least 1"):
        measure_collapse(stats, torch.randn(4, 3), min_count=0)
    for riesz_s in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="riesz_s must be above 0"):
            measure_collapse(stats, torch.randn(4, 3), riesz_s=riesz_s)
    for tile in (0, -1):
        with pytest.raises(ValueError, match=f"tile must be at least 1, not {tile}"):
            measure_collapse(stats, torch.randn(4, 3), tile=tile)
    for head, fix in (
        (torch.nn.Linear(3, 4), "not Linear; give its weight"),
        (np.ones((4, 3)), "not ndarray; use torch"),
    ):
        for measure in (measure_collapse, measure_tokens):
            with pytest.raises(ValueError, match=f"^classifier must be a torch tensor, {fix}"):
                measure(stats, head)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_not_finite_are_an_error(bad):
    features, labels, head = sample(60, 3, 5)
    features[labels == 2] = bad
    with pytest.raises(ValueError, match="features of 1 classes are not finite, class 2 first"):
        measure_collapse(stats_of(features, labels, len(head)), torch.from_numpy(head))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("measure", [measure_collapse, measure_tokens])
def test_a_kept_row_of_the_head_that_is_not_finite_is_an_error(measure, bad):
    features, labels, head = sample(60, 3, 5)  # the head has three classes more, without samples
    head[3, 1] = head[4, 0] = bad
    stats = stats_of(features, labels, len(head))
    with pytest.raises(ValueError, match="the classifier's rows of 2 classes are not finite, class 3 first"):
        measure(stats, torch.from_numpy(head))
    head[3:5], head[5:] = 1, bad
    measure(stats, torch.from_numpy(head))


def test_large_finite_rows_of_the_head_are_no_error():
    features, labels, head = sample(60, 3, 5)
    head[:] = 1e308  # their sum overflows
    measure_tokens(stats_of(features, labels, len(head)), torch.from_numpy(head))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_head_of_zeros_is_named_in_the_warning():
    features, labels, head = sample(60, 3, 5)
    with pytest.warns(RuntimeWarning, match="^nc3_cosine_mean is nan: the classifier's rows are all zero$"):
        measure_collapse(stats_of(features, labels, len(head)), torch.zeros(head.shape))


def test_a_zero_row_of_the_head_has_no_cosine():
    features, labels, head = sample(60, 3, 5)
    head[2] = 0
    measured = measure_collapse(stats_of(features, labels, len(head)), torch.from_numpy(head))
    _, means, _, _ = naive.class_statistics(features, labels, 5)
    centred = means - means.mean(0)
    cosines = [centred[c] @ head[c] / np.linalg.norm(centred[c]) / np.linalg.norm(head[c]) for c in (0, 1, 3, 4)]
    assert measured["nc3_cosine_mean"] == pytest.approx(np.mean(cosines), rel=1e-12)


def test_without_covariance_only_pinv_is_absent():
    features, labels, head = sample(80, 3, 6)
    bare = ClassStatistics(len(head), 3, covariance=False)
    bare.update(torch.from_numpy(features), torch.from_numpy(labels))
    with_it = measure_collapse(stats_of(features, labels, len(head)), torch.from_numpy(head))
    without = measure_collapse(bare, torch.from_numpy(head))
    assert with_it.keys() - without.keys() == {"nc1_pinv"}
    assert without["nc1_quotient"] == with_it["nc1_quotient"]


def test_ood_deviation_is_the_mean_absolute_cosine_of_kept_means():
    random = np.random.default_rng(3)
    means, other = random.normal(size=(7, 4)), random.normal(size=4)
    keep = np.array([True, False, True, True, False, True, True])
    expected = naive.ood_deviation(means, keep, other)
    measured = ood_deviation(torch.from_numpy(means), torch.from_numpy(keep), torch.from_numpy(other).float())
    assert measured == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="out-of-distribution mean"):
        ood_deviation(torch.from_numpy(means), torch.from_numpy(keep), torch.zeros(4))
    with pytest.raises(ValueError, match="out-of-distribution mean"):
        ood_deviation(torch.from_numpy(means), torch.zeros(7, dtype=torch.bool), torch.ones(4))
