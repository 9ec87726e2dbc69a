"""The sections of the report: what each may show, and what those that have nothing to show would need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from lcutils.analysis import Missing
from lcutils.charts.theme import Figure

Tables = Mapping[str, pd.DataFrame | Missing]


@dataclass(frozen=True)
class Section:
    """A section of the page: its anchor and heading, the figures and tables that it may show."""

    anchor: str
    heading: str
    figures: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()


# What both kinds of report show.
TRUST = Section(
    "trust", "Errors of measurement and convergence", ("convergence",), ("errors", "settling", "convergence")
)
ALONG = Section("along", "Along training", ("trajectories",), ("trajectories",))
BY_SIZE = Section("losses-by-size", "Losses by depth and width", ("losses",))
WIDTHS = Section("widths", "Each measurement against width")
LAYERS = Section("layers", "Through the layers", ("law",), ("law",))
EVERY = Section("every", "Each measurement against validation loss", ("free_scatter", "against_loss"))
TOKENS = Section("tokens", "Tokens", ("token_kinds",), ("kind_shares", "table_5"))
EXPLORE = Section("explore", "Token explorer")
ROWS = Section("rows", "All rows")
DEFINITIONS = Section("definitions", "Definitions of the measurements")

OF_GRID = (
    Section("measured", "What was measured"),
    Section("results", "Results in short", (), ("what_develops_with_what",)),
    Section("figures", "Figures 1, 2 and 3 of the paper", ("figure_1", "figure_2", "figure_3")),
    Section("table-1", "Table 1: models that differ in their seed alone", ("seeds",), ("table_1",)),
    Section(
        "beyond",
        "What the paper lacks",
        ("correlations",),
        ("findings", "correlations", "partial_correlations", "within_architecture", "influence"),
    ),
    Section("chance", "Beside what chance alone gives", ("nulls",), ("null_distances", "nulls")),
    TRUST,
    Section(
        "sensitive",
        "Sensitivity to the minimum class count",
        ("sensitivity",),
        ("sensitivity_correlations", "sensitivity", "corrected"),
    ),
    ALONG,
    BY_SIZE,
    WIDTHS,
    LAYERS,
    EVERY,
    Section("beside", "Ours beside the published models", ("overlaid", "beside_published"), ("beside_published",)),
    TOKENS,
    EXPLORE,
    Section("settings", "Configuration and time", (), ("models", "table_2", "table_3", "times")),
    ROWS,
    DEFINITIONS,
)
OF_FEW = (  # models, each described by itself
    Section("results", "Results in short"),
    Section("strips", "Each measurement on its own scale", ("strips",)),
    Section("chance", "Beside what chance alone gives", (), ("null_distances", "nulls")),
    Section("fine-tuned", "Base beside fine-tuned", ("moved_tokens",), ("moved_tokens", "base_differences")),
    ALONG,
    EVERY,
    Section(
        "beyond",
        "Relations with validation loss",
        ("correlations",),
        ("correlations", "partial_correlations", "within_architecture", "influence"),
    ),
    TRUST,
    Section(
        "sensitive",
        "Sensitivity to the minimum class count",
        ("sensitivity",),
        ("sensitivity_correlations", "sensitivity"),
    ),
    Section("corrected", "Corrected for small samples", (), ("corrected",)),
    BY_SIZE,
    WIDTHS,
    LAYERS,
    Section("beside", "Beside the published models", ("overlaid", "beside_published"), ("beside_published",)),
    TOKENS,
    EXPLORE,
    Section("settings", "Models, configuration and time", (), ("models", "table_2", "table_3", "times")),
    ROWS,
    DEFINITIONS,
    Section("origin", "Origin, versions, how to cite"),
)
ALWAYS = ("measured", "results", "rows", "definitions", "origin")


def with_content(
    sections: Sequence[Section], figures: Mapping[str, Figure], tables: Tables, also: Mapping[str, Sequence[Figure]]
) -> tuple[list[Section], dict[str, str]]:
    """The sections that have something to show, and what the others would need.

    Args:
        sections: of the page, in order.
        figures, tables: by name; what the study did not ask for is not among them.
        also: figures that a section shows in a way of its own, by its anchor.

    Returns:
        The sections, each with the figures and tables that there are, or for which a sentence stands; and the reasons
        by the headings of those that have nothing else. A section of things that were not asked for is in neither.
    """
    shown, needs = [], {}
    for section in sections:
        drawn = [figures[name] for name in section.figures if name in figures]
        undrawn = [figure.missing for figure in (*drawn, *also.get(section.anchor, ())) if figure.chart is None]
        of_tables = {name: tables[name] for name in section.tables if name in tables}
        unmade = {name: table.reason for name, table in of_tables.items() if isinstance(table, Missing)}
        something = len(drawn) + len(also.get(section.anchor, ())) + len(of_tables) > len(undrawn) + len(unmade)
        if something or section.anchor in ALWAYS:
            said = {name for name, reason in unmade.items() if reason in undrawn}  # the figure's notice says it
            kept = tuple(name for name in of_tables if name not in said)
            shown.append(replace(section, figures=tuple(figure.name for figure in drawn), tables=kept))
        elif undrawn or unmade:
            needs[section.heading] = " ".join(dict.fromkeys([*undrawn, *unmade.values()]))
    return shown, needs


def made_alone(section: Section, figures: Mapping[str, Figure], tables: Tables) -> Section:
    """The section without the figures and tables for which a sentence would stand."""
    return replace(
        section,
        figures=tuple(name for name in section.figures if figures[name].chart is not None),
        tables=tuple(name for name in section.tables if not isinstance(tables[name], Missing)),
    )
