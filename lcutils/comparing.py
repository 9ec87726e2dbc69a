"""One command for results tables: `lcutils compare` answers the same questions of each and says where they agree."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from lcutils.analysis.questions import QUESTIONS
from lcutils.analysis.side_by_side import AGREEMENT, TABLE, findings_of, open_results, shown_rows
from lcutils.artifacts import atomic_path
from lcutils.errors import UserError
from lcutils.parameters import is_there, resolve_path
from lcutils.report.findings import findings_section, full_cell, put_section, row_name
from lcutils.text import csv_text, one_line

WIDEST = 160  # columns of a table where there is no terminal


def compare_tables(
    names: Sequence[str], outputs: str = "outputs", csv: str | None = None, into: str | None = None
) -> pd.DataFrame:
    """Print the findings of each table side by side, and write them where asked.

    Args:
        names: paths of results tables, published tables or folders of them, or names of studies.
        outputs: folder below which the studies' folders lie.
        csv: file for all findings, one row per table, question and measurement.
        into: a Markdown page that has a place for them.

    Returns:
        The findings, as the file holds them.
    """
    tables: dict[str, pd.DataFrame] = {}
    for name in names:
        path = _table_path(name, outputs)
        label = one_line(path.parent.name if path.name == "results.csv" else path.stem)
        if label in tables:
            raise UserError(f"{one_line(name)}: a second table called {label}; give each table once, or rename a file")
        tables[label] = open_results(path)
    page = _read(into) if into else ""
    long = findings_of(tables)
    if csv:
        _write(csv, csv_text(long))
    if into:
        command = shlex.join(["lcutils", "compare", *names, *(["--csv", csv] if csv else []), "--into", into])
        _write(into, put_section(page, findings_section(long, tables, command), one_line(into)))
    _show(long)
    return long


def _table_path(name: str, outputs: str) -> Path:
    path, study = resolve_path(name), resolve_path(outputs) / name / "results.csv"
    if is_there(path):
        return path / "results.csv" if is_there(path / "results.csv") else path
    if is_there(study):
        return study
    raise UserError(f"{one_line(name)}: no such table, folder or study with results; give a results.csv, or its folder")


def _read(place: str) -> str:
    """A page that has a place for findings; else a `UserError`, before any work."""
    try:
        page = resolve_path(place).read_text(encoding="utf-8")
    except (OSError, UnicodeError):
        raise UserError(f"{one_line(place)}: cannot be read; give a Markdown page") from None
    put_section(page, "", one_line(place))
    return page


def _write(place: str, text: str) -> None:
    with atomic_path(resolve_path(place)) as aside:
        aside.write_text(text, encoding="utf-8")


def _show(long: pd.DataFrame) -> None:
    """Print a table for each question, of the paper's measurements."""
    console = Console(highlight=False, markup=False)  # a name may hold brackets
    if not console.is_terminal:
        console.width = WIDEST
    rows, names = shown_rows(long), list(dict.fromkeys(long[TABLE]))
    for name, question in QUESTIONS.items():
        shown = Table(title=question.words, title_justify="left", box=box.SIMPLE)
        for head in ("", *names, *["together"] * (len(names) > 1)):
            shown.add_column(head)
        asked = rows[rows["question"] == name]
        for key, group in asked.groupby("measurement", sort=False):
            said = {row[TABLE]: full_cell(row) for row in group.to_dict("records")}
            agreed = [group[AGREEMENT].iloc[0]] * (len(names) > 1)
            shown.add_row(row_name(str(key)).strip("`"), *(said.get(table, "") for table in names), *agreed)
        console.print(shown)
