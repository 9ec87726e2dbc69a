"""What every figure shares: colours, sizes, the row limit, and how a figure is shown and written.

No chart sets the colour of its text, axes or ground: those come from LIGHT, DARK or NOTEBOOK when it is drawn, so that
one specification reads well on white paper, on a dark page and in JupyterLab in either theme.
"""

from __future__ import annotations

import base64
import json
import math
import os
import textwrap
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from lcutils.drawing import NO_PICTURES, draw_png, draw_svg
from lcutils.text import csv_text, drawable, markdown_text

ROW_LIMIT = 5_000
DIGITS = 7  # significant digits kept of every number in a figure
PANEL = 240  # side of one panel, pixels
PANELS_ABREAST = 2  # three are too wide for a notebook's cell, and for the README to show without making them smaller
SIGNS_LETTERS = 108  # of a line under a figure's title: as wide as two panels
# JupyterLab 4 draws this type and no later one. Its Vega-Lite 5 draws all that is used here.
JUPYTER_MIMETYPE = "application/vnd.vegalite.v5+json"
JUPYTER_SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"

# Okabe and Ito's colours differ for people with any of the common colour-vision deficiencies, on light and dark ground.
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
# Viridis without its ends: the darkest is lost on dark ground, the palest on white.
VIRIDIS = alt.SchemeParams(name="viridis", extent=[0.22, 0.93])
COUNT_WORDS = "replace(format(datum.value, '~s'), 'G', 'B')"  # SI prefixes say G where people say billion
OUTLINE = "#8a8a8a"  # thin edge of every point: keeps the dark end visible on dark, the pale end on white
# Words inside a chart follow its ground: dark on light, light on dark (`background` is a signal of every Vega view).
INK = alt.expr("background == 'transparent' ? 'currentColor' : luminance(background) < 0.4 ? '#e8eaed' : '#1f2328'")
FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', 'Liberation Sans', sans-serif"


def _ground(background: str, text: str, quiet: str, grid: str) -> dict[str, Any]:
    return {
        "background": background,
        "view": {"stroke": grid},
        "title": {"color": text, "subtitleColor": quiet},
        "style": {"guide-label": {"fill": text}, "guide-title": {"fill": text}},
        "axis": {"domainColor": quiet, "gridColor": grid, "tickColor": quiet},
        "header": {"labelColor": text, "titleColor": text},
    }


LIGHT = _ground("#ffffff", "#1f2328", "#59636e", "#e3e6ea")
DARK = _ground("#15181d", "#e8eaed", "#a4acb6", "#333a43")
# JupyterLab's theme may change after a chart is drawn. Its cells set the colour of text, which an SVG takes over; grey
# lines show on either ground.
NOTEBOOK = _ground("transparent", "currentColor", "#8a8f96", "#8a8f9640")
NOTEBOOK["title"]["subtitleColor"] = "currentColor"

_SIZES: dict[str, Any] = {
    "font": FONT,
    "axis": {
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "labelLimit": 260,
        "titleLimit": 420,
    },
    "legend": {"labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal", "labelLimit": 260},
    "title": {"fontSize": 12, "subtitleFontSize": 11, "anchor": "start", "subtitlePadding": 4},
    "header": {"labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal"},
}


# Many panels share one table. Naming it, rather than giving each panel a copy, makes a figure of 27 panels five times
# smaller. CSV takes a third of JSON's space, and a notebook does not put each of its numbers on a line of its own.
ROWS = alt.NamedData("rows", format=alt.CsvDataFormat(type="csv"))


