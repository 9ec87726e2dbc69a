"""The report's page: what it says of each table, the sentences that sum it up, and where it comes from."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from lcutils import charts
from lcutils.analysis import (
    MEASUREMENTS,
    Missing,
    applying,
    few_models,
    known_to,
    measurements_in,
    settling_words,
)
from lcutils.analysis.directions import CLEAR
from lcutils.analysis.few import given
from lcutils.analysis.inference import NO_INTERVAL
from lcutils.analysis.origin import all_published, origin_words
from lcutils.analysis.tables import flat_settings
from lcutils.charts import BY_LAYER, FIGURE_1, Figure
from lcutils.charts.theme import sentence
from lcutils.manifests import git_commit
from lcutils.report.captions import (
    FEW_TABLES,
    NULL_TABLES,
    PAPER_TABLES,
    PRETRAINED_TABLES,
    TABLES,
    Shown,
    read_columns,
)
from lcutils.report.few import left_out, none_trained, statistics_text
from lcutils.report.origin import counted, headed, not_measured, whose_words
from lcutils.report.parts import LONGEST, TEMPLATES, table_html
from lcutils.report.reading import link, readings
from lcutils.report.sections import OF_FEW, OF_GRID, made_alone, with_content
from lcutils.report.words import describe_models
from lcutils.text import csv_text, one_line

VERSIONS = [
    "lcutils", "torch", "transformers", "numpy", "scipy", "pandas", "statsmodels", "altair", "vl-convert-python",
]  # fmt: skip
TOKEN_BUDGET = 4_000_000  # characters of token tables that the report may carry; packed they take a third

RELATION = ("r{}", "influential{}", "r{}_without")  # columns of the correlations, on either scale
WAYS = {
    "with": "better models are more collapsed",
    "against": "better models are less collapsed",
    "unclear": "better models are neither clearly more nor clearly less collapsed",
    "": "",
}
NO_WIDTHS = "The table has no measurement to draw against width."
BY_WIDTH = "by_width_"  # how the names of the figures of one measurement against width begin
Table = pd.DataFrame | Missing


@dataclass
class Report:
    """The figures and tables of a study, each computed once, and the files that hold them."""

    figures: dict[str, Figure]  # by Figure.name; those against width begin with BY_WIDTH
    tables: dict[str, Table]
    published: pd.DataFrame | None = None  # rows set beside ours
    pictures: bool = True  # whether the figures are files too
    paths: dict[str, Path] = field(default_factory=dict)  # place under the folder, such as "figures/losses.svg"

    @property
    def by_width(self) -> list[Figure]:
        """The figures of one measurement against width."""
        return [figure for name, figure in self.figures.items() if name.startswith(BY_WIDTH)]

    @property
    def by_layer(self) -> list[Figure]:
        """The figures of one measurement through the layers."""
        return [figure for name, figure in self.figures.items() if name.startswith(BY_LAYER)]


def report_page(
    report: Report,
    *,
    title: str,
    settings: dict[str, Any],
    tokens: Iterable[tuple[str, pd.DataFrame]],
    token_tables: int,
    failures: Mapping[str, str],
) -> str:
    """Return the report as one HTML page; `failures` are the points that were not measured, and why.

    Of the `token_tables` tables of `tokens`, best model first, it carries and reads what TOKEN_BUDGET allows.
    """
    results = report.tables["results"]
    assert isinstance(results, pd.DataFrame)
    today = time.strftime("%Y-%m-%d")
    published = report.published
    facts = {
        "rows": origin_words(results),
        **({"published rows beside them": origin_words(published)} if published is not None else {}),
        "written": today,
        "commit": git_commit() or "not known",
        "sha256 of the results": hashlib.sha256(csv_text(results).encode()).hexdigest(),
        "Python": platform.python_version(),
        **{name: version(name) for name in VERSIONS},
    }
    notes = _notes(results)
    defined = known_to(results)
    show = partial(_shown_table, results=results, published=published, defined=defined)
    drawn_first = [key for key in FIGURE_1 if key in measurements_in(results)]
    shared: dict[str, Any] = {
        "all_published": all_published(results),
        "beside": origin_words(published) if published is not None else "",
        "contents": report,
        "counts": counted(results),
        "defined": readings(defined),
        "explorers": explorers(tokens, statistics_text(results)),
        "facts": facts,
        "failures": {one_line(name): one_line(reason, LONGEST) for name, reason in failures.items()},
        "not_measured": not_measured(results),
        "notes": notes,
        "pictures": report.pictures,
        "reading": readings(drawn_first),
        "rows_from": origin_words(results),
        "settled": settling_words(report.tables["settling"]) if "settling" in report.tables else "",
        "summary": _summary(results, report.tables["correlations"], defined),
        "title": headed(title, results),
        "today": today,
        "token_tables": token_tables,
    }
    switched = {
        "widths": report.by_width or [Figure("by_width", "", missing=NO_WIDTHS)],
        "layers": report.by_layer,
        "explore": [report.figures["token_explorer"]],
    }
    few = few_models(results)
    sections, needs = with_content(OF_FEW if few else OF_GRID, report.figures, report.tables, switched)
    if not few:
        shown_as = PAPER_TABLES if all_published(results) or not settings else {}
        own = {
            "needs": needs,
            "sections": sections,
            "settings": flat_settings(settings),
            "shown_table": partial(show, shown_as=shown_as),
        }
        return TEMPLATES.get_template("report.html").render(**shared, **own)
    untrained = none_trained(results)
    tables = FEW_TABLES | (PRETRAINED_TABLES if untrained else {})
    riesz_s = (settings.get("measurement") or {}).get("riesz_s")
    own = {
        "described": describe_models(results, riesz_s),
        "left_out": left_out(report.tables),
        "models": results["model"].nunique() if "model" in results else len(results),
        "sections": [made_alone(section, report.figures, report.tables) for section in sections],
        "settings": flat_settings(applying(settings) if untrained else settings),
        "shown_table": partial(show, shown_as=tables),
    }
    return TEMPLATES.get_template("few.html").render(**shared, **own)


def _notes(results: pd.DataFrame) -> dict[str, str]:
    """Return the warnings of the measurement by "model@checkpoint"."""
    noted = results[given(results, "note")]
    names = [f"{row.get('model', 'a row')}@{row.get('checkpoint', '')}".rstrip("@") for _, row in noted.iterrows()]
    return {name: one_line(note, LONGEST) for name, note in zip(names, noted.get("note", ()), strict=True)}


def explorers(tokens: Iterable[tuple[str, pd.DataFrame]], text: str = "training text") -> list[Figure]:
    """Return the token explorer of each model, in order, as far as TOKEN_BUDGET allows: of one model at least."""
    made: list[Figure] = []
    size = 0
    for place, (label, table) in enumerate(tokens):
        figure = charts.token_explorer(table, label, text)
        size += len(figure.data)
        if made and size > TOKEN_BUDGET:
            break
        made.append(replace(figure, name=f"{figure.name}_{place}") if place else figure)
    return made or [charts.token_explorer(None)]


def _shown_table(
    name: str,
    table: pd.DataFrame,
    shown_as: Mapping[str, Shown],
    *,
    results: pd.DataFrame,
    published: pd.DataFrame | None,
    defined: Collection[str],
) -> Markup:
    """Return a table as the page shows it: by `shown_as` where that knows it, without columns that have no value.

    Its caption says whose rows those of `results` (and `published`) are; names of `defined` lead to definitions.
    """
    shown = (TABLES | NULL_TABLES | dict(shown_as))[name]
    caption = sentence(shown.caption, whose_words(name, results, published))
    table = table.loc[:, [bool(given(table, column).any()) for column in table.columns]]
    if "group" in table.columns and len(table):
        caption += f" Models: {table['group'].iloc[0]}."
    csv = f"tables/{name}.csv"
    return table_html(
        table,
        read_columns(table) if name == "results" else shown.columns,
        caption=caption,
        csv=csv,
        most=shown.most,
        anchors=name == "results",
        defined=defined,
    )


def _summary(results: pd.DataFrame, related: Table, defined: Collection[str]) -> dict[str, Any]:
    """Return what a reader takes away: the best and worst rows, the relations in one sentence, and each by itself."""
    summary: dict[str, Any] = {"in_words": ""}
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
    relations = []
    for _, row in shown.iterrows():
        name, _, said = _relation(row).partition(": ")
        relations.append(Markup("{}: {}").format(link(row["measurement"], name, defined), said))
    return summary | {"in_words": _in_words(shown), "relations": [*relations, note]}


def _in_words(related: pd.DataFrame) -> str:
    """Return by which of Figure 1's measurements better models are more or less collapsed, in a paragraph."""
    by_way: dict[str, list[pd.Series]] = {"with": [], "against": [], "unclear": [], "": []}
    for _, row in related.iterrows():
        by_way[_way(row)].append(row)
    said = []
    for way, words in WAYS.items():
        rows = by_way[way]
        names = "; ".join(f"{row['property']} {row['label']}" for row in rows)
        words = words or "it is not known which way collapse lies"
        said += [f"By {len(rows)} of {len(related)} measurements of Figure 1 {words}: {names}."] if rows else []
    grown = [row["label"] for row in by_way["with"] if MEASUREMENTS[row["measurement"]].scale != "free"]
    said += [f"Larger features alone would move these too: {'; '.join(grown)}."] if grown else []
    return " ".join(said)


