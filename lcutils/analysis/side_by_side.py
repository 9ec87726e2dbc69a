"""Findings of several results tables side by side: reading the tables, and on what they agree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from lcutils.analysis.definitions import measurements_in
from lcutils.analysis.findings import AWAY, HIGHER, LOWER, TOWARDS, findings
from lcutils.analysis.published import load_published, load_published_tables
from lcutils.analysis.questions import NC1_BELOW
from lcutils.errors import UserError
from lcutils.text import one_line, read_csv

AGREE, DIFFER, NEITHER = "agree", "differ", "not shown"
TABLE, AGREEMENT = "table", "agreement"
SIDES = {TOWARDS: 1, LOWER: 1, AWAY: -1, HIGHER: -1}


def open_results(path: Path) -> pd.DataFrame:
    """A results table: a `results.csv`, a folder that has one, a published table, or a folder of these.

    Published tables of one folder are the same models, and become one table.

    Raises:
        UserError: nothing is there, or what is there is no such table.
    """
    if path.is_dir() and (path / "results.csv").is_file():
        path = path / "results.csv"
    if path.is_dir():
        found = load_published_tables(sorted(path.glob("*.csv")))
        if found is None:
            raise UserError(
                f"{one_line(path)}: holds no results.csv and no published table (*.csv); give another folder"
            )
        return found
    try:
        table = read_csv(path)
    except OSError:
        raise UserError(f"{one_line(path)}: cannot be read; give a results.csv or a published table") from None
    except (ValueError, pd.errors.ParserError):
        raise UserError(f"{one_line(path)}: is not a CSV table; give a results.csv or a published table") from None
    if measurements_in(table):
        return table
    return load_published(path)  # which says what it misses


def findings_of(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The findings of each table under one another: its name in `table`, and in `agreement` what all of them say."""
    parts = [findings(results).assign(**{TABLE: name}) for name, results in tables.items()]
    long = pd.concat(parts, ignore_index=True)
    long.insert(0, TABLE, long.pop(TABLE))
    long[AGREEMENT] = [""] * len(long)
    if len(tables) < 2:
        return long
    said = long.groupby(["question", "measurement"], sort=False)
    words = said.apply(lambda rows: agreement(dict(zip(rows[TABLE], rows["verdict"], strict=True)), len(tables)))
    long[AGREEMENT] = words.reindex(pd.MultiIndex.from_frame(long[["question", "measurement"]])).to_numpy()
    return long


def agreement(verdicts: Mapping[str, str], tables: int) -> str:
    """What several tables say together: "agree" only where all show the same direction, "differ" where two oppose.

    Args:
        verdicts: by table; one that does not have the measurement is absent.
        tables: how many there are.
    """
    sides = {table: SIDES[verdict] for table, verdict in verdicts.items() if verdict in SIDES}
    if len(set(sides.values())) > 1:
        return DIFFER
    if not sides:
        return NEITHER
    return AGREE if len(sides) == tables else f"only {', '.join(sides)}"


def shown_rows(long: pd.DataFrame) -> pd.DataFrame:
    """The rows of a first look: the paper's measurements and the loss; of the question on NC1, all its forms."""
    return long[long["holm_group"].isin(["paper", "loss"]) | (long["question"] == NC1_BELOW)]
