"""Pieces of the report's page: tables, figures and facts as HTML, and the page that holds them.

The page carries its own styles, scripts, Vega and data, and forbids itself the network: one file, readable anywhere.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import math
from collections.abc import Hashable, Sequence
from functools import cache
from importlib.resources import files
from string import Template
from typing import Any

import pandas as pd
import vl_convert

from lcutils.analysis import Missing
from lcutils.charts.theme import DARK, LIGHT, VEGALITE_VERSION, Figure

TEXT_COLUMNS = {"note", "definition", "axis", "limit", "dropped", "ours", "paper", "setting"}


@cache
def _bundle() -> str:
    """Return Vega, Vega-Lite and vega-embed as one script, safe inside a script element."""
    # Without a snippet vl-convert puts vega, vegaLite and vegaEmbed on the window; its type hints do not foresee that.
    bundle = vl_convert.javascript_bundle(None, vl_version=VEGALITE_VERSION)  # type: ignore[arg-type]
    return bundle.replace("</script", "<\\/script")


def data_json(value: Any) -> str:
    """Return `value` as compact JSON that cannot end the script element it stands in (nan and infinity become null)."""
    text = json.dumps(_finite(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def packed_json(value: Any) -> str:
    """Return `value` as gzipped JSON in base64, a third of its size; the page unpacks it."""
    text = json.dumps(_finite(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def page(title: str, body: str) -> str:
    """Return the whole HTML page around `body`."""
    folder = files("lcutils.report") / "page"
    template = Template((folder / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=html.escape(title),
        body=body,
        bundle=_bundle(),
        grounds=data_json({"light": LIGHT, "dark": DARK}),
        css=(folder / "page.css").read_text(encoding="utf-8"),
        script=(folder / "page.js").read_text(encoding="utf-8"),
    )


def figure_html(figure: Figure, files_at: str = "figures/") -> str:
    """Return a figure with its caption, or the sentence that stands for it; `files_at` links its SVG and PNG."""
    anchor = html.escape(figure.name)
    title = html.escape(figure.title)
    if figure.chart is None:
        return (
            f'<figure id="{anchor}"><p class="notice"><strong>{title}.</strong> '
            f"{html.escape(figure.missing)}</p></figure>"
        )
    links = f' <a href="{files_at}{anchor}.svg">SVG</a> <a href="{files_at}{anchor}.png">PNG</a>'
    return (
        f'<figure id="{anchor}"><div class="drawing" id="drawing-{anchor}" data-name="{anchor}" role="img" '
        f'aria-label="{title}"></div>'
        f"<figcaption>{html.escape(figure.caption)}{links}</figcaption></figure>{spec_html(figure)}"
    )


def switched_html(name: str, words: str, figures: Sequence[Figure], files_at: str = "figures/") -> str:
    """Return one place for many figures of a kind, with a choice of which is shown."""
    drawn = [figure for figure in figures if figure.chart is not None]
    if not drawn:
        return "".join(figure_html(figure) for figure in figures[:1])
    choices = "".join(
        f'<option value="{html.escape(f.name)}" data-caption="{html.escape(f.caption)}">{html.escape(f.title)}</option>'
        for f in drawn
    )
    first = drawn[0]
    return (
        f'<figure id="{name}"><p><label>{html.escape(words)} <select '
        f'data-switches="drawing-{name}">{choices}</select></label></p>'
        f'<div class="drawing" id="drawing-{name}" data-name="{html.escape(first.name)}" role="img" '
        f'aria-label="{html.escape(words)}"></div>'
        f'<figcaption><span id="drawing-{name}-caption">{html.escape(first.caption)}</span> Files: '
        f"<code>{files_at}by_width_*</code></figcaption>"
        f"</figure>{''.join(map(spec_html, drawn))}"
    )


def spec_html(figure: Figure) -> str:
    """Return the figure's specification as data of the page."""
    return f'<script type="application/json" id="spec-{html.escape(figure.name)}">{data_json(figure.spec)}</script>\n'


