"""Which way collapse lies and on what scale, measured for every key of the catalogue; and the words it says of each."""

import re
from dataclasses import replace
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats as scipy_stats
from scipy.special import gamma, gammaln

from lcutils import measure_collapse
from lcutils.analysis import definitions_table
from lcutils.analysis.definitions import describe, limits_of_theory, scale_words
from lcutils.analysis.directions import collapse_words, near_pole, sign_with_collapse, towards
from lcutils.collapse.agreement import classifier_agreement
from lcutils.collapse.catalogue import MEASUREMENTS
from lcutils.collapse.duality import ood_deviation
from lcutils.collapse.entries import Extra
from lcutils.collapse.synthetic import Case, measure_case
from lcutils.features.statistics import ClassStatistics

CLASSES, WIDTH = 12, 6
OF_TEXT = [key for key, entry in MEASUREMENTS.items() if entry.reads == "text"]


def measured(times: float) -> dict[str, float]:
    """Every measurement of random classes of unequal size whose features are `times` as large, the head as it is."""
    random = np.random.default_rng(0)
    labels = torch.from_numpy(random.choice(CLASSES, 300, p=(p := 1 / np.arange(1, CLASSES + 1)) / p.sum()))
    means = torch.from_numpy(random.normal(size=(CLASSES, WIDTH)))
    features = times * (means[labels] + torch.from_numpy(random.normal(size=(300, WIDTH))) + 0.3)
    head = means + torch.from_numpy(random.normal(size=(CLASSES, WIDTH)))
    stats = ClassStatistics(CLASSES, WIDTH)
    stats.update(features, labels)
    values = measure_collapse(stats, head, extras=get_args(Extra))
    keep = stats.counts > 0
    hits, totals = classifier_agreement(features, labels, head, stats.means, keep)
    values |= dict.fromkeys(("nc4_agreement", "nc4_agreement_weights"), float(hits.sum() / totals.sum()))
    foreign = times * torch.from_numpy(random.normal(size=WIDTH))
    return values | {"nc5_ood_deviation": ood_deviation(stats.means, keep, foreign)}


@pytest.fixture(scope="module")
def plain():
    return measured(1.0)


@pytest.mark.parametrize("times", [3.0, 0.25])
@pytest.mark.parametrize("key", MEASUREMENTS)
def test_larger_features_do_what_the_catalogue_says(plain, key, times):
    entry, before, after = MEASUREMENTS[key], plain[key], measured(times)[key]
    if entry.scale == "free":
        assert after == pytest.approx(before, rel=1e-9)
        assert entry.power == 0
    elif entry.scale == "power":
        assert after == pytest.approx(before * times**entry.power, rel=1e-9)
    elif entry.scale == "shift":
        assert after == pytest.approx(before + entry.power * np.log(times), rel=1e-9)
    else:  # a CoV of logs: the mean moves and the spread does not
        std = plain[key.replace("_cov", "_std")]
        assert after == pytest.approx(std / (std / before + np.log(times)), rel=1e-9)
        assert after != pytest.approx(before, rel=0.1)


def test_nc4_depends_on_scale_with_a_bias_as_its_words_say():
    case = Case(bias=1.0, spread=0.5)
    larger = measure_case(replace(case, scale=10.0))
    assert larger["nc4_agreement"] > measure_case(case)["nc4_agreement"] + 0.05
    assert larger["nc4_agreement_weights"] == measure_case(case)["nc4_agreement_weights"]
    assert "with a bias in the head it depends on the features' scale" in MEASUREMENTS["nc4_agreement"].hides


# For each measurement, a case and one that is nearer to collapse in the property that it measures.
FLAT, EVEN = Case(classes=7, flat=0.6), Case(classes=7, flat=0.1)
LONG, EQUAL = Case(uneven=0.6, scale=9.0), Case(uneven=0.1, scale=9.0)
NEARER = {
    **{key: (Case(spread=0.6), Case(spread=0.2)) for key in MEASUREMENTS if key.startswith("nc1_")},
    **dict.fromkeys(("nc2_norm_cov", "nc2_log_norm_cov", "nc2_log_norm_std", "nc2_norm_cov_corrected"), (LONG, EQUAL)),
    **{
        key: (Case(classes=3, flat=0.6), Case(classes=3, flat=0.1))
        for key in MEASUREMENTS
        if key.startswith(("nc2_cos", "nc2_coherence", "nc2_etf"))
    },
    **{key: (FLAT, EVEN) for key in MEASUREMENTS if key.startswith("gnc2_")},
    "nc3_cosine_mean": (Case(turn=60.0), Case(turn=20.0)),
    "nc3_cosine_mean_corrected": (Case(turn=60.0), Case(turn=20.0)),
    "spectrum_share_between": (Case(spread=0.6), Case(spread=0.2)),
    "nc3_duality_error": (Case(turn=60.0), Case(turn=20.0)),
    "unc3_cosine_cov": (Case(twist=80.0), Case(twist=20.0)),
    "nc4_agreement": (Case(turn=60.0), Case(turn=20.0)),
    "nc4_agreement_weights": (Case(turn=60.0), Case(turn=20.0)),
    "nc5_ood_deviation": (Case(tilt=20.0), Case(tilt=70.0)),
}


