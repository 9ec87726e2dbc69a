"""The report's page: its sections in order, the token explorer, and how to cite it."""

from __future__ import annotations

import hashlib
import html
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pandas as pd

from lcutils.analysis import MEASUREMENTS, Missing, measurements_in
from lcutils.analysis.tables import flat_settings
from lcutils.artifacts import git_commit
from lcutils.charts import Figure
from lcutils.charts.paper import FIGURE_1
from lcutils.charts.theme import OKABE_ITO, ROW_LIMIT
from lcutils.charts.tokens import TOKEN_COLUMNS
from lcutils.report.parts import data_json, facts_html, figure_html, packed_json, row_anchor, switched_html, table_html

PAPER = (
    "R. Wu and V. Papyan, Linguistic Collapse: Neural Collapse in (Large) Language Models, NeurIPS 2024, "
    "arXiv:2405.17767"
)
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

# What a page is wide enough for; the CSV has every column.
SHOWN_COLUMNS = {
    "table_1": ["row", "label", "paper", "n", "r", "r2", "p", "p_low", "p_high", "p_holm", "note"],
    "correlations": [
        "property",
        "label",
        "n",
        "r",
        "r2",
        "r2_low",
        "r2_high",
        "r2_log",
        "p",
        "p_holm",
        "spearman",
        "note",
    ],
    "partial_correlations": [
        "property",
        "label",
        "given",
        "n",
        "r2",
        "partial_r",
        "low",
        "high",
        "partial_r2",
        "p_holm",
    ],
    "within_architecture": ["property", "label", "architecture", "groups", "n", "r", "r2", "p", "p_holm", "note"],
    "sensitivity_correlations": ["measurement", "label", "min_count", "n", "r", "r2", "r2_log"],
}
ROWS_CAPTION = "One row a model and checkpoint; click a row to pick its model in every figure."

Table = pd.DataFrame | Missing
TABLE_CAPTIONS = {
    "table_1": "Table 1. R² of each measurement with validation loss over models that differ in their seed alone; p by "
    "permutation (two-sided), with its Monte-Carlo interval and Holm's correction; paper: whether the row is one of "
    "the paper's.",
    "table_2": "Table 2. Configuration: the paper's, and this study's.",
    "table_3": "Table 3. The paper's batch sizes (sequences a batch), by depth (rows) and width (columns).",
    "table_5": "Table 5. First names beside the average token: CDNV and interference, each averaged over the "
    "other classes.",
    "correlations": "Every measurement against validation loss, over all rows: on its own scale and (…_log) on a log "
    "scale; permutation p with interval, Holm, Spearman, bootstrap intervals.",
    "partial_correlations": "Partial correlations with validation loss, given one control, or all of them.",
    "within_architecture": "Within a fixed architecture: over seeds, epochs and decays; pooled over "
    "architectures after centring.",
    "influence": "What R² becomes without one row, the largest changes first.",
    "sensitivity": "Each measurement at each minimum class count, and its change against the smallest.",
    "sensitivity_correlations": "R² with validation loss at each minimum class count.",
    "trajectories": "Measurements along the kept checkpoints.",
    "kind_shares": "Kinds of token: shares of the tokens that occur in the training text and were measured (not of the "
    "whole vocabulary), and of the data.",
    "beside_published": "Rows of the same model and checkpoint: ours, published, difference.",
}


