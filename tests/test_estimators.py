"""Estimators corrected for small samples: against loops, closed forms, known classes, and disjoint parts of a text."""

import json
import math
import sys
import warnings
from pathlib import Path

import naive_collapse as naive
import numpy as np
import pytest
import torch

from lcutils.collapse.catalogue import COUNTS, KEYS, MEASUREMENTS
from lcutils.collapse.classes import keep_classes
from lcutils.collapse.corrected import RepeatedClasses
from lcutils.collapse.disjoint import compare_parts, merged
from lcutils.collapse.measure import measure_by_count, measure_collapse
from lcutils.features.statistics import ClassStatistics

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

import estimators

CORRECTED = [key for key, entry in (MEASUREMENTS | COUNTS).items() if entry.group == "corrected"]


def sample(number=400, dim=6, classes=60, seed=0, spread=0.4, exponent=1.0, offset=1.0):
    """Features and labels of classes whose counts follow Zipf's law, and a head."""
    random = np.random.default_rng(seed)
    weights = (np.arange(classes) + 1.0) ** -exponent
    labels = random.choice(classes, number, p=weights / weights.sum())
    widths = spread * np.exp(0.5 * random.normal(size=classes))
    features = offset + random.normal(size=(classes, dim))[labels]
    features += widths[labels, None] * random.normal(size=(number, dim))
    return features, labels, random.normal(size=(classes, dim))


def stats_of(features, labels, classes, **options):
    stats = ClassStatistics(classes, features.shape[1], **options)
    stats.update(torch.from_numpy(features), torch.from_numpy(labels))
    return stats


