"""The drawn null: its moments, its naive twin, and a true permutation of labels."""

import math
import warnings

import naive_collapse as naive
import numpy as np
import pytest
import torch

from lcutils.collapse.catalogue import MEASUREMENTS
from lcutils.collapse.chance import gaussian_classes
from lcutils.collapse.measure import measure_by_count, measure_collapse
from lcutils.collapse.nulls import NullDraws, TotalSpread, drawn_nulls
from lcutils.features.statistics import ClassStatistics

PERMUTED = 300
NEAREST_PAIR = "nc1_cdnv"  # its deviation is that of the nearest pair, whose 4th power has a long tail
# CoVs of values whose mean lies near 0: they have no expectation that draws would settle at.
WITH_A_POLE = {"nc2_cosine_cov", "unc3_cosine_cov", "nc2_log_norm_cov", "gnc2_log_uncentred_cov"}


def zipf_labels(classes, number, seed=0, least=1):
    """Labels by Zipf's law, each class `least` times or more."""
    random = np.random.default_rng(seed)
    share = 1 / np.arange(1, classes + 1)
    rest = random.choice(classes, number - least * classes, p=share / share.sum())
    return np.concatenate([np.repeat(np.arange(classes), least), rest])


def statistics(features, labels, classes, **options):
    stats = ClassStatistics(classes, features.shape[1], **options)
    stats.update(torch.from_numpy(features), torch.from_numpy(labels))
    return stats


def sample(seed=0, classes=12, dim=5, number=300):
    """Features of unequal classes, and a head."""
    random = np.random.default_rng(seed)
    labels = zipf_labels(classes, number, seed)
    turned = random.normal(size=(number, dim)) @ random.normal(size=(dim, dim))
    features = turned + 2 * random.normal(size=(classes, dim))[labels] + 5
    return features, labels, random.normal(size=(classes, dim))


# ----------------------------------------------------------------------------------------------------------- moments


@pytest.mark.parametrize("narrow", [False, True])
def test_the_total_covariance_is_that_of_all_features(narrow):
    features, labels, _ = sample()
    spread = TotalSpread.of(statistics(features, labels, 15, narrow=narrow))  # three classes never occur
    assert not spread.isotropic
    assert spread.mean.numpy() == pytest.approx(features.mean(0), rel=1e-12)
    assert spread.covariance.numpy() == pytest.approx(np.cov(features.T), rel=1e-9, abs=1e-9)
    root = spread.root().numpy()
    assert root @ root.T == pytest.approx(np.cov(features.T), rel=1e-9, abs=1e-9)


def test_without_a_covariance_the_total_variance_is_spread_evenly():
    features, labels, head = sample()
    stats = statistics(features, labels, 12, covariance=False)
    spread = TotalSpread.of(stats)
    assert spread.isotropic
    assert spread.covariance.numpy() == pytest.approx(np.eye(5) * np.cov(features.T).trace() / 5, rel=1e-9)
    nulls = drawn_nulls(stats, torch.from_numpy(head), 20)
    assert "nc1_pinv" not in nulls
    assert math.isfinite(nulls["nc1_cdnv_log"].mean)


def test_draws_have_the_moments_of_permuted_labels():
    features, labels, _ = sample(classes=6, dim=3, number=90)
    source = NullDraws(statistics(features, labels, 6))
    draws = [source.draw() for _ in range(3000)]
    counts, total, number = np.bincount(labels), np.cov(features.T), len(labels)
    means = np.stack([draw.means.numpy() for draw in draws])  # (draws, C, D)
    assert np.einsum("c,ncd->nd", counts, means) / number == pytest.approx(np.tile(features.mean(0), (3000, 1)))
    moved = means - features.mean(0)
    for c in range(6):
        for other in range(6):
            expected = total * ((c == other) / counts[c] - 1 / number)
            products = moved[:, c, :, None] * moved[:, other, None, :]  # (draws, D, D)
            error = products.std(0) / math.sqrt(3000)
            assert (np.abs(products.mean(0) - expected) < 5 * error).all()
    variances = np.stack([draw.variances.numpy() for draw in draws])
    assert (variances[:, counts == 1] == 0).all()
    several = counts > 1
    mean = np.trace(total) * (1 - 1 / counts)
    spread = np.sqrt(2 * (counts - 1) * (total**2).sum()) / counts
    assert (np.abs(variances.mean(0) - mean) <= 5 * spread / math.sqrt(3000)).all()
    assert variances.std(0)[several] == pytest.approx(spread[several], rel=0.1)
    assert draws[0].covariance.numpy() == pytest.approx(total * (number - 6) / number)
    assert (draws[0].counts.numpy() == counts).all()


