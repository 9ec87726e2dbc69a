"""Whether measurements have settled: courses with known limits, tables, words and the figure."""

import json

import numpy as np
import pandas as pd
import pytest
from analysis_samples import made_results

from lcutils import charts
from lcutils.analysis.convergence import follow, last_changes, settling, settling_words
from lcutils.analysis.definitions import Missing
from lcutils.charts.theme import LIGHT
from lcutils.drawing import draw_all
from lcutils.report import compute
from lcutils.report.body import report_page

SHARES = [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0]
SAMPLES = [1e6 * share for share in SHARES]


def power(limit, size, rate):
    return [limit + size * n**-rate for n in SAMPLES]


@pytest.mark.parametrize("rate", [0.3, 0.5, 1.0])
@pytest.mark.parametrize(("limit", "size"), [(2.0, 4.0), (2.0, -4.0), (-5.0, 20.0)])
def test_a_power_law_is_extrapolated_exactly(limit, size, rate):
    values = power(limit, size, rate)
    course = follow(SAMPLES, values)
    assert course.change == pytest.approx(abs(values[-1] - values[-2]) / abs(values[-1]), rel=1e-12)
    assert course.remaining == pytest.approx(abs(values[-1] - limit) / abs(limit), rel=1e-6)
    at = limit + size * course.tokens**-rate
    assert abs(at - limit) == pytest.approx(0.01 * abs(limit), rel=1e-6)
    scaled = follow(SAMPLES, [-7 * value for value in values])
    assert (scaled.change, scaled.tokens) == pytest.approx((course.change, course.tokens), rel=1e-6)


@pytest.mark.parametrize("values", [
    [1.0, 2.0, 1.5, 1.7, 1.6],  # back and forth
    [1.0, 2.0, 4.0, 8.0, 16.0],  # ever faster
    [1.0, 2.0, 3.0, 4.0, 5.0],  # as fast
    [1.0, 2.0, 2.99, 3.97, 4.94],  # nearly as fast: 2^38 times the text
    [np.nan, np.nan, 1.0, 1.5, 1.6],
    [1.0, 1.5],
])  # fmt: skip
def test_without_a_trend_nothing_is_extrapolated(values):
    course = follow(SAMPLES[-len(values) :], values)
    assert np.isnan(course.tokens)
    assert np.isnan(course.remaining)
    assert course.change == pytest.approx(abs(values[-1] - values[-2]) / abs(values[-1]))


def test_what_never_changes_has_settled_and_what_is_unknown_is_not_told():
    assert follow(SAMPLES, [3.0] * 5).change == 0
    assert follow(SAMPLES, [3.0] * 5).remaining == 0
    assert follow(SAMPLES, [0.0] * 5).change == 0
    assert follow(SAMPLES, [1.0, 1.0, 1.0, 1.0, 0.0]).change == np.inf
    for values in ([1.0], [], [1.0, np.nan], [np.nan, 1.0], [1.0, np.inf]):
        assert np.isnan(follow(SAMPLES[: len(values)], values).change)


def made_convergence(models=3):
    rows = []
    for model in range(models):
        courses = {
            "nc1_quotient": power(1.0, 0.5, 0.5),  # settled
            "nc1_cdnv": power(1.0, 50.0 * (1 + model), 0.5),  # moving, with a limit
            "gnc2_log_cov": [-1.0, -3.0, -2.0, -4.0, -3.0],  # moving without one
            "nc2_cosine_mean": [np.nan] * 5,
        }
        for place, share in enumerate(SHARES):
            values = {key: course[place] for key, course in courses.items()}
            rows.append({"model": f"m{model}", "checkpoint": 0, "share": share, "samples": SAMPLES[place]} | values)
    return pd.DataFrame(rows).sample(frac=1, random_state=0)  # in any order


