"""How to read a measurement: its formula as mathematics, which way collapse lies, and what it hides, for the page."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from markupsafe import Markup

from lcutils.analysis import MEASUREMENTS
from lcutils.analysis.definitions import scale_words, towards_words
from lcutils.report.mathml import mathml

ANCHOR = "definition-"  # how the ids of definitions begin


@dataclass(frozen=True)
class Reading:
    """One measurement as the page explains it, all in words but the formula."""

    key: str
    name: str
    formula: Markup
    towards: str  # which way collapse lies, and the value there
    scale: str
    definition: str
    meaning: str
    hides: str
    source: str


def readings(keys: Iterable[str]) -> list[Reading]:
    """The explanations of measurements, in the given order."""
    return [_reading(key) for key in keys]


def _reading(key: str) -> Reading:
    entry = MEASUREMENTS[key]
    way = towards_words(key)
    end = f" ({entry.limit})" if entry.limit else ""
    return Reading(
        key=key,
        name=f"{entry.property}: {entry.label}",
        formula=mathml(entry.formula) if entry.formula else Markup(""),
        towards=f"Collapse lies {way}{end}." if way != "not known" else f"Which way collapse lies is not known{end}.",
        scale=scale_words(key),
        definition=entry.definition,
        meaning=entry.meaning,
        hides=entry.hides,
        source=entry.source,
    )


def link(key: str, words: str, defined: Collection[str]) -> Markup:
    """Words that lead to the definition of a measurement, if the page has it."""
    if key not in defined:
        return Markup("{}").format(words)
    return Markup('<a href="#{}{}">{}</a>').format(ANCHOR, key, words)
