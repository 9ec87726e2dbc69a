"""Charts: what they say is what the numbers are; they stay valid, small and readable; odd tables give a sentence."""

from __future__ import annotations

import copy
import io
import json
import math
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable

import nbformat
import numpy as np
import pandas as pd
import pytest
import vl_convert
from analysis_samples import made_results, made_sensitivity, made_tokens
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lcutils import analysis, charts
from lcutils.charts.theme import DARK, JUPYTER_MIMETYPE, ROW_LIMIT, padded, sample_rows, slim
from lcutils.drawing import NO_PICTURES, VEGALITE_VERSION
from lcutils.errors import UserError
from lcutils.parameters import ROOT

RESULTS = made_results()
JUPYTERLAB_VEGALITE = "5.8"  # the oldest that vl-convert has; JupyterLab 4.6 brings 5.6


def correlations_of(results: pd.DataFrame) -> charts.Figure:
    tables = (analysis.correlations(results, trials=99, resamples=99), analysis.partial_correlations(results))
    return charts.correlations_chart(*tables, analysis.within_architecture(results))


FIGURES: dict[str, Callable[[pd.DataFrame], charts.Figure]] = {
    "figure_1": charts.figure_1,
    "figure_2": charts.figure_2,
    "figure_3": charts.figure_3,
    "against_loss": charts.against_loss,
    "seeds": charts.seeds_scatter,
    "losses": charts.losses,
    "by_width": lambda results: charts.by_width(results, "nc1_cdnv"),
    "by_width_limits": lambda results: charts.by_width(results, "gnc2_log_mean"),
    "trajectories": charts.trajectories,
    "sensitivity": lambda results: charts.sensitivity(made_sensitivity(RESULTS), results),
    "overlaid": lambda results: charts.overlaid(results, RESULTS),
    "beside_published": lambda results: charts.beside_published(results, RESULTS),
    "correlations": correlations_of,
    "free_scatter": charts.free_scatter,
    "token_kinds": lambda results: charts.token_kinds(made_tokens()),
    "token_explorer": lambda results: charts.token_explorer(made_tokens()),
}

FEW = [*RESULTS.columns[:14], "nc1_cdnv", "gnc2_log_cov", "nc3_cosine_mean", "nc4_agreement"]
NAN_ROWS = RESULTS[FEW].copy()
NAN_ROWS.loc[::2, ["nc1_cdnv", "nc4_agreement"]] = np.nan
NAN_ROWS.loc[1::2, "val_loss"] = np.nan
ODD = {
    "one row": RESULTS[FEW].head(1),
    "two rows": RESULTS[FEW].head(2),
    "no rows": RESULTS[FEW].head(0),
    "no seeds": RESULTS[FEW][~RESULTS["model"].str.match(r".*\d\d$")].drop(columns="seed"),
    "no measurements": RESULTS[RESULTS.columns[:14]],
    "no loss": RESULTS[FEW].drop(columns="val_loss"),
    "models only": RESULTS[["model", "val_loss"]],
    "nan rows": NAN_ROWS,
    "all nan": RESULTS[FEW].assign(nc1_cdnv=np.nan, gnc2_log_cov=np.nan, nc3_cosine_mean=np.nan, nc4_agreement=np.nan),
    "infinite": RESULTS[FEW].assign(nc1_cdnv=np.inf, gnc2_log_cov=-np.inf),
    "one architecture": RESULTS[FEW][(RESULTS["depth"] == 2) & (RESULTS["width"] == 128)],
    "constant measurement": RESULTS[FEW].assign(nc1_cdnv=0.5, nc4_agreement=0.0),
}


def words_of(svg: str) -> list[str]:
    return ["".join(node.itertext()) for node in ET.fromstring(svg).iter() if node.tag.endswith("}text")]