@dataclass(frozen=True)
class Figure:
    """A figure of the study, or the plain sentence that says why there is none.

    Attributes:
        name: stem of its files and its anchor in the report.
        title: what it is, in a few words.
        caption: how to read it; says what is sampled, left out or lacking.
        chart: the Altair chart; None where nothing can be drawn.
        missing: why nothing can be drawn; empty if there is a `chart`.
        rows: the table that the panels drawn over `ROWS` share, put into the specification once.
        signs: what its lines and marks mean, where no legend says it; stands under the title of the picture.
    """

    name: str
    title: str
    caption: str = ""
    chart: Any = field(default=None, repr=False)
    missing: str = ""
    rows: pd.DataFrame | None = field(default=None, repr=False)
    signs: str = ""

    @cached_property
    def data(self) -> str:
        """The rows as a page or a notebook carries them: CSV; empty without rows."""
        return "" if self.rows is None else csv_text(self.rows, for_spreadsheets=False)

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The Vega-Lite specification, the title above it and the shared sizes in it."""
        assert self.chart is not None, self.missing
        title = alt.Title(self.title, fontSize=15, anchor="start", offset=14).to_dict()
        if self.signs:
            title["subtitle"] = textwrap.wrap(self.signs, SIGNS_LETTERS)
        # Checking a specification against its schema takes as long as drawing it: the tests do it for every figure.
        spec = {**self.chart.to_dict(validate=False), "title": title, "config": _SIZES}
        if self.rows is not None:
            spec["datasets"] = {**spec.get("datasets", {}), ROWS.name: self.data}
        return spec

    @cached_property
    def svg(self) -> str:
        """The picture on white, as SVG."""
        return draw_svg(json.dumps(self.spec), LIGHT)

    def take_svg(self, svg: str) -> None:
        """Have this picture, which was drawn of the specification elsewhere."""
        vars(self)["svg"] = svg

    def png(self, scale: float = 1.0, colours: int | None = None) -> bytes:
        """Return the picture on white, as PNG, of fewer colours if so asked."""
        return draw_png(self.svg, scale, colours)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """Show the figure in a notebook: live in JupyterLab, a picture where it is only read, else words."""
        if self.chart is None:
            words = f"**{markdown_text(self.title)}.** {markdown_text(self.missing)}"
            return {"text/markdown": words, "text/plain": f"{self.title}. {self.missing}"}
        live = {
            **self.spec,
            "$schema": JUPYTER_SCHEMA,
            "config": merged(_SIZES, NOTEBOOK),
            "usermeta": {"embedOptions": {"renderer": "svg"}},
        }
        shown = {
            JUPYTER_MIMETYPE: live,
            "text/plain": f"{self.title}. {self.caption}",
        }
        if not os.environ.get(NO_PICTURES):
            shown["image/png"] = base64.b64encode(self.png(colours=256)).decode()
        return shown


def merged(settings: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return two configurations of Vega-Lite as one, `more` before `settings`."""
    both = {**settings, **more}
    for key in settings.keys() & more.keys():
        if isinstance(settings[key], dict):
            both[key] = merged(settings[key], more[key])
    return both