def test_the_table_and_its_words():
    table = settling(made_convergence())
    assert table["measurement"].tolist() == ["nc1_cdnv", "nc1_quotient", "gnc2_log_cov"]  # nothing of what is nan
    known = table.set_index("measurement")
    assert known["settled"].tolist() == [0, 3, 0]
    assert known["told"].tolist() == [3, 3, 0]
    assert (known["points"] == 3).all()
    assert known.loc["nc1_cdnv", "tokens_needed"] == pytest.approx((100 / 0.01) ** 2, rel=1e-6)  # the middle model
    assert known.loc["gnc2_log_cov", "change"] == pytest.approx(1 / 3)
    words = settling_words(table)
    assert words == (
        "At the last doubling of the text, to 1 M tokens, 1 of 3 measurements changed by 1 % or less (median over "
        "points); still moving: gnc2_log_cov (33 %), nc1_cdnv (3.8 %, about 100 M tokens for 1 %). How many tokens "
        "gnc2_log_cov would need for 1 % cannot be told: their changes follow no trend yet."
    )
    settled = settling_words(table[table["measurement"] == "nc1_quotient"])
    assert settled.endswith("1 of 1 measurements changed by 1 % or less (median over points): they have settled.")
    assert "many tokens these would need" in settling_words(table[table["measurement"] == "gnc2_log_cov"])
    assert settling_words(Missing("none")) == ""
    for nothing in (None, made_convergence().head(0), made_convergence()[["model", "checkpoint", "share", "samples"]]):
        assert isinstance(settling(nothing), Missing)


def test_changes_of_one_point():
    point = made_convergence()
    changes = last_changes(point[point["model"] == "m1"])
    assert changes["gnc2_log_cov"] == pytest.approx(1 / 3)
    assert np.isnan(changes["nc2_cosine_mean"])


@pytest.mark.parametrize("models", [1, 3, 12])
def test_the_figure_shows_every_measurement_and_can_be_drawn(models):
    table = made_convergence(models)
    results = pd.DataFrame({"model": [f"m{i}" for i in range(models)], "checkpoint": 0, "n_params": 1000})
    figure = charts.convergence(table, results)
    figure.chart.to_dict(validate=True)
    assert len(figure.spec["concat"]) == 3
    assert len(figure.rows) == 5 * models
    at_half = figure.rows[(figure.rows["model"] == "m0") & (figure.rows["share"] == 0.5)].iloc[0]
    assert at_half["gnc2_log_cov"] == pytest.approx(-100 / 3, rel=1e-6)
    ((svg, png),) = draw_all({"convergence": json.dumps(figure.spec)}, LIGHT, scale=1.0).values()
    assert "percent of its final size" in svg
    assert png[:4] == b"\x89PNG"
    assert charts.convergence(table.head(0), results).chart is None


SHOWN = [*made_results().columns[:14], "nc1_cdnv", "gnc2_log_cov"]


@pytest.mark.parametrize("results", [made_results()[SHOWN].head(3), made_results()[SHOWN].head(9)], ids=["few", "grid"])
def test_the_report_has_the_section_only_of_studies_in_parts(results):
    course = made_convergence(len(results)).sort_values(["model", "share"])
    course = course.assign(**{name: np.repeat(results[name].to_numpy(), 5) for name in ("model", "checkpoint")})
    again = pd.DataFrame([(row["model"], row["checkpoint"], part, "nc1_cdnv", row["nc1_cdnv"] * (1 + part / 100))
                          for _, row in results.iterrows() for part in range(8)],
                         columns=["model", "checkpoint", "part", "key", "value"])  # fmt: skip
    for parts in ((again, course), (None, None)):
        report = compute(results, {"analysis": {"permutations": 50}}, {}, None, None, parts=parts)
        page = report_page(report, title="x", settings={}, tokens=[], token_tables=0, failures={})
        for sign in ("Errors of measurement and convergence", "At the last doubling of the text", "tables/errors.csv"):
            assert (sign in page) == (parts[0] is not None), sign
        assert ({"errors", "settling", "convergence"} <= report.tables.keys()) == (parts[0] is not None)
