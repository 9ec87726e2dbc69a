"""How much text is enough: `lcutils measure --tokens auto` doubles the text until the chosen measurements have settled.

A measurement has settled where its change from half of the text to all of it, over its size, is at most
`measurement.tolerance`, for every model. Both values come from one pass, by `extraction.parts`; with twice the text all
of it is read again, so that finding the amount costs about as much as the last pass.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from math import isnan
from pathlib import Path
from typing import Any

from lcutils.corpus import open_data
from lcutils.errors import UserError
from lcutils.parameters import load_study
from lcutils.pipeline.paths import Workspace
from lcutils.progress import short_percent
from lcutils.text import one_line

AUTO = "auto"
FIRST = 1_000_000  # tokens to begin with


def is_auto(tokens: str | int | None) -> bool:
    """True if the amount of text is to be found."""
    return str(tokens).strip().lower() == AUTO


def begin(study: dict[str, Any], path: Path) -> None:
    """Set a study up to be measured in parts, on as much text as an earlier call has come to.

    Args:
        study: its values, which are changed.
        path: of its YAML, there or not.

    Raises:
        UserError: parts are switched off, or a chosen measurement is none of the train text.
    """
    from lcutils.analysis.convergence import KEYS
    from lcutils.settings import MeasurementSettings

    extraction = study.setdefault("extraction", {})
    if str(extraction.setdefault("parts", True)).lower() in ("false", "no", "off", "0"):
        raise UserError("extraction.parts: --tokens auto needs parts; leave the key out")
    chosen = study.get("measurement", {}).get("settle", MeasurementSettings().settle)
    for key in chosen if isinstance(chosen, list | tuple) else [chosen]:
        if key not in KEYS:
            raise UserError(
                f"measurement.settle: {one_line(key)} is no measurement of the text's statistics; "
                f"choose of {', '.join(KEYS)}"
            )
    earlier = load_study(path) if path.is_file() else None
    if earlier is not None and earlier.extraction.parts and earlier.corpus.max_tokens is not None:
        study["corpus"]["max_tokens"] = earlier.corpus.max_tokens
    study["corpus"].setdefault("max_tokens", FIRST)


def more_tokens(work: Workspace, failed: Collection[str]) -> int | None:
    """Twice the text, in tokens, if that is to be measured next; None if all has settled, or the text has ended.

    Args:
        work: of a study that was measured in parts.
        failed: points ("model@checkpoint") that have no measurements.
    """
    from lcutils.analysis.convergence import last_changes
    from lcutils.analysis.rows import load_parts

    settings, most = work.study.measurement, work.study.corpus.max_tokens
    moving: dict[str, str] = {}  # model -> the measurement that changes most, in words
    largest: dict[str, float] = {}
    for model, checkpoint in work.study.points:
        if (point := f"{model}@{checkpoint}") in failed:
            continue
        _, course = load_parts(work.measurements(model, checkpoint))
        changes = {} if course is None else last_changes(course)
        for key in settings.settle:
            change = changes.get(key, float("nan"))
            change = float("inf") if isnan(change) else change
            if change > max(settings.tolerance, largest.get(model, 0.0)):
                largest[model] = change
                moving[model] = f"{key} of {point} changed by {_amount(change)} at the last doubling"
    amount = "all of the text" if most is None else f"{most:,} tokens"
    if not moving:
        _say(f"{amount}: {', '.join(settings.settle)} have settled to {short_percent(settings.tolerance)}")
        return None
    words = moving[max(largest, key=largest.__getitem__)]
    if most is None or all(_has_ended(work, model, most) for model in moving):
        _say(f"the text has ended, and not all has settled: {words}")
        return None
    _say(f"{amount}: {words}; measuring twice the text")
    return 2 * most


def _has_ended(work: Workspace, model: str, most: int) -> bool:
    """True if there is less text than was asked for: less than that by a block, the rest of which is dropped."""
    train = open_data(work.data_of(model)).train
    return train.size + train.shape[1] <= most


def _amount(change: float) -> str:
    return "an amount that is not known" if change == float("inf") else short_percent(change)


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
