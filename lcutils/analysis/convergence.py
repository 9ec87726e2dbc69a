"""Whether measurements have settled: what they were at 1/16, 1/8, 1/4, 1/2 and all of the text.

The change at the last doubling, |v(1) - v(1/2)| / |v(1)|, says how much half of the text would have got wrong. What
is still to come is extrapolated: if a value nears its limit as v(n) = limit + c n^-b, each doubling changes it by the
same factor q = 2^-b of the change before, and all later changes add up to q / (1 - q) times the last one. q is the
least-squares slope of log |change| over the last three doublings. It cannot be told where these changes differ in sign,
or where q is 1 or more, because then the value does not near anything yet; nor is a trend of three doublings believed
beyond ten more, about a thousand times the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite, log, nan

import numpy as np
import pandas as pd

from lcutils.analysis.definitions import MEASUREMENTS, Missing
from lcutils.analysis.errors import NO_PARTS, ON_VALIDATION
from lcutils.progress import short_number, short_percent

SETTLED = 0.01  # relative change at the last doubling
DOUBLINGS = 3  # from which the rate is estimated
MOST_DOUBLINGS = 10  # over which it is extrapolated
KEYS = tuple(key for key in MEASUREMENTS if key not in ON_VALIDATION)


@dataclass(frozen=True)
class Course:
    """How far one measurement of one point has come.

    Attributes:
        change: relative change at the last doubling; nan where it is not known.
        remaining: distance from the extrapolated limit, over that limit's size; nan where it cannot be told.
        tokens: at which it would be within 1 % of that limit, maybe fewer than there were; nan likewise.
    """

    change: float
    remaining: float
    tokens: float


def follow(samples: Sequence[float], values: Sequence[float]) -> Course:
    """The course of values at growing text, each of about twice the samples of the one before.

    >>> course = follow([1e6, 2e6, 4e6, 8e6], [2.0, 1.5, 1.25, 1.125])  # limit 1, the distance halves each time
    >>> round(course.change, 3), round(course.remaining, 3), round(course.tokens / 8e6, 1)
    (0.111, 0.125, 12.5)
    """
    last = values[-1] if len(values) else nan
    if len(values) < 2 or not isfinite(last) or not isfinite(values[-2]):
        return Course(nan, nan, nan)
    change = _relative(last - values[-2], last)
    steps = np.diff(np.asarray(values, dtype=np.float64))[-DOUBLINGS:]
    if not steps.any():
        return Course(change, 0.0, nan)
    one_way = bool((steps > 0).all() or (steps < 0).all())  # false too where one is not finite
    if len(steps) < DOUBLINGS or not one_way or not np.isfinite(steps).all():
        return Course(change, nan, nan)
    slope = float(np.polyfit(np.arange(DOUBLINGS), np.log(np.abs(steps)), 1)[0])
    if slope >= 0:
        return Course(change, nan, nan)
    q = float(np.exp(slope))
    left = float(steps[-1]) * q / (1 - q)
    limit = last + left
    remaining = _relative(left, limit)
    if remaining in (0.0, inf):
        return Course(change, remaining, nan)
    doublings = log(SETTLED / remaining) / slope
    if doublings > MOST_DOUBLINGS:
        return Course(change, nan, nan)
    return Course(change, remaining, float(samples[-1]) * 2**doublings)


def _relative(difference: float, value: float) -> float:
    """|difference| / |value|; 0 where nothing differs."""
    return 0.0 if difference == 0 else abs(difference) / abs(value) if value else inf


def last_changes(convergence: pd.DataFrame) -> dict[str, float]:
    """Relative change of each measurement at the last doubling of one point's `convergence.csv`, by key."""
    courses = _courses(convergence)
    return {key: course.change for key, course in courses.items()}


def _courses(point: pd.DataFrame) -> Mapping[str, Course]:
    point = point.sort_values("share")
    keys = [key for key in KEYS if key in point]
    return {key: follow(point["samples"].tolist(), point[key].tolist()) for key in keys}


def settling(convergence: pd.DataFrame | None) -> pd.DataFrame | Missing:
    """How far each measurement has settled, over all points.

    Args:
        convergence: rows of every point's `convergence.csv`; None without any.

    Returns:
        One row per measurement: `measurement, property, label, points`; `change` (median over points of the relative
        change at the last doubling) and `largest_change`; `settled` (points where it is at most 1 %); `told` (points
        with an extrapolated limit), and medians over these of `remaining` (distance from it, relative) and
        `tokens_needed` (to be within 1 % of it); `tokens` (median of what there was).
    """
    if convergence is None or convergence.empty:
        return Missing(NO_PARTS)
    courses = [(_courses(point), point["samples"].max()) for _, point in convergence.groupby(["model", "checkpoint"])]
    rows = []
    for key in KEYS:
        known = [(found[key], tokens) for found, tokens in courses if key in found and not np.isnan(found[key].change)]
        if not known:
            continue
        changes = np.array([course.change for course, _ in known])
        told = [course for course, _ in known if isfinite(course.tokens)]
        rows.append(
            {
                "measurement": key,
                "property": MEASUREMENTS[key].property,
                "label": MEASUREMENTS[key].label,
                "points": len(known),
                "change": float(np.median(changes)),
                "largest_change": float(changes.max()),
                "settled": int((changes <= SETTLED).sum()),
                "told": len(told),
                "remaining": float(np.median([course.remaining for course in told])) if told else nan,
                "tokens": float(np.median([tokens for _, tokens in known])),
                "tokens_needed": float(np.median([course.tokens for course in told])) if told else nan,
            }
        )
    return pd.DataFrame(rows) if rows else Missing("No measurement has values at half and all of the text.")


def settling_words(table: pd.DataFrame | Missing) -> str:
    """What a reader should know of `settling`, in a few sentences; empty without it."""
    if isinstance(table, Missing):
        return ""
    settled, moving = table[table["change"] <= SETTLED], table[table["change"] > SETTLED]
    tokens = short_number(float(table["tokens"].median()))
    words = (
        f"At the last doubling of the text, to {tokens} tokens, {len(settled)} of {len(table)} measurements changed by "
        "1 % or less (median over points)"
    )
    if moving.empty:
        return f"{words}: they have settled."
    parts, untold = [], []
    for _, row in moving.sort_values("change", ascending=False).iterrows():
        part = f"{row['measurement']} ({short_percent(row['change'])}"
        if 2 * row["told"] < row["points"]:
            untold.append(row["measurement"])
        elif row["tokens_needed"] > row["tokens"]:
            part += f", about {short_number(row['tokens_needed'])} tokens for 1 %"
        else:
            part += ", but within 1 % of its extrapolated limit"
        parts.append(f"{part})")
    words = f"{words}; still moving: {', '.join(parts)}."
    if not untold:
        return words
    which = "these" if len(untold) == len(moving) else ", ".join(untold)
    return f"{words} How many tokens {which} would need for 1 % cannot be told: their changes follow no trend yet."