def places_of(svg: str) -> tuple[list[tuple[float, float]], dict[str, float]]:
    """Absolute places of the points, and of the words across."""
    points, words = [], {}

    def walk(node: ET.Element, x: float, y: float, symbols: bool) -> None:
        moved = re.search(r"translate\(([-\d.e]+),\s*([-\d.e]+)\)", node.get("transform", ""))
        if moved:
            x, y = x + float(moved[1]), y + float(moved[2])
        symbols = symbols or "mark-symbol role-mark" in node.get("class", "")
        if node.tag.endswith("}path") and symbols:
            points.append((x, y))
        if node.tag.endswith("}text"):
            words["".join(node.itertext())] = x
        for child in node:
            walk(child, x, y, symbols)

    walk(ET.fromstring(svg), 0.0, 0.0, False)
    return points, words


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_valid_and_drawn_by_both_versions_of_vega_lite(name):
    figure = FIGURES[name](RESULTS)
    assert figure.missing == ""
    figure.chart.to_dict(validate=True)
    text = json.dumps(figure.spec, allow_nan=False)
    for version in (VEGALITE_VERSION, JUPYTERLAB_VEGALITE):
        vl_convert.vegalite_to_vega(text, vl_version=version)
    assert figure.title in words_of(figure.svg)
    assert "NaN" not in figure.svg


@pytest.mark.parametrize("case", ODD)
def test_an_odd_table_gives_a_figure_or_a_plain_sentence(case):
    for name, make in FIGURES.items():
        if name in ("token_kinds", "token_explorer"):
            continue
        figure = make(ODD[case])
        if figure.chart is None:
            assert re.fullmatch(r"[A-Z].*\.", figure.missing), (name, figure.missing)
        else:
            json.dumps(figure.spec, allow_nan=False)
            assert figure.title in words_of(figure.svg), name
            assert "NaN" not in figure.svg, name
            assert "Infinity" not in figure.svg, name


@pytest.mark.parametrize(
    "tokens", [None, made_tokens().head(0), made_tokens().head(1), made_tokens()[["token_id", "text"]]]
)
def test_odd_token_tables_give_a_figure_or_a_plain_sentence(tokens):
    for figure in (charts.token_kinds(tokens), charts.token_explorer(tokens)):
        assert figure.chart is not None or figure.missing.endswith(".")


def test_the_r2_drawn_is_the_r2_of_the_scale_drawn():
    rows = RESULTS.copy()
    rows.loc[3, "nc1_cdnv"] = np.nan
    kept = rows["nc1_cdnv"].notna()
    loss = rows["val_loss"]
    logs = np.corrcoef(np.log(rows["nc1_cdnv"][kept]), loss[kept])[0, 1] ** 2
    plain = np.corrcoef(rows["nc1_cdnv"][kept], loss[kept])[0, 1] ** 2
    agreement = np.corrcoef(rows["nc4_agreement"], loss)[0, 1] ** 2
    said = words_of(charts.figure_1(rows).svg)
    assert f"R² = {logs:.3f} (log x), n = {kept.sum()}" in said
    assert f"{plain:.3f} (linear x)" in said
    assert f"R² = {agreement:.3f}, n = {len(rows)}" in said


def test_filters_change_the_r2():
    """A filter set to one depth gives the R² of those rows: what is computed in the browser, computed here by hand."""
    spec = json.loads(json.dumps(charts.figure_1(RESULTS).spec))
    [control] = [param for param in spec["params"] if param["name"] == "depth_is"]
    assert control["bind"]["options"] == ["all", 1, 2, 4]
    control["value"] = 2
    kept = RESULTS[RESULTS["depth"] == 2]
    r2 = np.corrcoef(kept["nc4_agreement"], kept["val_loss"])[0, 1] ** 2
    assert f"R² = {r2:.3f}, n = {len(kept)}" in words_of(
        vl_convert.vegalite_to_svg(json.dumps(spec), vl_version=VEGALITE_VERSION)
    )


def test_two_points_have_no_r2():
    figure = charts.figure_1(ODD["two rows"])
    assert not [word for word in [*words_of(figure.svg), figure.caption] if "R²" in word]
    assert {"01x0064_03d@0", "01x0064_03d@2"} <= set(words_of(figure.svg))  # few points bear their names


