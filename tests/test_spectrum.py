"""Spectra of features, class means and within-class scatter: against singular values, closed forms, invariances."""

import math

import naive_collapse as naive
import numpy as np
import pytest
import torch

from lcutils.collapse.catalogue import KEYS, MEASUREMENTS
from lcutils.collapse.measure import measure_collapse
from lcutils.collapse.spectrum import spectrum
from lcutils.features.statistics import ClassStatistics

SPECTRUM = [key for key, entry in MEASUREMENTS.items() if entry.group == "spectrum"]
FREE = [key for key in SPECTRUM if "features" not in key and "within" not in key]  # of the covariance


def sample(number=300, dim=7, classes=25, seed=0):
    random = np.random.default_rng(seed)
    labels = random.choice(classes, number, p=(w := 1 / np.arange(1, classes + 1)) / w.sum())
    widths = np.exp(random.normal(size=dim))
    features = 2 + random.normal(size=(classes, dim))[labels] + widths * random.normal(size=(number, dim))
    return features, labels


def measured(features, labels, classes=25, covariance=True, **options):
    stats = ClassStatistics(classes, features.shape[1], covariance)
    stats.update(torch.from_numpy(features), torch.from_numpy(labels))
    head = torch.ones(classes, features.shape[1])
    values = measure_collapse(stats, head, extras=["spectrum"], **options)
    return {key: value for key, value in values.items() if key not in KEYS}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("min_count", [1, 3])
def test_it_agrees_with_singular_values(seed, min_count):
    values = measured(*sample(seed=seed), min_count=min_count)
    assert list(values) == SPECTRUM
    assert values == pytest.approx(naive.spectrum(*sample(seed=seed), min_count), rel=1e-9)


def test_more_dimensions_than_class_means_and_samples():
    """Scatter that fills few dimensions has zeros in its spectrum, which are left out."""
    features, labels = sample(number=30, dim=40, classes=6)
    assert measured(features, labels, 6) == pytest.approx(naive.spectrum(features, labels), rel=1e-8)


def test_a_final_layer_norms_lost_dimension_is_left_out():
    features, labels = sample()
    features -= features.mean(1, keepdims=True)
    assert measured(features, labels) == pytest.approx(naive.spectrum(features, labels), rel=1e-8)


def test_known_spectra():
    flat = spectrum("x", torch.eye(16, dtype=torch.float64) * 3)
    assert [flat[f"spectrum_{kind}_x"].item() for kind in ("rank", "decay", "participation")] == pytest.approx(
        [16, 0, 16], abs=1e-12
    )
    power = spectrum("x", torch.arange(1, 33, dtype=torch.float64).pow(-1.5).flip(0).diag())
    assert power["spectrum_decay_x"].item() == pytest.approx(1.5, rel=1e-12)
    two = spectrum("x", torch.tensor([9.0, 1.0], dtype=torch.float64).diag())
    assert two["spectrum_participation_x"].item() == pytest.approx(100 / 82)
    assert two["spectrum_rank_x"].item() == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))
    one = spectrum("x", torch.ones(5, 5, dtype=torch.float64))
    assert one["spectrum_rank_x"].item() == pytest.approx(1)
    assert one["spectrum_participation_x"].item() == pytest.approx(1)
    assert math.isnan(one["spectrum_decay_x"].item())
    assert all(math.isnan(value.item()) for value in spectrum("x", torch.zeros(3, 3, dtype=torch.float64)).values())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_collapsed_simplex():
    K = 9
    values = measured(np.eye(K).repeat(3, 0), np.arange(K).repeat(3), K)
    assert values["spectrum_rank_means"] == pytest.approx(K - 1, rel=1e-9)
    assert values["spectrum_participation_means"] == pytest.approx(K - 1, rel=1e-9)
    assert values["spectrum_decay_means"] == pytest.approx(0, abs=1e-7)
    assert values["spectrum_share_between"] == 1
    assert all(math.isnan(values[key]) for key in values if "within" in key)


def test_scale_rotation_and_offset_do_not_matter():
    features, labels = sample()
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(7, 7)))[0]
    assert measured(100 + 5 * features @ turn, labels) == pytest.approx(measured(features, labels), rel=1e-6)


def test_without_covariance_what_needs_it_is_absent():
    features, labels = sample()
    bare = measured(features, labels, covariance=False)
    assert list(bare) == FREE
    whole = measured(features, labels)
    assert bare == {key: whole[key] for key in FREE}


def test_the_share_is_that_of_the_summed_squares():
    values = measured(np.array([[0.0], [2], [10], [14]]), np.array([0, 0, 1, 1]), 2)
    between = 4 * 5.5**2  # the mean of all is 6.5, those of the classes 1 and 12
    assert values["spectrum_share_between"] == pytest.approx(between / (between + 2 + 8))