def test_means_and_deviations_are_those_of_the_naive_measurements_of_the_draws():
    features, labels, head = sample()
    stats = statistics(features, labels, 14)
    head = np.concatenate([head, np.ones((2, 5))])
    nulls = drawn_nulls(stats, torch.from_numpy(head), 20, min_count=2, riesz_s=1.5)
    source = NullDraws(stats)
    twins = []
    for draw in (source.draw() for _ in range(20)):
        parts = (draw.counts, draw.means, draw.variances, draw.covariance)
        twins.append(naive.measurements(*(part.numpy() for part in parts), head, min_count=2, riesz_s=1.5))
    assert list(nulls) == [key for key in MEASUREMENTS if key in twins[0]]
    for key, null in nulls.items():
        values = np.array([twin[key] for twin in twins])
        assert null.mean == pytest.approx(values.mean(), rel=1e-9), key
        assert null.sd == pytest.approx(values.std(ddof=1), rel=1e-8), key


# ---------------------------------------------------------------------------------------------- a true permutation


def permuted_values(features, labels, head, seed=1, **options):
    """Every measurement after each of `PERMUTED` permutations of the labels: key -> values."""
    random, values = np.random.default_rng(seed), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for _ in range(PERMUTED):
            stats = statistics(features, random.permutation(labels), len(head))
            values.append(measure_collapse(stats, torch.from_numpy(head), **options))
    return {key: np.array([value[key] for value in values]) for key in MEASUREMENTS if key in values[0]}


def errors_from(values, null):
    """How many standard errors a null lies from the mean of permuted values, and the ratio of deviations."""
    error = math.sqrt((values.var(ddof=1) + null.sd**2) / PERMUTED)
    return (null.mean - values.mean()) / error, null.sd / values.std(ddof=1)


def test_draws_agree_with_permuted_labels():
    """Features without further structure are Gaussian here, so all measurements agree, singletons' means included."""
    random = np.random.default_rng(3)
    labels = zipf_labels(30, 1500)
    features = random.normal(size=(1500, 8)) @ random.normal(size=(8, 8)) + 3
    head = random.normal(size=(30, 8))
    nulls = drawn_nulls(statistics(features, labels, 30), torch.from_numpy(head), PERMUTED)
    for key, values in permuted_values(features, labels, head).items():
        if key not in WITH_A_POLE:
            distance, ratio = errors_from(values, nulls[key])
            assert abs(distance) < 4, key
            assert 0.75 < ratio < 1.33 or key == NEAREST_PAIR, key


def features_of_a_layer_norm(random, labels, dim):
    """Features of equal lengths, in groups that have to do with their labels."""
    features = random.normal(size=(len(labels), dim)) + 1.5 * random.normal(size=(labels.max() + 1, dim))[labels]
    return features * math.sqrt(dim) / np.linalg.norm(features, axis=1, keepdims=True) + 1


def test_draws_agree_with_permuted_labels_of_collapsed_classes_where_classes_have_samples_enough():
    random = np.random.default_rng(4)
    labels = zipf_labels(25, 2500, least=10)
    features = features_of_a_layer_norm(random, labels, 8)
    head = random.normal(size=(25, 8))
    stats = statistics(features, labels, 25)
    nulls = drawn_nulls(stats, torch.from_numpy(head), PERMUTED)
    for key, values in permuted_values(features, labels, head).items():
        if key not in WITH_A_POLE:
            distance, ratio = errors_from(values, nulls[key])
            assert abs(distance) < 4, key
            assert 0.75 < ratio < 1.33 or key == NEAREST_PAIR, key
    observed = measure_collapse(stats, torch.from_numpy(head))
    for key in ("nc1_cdnv_log", "nc1_cdnv_galanti", "nc1_quotient", "nc1_pinv"):  # the null has lost the structure
        assert observed[key] < nulls[key].mean - 3 * nulls[key].sd, key


def test_norms_of_singletons_of_equal_length_spread_less_than_drawn_ones():
    """Why rare classes' norms have another null than Gaussian draws: their means are features themselves."""
    random = np.random.default_rng(5)
    labels = np.concatenate([np.arange(40), np.zeros(200, dtype=np.int64)])
    features = random.normal(size=(240, 8))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    head = random.normal(size=(40, 8))
    nulls = drawn_nulls(statistics(features, labels, 40), torch.from_numpy(head), PERMUTED)
    values = permuted_values(features, labels, head)
    distance, _ = errors_from(values["nc2_log_norm_std"], nulls["nc2_log_norm_std"])
    assert distance > 10


# ------------------------------------------------------------------------------------------------------------- draws


def test_a_seed_gives_the_same_draws_and_few_are_the_first_of_many():
    features, labels, head = sample()
    stats = statistics(features, labels, 12)
    one, two, other = NullDraws(stats), NullDraws(stats), NullDraws(stats, seed=7)
    for _ in range(3):
        first, second, third = one.draw(), two.draw(), other.draw()
        assert torch.equal(first.means, second.means)
        assert torch.equal(first.variances, second.variances)
        assert not torch.equal(first.means, third.means)
    assert drawn_nulls(stats, torch.from_numpy(head), 20) == drawn_nulls(stats, torch.from_numpy(head), 20)


