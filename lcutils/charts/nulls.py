"""Each measurement beside its null, over the validation loss: how far a value lies from what chance alone gives."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from lcutils.analysis import MEASUREMENTS, null_bands
from lcutils.charts import axes, encodings
from lcutils.charts.theme import OUTLINE, Figure, padded, sentence, slim, together, value_axis

LOSS = "val_loss"
SIGNS = "Grey bar: what chance alone gives, mean and two standard deviations."


def beside_nulls(results: pd.DataFrame, nulls: pd.DataFrame) -> Figure:
    """Return a panel for each measurement that has a null: its values and their nulls against validation loss.

    Args:
        results: one row per measured point.
        nulls: rows of every `nulls.csv`, concatenated.
    """
    name, title = "nulls", "Each measurement beside what chance alone gives"
    bands = null_bands(nulls)
    if not {"model", "checkpoint", LOSS} <= set(results.columns) or bands.empty:
        return Figure(name, title, missing="No measurement of a model with a validation loss has a null.")
    rows, keys = results, list(dict.fromkeys(bands["measurement"]))
    for key in keys:
        part = bands[bands["measurement"] == key][["model", "checkpoint", "value", "low", "high"]]
        own = {"value": f"{key}_null", "low": f"{key}_low", "high": f"{key}_high"}
        rows = rows.drop(columns=list(own.values()), errors="ignore").merge(
            part.rename(columns=own), on=["model", "checkpoint"], how="left"
        )
    made = {key: _panel(rows, key) for key in keys}
    charts = [chart for chart in made.values() if chart is not None]
    if not charts:
        return Figure(name, title, missing="No measurement of a model with a validation loss has a null.")
    lacking = [MEASUREMENTS[key].label for key, chart in made.items() if chart is None]
    caption = sentence(
        "Points are measured values; the grey bar at the same loss is what the measurement would be if labels said "
        "nothing of the features (mean of the draws, and two standard deviations to both sides).",
        "A point outside its bar shows structure, on whichever side it lies; whether that is collapse the definition "
        "says.",
        "NC4's bar is the agreement of decisions that are dealt out at random." if "nc4_agreement" in keys else "",
        f"Not drawn, because an axis cannot show it: {', '.join(lacking)}." if lacking else "",
    )
    drawn = [f"{key}{end}" for key in keys for end in ("", "_null", "_low", "_high")]
    data = slim(rows, [*encodings.identity(rows), LOSS, *drawn])
    return Figure(name, title, caption, together(charts), rows=data, signs=SIGNS)


def _panel(rows: pd.DataFrame, key: str) -> Any | None:
    """Return the panel of one measurement over `ROWS`; None where no row has value, null and loss."""
    known = MEASUREMENTS[key]
    drawn = axes.usable(rows, key, f"{key}_null", LOSS, positive=known.log)
    if known.log and len(drawn):
        drawn = drawn[drawn[f"{key}_low"] > 0]
    if drawn.empty:
        return None
    ends = pd.concat([drawn[name] for name in (key, f"{key}_low", f"{key}_high")])
    x = alt.X(f"{LOSS}:Q", **value_axis(axes.LOSSES[LOSS], padded(drawn[LOSS], False), False))
    arrow = axes.arrow(key, drawn[key])
    scale = value_axis(known.axis, padded(ends, known.log), known.log, letters=34, arrow=arrow)
    base = axes.shown_rows(axes.can_be_shown(f"{key}_low", known.log), key, known.log)
    band = base.mark_rule(strokeWidth=6, color=OUTLINE, opacity=0.45)
    middle = base.mark_tick(orient="horizontal", width=9, thickness=1.5, color=OUTLINE, opacity=1)
    values = [f"{key}{end}" for end in ("_null", "_low", "_high")]
    tip = encodings.tooltip(rows, LOSS, key, *values)
    layers = [
        band.encode(x=x, y=alt.Y(f"{key}_low:Q", **scale), y2=f"{key}_high:Q", tooltip=tip),
        middle.encode(x=x, y=alt.Y(f"{key}_null:Q", **scale), tooltip=tip),
        base.mark_circle(size=46, **encodings.EDGE)
        .encode(
            x=x,
            y=alt.Y(f"{key}:Q", **scale),
            color=encodings.size_colour(rows),
            opacity=encodings.FAINT_UNLESS_PICKED,
            tooltip=tip,
        )
        .add_params(encodings.SELECTED),
    ]
    return axes.framed(alt.layer(*layers), key, drawn[key])