def measured(features, labels, head, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        values = measure_collapse(
            stats_of(features, labels, len(head)), torch.from_numpy(head), extras=["corrected"], **options
        )
    assert tuple(values) == (*KEYS, *CORRECTED)
    return {key: values[key] for key in CORRECTED}


def compare(features, labels, head, rel=1e-9, **options):
    values = measured(features, labels, head, **options)
    options.pop("tile", None)
    expected = naive.corrected(*naive.class_statistics(features, labels, len(head)), head, **options)
    assert values == pytest.approx(expected, rel=rel, abs=1e-12, nan_ok=True)
    return values


# ------------------------------------------------------------------------------------------- against loops in fp64


@pytest.mark.parametrize("tile", [None, 1, 7, 1000])
def test_they_agree_with_loops(tile):
    values = compare(*sample(), tile=tile)
    assert values["singleton_classes"] > 1


@pytest.mark.parametrize("spread", [0.05, 4.0])
def test_near_classes_have_negative_distances_and_norms_which_are_counted(spread):
    values = compare(*sample(spread=spread, seed=3))
    assert (values["negative_pairs"] > 10) == (values["negative_norms"] > 0) == (spread > 1)


@pytest.mark.parametrize("min_count", [2, 3, 10])
def test_min_count(min_count):
    values = compare(*sample(1000), min_count=min_count)
    assert values["singleton_classes"] == 0


def test_a_common_offset_costs_no_digits():
    features, labels, head = sample()
    moved = measured(features + 1e4, labels, head)
    assert moved == pytest.approx(measured(features, labels, head), rel=1e-6)


def test_means_a_millionth_apart():
    random = np.random.default_rng(5)
    points = random.normal(size=(12, 4))
    points[6:9] = points[5] + 1e-6 * random.normal(size=(3, 4))
    features = np.concatenate([points + 1e-7 * random.normal(size=points.shape) for _ in range(3)])
    compare(features, np.tile(np.arange(12), 3), random.normal(size=(12, 4)), rel=1e-6)


# --------------------------------------------------------------------------------- closed forms, invariances


def simplex(number, samples, noise):
    """Classes on the corners of a simplex, each with `samples` of the same variance `noise`² and the corner as mean."""
    corners = np.eye(number)
    steps = np.zeros((samples, number))
    steps[0::2, 0], steps[1::2, 0] = noise, -noise
    features = (corners[:, None] + steps).reshape(-1, number)
    return features, np.repeat(np.arange(number), samples), corners - 1 / number


def test_a_simplex_by_hand():
    K, n, noise = 5, 4, 0.3
    variance = noise**2 * n / (n - 1)
    error, square = variance / n, 1 - 1 / K  # of each mean; of its distance from the centre
    values = measured(*simplex(K, n, noise))
    assert values["nc1_cdnv_galanti_corrected"] == pytest.approx(variance / (2 - 2 * error), rel=1e-12)
    assert values["nc1_cdnv_corrected"] == pytest.approx(variance / (2 - 2 * error) ** 2, rel=1e-12)
    assert values["nc1_quotient_corrected"] == pytest.approx(variance / (square - (1 - 1 / K) * error), rel=1e-12)
    assert values["nc2_norm_cov_corrected"] == pytest.approx(0, abs=1e-7)
    length = math.sqrt(square - (1 - 1 / K) * error)
    assert values["nc3_cosine_mean_corrected"] == pytest.approx(math.sqrt(square) / length, rel=1e-12)
    assert [values[key] for key in COUNTS if key in values] == [0, 0, 0]


def test_without_noise_they_are_the_plain_ones():
    features, labels, head = simplex(6, 4, 0.0)
    values = measure_collapse(stats_of(features, labels, 6), torch.from_numpy(head), extras=["corrected"])
    for key in ("nc1_quotient", "nc1_cdnv", "nc2_norm_cov", "nc3_cosine_mean"):
        assert values[f"{key}_corrected"] == pytest.approx(values[key], abs=1e-12)


def test_they_do_not_depend_on_scale_or_rotation_but_for_the_fourth_power():
    features, labels, head = sample()
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    values, moved = measured(features, labels, head), measured(3 * features @ turn, labels, 5 * head @ turn)
    values["nc1_cdnv_corrected"] /= 9
    assert moved == pytest.approx(values, rel=1e-9)


def test_singletons_change_nothing_but_their_count():
    features, labels, head = sample(exponent=1.2)
    counts = np.bincount(labels, minlength=len(head))
    repeated = counts[labels] > 1
    with_them = measured(features, labels, head)
    without = measured(features[repeated], labels[repeated], head)
    assert with_them.pop("singleton_classes") == (counts == 1).sum() > 0
    assert without.pop("singleton_classes") == 0
    assert with_them == pytest.approx(without, rel=1e-9)


@pytest.mark.parametrize("repeated", [0, 1])
def test_fewer_than_two_classes_with_two_samples_have_no_values(repeated):
    features, labels = np.eye(4)[[0, 1, 2, 3] + [0] * repeated], np.array([0, 1, 2, 3] + [0] * repeated)
    stats = stats_of(features, labels, 4)
    with pytest.warns(RuntimeWarning, match="nc1_quotient_corrected is nan: too few classes have two samples"):
        values = measure_collapse(stats, torch.eye(4), extras=["corrected"])
    expected = naive.corrected(*naive.class_statistics(features, labels, 4), np.eye(4))
    assert all(math.isnan(values[key]) for key in CORRECTED if key in MEASUREMENTS)
    assert values["singleton_classes"] == expected["singleton_classes"] == 4 - repeated
    assert values["negative_pairs"] == values["negative_norms"] == 0


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_without_covariance_the_error_of_norms_is_shared_by_all_directions():
    features, labels, head = sample()
    stats = stats_of(features, labels, len(head), covariance=False)
    values = measure_collapse(stats, torch.from_numpy(head), extras=["corrected"])
    counts, means, variances, _ = naive.class_statistics(features, labels, len(head))
    expected = naive.corrected(counts, means, variances, None, head)
    assert {key: values[key] for key in CORRECTED} == pytest.approx(expected, rel=1e-9)


def test_equal_means_are_among_the_negative_distances():
    steps = np.array([[1.0, 0, 0], [-1, 0, 0]])
    features = np.concatenate([steps + 5, steps + 5, steps])
    values = compare(features, np.array([0, 0, 1, 1, 2, 2]), np.eye(3))
    assert values["negative_pairs"] == 1


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_only_what_is_asked_for_is_measured():
    features, labels, head = sample()
    stats, head = stats_of(features, labels, len(head)), torch.from_numpy(head)
    plain = measure_collapse(stats, head)
    assert tuple(plain) == KEYS
    both = measure_collapse(stats, head, extras=["spectrum", "corrected"])
    assert {key: both[key] for key in KEYS} == plain
    assert tuple(both)[: len(KEYS)] == KEYS
    by_count = measure_by_count(stats, head, min_counts=[1, 5], extras=["corrected"])
    assert [set(values) for values in by_count.values()] == 2 * [set(KEYS) | set(CORRECTED)]
    with pytest.raises(ValueError, match="extras: 'spectra' is no group of measurements; choose among corrected, spec"):
        measure_collapse(stats, head, extras=["spectra"])


# --------------------------------------------------------------------------------------------------- known classes


@pytest.fixture(scope="module")
def small_worlds():
    """Three of the benchmark's worlds: n = 5, and counts by Zipf's law with singletons, and without."""
    return {world.name: world for world in estimators.worlds() if world.name in SMALL}


SMALL = {
    "n = 5, D = 64, nearest d2 = 5 sigma2",
    "Zipf, D = 64, nearest d2 = 5 sigma2",
    "Zipf, n >= 4, D = 16, nearest d2 = 5 sigma2",
}


@pytest.mark.parametrize("name", sorted(SMALL))
def test_bias_of_known_classes(small_worlds, name):
    """Within three standard errors where nothing is divided; ratios: at most a quarter of the plain bias."""
    records = {record["value"]: record for record in estimators.simulate(small_worlds[name], draws=300, seed=0)}
    asked = {key for key, record in records.items() if record["met"] is not None}
    assert asked >= {*estimators.UNBIASED, "nc1_quotient"}
    assert asked >= {"nc1_cdnv", "nc1_cdnv_galanti"} or "Zipf, D" in name
    assert [key for key in asked if not records[key]["met"]] == []
    # Errors are no larger: what the correction removes is more than the noise that it adds.
    for key in ("squared_distance", "variance", "trace_between", "nc1_quotient", "nc3_cosine_mean"):
        assert records[key]["mse_corrected"] < records[key]["mse_plain"], key
    for key in ("squared_distance", "trace_between"):  # the plain ones are wrong by far more than chance
        assert abs(records[key]["bias_plain"]) > 30 * records[key]["se_plain"]


def test_the_plain_estimates_of_the_simulation_are_the_papers_keys(small_worlds):
    world = next(iter(small_worlds.values()))
    stats = world.draw(np.random.default_rng(0))
    plain, _ = estimators.estimates(world, stats)
    values = measure_collapse(stats, torch.from_numpy(world.head))
    for key in estimators.RATIOS:
        assert plain[key] == pytest.approx(values[key], rel=1e-9)


def test_the_committed_table_is_of_these_worlds_and_says_what_was_missed():
    lines = (Path(estimators.__file__).with_name("estimators.jsonl")).read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert {record["world"] for record in records} == {world.name for world in estimators.worlds()}
    assert min(record["draws"] for record in records) >= 10_000
    missed = {(record["world"], record["value"]) for record in records if record["met"] is False}
    assert missed <= {("n = 4, D = 16, every d2 = 5 sigma2", "nc1_cdnv")}


# --------------------------------------------------------------------------------------------------- disjoint parts


def stories(dependence, parts, seed=0, classes=30, dim=8, each=24, story=6):
    """Statistics of parts in which the samples of a class come in stories, that share a part of the noise."""
    random = np.random.default_rng(seed)
    means = 0.6 * random.normal(size=(classes, dim))
    made = []
    for _ in range(parts):
        labels = np.repeat(np.arange(classes), each)
        shared = np.repeat(random.normal(size=(classes * each // story, dim)), story, axis=0)
        own = random.normal(size=(len(labels), dim))
        noise = math.sqrt(dependence) * shared + math.sqrt(1 - dependence) * own
        made.append(stats_of(means[labels] + noise, labels, classes, covariance=False))
    truth = ((means - means.mean(0)) ** 2).sum(1).mean()
    return made, truth


def test_cross_products_agree_with_loops():
    parts, _ = stories(0.5, 3)
    values = compare_parts(parts)
    first, second = merged([parts[0], parts[2]]), parts[1]
    a, b = (half.means.numpy() for half in (first, second))
    crossed = np.mean([(a[c] - a.mean(0)) @ (b[c] - b.mean(0)) for c in range(30)])
    whole = merged(parts)
    counts, means, variances = (x.numpy() for x in (whole.counts, whole.means, whole.variances))
    expected = naive.corrected(counts, means, variances, None, means)
    plain = ((means - means.mean(0)) ** 2).sum(1).mean()
    assert values["trace_between_crossed"] == pytest.approx(crossed, rel=1e-9)
    assert values["trace_between"] == pytest.approx(plain, rel=1e-9)
    assert values["nc1_quotient_corrected"] == pytest.approx(expected["nc1_quotient_corrected"], rel=1e-9)
    within = values["nc1_quotient_corrected"] * values["trace_between_corrected"]
    assert values["nc1_quotient_crossed"] == pytest.approx(within / crossed, rel=1e-9)
    noise = (plain - crossed) / (plain - values["trace_between_corrected"])
    assert values["noise_ratio"] == pytest.approx(noise, rel=1e-9)


@pytest.mark.parametrize(("dependence", "expected"), [(0.0, 1.0), (0.4, 1 + 0.4 * 5)])
def test_the_ratio_of_noise_tells_dependent_samples_from_independent_ones(dependence, expected):
    """With m samples a story that share rho of their variance, a mean's error is 1 + (m - 1) rho times sigma²/n."""
    found = [compare_parts(stories(dependence, 2, seed)[0]) for seed in range(40)]
    ratios = np.array([values["noise_ratio"] for values in found])
    assert ratios.mean() == pytest.approx(expected, abs=3 * ratios.std(ddof=1) / math.sqrt(len(ratios)) + 0.1)
    truths = np.array([stories(dependence, 2, seed)[1] for seed in range(40)])
    errors = np.array([values["trace_between_crossed"] for values in found]) - truths
    assert abs(errors.mean()) <= 3 * errors.std(ddof=1) / math.sqrt(len(errors))
    too_large = np.array([values["trace_between_corrected"] for values in found]) - truths
    assert (too_large.mean() > 5 * too_large.std(ddof=1) / math.sqrt(len(truths))) == (dependence > 0)


def test_only_classes_of_both_halves_are_compared():
    alone = stats_of(np.ones((5, 8)), np.array([0, 0, 1, 1, 40]), 50, covariance=False)
    empty = ClassStatistics(50, 8, covariance=False)
    with pytest.raises(ValueError, match="two parts of the text or more, not 1"):
        compare_parts([alone])
    none = compare_parts([alone, empty])
    assert none.pop("n_classes") == 0
    assert none.keys() == compare_parts([alone, alone]).keys() - {"n_classes"}
    assert all(np.isnan(value) for value in none.values())
    other = stats_of(2 * np.eye(8)[:5], np.array([0, 0, 1, 2, 3]), 50, covariance=False)
    assert compare_parts([alone, other])["n_classes"] == 2


def test_parts_are_left_as_they_are_and_classes_without_rows_may_differ():
    features, labels, head = sample()
    halves = [np.arange(len(labels)) % 2 == k for k in (0, 1)]
    wide = [stats_of(features[half], labels[half], len(head)) for half in halves]
    narrow = [
        ClassStatistics(len(head), features.shape[1], classes=torch.from_numpy(np.unique(labels[half])))
        for half in halves
    ]
    for part, half in zip(narrow, halves, strict=True):
        part.update(torch.from_numpy(features[half]), torch.from_numpy(labels[half]))
    before = [part.means.clone() for part in wide]
    assert compare_parts(narrow) == pytest.approx(compare_parts(wide), rel=1e-12)
    assert all(torch.equal(part.means, means) for part, means in zip(wide, before, strict=True))


def test_repeated_classes_are_the_kept_ones_where_none_is_single():
    features, labels, head = simplex(5, 4, 0.1)
    kept = keep_classes(stats_of(features, labels, len(head)))
    repeated = RepeatedClasses.of(kept)
    assert repeated is not None
    assert repeated.classes is kept  # no copy of the means
