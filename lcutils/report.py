"""The analysis as files: every figure (HTML, SVG, PNG), every table (CSV) and one report that holds them all."""

from __future__ import annotations

import hashlib
import html
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from lcutils import analysis, charts
from lcutils.analysis import MEASUREMENTS, Missing, measurements_in
from lcutils.artifacts import atomic_path, git_commit
from lcutils.charts import Figure
from lcutils.charts.theme import OKABE_ITO, ROW_LIMIT
from lcutils.charts.tokens import TOKEN_COLUMNS
from lcutils.page_parts import (
    data_json,
    facts_html,
    figure_html,
    number_words,
    packed_json,
    page,
    row_anchor,
    switched_html,
    table_html,
)

PAPER = "R. Wu and V. Papyan, Linguistic Collapse: Neural Collapse in (Large) Language Models, NeurIPS 2024, arXiv:2405.17767"
VERSIONS = (
    "lcutils",
    "torch",
    "transformers",
    "numpy",
    "scipy",
    "pandas",
    "statsmodels",
    "altair",
    "vl-convert-python",
)
TOKEN_BUDGET = 1_500_000  # bytes of token tables, packed, that the report may carry
HITS_LISTED = 25

Table = pd.DataFrame | Missing
TABLE_CAPTIONS = {
    "table_1": "Table 1. R² of each measurement with validation loss over models that differ in their seed alone; p by permutation "
    "(two-sided), with its Monte-Carlo interval and Holm's correction. The rows not of the paper are marked.",
    "table_2": "Table 2. Configuration: the paper's, and this study's.",
    "table_3": "Table 3. The paper's batch sizes (sequences a batch), by depth (rows) and width (columns).",
    "table_5": "Table 5. First names beside the average token: CDNV and interference, each averaged over the other classes.",
    "correlations": "Every measurement against validation loss, over all rows: on its own scale and (…_log) on a log scale; permutation p "
    "with interval, Holm, Spearman, bootstrap intervals.",
    "partial_correlations": "Partial correlations with validation loss, given one control, or all of them.",
    "within_architecture": "Within a fixed architecture: over seeds, epochs and decays; pooled over architectures after centring.",
    "influence": "What R² becomes without one row, the largest changes first.",
    "sensitivity": "Each measurement at each minimum class count, and its change against the smallest.",
    "sensitivity_correlations": "R² with validation loss at each minimum class count.",
    "trajectories": "Measurements along the kept checkpoints.",
    "kind_shares": "Kinds of token: shares of the vocabulary and of the data.",
    "beside_published": "Rows of the same model and checkpoint: ours, published, difference.",
}


@dataclass
class Contents:
    """All that the report shows, computed once."""

    figures: dict[str, Figure]
    by_width: list[Figure]
    tables: dict[str, Table]


def write_analysis(
    results: pd.DataFrame,
    folder: Path,
    *,
    title: str,
    settings: dict[str, Any],
    tokens: dict[str, pd.DataFrame] | None = None,
    sensitivity: pd.DataFrame | None = None,
    published: pd.DataFrame | None = None,
) -> dict[str, Path]:
    """Write `figures/`, `tables/` and `report.html` into `folder`; what cannot be computed is said in a sentence.

    Args:
        results: one row a measured point, columns of results.csv; ours, or published rows to be analysed alone.
        folder: where to write; made if it is not there. Each file is complete or absent.
        title: the study's, heads the report.
        settings: the study's parameters, shown in the report and beside the paper's in Table 2.
        tokens: "model@checkpoint" -> per-token table (token_id, text, count, variance, norm, cdnv, interference, …).
        sensitivity: rows of every sensitivity.csv, concatenated.
        published: published rows to set beside ours.

    Returns:
        Path of every file by its place under `folder`, such as "figures/figure_1.svg"; the report is "report.html".
    """
    tokens = _best_first(tokens or {}, results)
    contents = compute(results, settings, tokens, sensitivity, published)
    written: dict[str, Path] = {}

    def write(place: str, content: str | bytes) -> None:
        with atomic_path(folder / place) as aside:
            aside.write_bytes(content if isinstance(content, bytes) else content.encode())
        written[place] = folder / place

    for figure in [*contents.figures.values(), *contents.by_width]:
        if figure.chart is not None:
            write(f"figures/{figure.name}.svg", figure.svg())
            write(f"figures/{figure.name}.png", figure.png(scale=2))
    for figure in contents.figures.values():
        if figure.chart is not None:
            write(
                f"figures/{figure.name}.html",
                page(figure.title, f"<h1>{html.escape(title)}</h1>{figure_html(figure, '')}"),
            )
    # One page for all the figures against width: each carries a megabyte of Vega.
    body = f"<h1>{html.escape(title)}</h1>{switched_html('by_width', 'Measurement', contents.by_width, '')}"
    write("figures/by_width.html", page("Measurements against width", body))
    for name, table in contents.tables.items():
        if isinstance(table, pd.DataFrame):
            write(f"tables/{name}.csv", table.to_csv(index=False))
    write("report.html", page(title, report_body(results, contents, title=title, settings=settings, tokens=tokens)))
    return written


