"""Charts say which way collapse lies, whether a relation goes that way, what it leans on, and where poles are."""

import json

import altair as alt
import numpy as np
import pandas as pd
import pytest
import vl_convert
from analysis_samples import made_results
from scipy import stats
from test_charts import words_of
from test_null_stages import made_nulls

from lcutils import analysis, charts
from lcutils.analysis.directions import POLE_WORDS
from lcutils.analysis.layers import FINAL
from lcutils.analysis.marked import influential
from lcutils.charts.fit import critical_t
from lcutils.charts.paper import RINGS
from lcutils.charts.strips import strips
from lcutils.charts.theme import Figure, padded, value_axis
from lcutils.report.body import _relation

RESULTS = made_results()


def carried() -> pd.DataFrame:
    """Results in which NC4 has nothing to do with the loss but for three rows, far away from the others."""
    random = np.random.default_rng(1)
    rows = RESULTS.assign(nc4_agreement=random.uniform(0.4, 0.5, len(RESULTS)))
    worst = rows.nlargest(3, "val_loss").index
    rows.loc[worst, "nc4_agreement"] = [0.05, 0.1, 0.0]
    rows.loc[worst, "val_loss"] += [1.0, 3.0, 2.0]
    return rows


def arrows(figure: charts.Figure) -> tuple[int, int]:
    """How many axes of a figure say that collapse lies at their low end, and at their high end."""
    said = " ".join(words_of(figure.svg))
    return said.count("← towards collapse"), said.count("towards collapse →")


def test_axes_say_which_way_collapse_lies():
    assert arrows(charts.figure_1(RESULTS)) == (5, 1)  # all values of the CoVs are positive here
    assert arrows(charts.figure_1(RESULTS.assign(gnc2_log_cov=-RESULTS["gnc2_log_cov"]))) == (4, 2)
    assert arrows(charts.by_width(RESULTS, "nc4_agreement")) == (0, 2)  # an axis for each decay
    assert arrows(charts.trajectories(RESULTS)) == (4, 2)
    assert arrows(charts.overlaid(RESULTS, RESULTS)) == (6, 2)
    assert min(arrows(strips(RESULTS.head(5)))) > 0
    assert arrows(charts.losses(RESULTS)) == (0, 0)


def test_panels_beside_chance_and_through_layers_say_it_too():
    nulls = made_nulls(RESULTS)
    assert min(arrows(charts.beside_nulls(RESULTS, nulls))) > 0
    layers = pd.DataFrame(
        {"model": "04x0256_03d", "checkpoint": 2, "layer": ["0", "1", FINAL], "relative_depth": [0.0, 0.5, 1.0]}
    )
    layers = layers.assign(nc4_agreement=[0.1, 0.2, 0.3], nc1_cdnv=[0.3, 0.2, 0.1])
    assert arrows(charts.by_layer(layers, RESULTS, "nc4_agreement")) == (0, 1)
    assert arrows(charts.by_layer(layers, RESULTS, "nc1_cdnv")) == (1, 0)


@pytest.mark.parametrize(("factor", "words"), [(1, "with collapse"), (-1, "against collapse")])
def test_panels_say_whether_better_models_are_more_collapsed(factor, words):
    rows = RESULTS.assign(nc4_agreement=-factor * RESULTS["val_loss"] / 10 + np.linspace(0.4, 0.5, len(RESULTS)))
    r = np.corrcoef(rows["nc4_agreement"], rows["val_loss"])[0, 1]
    assert f"r = {r:.3f}, {words}".replace("-", "−") in words_of(charts.figure_1(rows).svg)


def test_a_relation_that_chance_could_make_is_unclear():
    random = np.random.default_rng(0)
    rows = RESULTS.assign(nc4_agreement=random.uniform(size=len(RESULTS)))
    r, p = stats.pearsonr(rows["nc4_agreement"], rows["val_loss"])
    assert p > 0.2
    assert f"r = {r:.3f}, unclear".replace("-", "−") in words_of(charts.figure_1(rows).svg)


@pytest.mark.parametrize("df", [3, 4, 6, 10, 38, 228])
def test_the_t_of_the_panels_is_students(df):
    expression = critical_t(str(df)).replace("pow", "np.power")
    assert eval(expression, {"np": np}) == pytest.approx(stats.t.ppf(0.975, df), rel=0.02)


def test_points_that_carry_a_line_have_rings_and_r_without_them():
    rows = carried()
    x, y = rows["nc4_agreement"].to_numpy(), rows["val_loss"].to_numpy()
    marked = influential(x, y)
    assert marked.sum() >= 3
    figure = charts.figure_1(rows)
    without = np.corrcoef(x[~marked], y[~marked])[0, 1]
    assert f"without rings r = {without:.3f}, n = {(~marked).sum()}".replace("-", "−") in words_of(figure.svg)
    assert figure.rows["carries_nc4_agreement"].tolist() == marked.astype(int).tolist()
    assert RINGS in figure.caption
    table = analysis.correlations(rows, trials=99, resamples=99).set_index("measurement")
    assert table.loc["nc4_agreement", ["influential", "r_without"]].tolist() == [marked.sum(), pytest.approx(without)]
    assert f"Without the {marked.sum()} points that the line leans on" in _relation(table.reset_index().query(
        "measurement == 'nc4_agreement'").iloc[0])  # fmt: skip


