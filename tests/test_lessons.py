"""The lessons: cases whose values are those of an independent computation, pictures of them, and plain mistakes."""

import json
import math
import re
from dataclasses import replace

import naive_collapse as naive
import numpy as np
import pandas as pd
import pytest
import torch

from lcutils.charts.theme import Figure
from lcutils.collapse.catalogue import KEYS, MEASUREMENTS
from lcutils.collapse.synthetic import Case, measure_case
from lcutils.errors import UserError
from lcutils.lessons import RANGES, lesson, make_case, moved_by_scale, show_lesson
from lcutils.parameters import ROOT

ODD = Case(classes=5, spread=0.4, uneven=0.5, flat=0.3, shift=0.7, turn=20.0, twist=40.0, scale=1.7, seed=3)


@pytest.mark.parametrize("case", [Case(scale=2.0), Case(classes=3, spread=0.0, scale=2.0), ODD])
def test_a_case_is_measured_as_by_hand(case):
    features, labels = (part.numpy() for part in case.draw())
    sample = naive.class_statistics(features, labels, case.classes)
    expected = naive.measurements(*sample, case.head.numpy(), same=1e-12)
    got = measure_case(case)
    for key in MEASUREMENTS.keys() & set(KEYS):
        assert got[key] == pytest.approx(expected[key], rel=1e-7, abs=1e-7, nan_ok=True), key


def test_agreement_of_a_case_is_counted_as_by_hand():
    features, labels = (part.numpy() for part in ODD.draw(ODD.seed + 1))
    means, head = ODD.centres.numpy(), ODD.head.numpy()
    nearest = np.linalg.norm(features[:, None] - means, axis=2).argmin(1)
    for bias in (0.0, 0.8):
        scores = features @ head.T + np.eye(len(head))[0] * bias
        expected = (scores.argmax(1) == nearest).mean()
        got = measure_case(replace(ODD, bias=bias))
        assert got["nc4_agreement"] == pytest.approx(expected)
        assert 0 < expected < 1
    assert measure_case(replace(ODD, bias=0.8))["nc4_agreement_weights"] == measure_case(ODD)["nc4_agreement"]
    assert len(labels) == 5 * 40


def test_foreign_text_is_tilted_by_so_many_degrees():
    first = ODD.centres[0] / ODD.centres[0].norm()
    cosines = (ODD.centres / ODD.centres.norm(dim=1, keepdim=True)) @ first
    for tilt in (0.0, 30.0, 90.0):
        expected = float(cosines.abs().mean()) * math.cos(math.radians(tilt))
        assert measure_case(replace(ODD, tilt=tilt))["nc5_ood_deviation"] == pytest.approx(expected, abs=1e-12)


def test_class_means_are_where_the_numbers_put_them():
    features, labels = ODD.draw()
    for c in range(5):
        assert torch.allclose(features[labels == c].mean(0), ODD.centres[c], atol=1e-12)
    assert torch.allclose(Case(classes=4).centres.norm(dim=1), torch.ones(4, dtype=torch.float64))
    centred = ODD.centres - ODD.centres.mean(0)
    cosines = torch.nn.functional.cosine_similarity(ODD.head, centred)
    turned = torch.deg2rad(20.0 + torch.tensor([0.0, 10.0, 20.0, 30.0, 40.0], dtype=torch.float64))
    assert torch.allclose(cosines, turned.cos())


def test_measuring_a_case_leaves_the_threads_as_they_are():
    before = torch.get_num_threads()
    measure_case(Case(seed=99))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"classes": 1}, "classes must be a whole number of 2 or more, not 1"),
        ({"classes": 2.5}, "classes must be a whole number of 2 or more, not 2.5"),
        ({"samples": 1}, "samples must be a whole number of 2 or more, not 1"),
        ({"uneven": 1.0}, "uneven must be 0 or more and below 1, not 1.0"),
        ({"flat": -0.1}, "flat must be 0 or more and below 1, not -0.1"),
        ({"spread": -1}, "spread must be 0 or more, not -1"),
        ({"scale": 0}, "scale must be above 0, not 0"),
        ({"turn": math.nan}, "turn must be a finite number, not nan"),
        ({"sprad": 0.1}, "sprad: no such number of a case; there are classes, samples, centred, spread"),
        ({"spread": "much"}, "spread must be a finite number, not much"),
    ],
)
def test_numbers_that_make_no_case_are_refused_in_a_line(numbers, words):
    with pytest.raises(UserError) as refused:
        make_case(Case(), **numbers)
    assert str(refused.value).startswith(words)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("key", MEASUREMENTS)