def compute(
    results: pd.DataFrame,
    settings: dict[str, Any],
    tokens: dict[str, pd.DataFrame],
    sensitivity: pd.DataFrame | None,
    published: pd.DataFrame | None,
) -> Contents:
    """Compute every table and chart once; `tokens` is ordered, its first entry is the one that charts show."""
    chosen = settings.get("analysis") or {}
    trials = int(chosen.get("permutations", 10_000))
    names = chosen.get("names")
    label, table = next(iter(tokens.items()), ("", None))
    no_tokens = Missing("No token table was given: the measure stage writes one a checkpoint.")
    no_sensitivity = Missing("No sensitivity table was given: the measure stage writes one a checkpoint.")
    no_published = Missing("No published table was given to set beside ours.")
    has_sensitivity = sensitivity is not None and len(sensitivity) > 0
    tables: dict[str, Table] = {
        "results": results,
        "table_1": analysis.table_1(results, trials=trials),
        "correlations": analysis.correlations(results, trials=trials),
        "partial_correlations": analysis.partial_correlations(results),
        "within_architecture": analysis.within_architecture(results),
        "influence": _largest_changes(analysis.influence(results)),
        "sensitivity": analysis.sensitivity(sensitivity) if has_sensitivity else no_sensitivity,
        "sensitivity_correlations": analysis.sensitivity_correlations(sensitivity, results)
        if has_sensitivity
        else no_sensitivity,
        "trajectories": analysis.trajectories(results),
        "table_2": analysis.table_2(settings or None),
        "table_3": analysis.table_3(),
        "table_5": no_tokens if table is None else analysis.table_5(table, names) if names else analysis.table_5(table),
        "kind_shares": no_tokens if table is None else analysis.kind_shares(table),
        "beside_published": no_published if published is None else analysis.beside_published(results, published),
        "measurements": measurement_table(),
    }
    made = [
        charts.figure_1(results), charts.figure_2(results), charts.figure_3(results),
        charts.correlations_chart(tables["correlations"], tables["partial_correlations"], tables["within_architecture"]),
        charts.seeds_scatter(results), charts.against_loss(results), charts.losses(results), charts.trajectories(results),
        charts.sensitivity(sensitivity, results), charts.token_kinds(table), charts.token_explorer(table, label),
        charts.overlaid(results, published), charts.beside_published(results, published),
    ]  # fmt: skip
    grids = [charts.by_width(results, key) for key in measurements_in(results)]
    return Contents({figure.name: figure for figure in made}, grids, tables)


def measurement_table() -> pd.DataFrame:
    """Return the definition of every measurement as a table: key, property, label, definition, limit."""
    rows = [(key, m.property, m.label, m.definition, m.limit) for key, m in MEASUREMENTS.items()]
    return pd.DataFrame(rows, columns=["measurement", "property", "label", "definition", "limit"])


