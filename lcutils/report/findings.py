"""Findings in Markdown: where each measurement goes with each question, in each table, with interval and n."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from lcutils.analysis.findings import AWAY, HIGHER, LOSS, LOWER, NONE, TOWARDS, UNKNOWN
from lcutils.analysis.hidden import ALTERNATIVES, poles, table_facts
from lcutils.analysis.questions import GIVEN, NC1_BELOW, QUESTIONS, SEEDS
from lcutils.analysis.relations import TABLE_1
from lcutils.analysis.side_by_side import AGREE, AGREEMENT, DIFFER, SIDES, TABLE, shown_rows
from lcutils.errors import UserError

BEGIN, END = "<!-- findings: what stands here is written by the command below -->", "<!-- end of findings -->"
SIGNS = {TOWARDS: "●", AWAY: "○", LOWER: "●", HIGHER: "○", NONE: "–", UNKNOWN: "?"}
READING = (
    "How to read this. A number is a correlation r with its 95 % interval: with the factor on a log₂ scale, among "
    "points that differ in nothing else, or with the loss. The interval leaves whole architectures out in turn, since "
    "points of one architecture are no independent draws; over seeds it is a bootstrap. ● says towards collapse (as "
    "the factor grows, or as the loss falls; of the loss itself: lower), ○ away from it. They stand only where the "
    "interval leaves out 0 and p is below 0.05, after Holm's correction over a question's rows, those of the paper's "
    "Table 1 and the others apart. – says that no direction is shown, ? that it cannot be told (a CoV of both signs, "
    "or too few points). † marks a CoV whose mean is next to 0, or crosses it: read the spread instead."
)
_NAMES = {key: name for name, key in TABLE_1.items()}
_HIDDEN = ("epochs", "loss", GIVEN, SEEDS)  # the questions of the table of alternatives


def findings_section(long: pd.DataFrame, tables: Mapping[str, pd.DataFrame], command: str) -> str:
    """All findings as Markdown.

    Args:
        long: findings of the tables under one another (`findings_of`).
        tables: the results tables by name.
        command: that writes this.
    """
    parts = [f"```bash\n{command}\n```", READING]
    parts += [facts_line(name, results) for name, results in tables.items()]
    parts += [overview(long), "\n".join(question_words(long, name) for name in QUESTIONS), hidden_part(long, tables)]
    return "\n\n".join(parts)


def put_section(page: str, section: str, where: str) -> str:
    """`page` with `section` between its two marks; `where` names the page in an error."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"{where}: has no place for findings; write the lines {BEGIN} and {END} where they belong")
    return f"{before}{BEGIN}\n{section}\n{END}{after}"


def facts_line(name: str, results: pd.DataFrame) -> str:
    """What a table is of, as a paragraph."""
    return " ".join([f"**{name}**:", *table_facts(results)])


def overview(long: pd.DataFrame) -> str:
    """One table of signs: a row per question, a column per measurement of the paper, one sign per table."""
    signs, names = sign_table(long), list(dict.fromkeys(long[TABLE]))
    order = f"In each cell, in this order: {', '.join(names)}.\n\n" if len(names) > 1 else ""
    return order + markdown_table(["", *signs.columns[1:]], signs.to_numpy().tolist())


def sign_table(long: pd.DataFrame) -> pd.DataFrame:
    """Columns `question`, then a sign for each measurement of the paper, and for the loss; a row per question.

    Findings of several tables have their signs side by side, in the order of the tables; a dot stands for a table that
    does not hold the measurement.
    """
    rows = long[long["holm_group"].isin(["paper", "loss"]) & (long["question"] != NC1_BELOW)]
    place = rows[TABLE] if TABLE in rows else pd.Series("", index=rows.index)
    signs = rows["verdict"].map(SIGNS).groupby([rows["question"], rows["measurement"], place]).first()
    cells = signs.unstack().reindex(columns=place.unique()).fillna("·").agg(" ".join, axis=1)
    wide = cells.unstack().reindex([name for name in QUESTIONS if name in set(rows["question"])])
    wide = wide[[key for key in (*TABLE_1.values(), LOSS) if key in wide]].fillna("")
    return wide.rename(columns=row_name).rename_axis(columns=None).reset_index()


