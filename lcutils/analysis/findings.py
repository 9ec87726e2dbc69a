"""What develops with what: every question of `questions` asked of every measurement of a results table.

A correlation is of points that are comparable by the question, its error by architectures (`clustered`). A verdict is
given only where the interval leaves 0 out and p, after Holm's correction within a question, is below 0.05.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lcutils.analysis.clustered import (
    FEWEST_UNITS,
    NO_UNITS,
    Clustered,
    Codes,
    Line,
    Mask,
    clustered,
    comparable,
    within_line,
)
from lcutils.analysis.conditional import size_and_recipe
from lcutils.analysis.definitions import MEASUREMENTS, Missing, measurements_in
from lcutils.analysis.directions import CLEAR, near_pole, towards
from lcutils.analysis.few import family_column, with_families
from lcutils.analysis.inference import (
    FEWEST_ROWS,
    Vector,
    bootstrap_interval,
    holm,
    independent_columns,
    is_constant,
    partial_correlation,
    permutation_test,
)
from lcutils.analysis.published import SQUARED_NORM
from lcutils.analysis.questions import GIVEN, LOSS, NC1_BELOW, QUESTIONS, SEEDS, Question
from lcutils.analysis.relations import TABLE_1, finite_rows, seed_rows

TOWARDS, AWAY, NONE, UNKNOWN = "towards collapse", "away from collapse", "no direction shown", "cannot be told"
LOWER, HIGHER = "lower loss", "higher loss"  # the verdicts on the loss itself
SCALED = "nc1_cdnv_scaled"  # of published tables, which hold no scale-free NC1
# What is no measurement of the catalogue: (property, label), both better where lower.
OTHERS = {LOSS: ("", "validation loss"), SCALED: ("NC1", "CDNV times mean squared norm")}
COLUMNS = [
    "question", "measurement", "property", "label", "holm_group", "scale", "n", "architectures", "r", "low", "high",
    "p", "p_holm", "sign", "verdict", "change", "change_low", "change_high", "note",
]  # fmt: skip


def findings(results: pd.DataFrame, *, trials: int = 10_000, resamples: int = 2_000, seed: int = 0) -> pd.DataFrame:
    """Answer every question for every measurement of a results table, ours or a published one.

    Args:
        results: one row per point, columns of results.csv; of its measurements all but spectra are asked about.
        trials, resamples, seed: of the permutation test and the bootstrap over seeds; all else is without chance.

    Returns:
        One row per question and measurement: `question` (a name in `QUESTIONS`), `measurement, property, label`;
        `holm_group` ("paper": a row of its Table 1, "other", or "loss": the loss itself, asked of the factors); `scale`
        ("log" where the measurement is drawn on a log axis and all its values are positive); `n` points and
        `architectures` that take part; `r` with the factor or the loss, `low, high` (95 %), `p` (two-sided), `p_holm`
        (over that group within the question); `sign` (1: a positive r is towards collapse as the factor grows or the
        loss falls; -1: a negative one; 0: not known); `verdict`; `change` of the measurement for one `step` of the
        question, with `change_low, change_high` (a factor where the scale is log, else a difference); `note`.
    """
    results = with_families(results.reset_index(drop=True))
    if {SQUARED_NORM, "nc1_cdnv"} <= set(results.columns):
        results = results.assign(**{SCALED: results["nc1_cdnv"] * results[SQUARED_NORM]})
    rows = []
    for name, question in QUESTIONS.items():
        keys = _keys(name, question, results)
        if name == SEEDS:
            answers = _over_seeds(results, keys, trials, resamples, seed)
        elif isinstance(asked := _asked(name, question, results), str):
            answers = {key: _no_answer(0, asked) for key in keys}
        else:
            answers = {key: asked.answer(key) for key in keys}
        rows += [_row(name, key, answers[key]) for key in keys]
    table = pd.DataFrame(rows).reindex(columns=COLUMNS)
    table["p_holm"] = table.groupby(["question", "holm_group"])["p"].transform(holm)
    table["verdict"] = [_verdict(row) for row in table.to_dict("records")]
    return table


def findings_of_paper(results: pd.DataFrame, trials: int = 10_000) -> pd.DataFrame:
    """The findings of the paper's measurements and of the loss alone: all there is of these groups in `findings`."""
    others = [key for key in measurements_in(results) if key not in TABLE_1.values()]
    found = findings(results.drop(columns=[*others, SQUARED_NORM], errors="ignore"), trials=trials)
    return found[found["question"] != NC1_BELOW].reset_index(drop=True)


def _keys(name: str, question: Question, results: pd.DataFrame) -> list[str]:
    """What a question is asked of: measurements without spectra, and the loss where it is not the factor."""
    keys = [key for key in measurements_in(results) if MEASUREMENTS[key].group in ("paper", "corrected")]
    keys += [SCALED] if SCALED in results else []
    if name == NC1_BELOW:
        return [key for key in keys if property_of(key) == "NC1"]
    return [LOSS, *keys] if question.factor != LOSS and LOSS in results else keys


def property_of(key: str) -> str:
    """The property that a row of the findings is of; "" of the loss."""
    return OTHERS[key][0] if key in OTHERS else MEASUREMENTS[key].property