def test_a_panel_that_cannot_be_drawn_is_named():
    figure = charts.figure_1(RESULTS.drop(columns="nc4_agreement"))
    assert "Not in this table, so not drawn: classifier agreement." in figure.caption


def test_panels_share_selection_and_filters():
    spec = charts.figure_1(RESULTS).spec
    [picked] = [param for param in spec["params"] if param["name"] == "picked"]
    assert picked["select"]["fields"] == ["model"]
    assert len(spec["concat"]) == 6
    for panel in spec["concat"]:
        assert any(layer.get("name") in picked["views"] for layer in panel["layer"])
    assert {p["name"] for p in spec["params"]} == {"picked", "depth_is", "width_is", "weight_decay_is", "model_like"}


def test_a_grid_with_holes_keeps_each_point_under_its_heading():
    """Vega-Lite misplaces facets that are sorted by a list where a cell is empty; columns must still go by epochs."""
    rows = RESULTS.head(3).assign(
        depth=1, width=64, epochs=[1, 3, 10], checkpoint=[0, 2, 9], weight_decay=[0.1, 5e-4, 0.1], nc1_cdnv=0.5
    )
    rows = pd.concat([rows] * 3, ignore_index=True)  # three models are no grid
    points, words = places_of(charts.by_width(rows, "nc1_cdnv").svg)
    headings = sorted(["1 epoch", "3 epochs", "10 epochs"], key=lambda word: words[word])
    assert headings == ["1 epoch", "3 epochs", "10 epochs"]
    (upper,) = {min(y for _, y in points)}
    # 5e-4 is the upper row: the one point of 3 epochs is in it, between the columns of the other two.
    assert [y == upper for _, y in sorted(set(points))] == [False, True, False]


def limits_drawn(figure: charts.Figure) -> dict[str, float]:
    """The limits of theory in a figure of panels: "uniform sphere, width 64" -> its value."""
    tables = [table for name, table in figure.spec["datasets"].items() if name != "rows"]
    return {row["words"]: row["value"] for table in tables for row in table}


def test_theory_is_drawn_at_its_value():
    rows = RESULTS.assign(gnc2_log_mean=np.linspace(-0.36, -0.30, len(RESULTS)))
    limits = limits_drawn(charts.against_loss(rows[[*RESULTS.columns[:14], "gnc2_log_mean"]]))
    # -ln 2 - (psi((D-1)/2) - psi(D-1))/2 at D = 64, from science.md
    assert limits["uniform sphere, width 64"] == pytest.approx(-0.3426, abs=1e-4)


def test_theory_of_the_riesz_kernel_follows_its_exponent():
    rows = RESULTS.assign(gnc2_riesz_mean=np.linspace(0.45, 0.75, len(RESULTS)))
    rows = rows[[*RESULTS.columns[:14], "gnc2_riesz_mean"]]
    key = "uniform sphere, width 64"
    assert limits_drawn(charts.against_loss(rows, riesz_s=1.0))[key] == pytest.approx(0.7114, abs=1e-4)
    assert limits_drawn(charts.against_loss(rows, riesz_s=2.0))[key] == pytest.approx(0.5082, abs=1e-4)
    assert limits_drawn(charts.against_loss(rows)) == {}  # the exponent is not known
    for exponent, drawn in ((2.0, True), (None, False)):
        assert ("limit of theory (sphere)" in charts.by_width(rows, "gnc2_riesz_mean", exponent).caption) == drawn


def test_limits_that_are_infinite_or_of_a_simplex_that_cannot_be_are_not_drawn():
    rows = RESULTS.assign(gnc2_riesz_std=np.linspace(0.0, 0.1, len(RESULTS)))
    rows = rows[[*RESULTS.columns[:14], "gnc2_riesz_std"]]
    figures = charts.against_loss(rows, riesz_s=62.0), charts.by_width(rows, "gnc2_riesz_std", 62.0)
    for figure in figures:  # 900 classes in 64 to 256 dimensions
        json.dumps(figure.spec, allow_nan=False)
    assert not [words for words in limits_drawn(figures[0]) if "simplex" in words or "width 64" in words]


