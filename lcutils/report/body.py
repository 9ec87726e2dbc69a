"""The report's page: what it says of each table, the sentences that sum it up, and where it comes from."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from lcutils import charts
from lcutils.analysis import MEASUREMENTS, Missing, measurements_in
from lcutils.analysis.tables import flat_settings
from lcutils.charts import FIGURE_1, Figure
from lcutils.manifests import git_commit
from lcutils.report.parts import TEMPLATES, table_html
from lcutils.text import csv_text

VERSIONS = [
    "lcutils", "torch", "transformers", "numpy", "scipy", "pandas", "statsmodels", "altair", "vl-convert-python",
]  # fmt: skip
TOKEN_BUDGET = 4_000_000  # characters of token tables that the report may carry; packed they take a third

BY_WIDTH = "by_width_"  # how the names of the figures of one measurement against width begin
Table = pd.DataFrame | Missing


@dataclass(frozen=True)
class Shown:
    """How the report shows a table: its caption, the columns that a page is wide enough for, and how many rows."""

    caption: str = ""
    columns: tuple[str, ...] = ()  # all of them if empty; the CSV always has all
    most: int = 400


TABLES = {
    "table_1": Shown(
        "Table 1. R² of each measurement with validation loss over models that differ in their seed alone; p by "
        "permutation (two-sided), with its Monte-Carlo interval and Holm's correction; paper: whether the row is one "
        "of the paper's.",
        ("row", "label", "paper", "n", "r", "r2", "p", "p_low", "p_high", "p_holm", "note"),
    ),
    "table_2": Shown("Table 2. Configuration: the paper's, and this study's."),
    "table_3": Shown("Table 3. The paper's batch sizes (sequences per batch), by depth (rows) and width (columns)."),
    "table_5": Shown(
        "Table 5. First names beside the average token: CDNV and interference, each averaged over the other classes."
    ),
    "correlations": Shown(
        "Every measurement against validation loss, over all rows: on its own scale and (…_log) on a log scale; "
        "permutation p with interval, Holm, Spearman, bootstrap intervals.",
        ("property", "label", "n", "r", "r2", "r2_low", "r2_high", "r2_log", "p", "p_holm", "spearman", "note"),
    ),
    "partial_correlations": Shown(
        "Partial correlations with validation loss, given one control, or all of them.",
        ("property", "label", "given", "n", "r2", "partial_r", "low", "high", "partial_r2", "p_holm"),
    ),
    "within_architecture": Shown(
        "Within a fixed architecture: over seeds, epochs and decays; pooled over architectures after centring.",
        ("property", "label", "architecture", "groups", "n", "r", "r2", "p", "p_holm", "note"),
    ),
    "influence": Shown("What R² becomes without one row, the largest changes first.", most=100),
    "sensitivity": Shown(
        "Each measurement at each minimum class count, and its change from its value at the smallest one.", most=100
    ),
    "sensitivity_correlations": Shown(
        "R² with validation loss at each minimum class count.",
        ("measurement", "label", "min_count", "n", "r", "r2", "r2_log"),
    ),
    "trajectories": Shown("Measurements along the kept checkpoints.", most=100),
    "kind_shares": Shown(
        "Kinds of token: shares of the tokens that occur in the training text and were measured (not of the whole "
        "vocabulary), and of the data."
    ),
    "beside_published": Shown("Rows of the same model and checkpoint: ours, published, difference.", most=100),
    "times": Shown(
        "Where the time of each run went: seconds of training, of compilation beside it, of extracting and measuring "
        "its checkpoints, and tokens per second (of training in the last kept epoch, compilation left out)."
    ),
    "results": Shown("One row per model and checkpoint; click a row to pick its model in every figure.", most=5_000),
    "measurements": Shown(),
}


@dataclass
class Report:
    """The figures and tables of a study, each computed once, and the files that hold them."""

    figures: dict[str, Figure]  # by Figure.name; those against width begin with BY_WIDTH
    tables: dict[str, Table]
    paths: dict[str, Path] = field(default_factory=dict)  # place under the folder, such as "figures/losses.svg"

    @property
    def by_width(self) -> list[Figure]:
        """The figures of one measurement against width."""
        return [figure for name, figure in self.figures.items() if name.startswith(BY_WIDTH)]


def report_page(
    report: Report,
    *,
    title: str,
    settings: dict[str, Any],
    tokens: Iterable[tuple[str, pd.DataFrame]],
    token_tables: int,
) -> str:
    """Return the report as one HTML page.

    Of the `token_tables` tables of `tokens`, best model first, it carries and reads what TOKEN_BUDGET allows.
    """
    results = report.tables["results"]
    assert isinstance(results, pd.DataFrame)
    lacking = {figure.title: figure.missing for figure in report.figures.values() if figure.chart is None}
    for name, table in report.tables.items():
        if isinstance(table, Missing):
            lacking[f"Table {name.removeprefix('table_').replace('_', ' ')}"] = table.reason
    today = time.strftime("%Y-%m-%d")
    facts = {
        "written": today,
        "commit": git_commit() or "not known",
        "sha256 of the results": hashlib.sha256(csv_text(results).encode()).hexdigest(),
        "Python": platform.python_version(),
        **{name: version(name) for name in VERSIONS},
    }
    return TEMPLATES.get_template("report.html").render(
        contents=report,
        explorers=explorers(tokens),
        facts=facts,
        lacking=lacking,
        settings=flat_settings(settings),
        shown_table=_shown_table,
        summary=_summary(results, report.tables["correlations"]),
        title=title,
        today=today,
        token_tables=token_tables,
    )


def explorers(tokens: Iterable[tuple[str, pd.DataFrame]]) -> list[Figure]:
    """Return the token explorer of each model, in order, as far as TOKEN_BUDGET allows: of one model at least."""
    made: list[Figure] = []
    size = 0
    for place, (label, table) in enumerate(tokens):
        figure = charts.token_explorer(table, label)
        size += len(figure.data)
        if made and size > TOKEN_BUDGET:
            break
        made.append(replace(figure, name=f"{figure.name}_{place}") if place else figure)
    return made or [charts.token_explorer(None)]


def _shown_table(name: str, table: pd.DataFrame) -> Markup:
    shown = TABLES[name]
    caption = shown.caption
    if "group" in table.columns and len(table):
        caption += f" Models: {table['group'].iloc[0]}."
    if shown.columns:
        table = table[[column for column in shown.columns if column in table.columns]]
    return table_html(table, caption=caption, csv=f"tables/{name}.csv", most=shown.most, anchors=name == "results")


def _summary(results: pd.DataFrame, related: Table) -> dict[str, Any]:
    """Return what a reader takes away: counts, the best and worst rows, and a sentence on each relation."""
    keys = measurements_in(results)
    models = results["model"].nunique() if "model" in results.columns else len(results)
    summary: dict[str, Any] = {
        "counts": f"{len(results)} measured points of {models} models, with {len(keys)} measurements of "
        f"{len(MEASUREMENTS)}."
    }
    if "val_loss" in results.columns and results["val_loss"].notna().any():
        summary["best"] = results.nsmallest(1, "val_loss").iloc[0].to_dict()
        summary["worst"] = results.nlargest(1, "val_loss").iloc[0].to_dict()
    if isinstance(related, Missing):
        return summary | {"relations": [related.reason]}
    shown = related[related["measurement"].isin(FIGURE_1) & related["r2"].notna()]
    note = (
        "These points share architectures and schedules: read them beside the partial and within-architecture "
        "relations below."
    )
    return summary | {"relations": [*(_relation(row) for _, row in shown.iterrows()), note]}


def _relation(row: pd.Series) -> str:
    """Return one measurement's relation with the loss as a sentence."""
    known = MEASUREMENTS[row["measurement"]].log and pd.notna(row["r2_log"])
    log = f" ({row['r2_log']:.3f} on a log scale)" if known else ""
    bounds = f", 95 % interval {row['r2_low']:.3f} to {row['r2_high']:.3f}" if pd.notna(row["r2_low"]) else ""
    return (
        f"{row['property']}, {row['label']}: R² with validation loss {row['r2']:.3f}{log}{bounds}; n = {row['n']}, p "
        f"after Holm's correction {row['p_holm']:.2g}."
    )