def _largest_changes(table: Table) -> Table:
    if isinstance(table, Missing):
        return table
    return table.sort_values("change", key=lambda change: -change.abs(), kind="stable", ignore_index=True)


def _best_first(tokens: dict[str, pd.DataFrame], results: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the token tables ordered by validation loss, those of unknown rows last."""
    if not {"model", "checkpoint", "val_loss"} <= set(results.columns):
        return tokens
    loss = {f"{model}@{checkpoint}": value for model, checkpoint, value in
            results[["model", "checkpoint", "val_loss"]].dropna().itertuples(index=False)}  # fmt: skip
    return dict(sorted(tokens.items(), key=lambda item: loss.get(item[0], float("inf"))))


# ------------------------------------------------------------------------------------------------------- the page


def report_body(
    results: pd.DataFrame, contents: Contents, *, title: str, settings: dict[str, Any], tokens: dict[str, pd.DataFrame]
) -> str:
    """Return the report's body: contents, sections, and at its end how to cite it."""
    figures, tables = contents.figures, contents.tables
    figure = lambda *names: "".join(figure_html(figures[name]) for name in names)  # noqa: E731
    table = lambda *names: "".join(_table_part(name, tables[name]) for name in names)  # noqa: E731
    sections = [
        ("results", "Results in short", _summary(results, tables)),
        ("figures", "Figures 1, 2 and 3 of the paper", figure("figure_1", "figure_2", "figure_3")),
        ("table-1", "Table 1: models that differ in their seed alone", table("table_1") + figure("seeds")),
        ("beyond", "What the paper lacks", figure("correlations") + table(
            "correlations", "partial_correlations", "within_architecture", "influence")),
        ("sensitive", "Sensitivity to the minimum class count", figure("sensitivity") + table("sensitivity_correlations", "sensitivity")),
        ("along", "Along training", figure("trajectories") + table("trajectories")),
        ("losses-by-size", "Losses by depth and width", figure("losses")),
        ("widths", "Each measurement against width", switched_html("by_width", "Measurement", contents.by_width)
         or '<p class="notice">The table has no measurement to draw against width.</p>'),
        ("every", "Each measurement against validation loss", figure("against_loss")),
        ("beside", "Ours beside the published models", figure("overlaid", "beside_published") + table("beside_published")),
        ("tokens", "Tokens", figure("token_kinds") + table("kind_shares", "table_5")),
        ("explore", "Token explorer", explorer_html(tokens)),
        ("settings", "Configuration", table("table_2", "table_3")),
        ("rows", "All rows", table_html(results, caption="One row a model and checkpoint; click a row to pick its model in every figure.",
                                        most=5_000, anchors=True, csv="tables/results.csv")),
        ("definitions", "Definitions of the measurements", _definitions(tables)),
        ("lacking", "What could not be computed", _lacking(contents)),
        ("origin", "Origin, versions, how to cite", _origin(results, title, settings)),
    ]  # fmt: skip
    listed = "".join(f'<li><a href="#{anchor}">{html.escape(words)}</a></li>' for anchor, words, _ in sections)
    parts = "".join(
        f'<section><h2 id="{anchor}">{html.escape(words)}</h2>{body}</section>' for anchor, words, body in sections
    )
    head = f'<h1>{html.escape(title)}</h1><p class="quiet">Neural collapse in causal language models: a study after Wu and Papyan (2024). '
    return f'{head}Written {time.strftime("%Y-%m-%d")}.</p><nav><ol class="contents">{listed}</ol></nav>{parts}'


def _table_part(name: str, table: Table) -> str:
    caption = TABLE_CAPTIONS[name]
    if isinstance(table, Missing):
        short = caption.split(".")[0] if name.startswith("table_") else name.replace("_", " ").capitalize()
        return f'<p class="notice" id="{name}"><strong>{html.escape(short)}.</strong> {html.escape(table.reason)}</p>'
    most = 100 if name in ("influence", "sensitivity", "trajectories", "beside_published") else 400
    return (
        f'<div id="table-of-{name}">{table_html(table, caption=caption, csv=f"tables/{name}.csv", most=most)}</div><br>'
    )


def _summary(results: pd.DataFrame, tables: dict[str, Table]) -> str:
    """Return the few sentences that a reader takes away, each with its number and its row."""
    keys = measurements_in(results)
    models = results["model"].nunique() if "model" in results.columns else len(results)
    said = [f"{len(results)} measured points of {models} models, with {len(keys)} measurements of {len(MEASUREMENTS)}."]
    if "val_loss" in results.columns and results["val_loss"].notna().any():
        best, worst = results.loc[results["val_loss"].idxmin()], results.loc[results["val_loss"].idxmax()]
        said.append(
            f"Validation loss: best {_row_link(best)} with {best['val_loss']:.4f} nats per token, worst {_row_link(worst)} with "
            f"{worst['val_loss']:.4f}."
        )
    related = tables["correlations"]
    if isinstance(related, Missing):
        said.append(html.escape(related.reason))
    else:
        top = related[related["r2"].notna()].nlargest(3, "r2")
        said += [f"R² of {html.escape(str(row.property))}, {html.escape(str(row.label))}, with validation loss: {row.r2:.3f}"
                 + (f" (95 % interval {row.r2_low:.3f} to {row.r2_high:.3f})" if pd.notna(row.r2_low) else "")
                 + f", n = {row.n}, p = {number_words(row.p)}, after Holm's correction {number_words(row.p_holm)}."
                 for row in top.itertuples()]  # fmt: skip
        said.append(
            "These points share architectures and schedules: read them beside the partial and within-architecture relations below."
        )
    return "<ul>" + "".join(f"<li>{sentence}</li>" for sentence in said) + "</ul>"


def _row_link(row: pd.Series) -> str:
    if "model" not in row or "checkpoint" not in row:
        return "a row"
    model, checkpoint = row["model"], row["checkpoint"]
    return f'<a href="#{html.escape(row_anchor(model, checkpoint))}">{html.escape(f"{model}@{checkpoint}")}</a>'


def _definitions(tables: dict[str, Table]) -> str:
    where = (
        "c and c' are classes (next tokens), K of them; mu_c is the mean feature of a class, mu_bar the unweighted mean of the class "
        "means, sigma_c² the within-class variance (trace of the class covariance), w_c the class's row of the head. Pairs are "
        "c &lt; c'; CoV is standard deviation over mean; logs are natural."
    )
    table = tables["measurements"]
    assert isinstance(table, pd.DataFrame)
    return f"<p>{where}</p>{table_html(table, csv='tables/measurements.csv')}"


def _lacking(contents: Contents) -> str:
    """Return every sentence that stands for a figure or table, in one list."""
    said = {
        figure.title: figure.missing
        for figure in [*contents.figures.values(), *contents.by_width]
        if figure.chart is None
    }
    said |= {f"Table {name.replace('table_', '').replace('_', ' ')}": table.reason for name, table in contents.tables.items()
             if isinstance(table, Missing)}  # fmt: skip
    if not said:
        return "<p>Every figure and table could be computed.</p>"
    return (
        "<ul>"
        + "".join(f"<li>{html.escape(name)}: {html.escape(reason)}</li>" for name, reason in said.items())
        + "</ul>"
    )


def _origin(results: pd.DataFrame, title: str, settings: dict[str, Any]) -> str:
    digest = hashlib.sha256(results.to_csv(index=False).encode()).hexdigest()
    commit = git_commit() or "no checkout"
    versions = {"Python": platform.python_version()} | {name: version(name) for name in VERSIONS}
    today = time.strftime("%Y-%m-%d")
    cite = f"{title}: neural collapse in causal language models. Report of {today}, lcutils {version('lcutils')} (commit {commit}), results sha256 {digest[:16]}."
    files = "Beside this page: <code>figures/</code> holds each figure as SVG, PNG and a page of its own, <code>tables/</code> each table as CSV."
    return (
        f"<p>To cite this report: <q>{html.escape(cite)}</q></p><p>The paper: {html.escape(PAPER)}.</p><p>{files}</p>"
        f"<h3>Versions</h3>{facts_html({'written': today, 'commit': commit, 'sha256 of the results': digest, **versions})}"
        f"<h3>Parameters of the study</h3>{facts_html(_flat(settings)) if settings else '<p>None were given.</p>'}"
    )


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            flat[prefix + name] = (
                "; ".join(
                    ", ".join(f"{k} {v}" for k, v in part.items()) if isinstance(part, dict) else str(part)
                    for part in value
                )
                or "none"
            )
        else:
            flat[prefix + name] = "none" if value is None else str(value)
    return flat


def explorer_html(tokens: dict[str, pd.DataFrame]) -> str:
    """Return the token explorer: a search over the token tables, which it carries packed, as many as TOKEN_BUDGET allows."""
    if not tokens:
        return '<p class="notice">There is no token table to explore: the measure stage writes one a checkpoint.</p>'
    packed: dict[str, str] = {}
    for label, table in tokens.items():  # best model first
        text = packed_json(token_columns(table))
        if packed and sum(map(len, packed.values())) + len(text) > TOKEN_BUDGET:
            break
        packed[label] = text
    left = len(tokens) - len(packed)
    note = (
        f" The page carries the {len(packed)} models of lowest validation loss; the other {left} have their tables in the measure stage's folders."
        if left
        else ""
    )
    columns = {
        name: list(words) for name, words in TOKEN_COLUMNS.items() if name in next(iter(tokens.values())).columns
    }
    index = {"columns": columns, "limit": ROW_LIMIT, "most": HITS_LISTED, "colours": [OKABE_ITO[0], OKABE_ITO[5]]}
    choose = lambda name, options, first: (  # noqa: E731
        f'<select data-part="{name}">' + "".join(f'<option value="{html.escape(value)}"{" selected" if value == first else ""}>{html.escape(words)}</option>'
                                                 for value, words in options) + "</select>")  # fmt: skip
    axes = [(name, words) for name, (words, _) in columns.items()]
    numbers = {label: str(i) for i, label in enumerate(packed)}
    models = choose("model", [(number, label) for label, number in numbers.items()], "0")
    heads = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in columns)
    data = "".join(
        f'<script type="application/gzip" id="tokens-{numbers[label]}">{text}</script>'
        for label, text in packed.items()
    )
    return f"""<p>Type a token to find it; click a point, a row or a nearest mean to go to another.{note}</p>
<div id="explorer"><p><label>Model {models}</label> <label>Token <input type="search" data-part="token" placeholder="such as Tim"></label>
<span class="quiet" data-part="found" aria-live="polite"></span></p>
<div class="explorer"><div><div data-part="cloud"></div><p class="quiet"><label>across {choose("x", axes, "count")}</label>
<label>up {choose("y", axes, "cdnv" if "cdnv" in columns else axes[-1][0])}</label></p><p class="quiet" data-part="notice"></p></div>
<div class="card" data-part="card"><p class="quiet">No token is chosen.</p></div></div>
<div class="scroll"><table data-part="hits"><thead><tr><th class="words">token</th>{heads}</tr></thead><tbody></tbody></table></div></div>
<script type="application/json" id="tokens-index">{data_json(index)}</script>{data}"""


def token_columns(table: pd.DataFrame) -> dict[str, Sequence[Any]]:
    """Return a token table as lists by column, numbers cut to five digits."""
    columns: dict[str, Sequence[Any]] = {}
    for name in ("token_id", "text", *TOKEN_COLUMNS, "total", "nearest"):
        if name not in table.columns:
            continue
        if pd.api.types.is_float_dtype(table[name]):
            columns[name] = [float(f"{value:.5g}") for value in table[name]]
        else:
            columns[name] = table[name].tolist()
    return columns