def test_rings_follow_the_filters():
    spec = json.loads(json.dumps(charts.figure_1(carried()).spec))
    [control] = [param for param in spec["params"] if param["name"] == "depth_is"]
    control["value"] = 4
    rows = carried().query("depth == 4")
    marked = charts.figure_1(carried()).rows.loc[rows.index, "carries_nc4_agreement"] == 1
    kept = rows[~marked.to_numpy()]
    r = np.corrcoef(kept["nc4_agreement"], kept["val_loss"])[0, 1]
    said = words_of(vl_convert.vegalite_to_svg(json.dumps(spec)))
    assert f"without rings r = {r:.3f}, n = {len(kept)}".replace("-", "−") in said


def test_a_table_without_such_points_has_no_ring():
    logs = {key: analysis.MEASUREMENTS[key].log for key in charts.FIGURE_1}
    loss = RESULTS["val_loss"]
    rows = RESULTS.assign(**{key: np.exp(loss) if log else loss / 10 for key, log in logs.items()})  # all on a line
    figure = charts.figure_1(rows)
    assert "without rings" not in figure.svg
    assert "ring" not in figure.caption
    assert not [column for column in figure.rows if column.startswith("carries")]


def test_a_pole_is_explained_where_it_is_drawn():
    rows = RESULTS.copy()
    rows["gnc2_log_uncentred_cov"] = np.where(np.arange(len(rows)) % 2, -3.0, 4.0) + rows["val_loss"]
    for figure in (charts.figure_1(rows), charts.figure_2(rows), charts.by_width(rows, "gnc2_log_uncentred_cov"),
                   charts.trajectories(rows), charts.overlaid(rows, rows), strips(rows)):  # fmt: skip
        assert POLE_WORDS in figure.caption
    assert words_of(charts.figure_1(rows).svg).count("near its pole: the mean crosses 0") == 1
    assert "towards collapse: 0" in charts.figure_1(rows).svg
    for figure in (charts.figure_1(RESULTS), charts.by_width(rows, "gnc2_log_uncentred_std"), charts.figure_3(rows)):
        assert "pole" not in figure.caption


def test_figure_1_has_a_scale_free_nc1_beside_the_papers():
    kinds = [analysis.MEASUREMENTS[key].scale for key in charts.FIGURE_1 if key.startswith("nc1")]
    assert kinds == ["power", "free"]


def test_the_correlations_say_their_sign():
    table = analysis.correlations(RESULTS, trials=99, resamples=99)
    figure = charts.correlations_chart(
        table, analysis.partial_correlations(RESULTS), analysis.within_architecture(RESULTS)
    )
    said = words_of(figure.svg)
    for row in table.itertuples():
        assert f"{row.r:+.2f} {row.collapse}".strip().replace("-", "−") in said
    assert (table["collapse"] == "with").any()


@pytest.mark.parametrize("way", ["with", "against", "unclear", ""])
def test_a_relation_in_words_says_its_direction_and_the_smallest_p(way):
    row = analysis.correlations(RESULTS, trials=99, resamples=99).query("measurement == 'nc1_cdnv'").iloc[0].copy()
    row["collapse_log"], row["influential_log"], row["p_holm"] = way, 0, 0.2
    assert "or their features only larger" not in _relation(row)  # the p that it prints leaves that open
    row["p_holm"] = 0.01
    said = _relation(row)
    assert ("or their features only larger" in said) == (way == "with")  # CDNV falls when features grow
    assert f"r = {row['r_log']:.3f} on a log scale" in said
    assert "the smallest p that the test can find is 0.01" in said
    row[["r2_low", "r2_high"]] = np.nan
    assert "too few points for an interval" in _relation(row)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("middle", [3.0, -2.0, 0.0, 1e-12, 5e9])
def test_values_that_differ_by_rounding_have_an_axis_that_can_be_drawn(log, middle):
    values = pd.Series([middle, middle * (1 + 1e-15), middle * (1 - 1e-15)])
    if log and middle <= 0:
        return
    low, high = padded(values, log)
    assert low < middle < high
    assert high - low >= 0.09 * abs(middle)
    y = alt.Y("y:Q", **value_axis("y", [low, high], log))
    figure = Figure("x", "x", chart=alt.Chart(pd.DataFrame({"y": values})).mark_point().encode(y=y))
    assert len(figure.png()) < 50_000