@dataclass
class Contents:
    """All that the report shows, computed once."""

    figures: dict[str, Figure]
    by_width: list[Figure]
    tables: dict[str, Table]


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
        ("sensitive", "Sensitivity to the minimum class count",
         figure("sensitivity") + table("sensitivity_correlations", "sensitivity")),
        ("along", "Along training", figure("trajectories") + table("trajectories")),
        ("losses-by-size", "Losses by depth and width", figure("losses")),
        ("widths", "Each measurement against width", switched_html("by_width", "Measurement", contents.by_width)
         or '<p class="notice">The table has no measurement to draw against width.</p>'),
        ("every", "Each measurement against validation loss", figure("against_loss")),
        ("beside", "Ours beside the published models",
         figure("overlaid", "beside_published") + table("beside_published")),
        ("tokens", "Tokens", figure("token_kinds") + table("kind_shares", "table_5")),
        ("explore", "Token explorer", explorer_html(tokens)),
        ("settings", "Configuration", table("table_2", "table_3")),
        ("rows", "All rows",
         table_html(results, caption=ROWS_CAPTION, most=5_000, anchors=True, csv="tables/results.csv")),
        ("definitions", "Definitions of the measurements", _definitions(tables)),
        ("lacking", "What could not be computed", _lacking(contents)),
        ("origin", "Origin, versions, how to cite", _origin(results, title, settings)),
    ]  # fmt: skip
    listed = "".join(f'<li><a href="#{anchor}">{html.escape(words)}</a></li>' for anchor, words, _ in sections)
    parts = "".join(
        f'<section><h2 id="{anchor}">{html.escape(words)}</h2>{body}</section>' for anchor, words, body in sections
    )
    head = (
        f'<h1>{html.escape(title)}</h1><p class="quiet">Neural collapse in causal language models: a study '
        f"after Wu and Papyan (2024). "
    )
    return f'{head}Written {time.strftime("%Y-%m-%d")}.</p><nav><ol class="contents">{listed}</ol></nav>{parts}'


def _table_part(name: str, table: Table) -> str:
    caption = TABLE_CAPTIONS[name]
    if isinstance(table, Missing):
        short = caption.split(".")[0] if name.startswith("table_") else name.replace("_", " ").capitalize()
        return f'<p class="notice" id="{name}"><strong>{html.escape(short)}.</strong> {html.escape(table.reason)}</p>'
    if "group" in table.columns and len(table):
        caption += f" Models: {table['group'].iloc[0]}."
    columns = SHOWN_COLUMNS.get(name)
    table = table[[c for c in columns if c in table.columns]] if columns else table
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
        best, worst = results.nsmallest(1, "val_loss").iloc[0], results.nlargest(1, "val_loss").iloc[0]
        said.append(
            f"Validation loss: best {_row_link(best)} with {best['val_loss']:.4f} nats per token, worst "
            f"{_row_link(worst)} with {worst['val_loss']:.4f}."
        )
    related = tables["correlations"]
    if isinstance(related, Missing):
        said.append(html.escape(related.reason))
    else:
        shown = related[related["measurement"].isin(FIGURE_1) & related["r2"].notna()]
        said += [_relation(row) for _, row in shown.iterrows()]
        said.append(
            "These points share architectures and schedules: read them beside the partial and "
            "within-architecture relations below."
        )
    return "<ul>" + "".join(f"<li>{sentence}</li>" for sentence in said) + "</ul>"


def _relation(row: pd.Series) -> str:
    """Return one measurement's relation with the loss as a sentence."""
    log = (
        f" ({row['r2_log']:.3f} on a log scale)"
        if MEASUREMENTS[row["measurement"]].log and pd.notna(row["r2_log"])
        else ""
    )
    bounds = f", 95 % interval {row['r2_low']:.3f} to {row['r2_high']:.3f}" if pd.notna(row["r2_low"]) else ""
    name = html.escape(f"{row['property']}, {row['label']}")
    return (
        f"{name}: R² with validation loss {row['r2']:.3f}{log}{bounds}; n = {row['n']}, p after Holm's "
        f"correction {row['p_holm']:.2g}."
    )


def _row_link(row: pd.Series) -> str:
    if "model" not in row or "checkpoint" not in row:
        return "a row"
    model, checkpoint = row["model"], row["checkpoint"]
    return f'<a href="#{html.escape(row_anchor(model, checkpoint))}">{html.escape(f"{model}@{checkpoint}")}</a>'