def _logged(row: pd.Series) -> bool:
    """Whether a relation is told on a log scale."""
    return bool(MEASUREMENTS[row["measurement"]].log and pd.notna(row["r2_log"]))


def _way(row: pd.Series) -> str:
    """Whether better models are more collapsed, as WAYS says it.

    It is unclear too where the p that the page prints, after Holm's correction, leaves it open.
    """
    way = str(row["collapse_log" if _logged(row) else "collapse"])
    return way if not way or row["p_holm"] < CLEAR else "unclear"


def _relation(row: pd.Series) -> str:
    """Return one measurement's relation with the loss as a sentence."""
    logged, way = _logged(row), _way(row)
    r, leaning, without = (row[name.format("_log" if logged else "")] for name in RELATION)
    log = f" ({row['r2_log']:.3f} on a log scale)" if logged else ""
    bounds = f", 95 % interval {row['r2_low']:.3f} to {row['r2_high']:.3f}" if pd.notna(row["r2_low"]) else ""
    grows = way == "with" and MEASUREMENTS[row["measurement"]].scale != "free"
    words = WAYS[way] + (", or their features only larger" if grows else "") + (", " if way else "")
    points = f"{leaning:.0f} point{'s' if leaning > 1 else ''}"
    rest = f" Without the {points} that the line leans on, r = {without:.3f}." if leaning and pd.notna(without) else ""
    return (
        f"{row['property']}, {row['label']}: {words}r = {r:.3f}{' on a log scale' if logged else ''}; R² with "
        f"validation loss {row['r2']:.3f}{log}{bounds or f', {NO_INTERVAL}'}; n = {row['n']}, p after Holm's "
        f"correction {row['p_holm']:.2g} (the smallest p that the test can find is {row['p_smallest']:.2g}).{rest}"
    ).replace(" -", " −")
