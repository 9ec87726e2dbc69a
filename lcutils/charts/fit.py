"""The least-squares line of a panel, and r and R² above it, recomputed for what the filters leave."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from lcutils.analysis import MEASUREMENTS
from lcutils.analysis.inference import FEWEST_ROWS
from lcutils.analysis.marked import influential
from lcutils.charts.axes import usable
from lcutils.charts.theme import INK, OUTLINE, PANEL

RING = "carries_{}"  # column of the rows that carry the fit of a measurement
RINGED: dict[str, Any] = {"size": 190, "filled": False, "color": INK, "strokeWidth": 1.2}


def ring_columns(rows: pd.DataFrame, keys: list[str], target: str) -> pd.DataFrame:
    """Return for each of `keys` a column that is 1 where a row carries the fit of its panel (`influential`)."""
    rings = pd.DataFrame(index=rows.index)
    for key in keys:
        drawn = usable(rows, key, target, positive=MEASUREMENTS[key].log)
        if len(drawn) > FEWEST_ROWS:
            x, y = (drawn[column].to_numpy(dtype=np.float64) for column in (key, target))
            marked = influential(np.log(x) if MEASUREMENTS[key].log else x, y)
            if marked.any():
                rings[RING.format(key)] = rows.index.isin(drawn.index[marked]).astype(int)
    return rings


def _scaled(base: Any, key: str, log: bool) -> Any:
    return base.transform_calculate(scaled=f"log(datum.{key})" if log else f"+datum.{key}")


def fit_line(base: Any, key: str, target: str, log: bool, x: Any, y: Any) -> Any:
    """Return the least-squares line of `target` on `key`, or on its logarithm, through the rows of `base`."""
    line = _scaled(base, key, log).transform_regression("scaled", target)
    line = line.transform_calculate(as_=key, calculate="exp(datum.scaled)" if log else "datum.scaled")
    return line.mark_line(color=OUTLINE, strokeWidth=1, strokeDash=[4, 3], clip=True).encode(x=x, y=y)


def critical_t(df: str) -> str:
    """Return the Vega expression of the t that 1 in 20 exceed by chance, two-sided, at `df` degrees of freedom.

    Fisher's expansion of t by the normal z = 1.96: within 2 % of the exact value from 3 degrees of freedom on.
    """
    return f"(1.96 + 2.3722 / {df} + 2.8225 / pow({df}, 2) + 2.5558 / pow({df}, 3))"


def fit_words(base: Any, key: str, target: str, log: bool, fewest: int, sign: int = 0, ring: str = "") -> list[Any]:
    """Return the text layers above the frame, computed in the browser from the rows that the filters leave.

    `sign` is that of r where better models are more collapsed (0: nothing is said of that); `ring` names the column
    of the rows that carry the fit, "" if there are none.

    Vega's regression returns its coefficients and the values it grouped by (`keys`), nothing else. Grouping by n, which
    is the same for all rows, carries n through.
    """
    unknown = f"datum.keys[0] < {fewest} || isNaN(datum.rSquared)"
    few = (
        f"datum.keys[0] < {fewest} ? ('n = ' + datum.keys[0] + ': too few for R²') : "
        f"isNaN(datum.rSquared) ? 'R² undefined' : "
    )
    r2 = f"'R² = ' + format(datum.rSquared, '.3f') + '{' (log x)' if log else ''}, n = ' + datum.keys[0]"
    r = "((datum.coef[1] < 0 ? '−' : '') + format(sqrt(datum.rSquared), '.3f'))"
    t2 = "datum.rSquared * (datum.keys[0] - 2) / max(1 - datum.rSquared, 1e-12)"
    with_or_against = f"(datum.coef[1] * {sign} > 0 ? ', with collapse' : ', against collapse')"
    clear = f"({t2} > pow({critical_t('(datum.keys[0] - 2)')}, 2) ? {with_or_against} : ', unclear')"
    lines = [  # filter, log scale, words, side, height
        ("true", log, f"{few}{r2}", "left", -4),
        ("true", log, f"{unknown} ? '' : 'r = ' + {r}" + (f" + {clear}" if sign else ""), "left", -28 if ring else -16),
    ]
    if log:
        lines.append(("true", False, f"{unknown} ? '' : format(datum.rSquared, '.3f') + ' (linear x)'", "right", -4))
    if ring:
        without = f"{unknown} ? '' : 'without rings r = ' + {r} + ', n = ' + datum.keys[0]"
        lines.append((f"datum.{ring} != 1", log, without, "left", -16))
    layers = []
    for test, scaled, words, align, height in lines:
        rows = base if test == "true" else base.transform_filter(test)
        fitted = _scaled(rows, key, scaled).transform_joinaggregate(n="count()")
        fitted = fitted.transform_regression("scaled", target, groupby=["n"], params=True)
        fitted = fitted.transform_calculate(words=words)
        text = fitted.mark_text(align=align, baseline="bottom", fontSize=10, color=INK, clip=False)
        layers.append(
            text.encode(text=alt.Text("words:N"), x=alt.XValue(PANEL * (align == "right")), y=alt.YValue(height))
        )
    return layers
