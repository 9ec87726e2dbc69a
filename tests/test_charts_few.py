"""Charts of few models: names that do not cover one another, limits where theory has them, revisions on real steps."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
import vl_convert
from analysis_samples import CLASSES, made_models, made_results, made_sensitivity, made_tokens
from hypothesis import given
from hypothesis import strategies as st
from test_charts import places_of, words_of

from lcutils import analysis, charts
from lcutils.charts.names import LINE, placed_names
from lcutils.charts.theme import PANEL, padded
from lcutils.drawing import VEGALITE_VERSION

GRID_RESULTS = made_results()
LONG = "EleutherAI-pythia-410m-deduped-of-some-day"
MODELS = made_models(
    **{
        LONG: {"family": "gpt_neox", "revisions": [("step20", 20), ("step100", 100), ("step3000", 3000)]},
        "llama": {},
        "llama-fine-tuned-on-recipes": {"base": "llama"},
        "名前のあるモデル🙂": {"family": "qwen2", "width": 256},
    }
)
PUBLISHED = GRID_RESULTS.drop(columns="nc1_pinv")
JUPYTERLAB_VEGALITE = "5.8"


def moved_figure() -> charts.Figure:
    base = made_tokens(200)
    tuned = base.assign(cdnv=base["cdnv"] * np.exp(np.random.default_rng(0).normal(size=len(base))))
    return charts.moved_tokens(analysis.moved_tokens(MODELS, {"llama@0": base, f"{MODELS['model'][4]}@0": tuned}))


FIGURES = {
    "strips": lambda: charts.strips(MODELS, PUBLISHED, riesz_s=1.0),
    "against_loss": lambda: charts.against_loss(MODELS),
    "figure_1": lambda: charts.figure_1(MODELS),
    "trajectories": lambda: charts.trajectories(MODELS),
    "overlaid": lambda: charts.overlaid(MODELS, PUBLISHED),
    "moved_tokens": moved_figure,
    "sensitivity": lambda: charts.sensitivity(made_sensitivity(MODELS), MODELS),
    "mixed figure_1": lambda: charts.figure_1(mixed()),
    "mixed by_width": lambda: charts.by_width(mixed(), "nc1_cdnv"),
    "mixed trajectories": lambda: charts.trajectories(mixed()),
}


def mixed() -> pd.DataFrame:
    """A grid of more than eight points, with pretrained models of the same depths and widths beside it."""
    return pd.concat([GRID_RESULTS, MODELS], ignore_index=True)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_of_few_models_is_valid_and_drawn_by_both_versions_of_vega_lite(name):
    figure = FIGURES[name]()
    assert figure.missing == ""
    figure.chart.to_dict(validate=True)
    text = json.dumps(figure.spec, allow_nan=False)
    for version in (VEGALITE_VERSION, JUPYTERLAB_VEGALITE):
        vl_convert.vegalite_to_vega(text, vl_version=version)
    said = words_of(figure.svg)
    assert figure.title in said
    assert "NaN" not in figure.svg
    if "mixed" not in name:
        assert "R²" not in figure.svg + figure.caption


def data_of(figure: charts.Figure) -> pd.DataFrame:
    """All rows that a specification carries inline, one under another."""
    tables = [pd.DataFrame(rows) for name, rows in figure.spec["datasets"].items() if name != "rows"]
    return pd.concat(tables, ignore_index=True)


# ------------------------------------------------------------------------------------------------------------- strips


def test_a_strip_has_each_model_its_number_and_its_limits():
    one = made_models(a={"nc3_cosine_mean": 0.25})
    figure = charts.strips(one[[*one.columns[:14], "nc3_cosine_mean", "nc2_cosine_mean", "nc2_cosine_std"]])
    data = data_of(figure)
    assert {"0.25", "a"} <= set(words_of(figure.svg))
    limits = data.dropna(subset="limit")
    assert 1.0 in limits[limits["limit"] == "collapse"]["value"].tolist()
    assert pytest.approx(limits["value"].min(), rel=1e-5) == -1 / (CLASSES - 1)
    assert pytest.approx(limits[limits["limit"] == "uniform sphere"]["value"].max()) == 128**-0.5


def test_a_log_strip_names_the_limit_that_it_cannot_show():
    figure = charts.strips(made_models(a={}))
    assert "collapse at 0 (off this axis)" in words_of(figure.svg)
    assert "collapse at −∞ (off this axis)" in words_of(figure.svg)


def test_published_points_and_nulls_stand_on_the_strips():
    nulls = pd.DataFrame({"model": ["llama"], "checkpoint": [0], "measurement": ["nc4_agreement"], "value": [0.0123]})
    figure = charts.strips(MODELS, PUBLISHED, nulls)
    data = data_of(figure)
    assert data[data["line"] == "published"]["nc4_agreement"].notna().sum() == len(PUBLISHED)
    assert data[data["line"] == "published"].get("nc1_pinv", pd.Series(dtype=float)).notna().sum() == 0
    assert 0.0123 in data[data["line"] == "llama"]["value"].tolist()
    assert "published" not in words_of(charts.strips(MODELS).svg)


def test_models_of_several_tokenizers_have_a_strip_of_the_loss_per_character():
    rows = MODELS.assign(val_loss_per_character=MODELS["val_loss"] / np.arange(3, 9))
    words = words_of(charts.strips(rows).svg)
    assert "validationloss(natspercharacter)" in {word.replace(" ", "") for word in words}  # broken into lines
    assert "validation loss (nats per token)" not in words
    assert "validation loss (nats per character)" in words_of(charts.against_loss(rows).svg)


def test_no_name_of_a_strip_is_cut_by_the_frame():
    left, width = drawn_frame(charts.strips(MODELS).svg)
    assert left > 0
    assert width > 0


def test_strips_of_long_names_fit_into_a_cell_of_jupyterlab():
    long = MODELS.assign(model=MODELS["model"].astype(str).radd("a-rather-long-name-"))
    left, width = drawn_frame(charts.strips(long).svg)
    assert left > 0
    assert width <= 842


def drawn_frame(svg: str) -> tuple[float, float]:
    """The left edge of the leftmost word (letters taken as 5 pixels wide), and the width of the picture."""
    root = ET.fromstring(svg)
    edges: list[float] = []

    def walk(node: ET.Element, x: float) -> None:
        moved = node.get("transform", "")
        if moved.startswith("translate("):
            x += float(moved[10:].split(",")[0].rstrip(")"))
        if node.tag.endswith("}text") and node.get("text-anchor") == "end":
            edges.append(x - 5 * len("".join(node.itertext())))
        for child in node:
            walk(child, x)

    walk(root, 0.0)
    return min(edges), float(root.get("width", "0"))


# -------------------------------------------------------------------------------------------------------------- names


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(1, 20)), min_size=2, max_size=12), st.booleans()
)
def test_names_cover_no_other_name_and_stay_beside_the_panel(points, log):
    table = pd.DataFrame({"x": [10 ** p[0] for p in points], "y": [p[1] for p in points]})
    table["name"] = ["n" * p[2] for p in points]
    domains = padded(table["x"], log), padded(table["y"], False)
    placed = placed_names(table, ("x", "y"), domains, log)
    scale = np.log if log else np.asarray
    low, high = scale(np.array(domains[0]))
    boxes = []
    for row in placed.itertuples():
        at = (scale(row.x) - low) / (high - low) * PANEL
        wide = 5.6 * len(row.name)
        left = at + 7 if row.side == "right" else at - 7 - wide
        assert left >= -1
        assert left + wide <= PANEL + 8
        middle = (domains[1][1] - row.name_y) / (domains[1][1] - domains[1][0]) * PANEL
        boxes.append((left, left + wide, middle))
    for i, (a, b, y) in enumerate(boxes):
        for c, d, z in boxes[:i]:
            assert b <= c or d <= a or abs(y - z) >= LINE - 1e-6


def test_points_of_few_models_bear_their_names():
    words = words_of(charts.figure_1(MODELS).svg)
    assert "llama" in words
    assert any(word.endswith("step3000") for word in words)
    many = made_models(**{f"model-{i}": {} for i in range(13)})
    figure = charts.figure_1(many)
    assert "model-1" not in words_of(figure.svg)
    assert f"n = {len(many)}" in " ".join(words_of(figure.svg))  # of eight and more, R² is given
    assert "R²" not in charts.figure_1(many.head(7)).svg


def test_one_point_is_no_figure():
    one = made_models(a={})
    for figure in (charts.figure_1(one), charts.against_loss(one), charts.trajectories(one), charts.losses(one)):
        assert figure.chart is None
        assert figure.missing.endswith(".")
    assert charts.beside_published(one.assign(checkpoint=0), one).chart is None


# ------------------------------------------------------------------------------------------------------ along training


def axis_of_training(results: pd.DataFrame) -> dict:
    return charts.trajectories(results).spec["concat"][0]["layer"][0]["encoding"]["x"]


def test_revisions_stand_on_their_real_steps():
    x = axis_of_training(MODELS)
    assert (x["field"], x["scale"]["type"], x["title"]) == ("steps", "log", "training steps (log scale)")
    places, _ = places_of(charts.trajectories(MODELS[["model", "family", "checkpoint", "steps", "revision", "val_loss",
                                                      "nc4_agreement"]]).svg)  # fmt: skip
    across = sorted({round(x) for x, _ in places})[:3]
    assert (across[1] - across[0]) / (across[2] - across[1]) == pytest.approx(np.log(5) / np.log(30), rel=0.1)


def test_steps_that_span_little_have_a_linear_axis_and_tokens_come_first():
    rows = made_models(a={"revisions": [("s1", 100), ("s2", 200), ("s3", 300)]})
    assert axis_of_training(rows)["scale"]["type"] == "linear"
    tokens = axis_of_training(rows.assign(tokens_seen=[1e6, 1e8, 2e9]))
    assert (tokens["field"], tokens["scale"]["type"]) == ("tokens_seen", "log")
    numbered = axis_of_training(rows.assign(steps=None))
    assert (numbered["field"], numbered["title"]) == ("checkpoint", "checkpoint")
    zero = axis_of_training(rows.assign(steps=[0, 1, 143_000]))
    assert (zero["scale"]["type"], zero["axis"]["values"][:3]) == ("symlog", [0, 1, 10])


def test_a_line_goes_from_step_to_step():
    """20, 100, 3000: as texts 100 would come first."""
    svg = ET.fromstring(charts.trajectories(MODELS).svg)
    groups = [group for group in svg.iter() if group.get("class", "").startswith("mark-line role-mark")]
    lines = [path.get("d") for group in groups for path in group if "L" in path.get("d", "")]
    assert lines
    for line in lines:
        across = [float(point.split(",")[0]) for point in line.lstrip("M").split("L")]
        assert across == sorted(across)


def test_a_tooltip_names_the_revision():
    points = charts.trajectories(MODELS).spec["concat"][0]["layer"][1]
    assert "revision" in [tip["field"] for tip in points["encoding"]["tooltip"]]


# ------------------------------------------------------------------------------------------------------------ families


def test_families_of_one_depth_have_lines_of_their_own():
    others = GRID_RESULTS.assign(family="llama", model="l" + GRID_RESULTS["model"])
    others = others[others["checkpoint"] == 2].drop_duplicates(["depth", "width"])
    figure = charts.by_width(pd.concat([GRID_RESULTS, others], ignore_index=True), "nc1_cdnv")
    lines = figure.spec["spec"]["layer"][0]
    assert lines["encoding"]["detail"]["field"] == "family"
    assert "pretrained" in figure.svg
    assert "Each family has lines" in figure.caption
    alone = charts.by_width(GRID_RESULTS, "nc1_cdnv")
    assert "detail" not in alone.spec["spec"]["layer"][0]["encoding"]


def test_families_have_shapes_and_a_filter():
    spec = charts.figure_1(mixed()).spec
    assert "family_is" in [param["name"] for param in spec["params"]]
    assert "shape" in json.dumps(spec["concat"][0])
    assert "shape" not in json.dumps(charts.figure_1(GRID_RESULTS).spec["concat"][0])


def test_the_tokens_that_moved_are_drawn_by_their_factor():
    figure = moved_figure()
    base = made_tokens(200)
    tuned = base.assign(cdnv=base["cdnv"] * np.exp(np.random.default_rng(0).normal(size=len(base))))
    table = analysis.moved_tokens(MODELS, {"llama@0": base, f"{MODELS['model'][4]}@0": tuned})
    assert data_of(figure).dropna(subset="factor")["factor"].tolist() == pytest.approx(
        table["factor"].tolist(), rel=1e-5
    )
    assert "nearer to collapse" in figure.svg