@pytest.mark.parametrize("vary", ["spread", "scale"])
def test_every_measurement_has_a_picture_with_its_value(key, vary):
    figure = lesson(key, Case(classes=3, uneven=0.2, turn=10.0, spread=0.3), vary)
    assert figure.chart is not None
    figure.chart.to_dict(validate=True)
    text = json.dumps(figure.spec, allow_nan=False)
    assert "NaN" not in text
    value = measure_case(Case(classes=3, uneven=0.2, turn=10.0, spread=0.3))[key]
    assert figure.title.startswith(f"{key} = {value:.3g}".replace("= -", "= −"))
    assert f"at {vary} = " in figure.title


def test_the_curve_is_the_measurement_as_the_number_varies():
    case = Case(turn=50.0)
    [curve] = [
        rows for rows in json.loads(json.dumps(lesson("nc3_cosine_mean", case, "turn").spec))["datasets"].values()
        if len(rows) > 5 and "turn" in rows[0]
    ]  # fmt: skip
    table = pd.DataFrame(curve)
    assert 50.0 in table["turn"].tolist()
    assert table["nc3_cosine_mean"].tolist() == pytest.approx(np.cos(np.radians(table["turn"])).tolist(), abs=1e-4)
    assert (table["turn"].min(), table["turn"].max()) == RANGES["turn"]


def test_a_number_beyond_its_range_widens_the_curve():
    figure = lesson("nc1_cdnv", Case(spread=2.5), "spread")
    assert "at spread = 2.5" in figure.title
    assert '"spread": 2.5' in json.dumps(figure.spec["datasets"])


@pytest.mark.parametrize("case", [Case(classes=2), Case(spread=0.0), Case(samples=2), Case(classes=12)])
def test_an_odd_case_gives_a_picture_or_a_sentence(case):
    for key in MEASUREMENTS:
        figure = lesson(key, case, "uneven")
        assert (figure.chart is None) == bool(figure.missing)
        if figure.chart is not None:
            json.dumps(figure.spec, allow_nan=False)


def test_an_unknown_key_or_number_is_refused_in_a_line():
    with pytest.raises(UserError, match="nc9: no measurement of a synthetic case; there are nc1_cdnv"):
        lesson("nc9", Case(), "spread")
    with pytest.raises(UserError, match="samples: no number that a lesson varies; there are spread"):
        lesson("nc1_cdnv", Case(), "samples")


def test_a_notebook_is_shown_words_and_picture(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *parts: shown.extend(parts))
    show_lesson("nc1_cdnv", Case(), "spread")
    words, figure = shown
    assert MEASUREMENTS["nc1_cdnv"].formula in words.data
    assert isinstance(figure, Figure)


def test_what_moves_with_scale_is_what_the_catalogue_says():
    moved = moved_by_scale(Case(uneven=0.4), times=3.0).set_index("measurement")
    changed = (moved["larger"] - moved["value"]).abs() > 1e-9 * moved["value"].abs() + 1e-12
    assert moved.index.tolist() == list(MEASUREMENTS)
    assert changed.equals(moved["catalogue"] != "free")


def test_the_notebook_has_a_lesson_on_every_measurement():
    notebook = json.loads((ROOT / "notebooks" / "00_measurements.ipynb").read_text())
    source = "\n".join("".join(cell["source"]) for cell in notebook["cells"])
    assert re.findall(r'show_lesson\("(\w+)"', source) == list(MEASUREMENTS)
    told = "".join(_texts(notebook))
    for entry in MEASUREMENTS.values():  # run again after the catalogue's words changed
        for words in (entry.formula, entry.meaning, entry.hides, entry.source):
            assert words in told


def _texts(notebook: dict) -> list[str]:
    """The Markdown that the cells put out."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    return ["".join(output.get("data", {}).get("text/markdown", "")) for output in outputs]
