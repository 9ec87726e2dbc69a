"""Closed forms that theory gives, and what may not change a measurement."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import digamma

from lcutils.collapse.measure import measure_collapse
from lcutils.features.statistics import ClassStatistics

ZERO = pytest.approx(0, abs=1e-7)


def measure(means, head=None, spread=0.0, seed=0, **options):
    """Measure classes with these means; each has two samples, `spread` from its mean."""
    means = torch.as_tensor(np.asarray(means, dtype=np.float64))
    direction = torch.from_numpy(np.random.default_rng(seed).normal(size=means.shape))
    direction *= spread / torch.linalg.vector_norm(direction, dim=1, keepdim=True)
    stats = ClassStatistics(*means.shape)
    labels = torch.arange(len(means)).repeat(2)
    stats.update(torch.cat([means + direction, means - direction]), labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return measure_collapse(stats, means if head is None else torch.as_tensor(head), **options)


def simplex(number, dim, seed=0):
    """`number` unit vectors with all cosines -1 / (number - 1), in a random orientation of `dim` dimensions."""
    corners = (np.eye(number) - 1 / number) * math.sqrt(number / (number - 1))
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, number)))
    return corners @ turn.T


@pytest.mark.parametrize("number", [3, 5, 40])
@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_simplex_equiangular_tight_frame(number, offset):
    corners = simplex(number, 48)
    values = measure(3 * corners + offset, head=corners, spread=0.3)
    cosine = -1 / (number - 1)
    distance = math.sqrt(2 - 2 * cosine)
    assert values["nc2_norm_cov"] == ZERO
    assert values["nc2_log_norm_std"] == ZERO
    assert values["nc2_cosine_mean"] == pytest.approx(cosine, rel=1e-9)
    assert values["nc2_cosine_std"] == ZERO
    assert values["nc2_coherence"] == ZERO
    assert values["nc2_etf_error"] == ZERO
    assert values["nc3_cosine_mean"] == pytest.approx(1, rel=1e-12)
    assert values["nc3_duality_error"] == ZERO
    assert values["unc3_cosine_cov"] == ZERO
    assert values["gnc2_log_mean"] == pytest.approx(-math.log(distance), rel=1e-9)
    assert values["gnc2_log_std"] == ZERO
    assert values["gnc2_riesz_mean"] == pytest.approx(1 / distance, rel=1e-9)
    assert values["nc1_cdnv"] == pytest.approx(0.09 / (3 * distance) ** 4, rel=1e-9)
    assert values["nc1_cdnv_log"] == pytest.approx(math.log(values["nc1_cdnv"]), rel=1e-9)
    assert values["nc1_cdnv_galanti"] == pytest.approx(0.09 / (3 * distance) ** 2, rel=1e-9)
    assert values["nc1_quotient"] == pytest.approx(0.09 / 9, rel=1e-9)


def test_orthogonal_means():
    number = 12
    values = measure(2 * np.eye(number, 20), spread=0.1)
    # Centred, orthogonal vectors of one length are a simplex; un-centred they are sqrt(2) apart.
    assert values["nc2_cosine_mean"] == pytest.approx(-1 / (number - 1), rel=1e-12)
    assert values["gnc2_log_uncentred_mean"] == pytest.approx(-math.log(2) / 2, rel=1e-12)
    assert values["gnc2_log_uncentred_std"] == ZERO
    assert values["nc1_cdnv"] == pytest.approx(0.01 / 8**2, rel=1e-9)


@pytest.mark.parametrize("dim", [16, 64])
def test_uniform_points_on_the_sphere_have_the_known_mean_log_kernel(dim):
    points = np.random.default_rng(dim).normal(size=(1500, dim))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    values = measure(points)
    expected = -math.log(2) - (digamma((dim - 1) / 2) - digamma(dim - 1)) / 2
    assert expected == pytest.approx({16: -0.3294, 64: -0.3426}[dim], abs=5e-5)
    assert values["gnc2_log_uncentred_mean"] == pytest.approx(expected, abs=4e-4)  # four standard errors
    assert values["gnc2_log_mean"] == pytest.approx(expected, abs=1e-3)
    assert values["nc2_cosine_std"] == pytest.approx(1 / math.sqrt(dim), rel=0.01)


def test_isotropic_classes_have_the_pinv_of_the_rank():
    # S_B of a simplex is isotropic on K-1 dimensions; with S_W = a I the trace is (K-1) a / lambda.
    number, dim = 6, 9
    corners = simplex(number, dim)
    steps = 0.1 * torch.cat([torch.eye(dim), -torch.eye(dim)]).double()  # S_W = 0.01 / dim on each axis
    features = torch.from_numpy(corners)[:, None] + steps
    stats = ClassStatistics(number, dim)
    stats.update(features.reshape(-1, dim), torch.arange(number).repeat_interleave(2 * dim))
    values = measure_collapse(stats, torch.from_numpy(corners))
    between = 1 / (number - 1)  # K unit vectors, trace 1, rank K-1
    assert values["nc1_pinv"] == pytest.approx((number - 1) * (0.01 / dim) / between / number, rel=1e-9)


def test_values_are_zero_for_collapsed_classes():
    values = measure(np.random.default_rng(0).normal(size=(9, 4)))
    for key in ("nc1_cdnv", "nc1_cdnv_galanti", "nc1_pinv", "nc1_quotient"):
        assert values[key] == ZERO
    assert values["nc1_zero_pairs"] == 36


def same(first, second, keys, rel=1e-7):
    for key in keys:
        assert first[key] == pytest.approx(second[key], rel=rel, abs=1e-7), key


cases = st.tuples(st.integers(0, 10**6), st.integers(3, 14), st.integers(2, 7))


def draw(case):
    seed, number, dim = case
    random = np.random.default_rng(seed)
    return random, random.normal(size=(number, dim)), random.normal(size=(number, dim))


@settings(deadline=None, max_examples=25)
@given(cases)
def test_rotation_changes_nothing(case):
    random, means, head = draw(case)
    turn, _ = np.linalg.qr(random.normal(size=(means.shape[1],) * 2))
    before = measure(means, head, 0.2)
    stats = ClassStatistics(*means.shape)
    direction = np.random.default_rng(0).normal(size=means.shape)
    direction *= 0.2 / np.linalg.norm(direction, axis=1, keepdims=True)
    turned = np.concatenate([means + direction, means - direction]) @ turn
    stats.update(torch.from_numpy(turned), torch.arange(len(means)).repeat(2))
    after = measure_collapse(stats, torch.from_numpy(head @ turn))
    same(before, after, before)


@settings(deadline=None, max_examples=25)
@given(cases, st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_scale_changes_only_what_has_a_unit(case, factor, head_factor):
    _, means, head = draw(case)
    before, after = measure(means, head, 0.2), measure(factor * means, head_factor * head, factor * 0.2)
    assert after["nc1_cdnv"] == pytest.approx(before["nc1_cdnv"] / factor**2, rel=1e-7)
    assert after["nc1_cdnv_log"] == pytest.approx(before["nc1_cdnv_log"] - 2 * math.log(factor), rel=1e-7, abs=1e-7)
    united = {"nc1_cdnv", "nc1_cdnv_log", "nc2_log_norm_cov"}
    same(before, after, before.keys() - united)


@settings(deadline=None, max_examples=25)
@given(cases)
def test_the_order_of_classes_changes_nothing(case):
    random, means, head = draw(case)
    features = np.concatenate([means, means + 0.1 * random.normal(size=means.shape)])
    labels = np.tile(np.arange(len(means)), 2)
    order = random.permutation(len(means))
    results = []
    for names, rows in ((labels, head), (np.argsort(order)[labels], head[order])):
        stats = ClassStatistics(*means.shape)
        stats.update(torch.from_numpy(features), torch.from_numpy(names))
        results.append(measure_collapse(stats, torch.from_numpy(rows)))
    same(*results, results[0])


@settings(deadline=None, max_examples=25)
@given(cases, st.floats(-100, 100))
def test_a_common_shift_changes_only_what_is_not_centred(case, shift):
    _, means, head = draw(case)
    before, after = measure(means, head, 0.2), measure(means + shift, head, 0.2)
    same(before, after, {key for key in before if "uncentred" not in key}, rel=1e-6)


@settings(deadline=None, max_examples=25)
@given(cases, st.integers(1, 3))
def test_the_order_of_merging_changes_nothing(case, pieces):
    random, means, head = draw(case)
    features = torch.from_numpy(np.concatenate([means + 0.3 * random.normal(size=means.shape) for _ in range(4)]))
    labels = torch.arange(len(means)).repeat(4)
    order = torch.from_numpy(random.permutation(len(labels)))
    assume(len(labels) > pieces)
    results = []
    for chosen in (order, order.flip(0)):
        total = ClassStatistics(*means.shape)
        for part in chosen.chunk(pieces):
            worker = ClassStatistics(*means.shape)
            worker.update(features[part], labels[part])
            total.merge(worker)
        results.append(measure_collapse(total, torch.from_numpy(head)))
    same(*results, results[0])
