"""The words of the catalogue, and the limits of theory against simulation and closed forms."""

import numpy as np
import pandas as pd
import pytest

from lcutils.analysis.definitions import (
    Missing,
    in_display_order,
    limits_of_theory,
    measurements_in,
    simplex_cosine,
    uniform_sphere_log_kernel,
)
from lcutils.collapse.catalogue import MEASUREMENTS


def test_every_measurement_has_words_of_its_own():
    for words in ("axis", "definition"):
        assert len({getattr(measurement, words) for measurement in MEASUREMENTS.values()}) == len(MEASUREMENTS)
    assert len({(measurement.property, measurement.label) for measurement in MEASUREMENTS.values()}) == len(
        MEASUREMENTS
    )
    for key, measurement in MEASUREMENTS.items():
        assert key.startswith(measurement.property.lower())
        assert measurement.definition.endswith(".")


def test_uniform_sphere_matches_the_known_values():
    assert uniform_sphere_log_kernel(16) == pytest.approx(-0.3294, abs=5e-5)
    assert uniform_sphere_log_kernel(64) == pytest.approx(-0.3426, abs=5e-5)
    assert uniform_sphere_log_kernel(100_000) == pytest.approx(-np.log(2) / 2, abs=1e-5)
    assert uniform_sphere_log_kernel(3) == pytest.approx(0.5 - np.log(2))  # the ordinary sphere, by hand


def test_uniform_sphere_against_random_points():
    random = np.random.default_rng(0)
    u, v = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in random.normal(size=(2, 200_000, 8)))
    distance = np.linalg.norm(u - v, axis=1)
    kernels = {"gnc2_log": -np.log(distance), "gnc2_log_uncentred": -np.log(distance)}
    kernels["gnc2_riesz"] = distance**-2.0
    limits = limits_of_theory(8, 100, riesz_s=2.0).query("limit == 'uniform sphere'")
    value = limits.set_index("measurement")["value"]
    for name, kernel in kernels.items():
        assert value[f"{name}_mean"] == pytest.approx(kernel.mean(), abs=5 * kernel.std() / np.sqrt(200_000))
        assert value[f"{name}_std"] == pytest.approx(kernel.std(), rel=0.02)
        assert value[f"{name}_cov"] == pytest.approx(kernel.std() / kernel.mean(), rel=0.02)
    cosine = (u * v).sum(axis=1)
    assert value["nc2_cosine_std"] == pytest.approx(cosine.std(), rel=0.01)


def test_simplex_against_its_vertices():
    K = 7
    vertices = np.eye(K) - 1 / K
    unit = vertices / np.linalg.norm(vertices, axis=1, keepdims=True)
    value = limits_of_theory(16, K, riesz_s=1.5).query("limit == 'simplex'").set_index("measurement")["value"]
    assert simplex_cosine(K) == pytest.approx(unit[0] @ unit[1])
    assert value["nc2_cosine_mean"] == pytest.approx(unit[2] @ unit[5])
    assert value["gnc2_log_mean"] == pytest.approx(-np.log(np.linalg.norm(unit[0] - unit[1])))
    assert value["gnc2_riesz_mean"] == pytest.approx(np.linalg.norm(unit[0] - unit[1]) ** -1.5)


def test_limits_are_of_known_measurements_and_need_two_of_each():
    assert set(limits_of_theory(64, 29, riesz_s=1.0)["measurement"]) <= set(MEASUREMENTS)
    limits = limits_of_theory(2, 5, riesz_s=1.0).set_index(["limit", "measurement"])["value"]
    assert np.isinf(limits["uniform sphere", "gnc2_riesz_mean"])
    for dim, classes in ((1, 5), (5, 1)):
        with pytest.raises(ValueError, match="2 dimensions and 2 classes"):
            limits_of_theory(dim, classes)


def test_a_simplex_has_limits_only_where_it_exists():
    assert set(limits_of_theory(6, 7)["limit"]) == {"uniform sphere", "simplex"}
    assert set(limits_of_theory(6, 8)["limit"]) == {"uniform sphere"}


def test_the_riesz_kernel_has_limits_only_where_its_exponent_is_known():
    known = limits_of_theory(64, 7, riesz_s=2.0)["measurement"]
    unknown = limits_of_theory(64, 7)["measurement"]
    assert set(known) - set(unknown) == {"gnc2_riesz_mean", "gnc2_riesz_std", "gnc2_riesz_cov"}


def test_measurements_in_a_table():
    table = pd.DataFrame({"nc4_agreement": [np.nan, 1.0], "nc1_cdnv": 1.0, "nc1_pinv": np.nan, "val_loss": 2.0})
    assert measurements_in(table) == ["nc1_cdnv", "nc4_agreement"]
    assert measurements_in(table.head(1)) == ["nc1_cdnv"]


def test_display_order_is_stable():
    table = pd.DataFrame({"measurement": ["nc4_agreement", "nc1_cdnv", "nc4_agreement"], "row": [1, 2, 3]})
    assert in_display_order(table)["row"].tolist() == [2, 1, 3]


def test_missing_is_its_sentence():
    assert str(Missing("No rows.")) == Missing("No rows.").reason == "No rows."
