"""Lessons on the measurements: the catalogue's words on each, and a picture of a case that a reader can change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pandas as pd

from lcutils.analysis.definitions import describe
from lcutils.charts.lessons import lesson_picture
from lcutils.charts.theme import Figure
from lcutils.collapse.catalogue import MEASUREMENTS
from lcutils.collapse.synthetic import Case, measure_case
from lcutils.errors import UserError

STEPS = 13  # of the number that is varied
RANGES = {
    "spread": (0.05, 1.0),
    "uneven": (0.0, 0.9),
    "flat": (0.0, 0.9),
    "shift": (0.0, 3.0),
    "turn": (0.0, 180.0),
    "twist": (0.0, 180.0),
    "bias": (0.0, 2.0),
    "tilt": (0.0, 90.0),
    "scale": (0.25, 4.0),
}


def make_case(start: Case | None = None, /, **numbers: float) -> Case:
    """Return a synthetic case: `start`, or the default one, with these numbers of `Case`.

    Raises:
        UserError: an unknown number, or one that makes no case.
    """
    known = [field.name for field in fields(Case)]
    if unknown := [name for name in numbers if name not in known]:
        raise UserError(f"{unknown[0]}: no such number of a case; there are {', '.join(known)}")
    try:
        return replace(start or Case(), **numbers)  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from error


def lesson(key: str, case: Case, vary: str, riesz_s: float = 1.0) -> Figure:
    """Return the picture of a measurement: the case, and the measurement as one number of the case varies.

    Raises:
        UserError: a key that the catalogue lacks or that no synthetic case has, or a number that cannot vary.
    """
    values = measure_case(case, riesz_s)
    if key not in MEASUREMENTS or key not in values:
        raise UserError(f"{key}: no measurement of a synthetic case; there are {', '.join(_keys())}")
    if vary not in RANGES:
        raise UserError(f"{vary}: no number that a lesson varies; there are {', '.join(RANGES)}")
    now, (low, high) = getattr(case, vary), RANGES[vary]
    places = sorted({*np.linspace(min(low, now), max(high, now), STEPS).tolist(), now})
    curve = pd.DataFrame(
        [{vary: place, key: measure_case(replace(case, **{vary: place}), riesz_s)[key]} for place in places]
    )
    features, labels = case.draw()
    points = pd.DataFrame(features.numpy(), columns=["x", "y"]).assign(**{"class": labels.numpy()})
    centre = case.centres.mean(0)
    ends = centre + case.scale * case.head
    classes = pd.DataFrame(case.centres.numpy(), columns=["x", "y"])
    classes = classes.assign(head_x=ends[:, 0].numpy(), head_y=ends[:, 1].numpy())
    classes = classes.assign(from_x=float(centre[0]), from_y=float(centre[1]), **{"class": range(case.classes)})
    return lesson_picture(key, points, classes, curve, vary, now, riesz_s)


def show_lesson(key: str, case: Case, vary: str, riesz_s: float = 1.0) -> None:
    """Show what the catalogue says of a measurement, and its picture (`lesson`), in a notebook."""
    from IPython.display import Markdown, display

    figure = lesson(key, case, vary, riesz_s)
    display(Markdown(describe(key)), figure)


def moved_by_scale(case: Case, times: float = 2.0) -> pd.DataFrame:
    """Return what happens to each measurement when all features become `times` as large, the head as it was.

    Returns:
        Columns `measurement, value, larger` (of the larger features) and `catalogue` (what it says of that).
    """
    before, after = measure_case(case), measure_case(replace(case, scale=times * case.scale))
    rows: list[dict[str, Any]] = [
        {"measurement": key, "value": before[key], "larger": after[key], "catalogue": MEASUREMENTS[key].scale}
        for key in _keys()
    ]
    return pd.DataFrame(rows)


def _keys() -> Mapping[str, Any]:
    """The measurements that a synthetic case has."""
    values = measure_case(Case())
    return {key: entry for key, entry in MEASUREMENTS.items() if key in values}