def row_anchor(model: Any, checkpoint: Any) -> str:
    """Return the anchor of a results row."""
    return f"row-{model}@{checkpoint}"


def table_html(table: pd.DataFrame, *, caption: str = "", most: int = 400, anchors: bool = False, csv: str = "") -> str:
    """Return a table, its numbers readable (sortable in the page by their full value).

    Args:
        table: what to show.
        caption: what it is, a sentence.
        most: rows shown; the caption says so when there are more.
        anchors: rows are the targets of links (the results table); elsewhere a model links to its row.
        csv: address of the same table as CSV.
    """
    shown = table.head(most)
    caption = html.escape(caption)
    if len(table) > most:
        caption += f" The first {most} of {len(table):,} rows; all are in the CSV."
    if csv:
        caption += f' <a href="{html.escape(csv)}">CSV</a>'
    words = [not pd.api.types.is_numeric_dtype(shown[c]) or pd.api.types.is_bool_dtype(shown[c]) for c in shown.columns]
    head = "".join(
        f'<th class="{"words" if w else ""}">{html.escape(str(c).replace("_", " "))}</th>'
        for c, w in zip(shown.columns, words, strict=True)
    )
    lines = []
    has_model = "model" in shown.columns
    for record in shown.to_dict("records"):
        cells = "".join(_cell(str(c), record[c], w, anchors, record) for c, w in zip(shown.columns, words, strict=True))
        named = f' data-model="{html.escape(str(record["model"]))}"' if has_model else ""
        if anchors and has_model:
            at = record.get("checkpoint", "")
            named += f' id="{html.escape(row_anchor(record["model"], at))}" data-checkpoint="{html.escape(str(at))}"'
        lines.append(f"<tr{named}>{cells}</tr>")
    return (
        f'<p class="quiet about">{caption}</p><div '
        f'class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )


def _cell(column: str, value: Any, words: bool, anchors: bool, record: dict[Any, Any]) -> str:
    missing = value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))
    if words:
        text = "" if missing else ("yes" if value else "no") if isinstance(value, bool) else html.escape(str(value))
        if column == "model" and not anchors and not missing and "checkpoint" in record:
            text = f'<a href="#{html.escape(row_anchor(value, record["checkpoint"]))}">{text}</a>'
        return f'<td class="words{" long" if column in TEXT_COLUMNS and len(text) > 40 else ""}">{text}</td>'
    if missing:
        return '<td data-value="nan"></td>'
    return f'<td data-value="{value:.9g}">{number_words(value)}</td>'


def number_words(value: Any) -> str:
    """Return a number as people read it: whole numbers in groups of three, others to five significant digits."""
    number = float(value)
    if math.isinf(number):
        return "∞" if number > 0 else "−∞"
    if number.is_integer() and abs(number) < 1e15:
        return f"{int(number):,}".replace("-", "−")
    return f"{number:.5g}".replace("-", "−")


def shown_table(table: pd.DataFrame | Missing, columns: Sequence[str] | None = None, *, most: int = 20) -> Any:
    """Return a table as a notebook shows it: those of `columns` that it has, `most` rows; or the sentence."""
    if isinstance(table, Missing):
        from IPython.display import Markdown

        return Markdown(table.reason)
    kept = table[[c for c in columns if c in table.columns]] if columns else table
    numbers: list[Hashable] = [
        c for c in kept.columns if pd.api.types.is_numeric_dtype(kept[c]) and kept[c].dtype != bool
    ]
    return kept.head(most).style.format(number_words, subset=numbers, na_rep="").hide()


def facts_html(facts: dict[str, Any]) -> str:
    """Return names and values as a definition list."""
    rows = "".join(
        f"<dt>{html.escape(str(name))}</dt><dd>{html.escape(str(value))}</dd>" for name, value in facts.items()
    )
    return f'<dl class="facts">{rows}</dl>'
