"""The analysis as files: every figure (HTML, SVG, PNG), every table (CSV) and one report that holds them all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from altair.utils.schemapi import debug_mode

from lcutils import analysis, charts
from lcutils.analysis import Missing, few_models, measurements_in
from lcutils.analysis.clustered import FEWEST_UNITS
from lcutils.analysis.findings import findings_of_paper
from lcutils.analysis.origin import all_published
from lcutils.analysis.questions import SEEDS
from lcutils.analysis.tables import FIRST_NAMES
from lcutils.artifacts import atomic_path
from lcutils.charts.comparison import NO_PUBLISHED
from lcutils.charts.grid import NO_SENSITIVITY
from lcutils.charts.theme import LIGHT
from lcutils.charts.tokens import NO_TOKENS
from lcutils.report.body import BY_WIDTH, Report, Table, report_page
from lcutils.report.few import RELATIONS, few_relations, few_tables, last_bands, statistics_text
from lcutils.report.findings import sign_table
from lcutils.report.origin import NONE_OF_OURS, headed, whose_figure, with_origin
from lcutils.report.parts import figures_page
from lcutils.report.pictures import draw_once, remember_pictures
from lcutils.text import csv_text

NO_FINDINGS = "No two points can be compared by what is known of them."
FEW_FINDINGS = f"Fewer than {FEWEST_UNITS} architectures cannot tell: each is left out in turn, to know the error."
NO_TIMES = "Nothing here was computed by this study."
PNG_SCALE = 1.5  # pixels of a figure's PNG for one of its own


def write_analysis(
    results: pd.DataFrame,
    folder: Path,
    *,
    title: str,
    settings: dict[str, Any],
    tokens: Mapping[str, pd.DataFrame] | None = None,
    sensitivity: pd.DataFrame | None = None,
    published: pd.DataFrame | None = None,
    nulls: pd.DataFrame | None = None,
    times: pd.DataFrame | None = None,
    failures: Mapping[str, str] | None = None,
    parts: tuple[pd.DataFrame | None, pd.DataFrame | None] = (None, None),
    layers: pd.DataFrame | None = None,
    earlier: Iterable[Path] = (),
) -> Report:
    """Write `figures/`, `tables/` and `report.html` into `folder`; a sentence stands for what cannot be computed.

    Fewer than eight points, or pretrained models alone, are described one by one; the page then has no section without
    content.

    Args:
        results: one row per measured point, columns of results.csv; ours, or published rows to be analysed alone.
        folder: where to write; it is made if it is missing. Each file is complete or absent.
        title: the study's, heads the report.
        settings: the study's parameters, shown in the report and beside the paper's in Table 2.
        tokens: "model@checkpoint" -> per-token table (token_id, text, count, variance, norm, cdnv, interference, …);
            only those that are shown are asked for, best model first, and no more than one is held at a time (two of
            a fine-tuned model and its base).
        sensitivity: rows of every sensitivity.csv, concatenated.
        published: published rows to set beside ours.
        nulls: rows of every nulls.csv, concatenated.
        times: one row per run, seconds of its stages and tokens per second.
        failures: "model@checkpoint" -> why it was not measured, in one line.
        parts: replicates and convergence of all points that were extracted in parts (`gather_parts`).
        layers: rows of every layers.parquet, concatenated; None where no inner layers were measured.
        earlier: folders of analyses that may hold some of the same pictures, which are then not drawn again.

    Returns:
        The figures, the tables, and the path of every file by its place under `folder`.
    """
    tokens = tokens or {}
    # Altair would check each piece of a chart against its schema; the tests check every figure, whole.
    with debug_mode(False):
        report = compute(results, settings, tokens, sensitivity, published, times, nulls, parts, layers)

    def write(place: str, content: str | bytes) -> None:
        with atomic_path(folder / place) as aside:
            aside.write_bytes(content if isinstance(content, bytes) else content.encode())
        report.paths[place] = folder / place

    heading = headed(title, results)
    charted = {name: figure for name, figure in report.figures.items() if figure.chart is not None}
    specs = {name: json.dumps(figure.spec) for name, figure in charted.items()} if report.pictures else {}
    drawn = draw_once(specs, LIGHT, PNG_SCALE, [before / "figures" for before in earlier])
    for name, figure in charted.items():
        if name in drawn:
            svg, png = drawn[name]
            figure.take_svg(svg)  # a notebook that shows the figure need not draw it
            write(f"figures/{figure.name}.svg", svg)
            write(f"figures/{figure.name}.png", png)
        if not figure.name.startswith((BY_WIDTH, charts.BY_LAYER)):
            write(f"figures/{figure.name}.html", figures_page(heading, figure.title, figure, pictures=report.pictures))
    if specs:
        remember_pictures(folder / "figures", specs, LIGHT, PNG_SCALE)
    # One page for all the figures of a kind: each carries a megabyte of Vega.
    kinds = {"by_width": ("against width", report.by_width), "by_layer": ("through the layers", report.by_layer)}
    for name, (words, figures) in kinds.items():
        if any(figure.chart is not None for figure in figures):
            write(
                f"figures/{name}.html",
                figures_page(heading, f"Measurements {words}", *figures, pictures=report.pictures),
            )
    for name, table in report.tables.items():
        if isinstance(table, pd.DataFrame):
            write(f"tables/{name}.csv", csv_text(with_origin(name, table, results, published)))
    shown = ((name, tokens[name]) for name in best_first(tokens, results))
    page = report_page(
        report, title=title, settings=settings, tokens=shown, token_tables=len(tokens), failures=failures or {}
    )
    write("report.html", page)
    return report


def compute(
    results: pd.DataFrame,
    settings: dict[str, Any],
    tokens: Mapping[str, pd.DataFrame],
    sensitivity: pd.DataFrame | None,
    published: pd.DataFrame | None,
    times: pd.DataFrame | None = None,
    nulls: pd.DataFrame | None = None,
    parts: tuple[pd.DataFrame | None, pd.DataFrame | None] = (None, None),
    layers: pd.DataFrame | None = None,
) -> Report:
    """Compute every table and chart once; of `tokens`, charts show those of the best model.

    Of few models (`analysis.few_models`) relations with the loss are computed where eight points have them.
    """
    chosen = settings.get("analysis") or {}
    riesz_s = (settings.get("measurement") or {}).get("riesz_s")
    trials = int(chosen.get("permutations", 10_000))
    names = chosen.get("names") or FIRST_NAMES
    few, text = few_models(results), statistics_text(results)
    label = next(iter(best_first(tokens, results)), "")
    table = tokens[label] if label else None
    no_tokens, no_sensitivity, no_published = (
        Missing(NO_TOKENS),
        Missing(NO_SENSITIVITY),
        Missing(NONE_OF_OURS if all_published(results) else NO_PUBLISHED),
    )
    related = few_relations(results, sensitivity, trials) if few else _relations(results, sensitivity, trials)
    tables: dict[str, Table] = {
        "results": results,
        **{name: related[name] for name in RELATIONS},
        "sensitivity": analysis.sensitivity(sensitivity) if sensitivity is not None else no_sensitivity,
        "sensitivity_correlations": related["sensitivity_correlations"],
        "trajectories": analysis.trajectories(results),
        "table_2": analysis.table_2(None if all_published(results) else settings or None),
        "table_3": analysis.table_3(),
        "table_5": no_tokens if table is None else analysis.table_5(table, names, text),
        "kind_shares": no_tokens if table is None else analysis.kind_shares(table),
        "beside_published": no_published if published is None else analysis.beside_published(results, published),
        "measurements": analysis.definitions_table(analysis.known_to(results)),
        "times": Missing(NO_TIMES) if times is None else times,
    }
    if not few:
        tables |= _findings(results, trials)
    if (corrected := analysis.beside_corrected(results)) is not None:
        tables["corrected"] = corrected
    replicates, convergence = parts
    if replicates is not None and convergence is not None:
        target = analysis.comparable_loss(results) if few else "val_loss"
        tables["errors"] = analysis.error_table(results, replicates, target)
        tables["correlations"] = analysis.with_reliability(tables["correlations"], tables["errors"])
        tables |= {"settling": analysis.settling(convergence), "convergence": convergence}
    if "family" in results:
        tables["models"] = analysis.model_table(results, settings)
    if nulls is not None:
        tables |= {"null_distances": analysis.null_distances(nulls), "nulls": nulls}
    if layers is not None:
        tables |= {"layers": layers, "law": analysis.law_of_prediction(layers)}
    if few:
        tables |= few_tables(results, settings, tokens, riesz_s, tables["table_5"])
    made = [
        charts.figure_1(results),
        charts.figure_2(results),
        charts.figure_3(results),
        charts.seeds_scatter(results),
        charts.correlations_chart(
            tables["correlations"], tables["partial_correlations"], tables["within_architecture"]
        ),
        charts.sensitivity(sensitivity, results),
        charts.trajectories(results),
        charts.losses(results),
        charts.against_loss(results, riesz_s),
        charts.free_scatter(results),
        charts.overlaid(results, published),
        charts.beside_published(results, published),
        charts.token_kinds(table, text),
        charts.token_explorer(table, label, text),
    ]
    if convergence is not None:
        made += [charts.convergence(convergence, results)]
    if few:
        made += [
            charts.strips(results, published, last_bands(nulls, results), riesz_s),
            charts.moved_tokens(tables["moved_tokens"]),
        ]
    elif nulls is not None:
        made.append(charts.beside_nulls(results, nulls))
    made += [charts.by_width(results, key, riesz_s) for key in measurements_in(results)]
    if layers is not None:
        made += [charts.by_layer(layers, results, key) for key in analysis.layer_keys(layers)]
        made.append(charts.law(layers, results))
    made = [whose_figure(figure, results, published) for figure in made]
    pictures = bool(chosen.get("pictures", True))
    return Report({figure.name: figure for figure in made}, tables, published, pictures=pictures)


def _relations(results: pd.DataFrame, sensitivity: pd.DataFrame | None, trials: int) -> dict[str, Table]:
    """Return the relations of a grid's models with the loss, by the tables' names."""
    return {
        "table_1": analysis.table_1(results, trials=trials),
        "correlations": analysis.correlations(results, trials=trials),
        "partial_correlations": analysis.partial_correlations(results),
        "within_architecture": analysis.within_architecture(results),
        "influence": analysis.influence(results),
        "sensitivity_correlations": Missing(NO_SENSITIVITY)
        if sensitivity is None
        else analysis.sensitivity_correlations(sensitivity, results),
    }


def _findings(results: pd.DataFrame, trials: int) -> dict[str, Table]:
    """Return what develops with what: in signs, and in numbers."""
    found, names = findings_of_paper(results, trials), ("what_develops_with_what", "findings")
    if found["r"].isna().all():
        return dict.fromkeys(names, Missing(NO_FINDINGS))
    if found.loc[found["question"] != SEEDS, "low"].isna().all():
        return dict.fromkeys(names, Missing(FEW_FINDINGS))
    return dict(zip(names, (sign_table(found), found), strict=True))


def best_first(names: Iterable[str], results: pd.DataFrame) -> list[str]:
    """Return the names ("model@checkpoint") ordered by validation loss, those of unknown rows last."""
    if not {"model", "checkpoint", "val_loss"} <= set(results.columns):
        return list(names)
    loss = {f"{model}@{checkpoint}": value for model, checkpoint, value in
            results[["model", "checkpoint", "val_loss"]].dropna().itertuples(index=False)}  # fmt: skip
    return sorted(names, key=lambda name: loss.get(name, float("inf")))
