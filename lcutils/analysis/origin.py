"""Whose numbers the rows of a table are: measured here, or published by the paper's authors.

A row names its origin in the column `origin`; one without was measured here. Published rows come with it
(`lcutils.analysis.published`), measured ones get it from their manifest (`measured_origin`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd

from lcutils.artifacts import file_digest

ORIGIN = "origin"
MEASURED = "measured here"
PUBLISHED = "published by Wu and Papyan"
MOST = 3  # origins that a sentence names one by one


def published_origin(path: Path) -> str:
    """The origin of a published table's rows: its file, the date in that name if there is one, and its digest."""
    found = re.search(r"(\d{4})[_-](\d{2})[_-](\d{2})", path.name)
    try:
        dated = f" of {date(*map(int, found.groups())):%Y-%m-%d}" if found else ""
    except ValueError:  # digits that are no date
        dated = ""
    return f"{PUBLISHED} ({path.name}{dated}, sha256 {file_digest(path)[:12]})"


def measured_origin(manifest: Mapping[str, Any]) -> str:
    """The origin of a row that this study measured: when, and by which commit."""
    written, commit = (manifest.get(key) or "not known" for key in ("written", "commit"))
    return f"{MEASURED}, {written[:10]} (commit {commit})"


def origins(table: pd.DataFrame) -> pd.Series:
    """The origin of each row."""
    if ORIGIN not in table:
        return pd.Series(MEASURED, index=table.index)
    return table[ORIGIN].fillna(MEASURED)


def published_rows(table: pd.DataFrame) -> pd.Series:
    """Mask of the rows that Wu and Papyan published."""
    return origins(table).str.startswith(PUBLISHED).astype(bool)


def all_published(table: pd.DataFrame) -> bool:
    """Whether the table has rows, and none was measured here."""
    return len(table) > 0 and bool(published_rows(table).all())


def origin_words(table: pd.DataFrame) -> str:
    """The origins of a table's rows and how many rows each has, in words without a full stop."""
    if table.empty:
        return "no rows"
    theirs = published_rows(table)
    said = []
    for part, name in ((table[~theirs], MEASURED), (table[theirs], PUBLISHED)):
        counts = origins(part).value_counts(sort=False)
        if len(counts) > MOST:
            rest = f"at {len(counts)} times or commits" if name == MEASURED else f"in {len(counts)} files"
            counts = pd.Series({f"{name} {rest} (each row of tables/results.csv names its own)": len(part)})
        said += [f"{count} row{'s' if count != 1 else ''} {origin}" for origin, count in counts.items()]
    return "; ".join(said)
