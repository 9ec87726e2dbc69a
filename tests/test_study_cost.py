"""The cost of the study that the training benchmark states."""

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from study_cost import DEPTHS, WIDTHS, cost_table, seconds_per_token, study_hours  # noqa: E402


def rows(shapes, part="rows"):
    """Measured rows whose seconds a token follow the fit's form exactly."""
    for L, D in shapes:
        seconds = 1e-7 + 2e-8 * L + 1e-10 * D + 3e-13 * L * D * D
        yield {"part": part, "side": "ours", "model": f"{L}x{D}", "tokens_per_second": 1 / seconds}


def test_hours_of_the_whole_study():
    every = {(depth, width): 1e-6 for depth in DEPTHS for width in WIDTHS}
    assert study_hours(every) == pytest.approx((30 * 25 + 20) * 229_367 * 2048 * 1e-6 / 3600)


def test_the_fit_finds_what_was_not_measured():
    lines = list(rows([(1, 64), (1, 128), (4, 256), (2, 768), (12, 1024), (4, 64)]))
    lines += rows([(1, 1024)], part="study")
    lines.append({"part": "study", "side": "ours", "model": "1x64", "tokens_per_second": 1.0})
    times, source = seconds_per_token(lines, "ours")
    exact = {tuple(map(int, r["model"].split("x"))): 1 / r["tokens_per_second"] for r in rows(times)}
    assert times == pytest.approx(exact, rel=1e-6)
    assert source[1, 64] == "rows"  # the benchmark's own figure goes before the study's
    assert source[1, 1024] == "study"
    assert source[8, 512] == "fit"


def test_the_readme_states_what_the_kept_results_give():
    lines = [json.loads(line) for line in (BENCHMARKS / "train-h200.jsonl").open()]
    readme = (BENCHMARKS / "README.md").read_text()
    table = [line for line in cost_table(lines).splitlines() if line.startswith("| ") and "hours" not in line]
    assert len(table) == 10
    assert all(line in readme for line in table)
    for side, words, hours in (("ours", "about 83 GPU-hours", 83), ("trainer", "the Trainer about 870", 870)):
        assert words in readme
        assert study_hours(seconds_per_token(lines, side)[0]) == pytest.approx(hours, rel=0.01)
