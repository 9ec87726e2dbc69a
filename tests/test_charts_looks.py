"""What people see of charts: words with room, every mark with a colour, captions of what is there."""

import re

import numpy as np
import pandas as pd
import pytest
from analysis_samples import made_results, made_sensitivity
from test_charts import words_of
from test_null_stages import made_nulls

from lcutils import analysis, charts
from lcutils.charts.comparison import PROPERTY_SCALE
from lcutils.charts.paper import THEORY
from lcutils.charts.theme import VIRIDIS, log_ticks, ordinal_viridis
from lcutils.charts.theory import LIMITS

RESULTS = made_results()


@pytest.mark.parametrize(
    ("low", "high"),
    [(1e-4, 0.3), (0.0191, 0.0193), (0.5, 3.0), (2e-3, 0.5), (0.9, 1.1), (90.0, 4e8), (1 - 1e-9, 1 + 1e-9)],
)
def test_a_log_axis_has_three_ticks_or_more_that_are_round(low, high):
    ticks = log_ticks(low, high)
    assert len(ticks) > 2
    assert ticks == sorted(set(ticks))
    assert low <= ticks[0] < ticks[-1] <= high
    assert max(len(f"{tick:.12g}") for tick in ticks) <= (12 if high - low < 1e-6 else 9)


def test_every_property_has_a_colour_of_its_own():
    assert {entry.property for entry in analysis.MEASUREMENTS.values()} <= {*PROPERTY_SCALE.domain}
    assert len(PROPERTY_SCALE.domain) == len(set(PROPERTY_SCALE.range))


@pytest.mark.parametrize("number", [1, 2, 5])
def test_ranks_reach_from_end_to_end_of_the_colours(number):
    low, high = ordinal_viridis(number).extent
    drawn = [low + (high - low) * i / (number + 1) for i in range(1, number + 1)]  # where Vega takes them
    if number > 1:
        assert (drawn[0], drawn[-1]) == pytest.approx(tuple(VIRIDIS.extent))
    assert 0 <= drawn[0] <= drawn[-1] <= 1


def test_a_legend_of_lines_is_a_few_dots():
    lines = charts.trajectories(RESULTS).spec["concat"][0]["layer"][0]
    assert lines["mark"]["type"] == "line"
    assert 3 <= len(lines["encoding"]["color"]["legend"]["values"]) <= 8


def test_a_cell_has_no_more_signs_than_it_has_room_for():
    table = made_sensitivity(RESULTS)
    table.loc[table["min_count"] == 100, "nc1_cdnv"] *= 400
    figure = charts.sensitivity(table, RESULTS)
    changes = [word for word in words_of(figure.svg) if word.endswith("%")]
    assert any(len(word) > 6 and "," in word for word in changes)  # a manyfold change, without tenths
    assert max(map(len, changes)) <= 8


def test_captions_name_only_what_is_drawn():
    assert "the one beside it" in charts.figure_1(RESULTS).caption
    assert "the one beside it" not in charts.figure_1(RESULTS.drop(columns="nc1_cdnv_galanti")).caption
    for figure in (charts.figure_2(RESULTS), charts.figure_3(RESULTS)):
        assert (THEORY in figure.caption) == (LIMITS in figure.signs)
    assert THEORY not in charts.figure_3(RESULTS.drop(columns="n_classes")).caption


def test_a_hole_in_the_grid_is_named():
    rows = RESULTS[RESULTS["weight_decay"] == 0.0005]
    assert "Empty panels" not in charts.losses(rows).caption
    other = rows.assign(weight_decay=0.1, epochs=10)
    assert "Empty panels: no such models." in charts.losses(pd.concat([rows, other])).caption


def test_a_point_whose_null_is_not_known_is_not_drawn_beside_the_frame():
    nulls = made_nulls(RESULTS, ("nc4_agreement",))
    best = RESULTS.nlargest(1, "val_loss")
    others = nulls[~((nulls["model"] == best["model"].item()) & (nulls["checkpoint"] == best["checkpoint"].item()))]
    symbols = [
        re.findall('<g class="mark-symbol role-mark.*?</g>', charts.beside_nulls(RESULTS, table).svg, re.DOTALL)
        for table in (nulls, others)
    ]
    assert [sum(group.count("<path") for group in groups) for groups in symbols] == [len(RESULTS), len(RESULTS) - 1]


def test_a_missing_number_is_no_zero_of_the_line():
    rows = RESULTS.copy()
    rows.loc[rows.index[:10], "nc4_agreement"] = np.nan
    known = rows.dropna(subset=["nc4_agreement"])
    r = np.corrcoef(known["nc4_agreement"], known["val_loss"])[0, 1]
    said = words_of(charts.figure_1(rows).svg)
    assert f"R² = {r**2:.3f}, n = {len(known)}" in said
    assert any(words.startswith(f"r = {r:.3f}".replace("-", "−")) for words in said)


def test_a_name_keeps_away_from_the_legend_of_the_free_scatter():
    few = RESULTS.head(5)
    svg = charts.free_scatter(few).svg
    for place, side in ((few["nc1_cdnv"].idxmin(), "start"), (few["nc1_cdnv"].idxmax(), "end")):
        anchors = re.findall(rf'text-anchor="(\w+)"[^>]*>{few.loc[place, "model"]}<', svg)
        assert side in anchors


def test_train_losses_are_dashed_beside_the_validation_losses_where_they_are_known():
    known = RESULTS.assign(train_loss=RESULTS["val_loss"] - 1)
    both, some = (
        charts.losses(known),
        charts.losses(known.assign(train_loss=known["train_loss"].where(known.index > 2))),
    )
    for figure in (both, some):
        layers = figure.chart.to_dict()["spec"]["layer"]
        assert [layer["mark"].get("strokeDash") for layer in layers] == [None, [4, 3], None]
        assert layers[1]["encoding"]["y"]["field"] == "train_loss"
        low, high = layers[1]["encoding"]["y"]["scale"]["domain"]
        assert low <= known["train_loss"].min() < known["val_loss"].max() <= high
        assert "Dashed: train loss, the mean over the epoch" in figure.caption
        assert "Dashed: train loss." in figure.signs
    assert ("Not known of all models." in both.caption, "Not known of all models." in some.caption) == (False, True)
    for rows in (RESULTS, known.assign(train_loss=float("nan"))):
        figure = charts.losses(rows)
        assert len(figure.chart.to_dict()["spec"]["layer"]) == 2
        assert "Dashed" not in figure.caption + figure.signs