def test_what_spans_decades_is_set_beside_the_published_on_log_axes():
    """CDNV and perplexity do; a value that is not positive has no logarithm, so its axes are plain."""

    def logs(rows: pd.DataFrame) -> int:
        panels = charts.beside_published(rows, RESULTS).spec["concat"]
        kinds = [panel["layer"][0]["encoding"][c]["scale"]["type"] for panel in panels for c in ("x", "y")]
        return kinds.count("log")

    rows = RESULTS[[*RESULTS.columns[:14], "nc1_cdnv", "gnc2_log_cov"]]
    assert logs(rows) == 4
    assert logs(rows.assign(nc1_cdnv=[0.0, *rows["nc1_cdnv"][1:]])) == 2


def test_shares_of_kinds_say_what_they_are_of():
    tokens = made_tokens(300)
    figure = charts.token_kinds(tokens)
    words = words_of(figure.svg)
    assert "shares of these tokens and of the data" in words
    lowercase = analysis.kind_shares(tokens)["token_share"][0]
    assert f"tokens {lowercase:.1%}" in words
    assert not any("vocabulary" in word for word in words)
    assert "of the tokens that occur in the training text and were measured, not of the whole" in figure.caption


def test_a_large_vocabulary_is_sampled_and_says_so():
    tokens = made_tokens(29_233)
    kinds, explorer = charts.token_kinds(tokens), charts.token_explorer(tokens)
    assert len(kinds.rows) == ROW_LIMIT
    assert len(explorer.rows) == len(tokens)  # each is found by a search
    assert explorer.rows["drawn"].sum() == ROW_LIMIT
    for figure in (kinds, explorer):
        assert "29,233 tokens" in figure.caption


def explorer_words(tokens: pd.DataFrame, **values: str) -> list[str]:
    """The words in the explorer's picture after a reader has set its fields."""
    spec = charts.token_explorer(tokens).spec
    params = [param | ({"value": values[param["name"]]} if param["name"] in values else {}) for param in spec["params"]]
    return words_of(vl_convert.vegalite_to_svg(json.dumps(spec | {"params": params}), vl_version=VEGALITE_VERSION))


def test_the_explorer_finds_a_token_and_its_nearest_means():
    tokens = made_tokens(100)
    words = explorer_words(tokens, token="tim")
    around = ["␣Tim", *tokens["text"].str.replace(" ", "␣")[tokens.loc[1, "nearest_ids"]]]
    start = words.index("␣Tim", words.index("total"))  # after the chosen token's name among the points
    assert words[start : start + 6] == around
    assert "of 100 tokens, drawn: 100, found: 1" in words
    nobody = explorer_words(tokens, token="no such token")
    assert "of 100 tokens, drawn: 100, found: 0" in nobody
    cut = tokens.head(7).assign(nearest_ids=[[6, 93]] * 7)
    assert "id 93" in explorer_words(cut)  # a token that the table does not hold


def test_the_explorer_draws_tokens_that_both_axes_can_show():
    tokens = made_tokens(100)
    words = explorer_words(tokens, across="variance", up="agreement")
    able = (tokens["variance"] > 0) & tokens["agreement"].notna()
    assert f"of 100 tokens, drawn: {able.sum()}, found: 100" in words
    assert {"within-class variance (squared feature units), log scale"} <= set(words)


@given(st.integers(1, 60), st.integers(2, 40), st.integers(0, 5))
def test_a_sample_keeps_the_most_frequent(rows, limit, seed):
    table = pd.DataFrame({"token_id": range(rows), "count": np.random.default_rng(seed).integers(0, 9, rows)})
    kept, notice = sample_rows(table, limit)
    assert len(kept) == min(rows, limit)
    assert kept["token_id"].is_unique
    assert (notice == "") == (rows <= limit)
    top = table["count"].nlargest(min(rows, limit // 2)).to_numpy()
    assert (np.sort(kept["count"].to_numpy())[::-1][: len(top)] >= top).all()


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20), st.booleans())
def test_the_axis_holds_every_point(values, log):
    low, high = padded(pd.Series(values), log)
    assert low < min(values)
    assert high > max(values)