def together(
    charts: list[Any], columns: int = PANELS_ABREAST, controls: list[Any] | None = None, spacing: int = 34
) -> Any:
    """Return the charts side by side, `columns` in a row, with the controls under them.

    Panels that carry one and the same selection share it: that is what links them, so Altair's warning that it merged
    them is not passed on.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Automatically deduplicated selection parameter")
        # Altair's `add_params` would copy every panel once for each control.
        parameters = {"params": [control.param for control in controls]} if controls else {}
        return alt.concat(*charts, columns=columns, spacing=spacing, **parameters)


def slim(table: pd.DataFrame, columns: list[str], digits: int = DIGITS) -> pd.DataFrame:
    """Return those of `columns` that `table` has, numbers cut to `digits`: a figure carries no more than it shows.

    Texts become drawable: a control character in one would end the drawing of all.
    """
    kept = table[[c for c in dict.fromkeys(columns) if c in table.columns]].copy()
    for name in kept.columns:
        if pd.api.types.is_float_dtype(kept[name]):
            kept[name] = [float(f"{v:.{digits}g}") if pd.notna(v) else math.nan for v in kept[name]]
        elif pd.api.types.is_string_dtype(kept[name]) or pd.api.types.is_object_dtype(kept[name]):
            kept[name] = [drawable(v) if isinstance(v, str) else v for v in kept[name]]
    return kept


def sample_rows(table: pd.DataFrame, limit: int = ROW_LIMIT, seed: int = 0) -> tuple[pd.DataFrame, str]:
    """Return at most `limit` rows, and the sentence that says which ("" if all fit).

    Half of them are the rows with the largest `count` (which every token table has), half a random draw of the others,
    so that neither the head nor the tail of the Zipf curve is lost.
    """
    if len(table) <= limit:
        return table, ""
    order = np.argsort(-table["count"].to_numpy(), kind="stable")
    head, rest = order[: limit // 2], order[limit // 2 :]
    drawn = np.random.default_rng(seed).choice(rest, limit - len(head), replace=False)
    notice = (
        f"Drawn: the {len(head):,} most frequent and a random {len(drawn):,} of the other {len(rest):,} of "
        f"{len(table):,} tokens."
    )
    return table.iloc[np.sort(np.concatenate([head, drawn]))], notice


def padded(values: pd.Series, log: bool, limits: list[float] | None = None) -> list[float]:
    """Return the axis domain of `values` with a margin of 5 %, widened to each of `limits` that is near enough.

    Near enough means that the axis grows by no more than half; else the points would be squeezed into a corner. Values
    that differ by their rounding alone are drawn as equal: an axis over less than that has no ticks that differ.
    """
    numbers = [v for v in values.astype(float).tolist() if math.isfinite(v) and (v > 0 or not log)]
    if log:
        numbers = [math.log10(v) for v in numbers]
        limits = [math.log10(v) for v in limits or [] if v > 0]
    low, high = min(numbers), max(numbers)
    span = high - low
    if span <= 1e-9 * max(abs(low), abs(high)):
        span = 0.2 if log else 0.1 * abs(high) or 1.0
        low, high = low - 0.45 * span, high + 0.45 * span
    for value in limits or []:
        if low - span / 2 <= value <= high + span / 2:
            low, high = min(low, value), max(high, value)
    margin = 0.05 * (high - low)
    ends = [low - margin, high + margin]
    return [10**end for end in ends] if log else ends


def value_axis(words: str, domain: list[float], log: bool, letters: int = 42, arrow: str = "") -> dict[str, Any]:
    """Return title (in lines of `letters`), axis and scale of a quantitative channel: few ticks, plain numbers.

    `arrow`, a line of its own, says which way collapse lies.
    """
    ticks: dict[str, Any] = {"tickCount": 5}
    if log:
        ticks = {"values": log_ticks(*domain), "labelExpr": f"datum.value < 1e5 ? datum.label : {COUNT_WORDS}"}
    return {
        "title": textwrap.wrap(words + (", log scale" if log else ""), letters) + ([arrow] if arrow else []),
        "axis": alt.Axis(labelOverlap="greedy", labelSeparation=4, **ticks),
        "scale": alt.Scale(type="log" if log else "linear", domain=domain, nice=False),
    }


def log_ticks(low: float, high: float) -> list[float]:
    """Return the ticks of a log axis: the coarsest that are three or more, whole decades or round numbers between."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 2, 5), (1, 2, 3, 5, 7), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)):
        ticks = [float(f"{step}e{decade}") for decade in decades for step in steps]
        if len(ticks := [tick for tick in ticks if low <= tick <= high]) > 2:
            return ticks
    # So short an axis is almost linear: the coarsest steps of 5, 2 or 1 times a power of ten.
    for step in (
        digit * 10.0**power for power in range(math.ceil(math.log10(high - low)), -20, -1) for digit in (5, 2, 1)
    ):
        if len(ticks := [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]) > 2:
            break
    return [float(f"{tick:.12g}") for tick in ticks]


def ordinal_viridis(number: int) -> alt.SchemeParams:
    """Return viridis for `number` ranks, from end to end of VIRIDIS: Vega leaves out a scheme's own ends."""
    low, high = VIRIDIS.extent
    step = (high - low) / max(number - 1, 1)
    return alt.SchemeParams(name="viridis", extent=[low - step, high + step])


def panel_title(words: str, letters: int = 36) -> alt.Title:
    """Return the title of a panel: over the frame, broken into lines that keep to the panel's width."""
    return alt.Title(textwrap.wrap(words, letters), anchor="start", frame="group", offset=6)


def sentence(*parts: str) -> str:
    """Join the parts that are not empty with spaces."""
    return " ".join(part for part in parts if part)
