"""The analysis as files: every figure (HTML, SVG, PNG), every table (CSV) and one report that holds them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from lcutils import analysis, charts
from lcutils.analysis import MEASUREMENTS, Missing, measurements_in
from lcutils.analysis.tables import FIRST_NAMES
from lcutils.artifacts import atomic_path
from lcutils.charts.comparison import NO_PUBLISHED
from lcutils.charts.grid import NO_SENSITIVITY
from lcutils.charts.tokens import NO_TOKENS
from lcutils.report.body import BY_WIDTH, Report, Table, report_page
from lcutils.report.parts import figures_page
from lcutils.text import csv_text


def write_analysis(
    results: pd.DataFrame,
    folder: Path,
    *,
    title: str,
    settings: dict[str, Any],
    tokens: dict[str, pd.DataFrame] | None = None,
    sensitivity: pd.DataFrame | None = None,
    published: pd.DataFrame | None = None,
) -> Report:
    """Write `figures/`, `tables/` and `report.html` into `folder`; a sentence stands for what cannot be computed.

    Args:
        results: one row per measured point, columns of results.csv; ours, or published rows to be analysed alone.
        folder: where to write; it is made if it is missing. Each file is complete or absent.
        title: the study's, heads the report.
        settings: the study's parameters, shown in the report and beside the paper's in Table 2.
        tokens: "model@checkpoint" -> per-token table (token_id, text, count, variance, norm, cdnv, interference, …).
        sensitivity: rows of every sensitivity.csv, concatenated.
        published: published rows to set beside ours.

    Returns:
        The figures, the tables, and the path of every file by its place under `folder`.
    """
    tokens = best_first(tokens or {}, results)
    report = compute(results, settings, tokens, sensitivity, published)

    def write(place: str, content: str | bytes) -> None:
        with atomic_path(folder / place) as aside:
            aside.write_bytes(content if isinstance(content, bytes) else content.encode())
        report.paths[place] = folder / place

    for figure in report.figures.values():
        if figure.chart is not None:
            write(f"figures/{figure.name}.svg", figure.svg)
            write(f"figures/{figure.name}.png", figure.png(scale=1.5))
            if not figure.name.startswith(BY_WIDTH):
                write(f"figures/{figure.name}.html", figures_page(title, figure.title, figure))
    # One page for all the figures against width: each carries a megabyte of Vega.
    write("figures/by_width.html", figures_page(title, "Measurements against width", *report.by_width))
    for name, table in report.tables.items():
        if isinstance(table, pd.DataFrame):
            write(f"tables/{name}.csv", csv_text(table))
    write("report.html", report_page(report, title=title, settings=settings, tokens=tokens))
    return report


def compute(
    results: pd.DataFrame,
    settings: dict[str, Any],
    tokens: dict[str, pd.DataFrame],
    sensitivity: pd.DataFrame | None,
    published: pd.DataFrame | None,
) -> Report:
    """Compute every table and chart once; `tokens` is ordered, its first entry is the one that charts show."""
    chosen = settings.get("analysis") or {}
    riesz_s = (settings.get("measurement") or {}).get("riesz_s")
    trials = int(chosen.get("permutations", 10_000))
    names = chosen.get("names") or FIRST_NAMES
    label, table = next(iter(tokens.items()), ("", None))
    no_tokens, no_sensitivity, no_published = Missing(NO_TOKENS), Missing(NO_SENSITIVITY), Missing(NO_PUBLISHED)
    tables: dict[str, Table] = {
        "results": results,
        "table_1": analysis.table_1(results, trials=trials),
        "correlations": analysis.correlations(results, trials=trials),
        "partial_correlations": analysis.partial_correlations(results),
        "within_architecture": analysis.within_architecture(results),
        "influence": analysis.influence(results),
        "sensitivity": analysis.sensitivity(sensitivity) if sensitivity is not None else no_sensitivity,
        "sensitivity_correlations": no_sensitivity
        if sensitivity is None
        else analysis.sensitivity_correlations(sensitivity, results),
        "trajectories": analysis.trajectories(results),
        "table_2": analysis.table_2(settings or None),
        "table_3": analysis.table_3(),
        "table_5": no_tokens if table is None else analysis.table_5(table, names),
        "kind_shares": no_tokens if table is None else analysis.kind_shares(table),
        "beside_published": no_published if published is None else analysis.beside_published(results, published),
        "measurements": measurement_table(),
    }
    related = (tables["correlations"], tables["partial_correlations"], tables["within_architecture"])
    made = [
        charts.figure_1(results),
        charts.figure_2(results),
        charts.figure_3(results),
        charts.seeds_scatter(results),
        charts.correlations_chart(*related),
        charts.sensitivity(sensitivity, results),
        charts.trajectories(results),
        charts.losses(results),
        charts.against_loss(results, riesz_s),
        charts.overlaid(results, published),
        charts.beside_published(results, published),
        charts.token_kinds(table),
        charts.token_explorer(table, label),
    ]
    made += [charts.by_width(results, key, riesz_s) for key in measurements_in(results)]
    return Report({figure.name: figure for figure in made}, tables)


def measurement_table() -> pd.DataFrame:
    """Return the definition of every measurement as a table: key, property, label, definition, limit."""
    rows = [(key, m.property, m.label, m.definition, m.limit) for key, m in MEASUREMENTS.items()]
    return pd.DataFrame(rows, columns=["measurement", "property", "label", "definition", "limit"])


def best_first(tokens: dict[str, pd.DataFrame], results: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the token tables ordered by validation loss, those of unknown rows last."""
    if not {"model", "checkpoint", "val_loss"} <= set(results.columns):
        return tokens
    loss = {f"{model}@{checkpoint}": value for model, checkpoint, value in
            results[["model", "checkpoint", "val_loss"]].dropna().itertuples(index=False)}  # fmt: skip
    return dict(sorted(tokens.items(), key=lambda item: loss.get(item[0], float("inf"))))