def test_the_axis_takes_in_a_limit_that_is_near_only():
    values = pd.Series([1.0, 2.0])
    assert padded(values, False, [2.4])[1] > 2.4
    assert padded(values, False, [20.0])[1] < 2.5


def test_numbers_keep_seven_digits_and_no_more():
    table = slim(pd.DataFrame({"a": [1 / 3, np.nan], "b": [1, 2], "c": ["x", "y"]}), ["b", "a", "absent"])
    assert table.columns.tolist() == ["b", "a"]
    assert table["a"][0] == 0.3333333


def test_a_notebook_output_is_valid_and_live_in_jupyterlab(monkeypatch):
    bundle = charts.figure_3(RESULTS)._repr_mimebundle_()
    output = nbformat.v4.new_output("display_data", data=bundle)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=[output])])
    nbformat.validate(nbformat.reads(nbformat.writes(notebook), 4))
    assert bundle["application/vnd.vegalite.v5+json"]["$schema"].endswith("/v5.json")
    assert bundle["image/png"].startswith("iVBOR")
    monkeypatch.setenv(NO_PICTURES, "1")
    assert charts.figure_3(RESULTS)._repr_mimebundle_().keys() == bundle.keys() - {"image/png"}
    missing = charts.figure_3(ODD["no measurements"])._repr_mimebundle_()
    assert set(missing) == {"text/markdown", "text/plain"}


