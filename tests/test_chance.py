"""Closed forms without structure, against integration, simulation and every permutation of a small case."""

import math
from itertools import permutations

import naive_collapse as naive
import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import digamma
from scipy.stats import chi2

from lcutils.collapse.agreement import AgreementCounter
from lcutils.collapse.chance import (
    chance_agreement,
    chi_mean,
    gaussian_classes,
    sphere_coherence,
    unrelated_directions,
)
from lcutils.collapse.measure import measure_collapse
from lcutils.features.statistics import ClassStatistics


def cosine_density(dim):
    """Of the cosine of two directions that are spread evenly over a sphere."""
    constant = math.exp(math.lgamma(dim / 2) - math.lgamma((dim - 1) / 2)) / math.sqrt(math.pi)
    return lambda x: constant * (1 - x * x) ** ((dim - 3) / 2)


@pytest.mark.parametrize("dim", [3, 5, 16, 64, 1024])
@pytest.mark.parametrize("shift", [0.0, 1 / 1684, 0.25])
def test_coherence_of_a_sphere_is_the_integral(dim, shift):
    density = cosine_density(dim)
    points = sorted({-shift, 0.0, 3 / math.sqrt(dim) if dim > 9 else 0.5, -3 / math.sqrt(dim) if dim > 9 else -0.5})
    integral, _ = quad(lambda x: abs(x + shift) * density(x), -1, 1, points=points, limit=400)
    assert sphere_coherence(dim, shift) == pytest.approx(integral, rel=1e-8)


def test_coherence_of_a_circle_and_without_shift():
    assert sphere_coherence(2) == pytest.approx(2 / math.pi)  # the mean of |cos| over angles
    assert sphere_coherence(2, 0.3) == pytest.approx(quad(lambda a: abs(math.cos(a) + 0.3) / math.pi, 0, math.pi)[0])
    for dim in (4, 100):
        ratio = math.exp(math.lgamma(dim / 2) - math.lgamma((dim + 1) / 2))
        assert sphere_coherence(dim) == pytest.approx(ratio / math.sqrt(math.pi))


@pytest.mark.parametrize("dim", [5, 16, 64])
def test_moments_of_normal_lengths_are_the_integrals(dim):
    """What the closed forms of Gaussian classes rest on."""
    law = chi2(dim)
    ends = law.ppf(1e-15), law.ppf(1 - 1e-15)
    moments = {
        chi_mean(dim): lambda x: math.sqrt(x),
        1 / (dim - 2): lambda x: 1 / x,
        digamma(dim / 2) + math.log(2): math.log,
    }
    for value, function in moments.items():
        integral, _ = quad(lambda x, f=function: f(x) * law.pdf(x), *ends, limit=400, epsabs=0)
        assert value == pytest.approx(integral, rel=1e-6)
    if dim > 5:  # the square of a reciprocal has most of its weight where a fifth dimension has hardly any
        integral, _ = quad(lambda x: law.pdf(x) / x**2, *ends, limit=400, epsabs=0)
        assert 1 / ((dim - 2) * (dim - 4)) == pytest.approx(integral, rel=1e-6)