def test_nulls_of_scale_free_measurements_know_neither_scale_nor_place_of_the_features():
    features, labels, head = sample()
    head = torch.from_numpy(head)
    nulls = drawn_nulls(statistics(features, labels, 12), head, 20)
    larger = drawn_nulls(statistics(features * 8, labels, 12), head, 20)
    moved = drawn_nulls(statistics(features + 16, labels, 12), head, 20)
    for key, null in nulls.items():
        if key not in ("nc1_cdnv", "nc1_cdnv_log", "nc2_log_norm_cov"):
            assert larger[key].mean == pytest.approx(null.mean, rel=1e-6), key
        if "uncentred" not in key:
            assert moved[key].mean == pytest.approx(null.mean, rel=1e-6), key
    assert larger["nc1_cdnv"].mean == pytest.approx(nulls["nc1_cdnv"].mean / 64, rel=1e-6)


def test_classes_without_samples_and_ood_text():
    features, labels, head = sample()
    mean = np.arange(1.0, 6.0)
    stats = ClassStatistics(20, 5, classes=torch.arange(0, 20, 1))
    stats.update(torch.from_numpy(features), torch.from_numpy(labels))
    some = ClassStatistics(20, 5, classes=torch.arange(12))
    some.update(torch.from_numpy(features), torch.from_numpy(labels))
    rows = torch.from_numpy(head)
    nulls = drawn_nulls(some, rows, 20, ood_mean=mean)
    assert 0 < nulls["nc5_ood_deviation"].mean < 1
    draw = NullDraws(some).draw()
    assert draw.classes.tolist() == list(range(12))
    assert measure_by_count(draw, rows, min_counts=[1])[1]["n_classes"] == 12
    every = NullDraws(stats).draw()  # rows for classes that never occur
    assert measure_collapse(every, torch.ones(20, 5))["n_classes"] == 12
    assert bool(every.means.isfinite().all())


def test_features_that_are_all_alike_have_a_null_that_is_not_defined():
    stats = ClassStatistics(3, 2)
    stats.update(torch.ones(6, 2), torch.tensor([0, 1, 2, 0, 1, 2]))
    nulls = drawn_nulls(stats, torch.randn(3, 2), 20)
    assert math.isnan(nulls["nc1_cdnv"].mean)


def test_what_cannot_be_drawn_is_said():
    features, labels, head = sample()
    stats = statistics(features, labels, 12)
    with pytest.raises(ValueError, match="draws must be two or more, not 1: one has no standard deviation"):
        drawn_nulls(stats, torch.from_numpy(head), 1)
    with pytest.raises(ValueError, match=r"1 sample\(s\) have no covariance; two are needed"):
        NullDraws(statistics(features[:1], labels[:1], 12))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_draws_on_a_gpu_have_the_same_law():
    """Not the same numbers: each type of device has a generator of its own."""
    features, labels, head = sample()
    stats = {name: statistics(features, labels, 12, device=name) for name in ("cpu", "cuda")}
    cpu, cuda = (drawn_nulls(each, torch.from_numpy(head), 200) for each in stats.values())
    assert TotalSpread.of(stats["cuda"]).covariance.cpu().numpy() == pytest.approx(np.cov(features.T), rel=1e-9)
    assert NullDraws(stats["cuda"]).draw().means.equal(NullDraws(stats["cuda"]).draw().means)
    for key, null in cuda.items():
        if key not in WITH_A_POLE:
            assert abs(null.mean - cpu[key].mean) < 4.5 * math.hypot(null.sd, cpu[key].sd) / math.sqrt(200), key
    closed = {name: gaussian_classes(each) for name, each in stats.items()}
    assert closed["cuda"] == pytest.approx(closed["cpu"], rel=1e-9)


def test_statistics_of_moments_go_on_as_others_do():
    """They merge and are saved like statistics of features."""
    means, variances = torch.tensor([[1.0, 2.0], [3.0, 5.0]]).double(), torch.tensor([0.5, 0.0]).double()
    counts = torch.tensor([4, 1])
    stats = ClassStatistics.from_moments(5, torch.tensor([1, 3]), counts, means, variances, torch.eye(2).double() / 4)
    assert stats.counts.tolist() == [0, 4, 0, 1, 0]
    assert stats.means_of(torch.tensor([1, 3])).equal(means)
    assert stats.variances.tolist() == [0.0, 0.5, 0.0, 0.0, 0.0]
    assert stats.covariance.equal(torch.eye(2).double() / 4)
    other = ClassStatistics.from_moments(5, torch.tensor([1, 3]), counts, means + 1, variances, torch.zeros(2, 2))
    stats.merge(other)
    assert stats.means_of(torch.tensor([1, 3])).equal(means + 0.5)