@pytest.mark.parametrize("key", NEARER)
def test_a_case_that_is_nearer_to_collapse_moves_the_way_the_catalogue_says(key):
    values = [measure_case(case)[key] for case in NEARER[key]]
    assert np.isfinite(values).all()
    way = towards(key, values)
    assert way == ("up" if values[1] > values[0] else "down")
    assert values[0] != pytest.approx(values[1], rel=0.02)
    if MEASUREMENTS[key].collapsed is not None and np.isfinite(MEASUREMENTS[key].collapsed):
        assert abs(values[1] - MEASUREMENTS[key].collapsed) < abs(values[0] - MEASUREMENTS[key].collapsed)


def test_every_measurement_with_a_direction_is_tried():
    assert {key for key, entry in MEASUREMENTS.items() if entry.direction != "none"} == set(NEARER)


def test_a_cov_near_zero_falls_from_above_and_rises_from_below():
    assert towards("gnc2_log_cov", [-3.0, -0.5]) == "up"
    assert towards("gnc2_log_cov", [0.5, np.nan, 3.0]) == "down"
    assert towards("gnc2_log_cov", [-0.5, 3.0]) == "none"
    assert towards("gnc2_log_cov", []) == towards("gnc2_log_cov", [np.nan]) == "none"
    assert towards("nc1_cdnv", [-1.0, 1.0]) == "down"  # a measurement that always falls
    assert towards("nc4_agreement", [0.2]) == "up"


@pytest.mark.parametrize(("target", "better"), [("val_loss", -1), ("perplexity", -1), ("val_accuracy", 1)])
def test_a_relation_goes_with_collapse_where_better_models_are_more_collapsed(target, better):
    quality = np.arange(10.0)
    rising = float(better)  # r of a target that follows quality with a measurement that rises with quality
    assert sign_with_collapse("nc4_agreement", quality, target) == rising
    assert sign_with_collapse("nc1_cdnv", quality, target) == -rising
    assert collapse_words("nc4_agreement", quality, 0.9 * rising, 0.01, target) == "with"
    assert collapse_words("nc1_cdnv", quality, 0.9 * rising, 0.01, target) == "against"
    assert collapse_words("nc1_cdnv", quality, 0.1 * rising, 0.05, target) == "unclear"


def test_nothing_is_said_of_collapse_where_it_is_not_known():
    assert collapse_words("nc1_cdnv", [1.0, 2.0], 0.9, 0.01, "width") == ""  # neither more nor less of it is better
    assert collapse_words("gnc2_log_cov", [-1.0, 2.0], 0.9, 0.01) == ""
    assert collapse_words("nc1_cdnv", [1.0, 2.0], np.nan, 0.01) == ""
    assert collapse_words("nc1_cdnv", [1.0, 2.0], 0.9, np.nan) == "unclear"


def test_a_pole_is_seen_by_its_values():
    assert near_pole("gnc2_log_uncentred_cov", [-2.0, 1.0]) == "near its pole: the mean crosses 0"
    assert near_pole("unc3_cosine_cov", [0.5, 14.0]) == "near its pole: the mean is next to 0"
    assert near_pole("unc3_cosine_cov", [0.5, 2.0]) == near_pole("unc3_cosine_cov", [np.nan]) == ""
    assert near_pole("gnc2_log_uncentred_std", [-20.0, 20.0]) == ""  # no mean divides it