def _definitions(tables: dict[str, Table]) -> str:
    where = (
        "c and c' are classes (next tokens), K of them; mu_c is the mean feature of a class, mu_bar the unweighted "
        "mean of the class means, sigma_c² the within-class variance (trace of the class covariance), w_c the class's "
        "row of the head. Pairs are c &lt; c'; CoV is standard deviation over mean; logs are natural."
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
    for name, table in contents.tables.items():
        if isinstance(table, Missing):
            said[f"Table {name.removeprefix('table_').replace('_', ' ')}"] = table.reason
    if not said:
        return "<p>Every figure and table could be computed.</p>"
    return (
        "<ul>"
        + "".join(f"<li>{html.escape(name)}: {html.escape(reason)}</li>" for name, reason in said.items())
        + "</ul>"
    )


def _origin(results: pd.DataFrame, title: str, settings: dict[str, Any]) -> str:
    digest = hashlib.sha256(results.to_csv(index=False).encode()).hexdigest()
    commit = git_commit() or "not known"
    versions = {"Python": platform.python_version()} | {name: version(name) for name in VERSIONS}
    today = time.strftime("%Y-%m-%d")
    cite = (
        f"{title}: neural collapse in causal language models. Report of {today}, lcutils "
        f"{version('lcutils')} (commit {commit}), results sha256 {digest[:16]}."
    )
    files = (
        "Beside this page: <code>figures/</code> holds each figure as SVG, PNG and a page of its own, "
        "<code>tables/</code> each table as CSV."
    )
    parameters = facts_html(flat_settings(settings)) if settings else "<p>None were given.</p>"
    facts = {"written": today, "commit": commit, "sha256 of the results": digest, **versions}
    return (
        f"<p>To cite this report: <q>{html.escape(cite)}</q></p><p>The paper: {html.escape(PAPER)}.</p><p>{files}</p>"
        f"<h3>Versions</h3>{facts_html(facts)}<h3>Parameters of the study</h3>{parameters}"
    )


def explorer_html(tokens: dict[str, pd.DataFrame]) -> str:
    """Return the token explorer: a search over the token tables that TOKEN_BUDGET allows, carried packed."""
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
        f" Carried in this page: {len(packed)} of {len(tokens)} token tables, those of the lowest validation loss; "
        "the others are in the measure stage's folders."
        if left
        else ""
    )
    columns = {
        name: list(words) for name, words in TOKEN_COLUMNS.items() if name in next(iter(tokens.values())).columns
    }
    index = {
        "columns": columns,
        "limit": ROW_LIMIT,
        "most": HITS_LISTED,
        "colours": [OKABE_ITO[0], OKABE_ITO[5], OKABE_ITO[4]],
    }
    axes = [(name, TOKEN_COLUMNS[name][0]) for name in columns]
    numbers = {label: str(i) for i, label in enumerate(packed)}
    models = _select("model", [(number, label) for label, number in numbers.items()], "0")
    across = _select("x", axes, "count")
    up = _select("y", axes, "cdnv" if "cdnv" in columns else axes[-1][0])
    heads = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in columns)
    data = "".join(
        f'<script type="application/gzip" id="tokens-{numbers[label]}">{text}</script>'
        for label, text in packed.items()
    )
    return f"""<p>Type a token to find it; click a point, a row or a nearest mean to go to another.{note}</p>
<div id="explorer"><p><label>Model {models}</label>
<label>Token <input type="search" data-part="token" placeholder="such as Tim"></label>
<span class="quiet" data-part="found" aria-live="polite"></span></p>
<div class="explorer"><div><div data-part="cloud"></div>
<p class="quiet"><label>across {across}</label><br><label>up {up}</label></p>
<p class="quiet" data-part="notice"></p></div>
<div class="card" data-part="card"><p class="quiet">No token is chosen.</p></div></div>
<div class="scroll"><table data-part="hits">
<thead><tr><th class="words">token</th>{heads}</tr></thead><tbody></tbody></table></div></div>
<script type="application/json" id="tokens-index">{data_json(index)}</script>{data}"""


def _select(name: str, options: Sequence[tuple[str, str]], first: str) -> str:
    choices = "".join(
        f'<option value="{html.escape(value)}"{" selected" if value == first else ""}>{html.escape(words)}</option>'
        for value, words in options
    )
    return f'<select data-part="{name}">{choices}</select>'


def token_columns(table: pd.DataFrame) -> dict[str, Sequence[Any]]:
    """Return a token table as lists by column, numbers cut to five digits."""
    columns: dict[str, Sequence[Any]] = {}
    for name in ("token_id", "text", *TOKEN_COLUMNS, "total", "nearest_ids"):
        if name not in table.columns:
            continue
        if pd.api.types.is_float_dtype(table[name]):
            columns[name] = [float(f"{value:.5g}") for value in table[name]]
        elif name == "nearest_ids":
            columns[name] = [ids.tolist() for ids in table[name]]
        else:
            columns[name] = table[name].tolist()
    return columns
