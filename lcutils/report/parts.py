"""Pieces of the report: its Jinja2 templates, tables as pandas' Styler writes them, and packed figures.

A page carries its own styles, scripts, Vega and data, and forbids itself the network: one file, readable anywhere.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
import string
import zlib
from collections.abc import Callable, Collection, Hashable
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import quote

import pandas as pd
import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from pandas.io.formats.style import Styler

from lcutils.analysis import Missing
from lcutils.charts.theme import DARK, LIGHT, Figure
from lcutils.drawing import VEGALITE_VERSION
from lcutils.text import csv_text, drawable, markdown_text, one_line, storable

LONGEST = 2_000  # characters that a table shows of a text
LONG_TEXTS = {
    "note",
    "origin",
    "definition",
    "axis",
    "limit",
    "dropped",
    "ours",
    "paper",
    "setting",
    "meaning",
    "hides",
    "source",
    "scale",
}


def data_json(value: Any) -> str:
    """Return `value` as a page carries it: JSON, packed."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return _packed(storable(text))  # half a character becomes its escape, which JSON reads as that half again


def _packed(text: str) -> str:
    """A text gzipped and in base64, a third to a half of its size; the page unpacks it."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def html_text(value: Any) -> Any:
    """What an expression of a template becomes, in text and in attributes: markup is escaped, `Markup` stays.

    A carriage return is written as a reference, because a browser would make a newline of it.
    """
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return Markup(str(escape(drawable(value))).replace("\r", "&#13;"))


def _source(name: str) -> Markup:
    """Return the text of a style or script of the package, as it is."""
    return Markup((files("lcutils.report") / "page" / name).read_text(encoding="utf-8"))


@cache
def _bundle() -> str:
    """Return Vega, Vega-Lite and vega-embed as one script, packed."""
    # Without a snippet vl-convert puts vega, vegaLite and vegaEmbed on the window; its type hints do not foresee that.
    return _packed(vl_convert.javascript_bundle(None, vl_version=VEGALITE_VERSION))  # type: ignore[arg-type]


TEMPLATES = Environment(
    loader=PackageLoader("lcutils.report", "page"),
    autoescape=True,
    finalize=html_text,
    trim_blocks=True,
    undefined=StrictUndefined,
)
TEMPLATES.globals |= {"source": _source, "bundle": _bundle, "grounds": {"light": LIGHT, "dark": DARK}}
TEMPLATES.filters["packed"] = lambda figure: data_json(figure.spec)
# The address of an element by its id, in which a browser takes % for the start of a code and drops newlines.
TEMPLATES.filters["address"] = lambda name: quote(drawable(name), safe=string.punctuation.replace("%", ""))
TEMPLATES.tests["missing"] = lambda table: isinstance(table, Missing)


def figures_page(title: str, heading: str, *figures: Figure, pictures: bool = True) -> str:
    """Return a page of one figure, or of several with a choice between them; `heading` names it in the browser.

    `pictures`: whether the figures lie beside it as SVG and PNG.
    """
    template = TEMPLATES.get_template("figures.html")
    return template.render(title=title, heading=heading, figures=figures, pictures=pictures)


class _PageStyler(Styler):
    """A Styler that writes its table by the report's own template."""

    template_html_table = TEMPLATES.get_template("table.html")


def _formatted(styler: Styler, table: pd.DataFrame, words_of: Callable[[Any], str]) -> Styler:
    """Show the table's numbers as people read them, words by `words_of`, nothing for a missing value; no index."""
    words = _word_columns(table)
    numbers: list[Hashable] = [column for column in table.columns if column not in words]
    return styler.format(words_of, subset=words, na_rep="").format(number_words, subset=numbers, na_rep="").hide()


def _word_columns(table: pd.DataFrame) -> list[Hashable]:
    types = pd.api.types
    return [c for c in table.columns if not types.is_numeric_dtype(table[c]) or types.is_bool_dtype(table[c])]


def _words(value: Any) -> str:
    """A cell that is no number: truth as yes or no, text in one visible line.

    HTML shows no space at the ends of a cell, and tokens may differ in it alone: there a sign stands for it.
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    return re.sub("^ +| +$", lambda spaces: "␣" * len(spaces[0]), one_line(value, LONGEST))


def number_words(value: Any) -> str:
    """Return a number as people read it: whole numbers in groups of three, others to five significant digits."""
    number = float(value)
    if math.isinf(number):
        return "∞" if number > 0 else "−∞"
    if number.is_integer() and abs(number) < 1e15:
        return f"{int(number):,}".replace("-", "−")
    return f"{number:.5g}".replace("-", "−")


def table_html(
    table: pd.DataFrame,
    columns: Collection[str] = (),
    *,
    caption: str = "",
    most: int = 400,
    anchors: bool = False,
    csv: str = "",
    defined: Collection[str] = (),
) -> Markup:
    """Return a table, its numbers readable (and sortable in the page).

    Args:
        columns: those that are shown, of those that there are; all by default. Links need none of them.
        most: rows shown; the caption says so when there are more.
        anchors: rows are the targets of links (the results table); elsewhere a model links to its row.
        csv: address of the same table as CSV.
        defined: keys of measurements whose names lead to their definitions.
    """
    shown = table.head(most).reset_index(drop=True)
    shown = shown[[column for column in columns if column in shown]] if columns else shown
    words = _word_columns(shown)
    shown = shown.astype({column: float for column in shown.columns if column not in words})
    styler = _formatted(_PageStyler(shown, cell_ids=False), shown, _words)
    about: dict[str, Any] = {
        "caption": caption,
        "total": len(table),
        "anchors": anchors,
        "csv": csv,
        "defined": defined,
    }
    about |= {"columns": [*shown.columns], "words": words, "long_texts": LONG_TEXTS}
    return Markup(styler.to_html(exclude_styles=True, records=table.head(most).to_dict("records"), **about))


class _Table(Styler):
    """A table as notebooks keep it: with no address that changes with every run, and a line of a file for each row."""

    def __repr__(self) -> str:
        return f"table of {len(self.index)} rows"

    def _repr_html_(self) -> str:
        return re.sub(r"(?<=>)\s*\n\s*(?=<t[dh]\b|</tr>)", "", self.to_html())


def shown_table(table: pd.DataFrame | Missing, columns: list[str] | None = None, *, most: int = 20) -> Any:
    """Return a table as a notebook shows it: those of `columns` that it has, `most` rows; or the sentence."""
    if isinstance(table, Missing):
        from IPython.display import Markdown

        return Markdown(markdown_text(table.reason))
    kept = table[[c for c in columns if c in table.columns]] if columns else table
    kept = kept.head(most).reset_index(drop=True)
    # pandas' own template escapes nothing, and MathJax would typeset what stands between two $.
    # Ids of cells, and pandas' own random one of the table, would change with every run of a notebook.
    identity = f"{zlib.crc32(csv_text(kept).encode()):08x}"
    styler = _Table(kept, uuid=identity, uuid_len=8, cell_ids=False)
    styler.set_table_attributes('class="tex2jax_ignore mathjax_ignore"').format_index(html_text, axis=1)
    return _formatted(styler, kept, lambda value: html_text(_words(value)))