def unequal_classes(classes=60, dim=12, seed=0):
    """Counts by Zipf's law and unequal observed variances, singletons among them."""
    random = np.random.default_rng(seed)
    counts = np.maximum(400 // np.arange(1, classes + 1) - 6, 1)
    variances = np.where(counts > 1, random.gamma(4.0, 0.5, classes), 0.0)
    covariance = np.eye(dim) * (variances * counts).sum() / counts.sum() / dim
    return counts, variances, covariance


def moments(counts, means, variances, covariance=None):
    parts = [torch.from_numpy(np.asarray(part)) for part in (counts, means, variances)]
    kept = None if covariance is None else torch.from_numpy(covariance)
    return ClassStatistics.from_moments(len(counts), torch.arange(len(counts)), *parts, kept)


def simulated(counts, variances, dim, trials, seed=1):
    """Measurements where class means differ by the luck of their samples alone: key -> values."""
    random = np.random.default_rng(seed)
    pooled = (variances * counts).sum() / (counts.sum() - len(counts))
    spread = np.where(
        counts > 1, variances / np.maximum(counts - 1, 1), pooled / counts
    )  # trace of a mean's covariance
    values, head = [], torch.from_numpy(random.normal(size=(len(counts), dim)))
    for _ in range(trials):
        means = 3 + random.normal(size=(len(counts), dim)) * np.sqrt(spread / dim)[:, None]
        values.append(measure_collapse(moments(counts, means, variances), head))
    return {key: np.array([value[key] for value in values]) for key in values[0]}


@pytest.mark.parametrize("min_count", [1, 2])
def test_gaussian_classes_are_the_mean_of_simulations(min_count):
    counts, variances, covariance = unequal_classes()
    kept = counts >= min_count
    form = gaussian_classes(moments(counts, np.zeros((60, 12)), variances, covariance), min_count)
    every = simulated(counts, variances, 12, 400) if min_count == 1 else None
    if every is None:
        # Classes that are not kept take part in tr S_W alone.
        every = simulated(counts[kept], variances[kept], 12, 400)
        share = (variances * counts).sum() / counts.sum()
        own = (variances * counts)[kept].sum() / counts[kept].sum()
        every["nc1_quotient"] *= share / own
    exact = ("nc1_cdnv", "nc1_cdnv_log", "nc1_cdnv_galanti")
    assert {*exact, "nc1_quotient", "nc2_norm_cov", "nc2_log_norm_std", "nc2_log_norm_cov", "nc2_etf_error"} == {*form}
    for key, value in form.items():
        values = every[key]
        error = values.std(ddof=1) / math.sqrt(400)
        # The others are ratios of means over K classes.
        assert abs(value - values.mean()) < 4 * error + (0 if key in exact else 2 / 60 * abs(value)), key


def test_pairs_of_gaussian_classes_are_those_of_a_loop():
    counts, variances, covariance = unequal_classes(9, 7)
    form = gaussian_classes(moments(counts, np.zeros((9, 7)), variances, covariance))
    pooled = (variances * counts).sum() / (counts.sum() - 9)
    spread = [v / (n - 1) if n > 1 else pooled / n for v, n in zip(variances, counts, strict=True)]
    cdnv, galanti, logs = [], [], []
    for i in range(9):
        for j in range(i):
            apart, variance = spread[i] + spread[j], (variances[i] + variances[j]) / 2
            galanti.append(variance * 7 / 5 / apart)
            cdnv.append(variance * 49 / 15 / apart**2)
            if variance:
                logs.append(math.log(variance) - 2 * (math.log(apart / 7) + digamma(3.5) + math.log(2)))
    expected = {"nc1_cdnv": cdnv, "nc1_cdnv_galanti": galanti, "nc1_cdnv_log": logs}
    for key, values in expected.items():
        assert form[key] == pytest.approx(np.mean(values), rel=1e-9), key


def test_pairs_are_summed_alike_in_one_piece_and_in_many(monkeypatch):
    counts, variances, covariance = unequal_classes()
    stats = moments(counts, np.zeros((60, 12)), variances, covariance)
    whole = gaussian_classes(stats)
    monkeypatch.setattr("lcutils.collapse.chance.NUMBERS", 60 * 7)
    assert gaussian_classes(stats) == pytest.approx(whole, rel=1e-12)


def test_few_dimensions_and_classes_without_spread_have_no_closed_form():
    counts, variances, _ = unequal_classes(10, 2)
    form = gaussian_classes(moments(counts, np.zeros((10, 2)), variances))
    assert not {"nc1_cdnv", "nc1_cdnv_galanti"} & set(form)
    assert math.isfinite(form["nc1_cdnv_log"])
    assert gaussian_classes(moments(counts, np.zeros((10, 2)), np.zeros(10))) == {}
    with pytest.raises(ValueError, match="two are needed"):
        gaussian_classes(moments(counts, np.zeros((10, 2)), variances), min_count=300)


def test_unrelated_directions_are_the_mean_of_simulations():
    random = np.random.default_rng(2)
    values = []
    for _ in range(60):
        means = torch.nn.functional.normalize(torch.from_numpy(random.normal(size=(300, 10))))
        head = torch.from_numpy(random.normal(size=(300, 10)))
        stats = moments(np.full(300, 5), means.numpy(), np.ones(300))
        values.append(measure_collapse(stats, head))
    form = unrelated_directions(10, 300)
    for key, value in form.items():
        drawn = np.array([each[key] for each in values])
        error = drawn.std(ddof=1) / math.sqrt(60)
        assert abs(drawn.mean() - value) < 4 * error + 5 / 300 * abs(value), key  # a part in K


# ---------------------------------------------------------------------------------------------------------------- NC4


@pytest.mark.parametrize("seed", range(4))
def test_chance_agreement_is_that_of_all_permutations(seed):
    head, nearest = np.random.default_rng(seed).integers(0, 3, (2, 6))
    shares = np.array([np.mean(head == [nearest[i] for i in order]) for order in permutations(range(6))])
    mean, sd = chance_agreement(np.bincount(head, minlength=4), np.bincount(nearest, minlength=4))
    assert mean == pytest.approx(shares.mean(), rel=1e-12)
    assert sd == pytest.approx(shares.std(), rel=1e-9, abs=1e-9)


def test_chance_agreement_of_deciders_that_always_choose_one_class_is_certain():
    assert chance_agreement(np.array([9, 0]), np.array([9, 0])) == (1.0, 0.0)
    assert chance_agreement(np.array([9, 0]), np.array([0, 9])) == (0.0, 0.0)


def test_chance_agreement_of_no_token_and_of_one():
    assert all(math.isnan(value) for value in chance_agreement(np.zeros(3), np.zeros(3)))
    mean, sd = chance_agreement(np.array([0, 1]), np.array([0, 1]))
    assert (mean, math.isnan(sd)) == (1.0, True)
    with pytest.raises(ValueError, match="3 and 2 decisions do not go together"):
        chance_agreement(np.array([3]), np.array([2]))


@pytest.mark.parametrize(("bias", "scale"), [(False, 1.0), (True, 1.0), (False, -2.0)])
def test_decisions_are_counted_by_class(bias, scale):
    random = np.random.default_rng(6)
    features, labels = random.normal(size=(200, 5)), random.integers(-1, 9, 200)
    head, means, keep = random.normal(size=(9, 5)), random.normal(size=(9, 5)), np.arange(9) % 4 != 1
    added = random.normal(size=9) if bias else None
    tensors = [torch.from_numpy(x) for x in (head, means, keep)]
    options = {"bias": None if added is None else torch.from_numpy(added), "scale": scale}
    plain, counting = (AgreementCounter(*tensors, **options, decisions=on) for on in (False, True))
    for begin, end in ((0, 120), (120, 200)):
        for counter in (plain, counting):
            counter.update(torch.from_numpy(features[begin:end]), torch.from_numpy(labels[begin:end]))
    for one, other in zip(plain.result(), counting.result(), strict=True):
        assert one.equal(other)
    assert plain.hits_weights.equal(counting.hits_weights)
    assert plain.decisions == {}
    linear, nearest = naive.decisions(features, head, means, keep, added, scale)
    counted = (labels >= 0) & keep[labels]
    expected = {"head": linear, "nearest": nearest}
    if bias or scale < 0:
        expected["weights"] = naive.decisions(features, head, means, keep)[0]
    assert counting.decisions.keys() == expected.keys()
    for side, decided in expected.items():
        assert counting.decisions[side].tolist() == np.bincount(decided[counted], minlength=9).tolist()
    assert int(counting.decisions["head"].sum()) == int(counting.totals.sum())
