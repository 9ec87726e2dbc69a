"""What an entry of the catalogue says. It imports neither torch nor pandas, as the catalogue does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lcutils.collapse.explained import Explained

Source = Literal["classes", "pairs", "text"]
Extra = Literal["corrected", "spectrum"]
Group = Literal["paper"] | Extra


@dataclass(frozen=True)
class Measurement(Explained):
    """One measurement of neural collapse, with what explains it.

    Attributes:
        property: of neural collapse: NC1, NC2, GNC2, NC3, UNC3, NC4 or NC5; or Spectrum.
        label: short plain words.
        axis: title of an axis; says exactly what is drawn.
        definition: one sentence with the formula.
        function: the function that computes it, as "module:function".
        reads: what the function needs: "classes" (the kept classes and the head), "pairs" (sums over pairs too) or
            "text". `measure_collapse` calls the functions of the first two; those of text have their own arguments.
        log: whether a log axis is natural (positive, over decades).
        limit: the value at collapse, or in theory, in plain words; empty if none is known.
        collapsed: the value at collapse as a number; None if it depends on width or classes, or is not known.
        group: "paper" (always measured), or the extra that it belongs to, which is measured if it is asked for.
    """

    property: str
    label: str
    axis: str
    definition: str
    function: str
    reads: Source
    log: bool = False
    limit: str = ""
    collapsed: float | None = None
    group: Group = "paper"


@dataclass(frozen=True)
class Count:
    """A number of classes or pairs, beside the measurements. It says nothing about collapse, so no chart draws it.

    Attributes:
        definition, function, reads, group: as those of a `Measurement`.
    """

    definition: str
    function: str
    reads: Source
    group: Group = "paper"
