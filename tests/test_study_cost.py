"""The cost of the study that the training benchmark states."""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from lcutils.pipeline import costs

BENCHMARKS = Path(__file__).parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from study_cost import DEPTHS, WIDTHS, cost_table, fit, measured_seconds, seconds_per_token, study_hours, terms  # noqa: E402


def rows(shapes):
    """Measured rows whose seconds a token follow the fit's form exactly."""
    for L, D in shapes:
        seconds = 1e-7 + 2e-8 * L + 1e-10 * D + 3e-13 * L * D * D
        yield {"part": "rows", "side": "ours", "model": f"{L}x{D}", "tokens_per_second": 1 / seconds}


def test_hours_of_the_whole_study():
    every = {(depth, width): 1e-6 for depth in DEPTHS for width in WIDTHS}
    assert study_hours(every) == pytest.approx((30 * 25 + 20) * 229_367 * 2048 * 1e-6 / 3600)


def test_the_fit_finds_what_was_not_measured():
    lines = list(rows([(1, 64), (1, 128), (4, 256), (2, 768), (12, 1024), (4, 64)]))
    lines += [{"part": "ranks", "model": "1x64"}, lines[0] | {"side": "trainer"}]
    measured = measured_seconds(lines, "ours")
    assert len(measured) == 6
    exact = measured_seconds(list(rows(itertools.product(DEPTHS, WIDTHS))), "ours")
    assert seconds_per_token(measured) == pytest.approx(exact, rel=1e-6)
    assert seconds_per_token(measured | {(1, 1024): 1.0})[1, 1024] == 1.0  # what was measured stays


def test_the_plan_counts_with_the_same_fit():
    lines = [json.loads(line) for line in (BENCHMARKS / "train-h200.jsonl").open()]
    shapes = list(itertools.product(DEPTHS, WIDTHS))
    assert terms(shapes) @ costs.TRAINING_SECONDS == pytest.approx(
        fit(measured_seconds(lines, "ours"), shapes), rel=0.01
    )


def test_the_plan_counts_with_the_measured_extraction():
    rows = [json.loads(line) for line in (BENCHMARKS / "measure-h200.jsonl").open()]
    rows = [row for row in rows if row["section"] == "extraction" and row.get("precision") == "fp16"]
    assert {row["model"] for row in rows} == {"1x64", "2x768", "12x1024"}
    for row in rows:
        L, D = map(int, row["model"].split("x"))
        assert costs.EXTRACTION_SECONDS @ np.array([1, L * D]) == pytest.approx(1 / row["with_covariance"], rel=0.02)


def test_the_readme_states_what_the_kept_results_give():
    lines = [json.loads(line) for line in (BENCHMARKS / "train-h200.jsonl").open()]
    readme = (BENCHMARKS / "README.md").read_text()
    table = [line for line in cost_table(lines).splitlines() if line.startswith("| ") and "hours" not in line]
    assert len(table) == 10
    assert all(line in readme for line in table)
    for side, words, hours in (("ours", "77.6 GPU-hours", 77.6), ("trainer", "the Trainer 865", 865)):
        assert words in readme
        assert study_hours(seconds_per_token(measured_seconds(lines, side))) == pytest.approx(hours, rel=0.001)