def _row(name: str, key: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    label = OTHERS[key][1] if key in OTHERS else MEASUREMENTS[key].label
    group = "loss" if key == LOSS else "paper" if key in TABLE_1.values() else "other"
    return {
        "question": name,
        "measurement": key,
        "property": property_of(key),
        "label": label,
        "holm_group": group,
        **answer,
    }


def _verdict(row: Mapping[Any, Any]) -> str:
    if not row["sign"] or np.isnan(row["p"]):
        return UNKNOWN
    if not (row["p_holm"] < CLEAR and row["low"] * row["high"] > 0):  # false too where there is no interval
        return NONE
    better = row["sign"] * row["r"] > 0
    if row["measurement"] == LOSS:
        return LOWER if better else HIGHER
    return TOWARDS if better else AWAY


def _sign(key: str, values: Vector, question: Question) -> int:
    """Sign of r that says "towards collapse" as the factor grows; as the loss falls, where that is the factor."""
    way = "down" if key in OTHERS else towards(key, values)
    sign = {"down": -1, "up": 1, "none": 0}[way]
    return -sign if question.factor == LOSS else sign


def _facts(key: str, values: Vector, question: Question) -> dict[str, Any]:
    """What is said of a measurement's values whatever the statistic: `scale`, `sign` and `note`."""
    logged = (key == SCALED or (key != LOSS and MEASUREMENTS[key].log)) and bool((values > 0).all())
    note = "" if key in OTHERS else near_pole(key, values)
    return {"scale": "log" if logged else "", "sign": _sign(key, values, question), "note": note}


def _no_answer(n: int, why: str) -> dict[str, Any]:
    return {"n": n, "architectures": 0, "sign": 0, "scale": "", "note": why}


@dataclass(frozen=True)
class _Asked:
    """The points that a question is about, n rows.

    Attributes:
        question: the question.
        rows: of the results table.
        x: the factor or the loss, (n,).
        strata: points of one stratum can be compared, (n,).
        units: the architecture of each point, (n,).
        controls: size and recipe, (n, k), where the question holds them; else None.
    """

    question: Question
    rows: pd.DataFrame
    x: Vector
    strata: Codes
    units: Codes
    controls: Vector | None

    def answer(self, key: str) -> dict[str, Any]:
        """The columns of one row, but for names, p_holm and verdict."""
        known = pd.to_numeric(self.rows[key], errors="coerce").to_numpy(dtype=np.float64)
        used = np.isfinite(known)
        used[used] = comparable(self.x[used], self.strata[used])
        x, values, strata, units = self.x[used], known[used], self.strata[used], self.units[used]
        if len(x) < FEWEST_ROWS:
            return _no_answer(len(x), "no three points that differ in nothing else")
        facts = _facts(key, values, self.question)
        y = np.log(values) if facts["scale"] else values
        held = self.controls[used] if self.controls is not None else None

        def line(mask: Mask) -> Line:
            if held is not None:
                return _given(x[mask], y[mask], held[mask])
            return within_line(x[mask], y[mask], strata[mask])

        found = clustered(line, units)
        if np.isnan(found.r):
            return _no_answer(len(x), "no variation, or too few points, among those that can be compared")
        return facts | {"n": len(x), "architectures": found.units} | _numbers(found, facts)


def _asked(name: str, question: Question, results: pd.DataFrame) -> _Asked | str:
    """The points that a question is about, or why it cannot be asked."""
    if absent := [column for column in question.needs if column not in results]:
        return f"the table lacks {', '.join(absent)}"
    rows, family = question.asked(results[finite_rows(results, question.needs)]), family_column(results)
    held = None
    if name == GIVEN:
        controls = size_and_recipe(rows)
        known = finite_rows(controls, [str(control) for control in controls])
        rows, held = rows[known], controls[known].to_numpy(dtype=np.float64)
    x = question.values(rows).to_numpy(dtype=np.float64)
    strata = _codes(rows, [*family, *question.same] if question.same else [])
    return _Asked(question, rows, x, strata, _codes(rows, [*family, "depth", "width"]), held)


def _codes(rows: pd.DataFrame, columns: list[str]) -> Codes:
    """A number for each row, the same where `columns` agree; 0 for all without columns."""
    codes: Codes = (rows.groupby(columns).ngroup() if columns else rows["depth"] * 0).to_numpy().astype(np.intp)
    return codes


def _given(x: Vector, y: Vector, controls: Vector) -> Line:
    """Correlation of `x` and `y` without what `controls` explain; nan where there are too few points for that."""
    partial = partial_correlation(x, y, controls[:, independent_columns(controls)])
    return Line(np.nan if isinstance(partial, str) else partial.r, np.nan)


def _numbers(found: Clustered, facts: Mapping[str, Any]) -> dict[str, Any]:
    slopes = np.array([found.slope, found.slope_low, found.slope_high])
    change = np.exp(slopes) if facts["scale"] else slopes
    said = {"r": found.r, "low": found.low, "high": found.high, "p": found.p}
    said |= dict(zip(("change", "change_low", "change_high"), change.tolist(), strict=True))
    few = NO_UNITS if found.units < FEWEST_UNITS else ""
    return said | {"note": "; ".join(filter(None, (facts["note"], few)))}


def _over_seeds(
    results: pd.DataFrame, keys: list[str], trials: int, resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """The answers over the seeds of one model: r and permutation p of Table 1, BCa bootstrap interval."""
    seeds, answers = seed_rows(results), {}
    for key in keys:
        if isinstance(seeds, Missing):
            answers[key] = _no_answer(0, str(seeds))
            continue
        used = seeds[finite_rows(seeds, [key, LOSS])]
        x, y = (used[column].to_numpy(dtype=np.float64) for column in (key, LOSS))
        if len(x) < FEWEST_ROWS or is_constant(x) or is_constant(y):
            answers[key] = _no_answer(len(x), "no variation, or too few seeds")
            continue
        low, high = bootstrap_interval(x, y, resamples, seed)
        r, p = float(np.corrcoef(x, y)[0, 1]), permutation_test(x, y, trials, seed).p
        said = {"scale": "", "n": len(x), "architectures": 1, "r": r, "low": low, "high": high, "p": p}
        answers[key] = _facts(key, x, QUESTIONS[SEEDS]) | said
    return answers