def question_words(long: pd.DataFrame, name: str) -> str:
    """One question as a paragraph: what is compared, and for each table its measurements by verdict, with numbers."""
    question, rows = QUESTIONS[name], shown_rows(long[long["question"] == name])
    said = [f"**{question.words}** {question.beside}"]
    said += [_table_words(table, part, name) for table, part in rows.groupby(TABLE, sort=False)]
    once = rows.drop_duplicates("measurement").to_dict("records")
    for word, phrase in ((AGREE, "All tables agree on"), (DIFFER, "Tables oppose each other on")):
        if keys := [row_name(row["measurement"]) for row in once if row[AGREEMENT] == word]:
            said.append(f"{phrase} {', '.join(keys)}.")
    return "- " + " ".join(said)


def _table_words(table: object, part: pd.DataFrame, name: str) -> str:
    """What one table says of one question."""
    known = part[part["r"].notna()].to_dict("records")
    if not known:
        return f"*{table}*: {part['note'].iloc[0]}."
    counts = sorted({row["n"] for row in known})
    of = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    of += " seeds" if name == SEEDS else f", {max(row['architectures'] for row in known)} architectures"
    listed = []
    for verdict in SIGNS:
        named = [_named(row) for row in known if row["verdict"] == verdict and row["measurement"] != LOSS]
        listed += [f"{verdict}: {', '.join(named)}"] if named else []
    listed += [f"{_named(row)}: {row['verdict']}" for row in known if row["measurement"] == LOSS]
    return f"*{table}* ({of}): {'; '.join(listed)}."


def _named(row: Mapping[Any, Any]) -> str:
    return f"{row_name(row['measurement'])} {numbers(row)}"


def hidden_part(long: pd.DataFrame, tables: Mapping[str, pd.DataFrame]) -> str:
    """What the paper's summary hides: a table of alternatives for each results table, and the poles."""
    parts = ["### What a summary hides"]
    for name, results in tables.items():
        rows = {(row["question"], row["measurement"]): row for row in long[long[TABLE] == name].to_dict("records")}
        body = []
        for words, keys in ALTERNATIVES.items():
            has = [key for key in keys if all((question, key) in rows for question in _HIDDEN)]
            if len(has) > 1:
                body.append([f"*{words}*", *[""] * len(_HIDDEN)])
                body += [[f"`{key}`", *(cell(rows[question, key]) for question in _HIDDEN)] for key in has]
        parts += [f"In **{name}**:", markdown_table(["", *_HIDDEN], body)] if body else []
        parts += [" ".join(poles(results))] if poles(results) else []
    return "\n\n".join(parts)


def numbers(row: Mapping[Any, Any]) -> str:
    """r of one finding and its interval; † at a CoV near its pole."""
    between = f"{_number(row['low'])} to {_number(row['high'])}" if pd.notna(row["low"]) else "no interval"
    pole = "†" if "pole" in str(row["note"]) else ""
    return f"{_number(row['r'])}{pole} ({between})"


def cell(row: Mapping[Any, Any]) -> str:
    """One finding: sign, r, interval, n."""
    said = f"{SIGNS[row['verdict']]} {numbers(row)}" if pd.notna(row["r"]) else SIGNS[row["verdict"]]
    return f"{said}, n = {row['n']}"


def full_cell(row: Mapping[Any, Any]) -> str:
    """One finding in full: also p after Holm's correction, and the change with interval where a direction is shown."""
    said = cell(row)
    if pd.notna(row["p_holm"]):
        said += ", p < 0.001" if row["p_holm"] < 0.001 else f", p = {row['p_holm']:.3f}"
    if pd.notna(row["change_low"]) and row["verdict"] in SIDES:
        change, low, high = (_minus(f"{row[key]:.2g}") for key in ("change", "change_low", "change_high"))
        said += f"; change {'× ' if row['scale'] else ''}{change} ({low} to {high})"
    return said + (f" ({row['note']})" if isinstance(row["note"], str) and row["note"] else "")


def _number(value: float) -> str:
    return _minus(f"{round(value, 2) + 0.0:.2f}")  # no minus before 0.00


def _minus(number: str) -> str:
    return number.replace("-", "−")


def row_name(key: str) -> str:
    """What a row is called: as in the paper's Table 1, or by its key."""
    return "validation loss" if key == LOSS else _NAMES.get(key, f"`{key}`")


def markdown_table(head: list[str], body: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