@pytest.mark.filterwarnings("ignore:nc1_cdnv_log is nan")  # classes without spread
def test_nulls_of_uniform_directions_hold_in_a_simulation():
    """What the catalogue gives in closed form for directions without a pattern."""
    random = np.random.default_rng(1)
    classes, dim = 600, 12
    directions = torch.from_numpy(random.normal(size=(classes, dim)))
    directions /= directions.norm(dim=1, keepdim=True)
    stats = ClassStatistics(classes, dim)
    stats.update(directions.repeat(2, 1), torch.arange(classes).repeat(2))
    values = measure_collapse(stats, torch.from_numpy(random.normal(size=(classes, dim))))
    absolute = scipy_stats.beta(0.5, (dim - 1) / 2).expect(np.sqrt)  # E|cos|, from the law of the squared cosine
    from_gamma = np.exp(gammaln(dim / 2) - gammaln((dim + 1) / 2)) / np.sqrt(np.pi)
    assert from_gamma == pytest.approx(absolute, rel=1e-5)
    assert values["nc2_coherence"] == pytest.approx(absolute, rel=0.02)
    foreign = torch.from_numpy(random.normal(size=dim))
    keep = torch.ones(classes, dtype=torch.bool)
    assert ood_deviation(directions, keep, foreign) == pytest.approx(absolute, rel=0.1)
    assert values["nc2_cosine_std"] == pytest.approx(1 / np.sqrt(dim), rel=0.02)
    assert values["nc3_duality_error"] == pytest.approx(np.sqrt(2), rel=0.02)
    assert values["nc3_cosine_mean"] == pytest.approx(0, abs=4 / np.sqrt(dim * classes))


def test_nulls_of_labels_that_say_nothing_hold_in_a_simulation():
    random = np.random.default_rng(2)
    for counts in ([20] * 40, [5] * 20 + [50] * 20):
        labels = np.repeat(np.arange(40), counts)
        stats = ClassStatistics(40, 100)
        stats.update(torch.from_numpy(random.normal(size=(len(labels), 100))), torch.from_numpy(labels))
        values = measure_collapse(stats, torch.ones(40, 100))
        assert values["nc1_quotient"] == pytest.approx(1 / np.mean(1 / np.array(counts)), rel=0.1)
        if len(set(counts)) == 1:
            assert values["nc1_cdnv_galanti"] == pytest.approx(counts[0] / 2, rel=0.1)


def test_the_riesz_null_of_the_catalogue_is_that_of_the_limits():
    a, s = (9 - 1) / 2, 1.5
    written = 2**-s * gamma(a - s / 2) * gamma(2 * a) / (gamma(a) * gamma(2 * a - s / 2))
    # As `_uniform_sphere_riesz`: E of 2^-s B^(-s/2), B of Beta(a, a).
    assert written == pytest.approx(2**-s * scipy_stats.beta(a, a).expect(lambda b: b ** (-s / 2)), rel=1e-6)
    limits = limits_of_theory(9, 50, riesz_s=s).set_index("measurement")["value"]
    assert limits["gnc2_riesz_mean"] == pytest.approx(written)


@pytest.mark.parametrize("key", MEASUREMENTS)
def test_every_measurement_is_explained(key):
    entry = MEASUREMENTS[key]
    sentences = re.findall(r"[A-Z0-9][^.]*(?:\.\d[^.]*)*\.(?= |$)", entry.meaning)
    assert len(sentences) == 2, sentences
    assert entry.hides.endswith(".")
    assert entry.source
    for text in (entry.formula, entry.null):
        assert text.count("{") == text.count("}")
        assert text.count(r"\left") == text.count(r"\right")
        assert "|" not in text  # a Markdown table would break
    assert not re.search(r"[^\x00-\x7f]", entry.formula)
    told = describe(key)
    for words in (
        entry.formula,
        entry.meaning,
        entry.null,
        entry.hides,
        entry.source,
        entry.limit,
        *scale_words(key).split(": "),
    ):
        assert words in told


def test_scale_in_words():
    assert "4 times smaller" in scale_words("nc1_cdnv")
    assert "lower it by 1.39" in scale_words("nc1_cdnv_log")
    assert "unit" not in scale_words("nc4_agreement")
    assert scale_words("nc1_cdnv_galanti").startswith("Free of scale")


def test_the_table_of_definitions_has_a_row_for_each():
    table = definitions_table()
    assert table["measurement"].tolist() == list(MEASUREMENTS)
    assert table.columns[:5].tolist() == ["measurement", "property", "label", "definition", "limit"]
    assert set(table["towards"]) <= {"down", "up", "towards 0, from either side", "not known"}
    assert (table.drop(columns=["limit", "null"]) != "").all(axis=None)
    assert isinstance(table, pd.DataFrame)