def pixels_of(png: bytes) -> np.ndarray:
    """(height, width, 3) RGB."""
    return np.array(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


@pytest.mark.parametrize("make", [charts.figure_1, charts.trajectories, lambda rows: charts.by_width(rows, "nc1_cdnv")])
def test_pictures_are_small_and_those_of_few_colours_look_the_same(make):
    figure = make(RESULTS)
    original = vl_convert.svg_to_png(figure.svg, scale=1.0)
    exact, few = figure.png(), figure.png(colours=256)
    assert (pixels_of(exact) == pixels_of(original)).all()
    assert len(few) < len(exact) / 2 < len(original) / 4
    difference = np.abs(pixels_of(few) - pixels_of(original)).max(axis=-1)
    assert (difference == 0).mean() > 0.9
    assert difference.max() < 64
    assert (difference > 24).mean() < 1e-3


def test_words_are_light_on_a_dark_ground():
    svg = vl_convert.vegalite_to_svg(
        json.dumps(charts.figure_3(RESULTS).spec), vl_version=VEGALITE_VERSION, config=DARK
    )
    [fill] = {
        node.get("fill")
        for node in ET.fromstring(svg).iter()
        if "".join(node.itertext()).startswith("R² = ") and node.get("fill")
    }
    assert fill == "#e8eaed"


@pytest.mark.parametrize("name", ["figure_1", "against_loss", "losses", "trajectories", "overlaid", "free_scatter"])
def test_figures_fit_a_cell_and_the_readme(name):
    """At 880 pixels, the width of a code host's page, no word is below 9 pixels; a cell in JupyterLab has 840."""
    svg = FIGURES[name](RESULTS).svg
    wide = float(ET.fromstring(svg).get("width", "0"))
    assert wide <= 840
    sizes = [float(size) for size in re.findall(r'font-size="([\d.]+)px"', svg)]
    assert sizes
    assert min(sizes) * min(1, 880 / wide) >= 9


def test_a_chart_in_jupyterlab_takes_the_colour_of_its_cell():
    """Nothing of it is white or black: it follows a theme that is changed after it was drawn."""
    live = charts.figure_1(RESULTS)._repr_mimebundle_()[JUPYTER_MIMETYPE]
    assert live["usermeta"]["embedOptions"]["renderer"] == "svg"
    assert live["config"]["background"] == "transparent"
    assert live["config"]["axis"]["labelFontSize"] == charts.figure_1(RESULTS).spec["config"]["axis"]["labelFontSize"]
    svg = vl_convert.vegalite_to_svg(json.dumps(live), vl_version=VEGALITE_VERSION)
    fills = {node.get("fill") for node in ET.fromstring(svg).iter() if node.tag.endswith("}text")}
    assert fills == {"currentColor"}


def test_two_runs_write_the_same_bytes():
    """A notebook that is run again in a new kernel must not differ: other seeds of hashes, other numbers of params."""
    code = (
        "import json, sys; sys.path.insert(0, 'tests')\n"
        "from analysis_samples import made_results, made_tokens\n"
        "from lcutils import charts\n"
        "rows = made_results()\n"
        "made = charts.figure_1(rows), charts.trajectories(rows), charts.token_explorer(made_tokens()), "
        "charts.losses(rows)\n"
        "print(json.dumps([figure._repr_mimebundle_() for figure in made]))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]


def test_the_free_scatter_draws_what_is_chosen():
    rows = RESULTS.assign(nc4_agreement=[math.nan, *RESULTS["nc4_agreement"][1:]])
    chosen = charts.free_scatter(rows, x="width", y="nc4_agreement", colour="schedule", size="depth")
    words = words_of(chosen.svg)
    assert "colour: schedule; size: depth" in words
    assert "width, log scale" not in words
    assert f"n = {len(RESULTS) - 1}" in words
    assert "3 epochs" in words
    assert {param["name"] for param in chosen.spec["params"]} >= {"x", "y", "colour", "size", "log_x", "log_y"}
    assert "colour: none; size: none" in words_of(charts.free_scatter(rows, colour="none").svg)


@pytest.mark.parametrize("channel", ["x", "y", "colour", "size"])
def test_the_free_scatter_names_a_wrong_column(channel):
    with pytest.raises(UserError, match=f"^{channel}=nc1_cdn: .* did you mean nc1_cdnv"):
        charts.free_scatter(RESULTS, **{channel: "nc1_cdn"})


@pytest.mark.parametrize("make", [charts.figure_1, charts.trajectories, lambda rows: charts.overlaid(rows, RESULTS)])
def test_a_picked_model_that_the_filters_hide_is_said(make):
    spec = copy.deepcopy(make(RESULTS).spec)
    model = RESULTS[RESULTS["depth"] == RESULTS["depth"].max()]["model"].iloc[0]
    for depth, said in (("all", False), (int(RESULTS["depth"].min()), True)):
        for param in spec["params"]:
            if param["name"] == "picked":
                param["value"] = [{"model": model}]
            if param["name"] == "depth_is":
                param["value"] = depth
        svg = vl_convert.vegalite_to_svg(json.dumps(spec), vl_version=VEGALITE_VERSION)
        assert (f"{model}is picked; the filters hide it" in words_of(svg)) == said


def test_colours_and_lines_are_explained_in_the_picture():
    words = " ".join(words_of(charts.figure_1(RESULTS).svg))
    assert "Dashed grey line: least squares." in words
    spread = RESULTS.assign(gnc2_log_mean=np.linspace(-0.36, -0.30, len(RESULTS)))
    limits = charts.against_loss(spread[[*RESULTS.columns[:14], "gnc2_log_mean"]])
    assert "Orange dashes: a limit of theory." in limits.signs
    assert "parameters" in words_of(charts.trajectories(RESULTS).svg)
    assert "theory" not in charts.figure_1(RESULTS[[*RESULTS.columns[:14], "nc4_agreement"]]).signs
    assert "␣ is a space" in charts.token_kinds(made_tokens()).caption


def test_few_points_of_a_grid_bear_their_names():
    rows = RESULTS[FEW].drop_duplicates("model", keep="last")
    named = words_of(charts.figure_1(rows.head(9)).svg)
    assert {*rows["model"].head(9)} <= {*named}
    assert not {*rows["model"]} & {*words_of(charts.figure_1(rows.head(13)).svg)}
