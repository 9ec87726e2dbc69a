"""What the report says of where its rows are from: in titles, captions, exports, and in how it is cited."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from lcutils.analysis import known_to, measurements_in
from lcutils.analysis.origin import ORIGIN, all_published, origin_words, origins, published_rows
from lcutils.charts import Figure

OF_BOTH = ("overlaid", "beside_published")  # what sets ours beside published rows
OF_NO_ROWS = ("table_2", "table_3", "measurements")  # tables that say nothing of measured points
NONE_OF_OURS = "All rows are published ones: there are none of ours to set beside them."
POINT = ["model", "checkpoint"]
NEEDS = {  # measurements that need something that a study may lack
    "nc4_agreement_weights": "where the head is weights alone it would be the agreement of NC4 once more",
    "nc5_ood_deviation": "no out-of-distribution text was measured",
}


def headed(title: str, results: pd.DataFrame) -> str:
    """The title of a page; it says so where all rows are published ones."""
    return f"{title}: the published models of Wu and Papyan" if all_published(results) else title


def whose_figure(figure: Figure, results: pd.DataFrame, published: pd.DataFrame | None) -> Figure:
    """The figure with the origin of its rows in its caption; in its title too where all rows are published ones."""
    if figure.name in OF_BOTH and all_published(results):
        return replace(figure, missing=NONE_OF_OURS)
    if figure.chart is None:
        return figure
    title = f"{figure.title} (published models)" if all_published(results) else figure.title
    return replace(figure, title=title, caption=f"{figure.caption} {whose_words(figure.name, results, published)}")


def whose_words(name: str, results: pd.DataFrame, published: pd.DataFrame | None) -> str:
    """The sentence of a caption that says where the rows of a figure or table are from; "" if it has none."""
    if name in OF_NO_ROWS:
        return ""
    if name in OF_BOTH and published is not None:
        return f"Ours: {origin_words(results)}. Published: {origin_words(published)}."
    return f"Data: {origin_words(results)}."


def with_origin(
    name: str, table: pd.DataFrame, results: pd.DataFrame, published: pd.DataFrame | None = None
) -> pd.DataFrame:
    """The table as it is exported: a last column says where each row, or what it was computed from, is from."""
    if name in OF_NO_ROWS:
        return table
    if name == "results":
        return table.drop(columns=ORIGIN, errors="ignore").assign(**{ORIGIN: origins(table)})
    words = whose_words(name, results, published).removeprefix("Data: ").removesuffix(".")
    if name in OF_BOTH or not set(POINT) <= set(table) & set(results):
        return table.assign(**{ORIGIN: words})
    known = dict(zip(results[POINT].itertuples(index=False, name=None), origins(results), strict=True))
    points = table[POINT].itertuples(index=False, name=None)
    return table.assign(**{ORIGIN: [known.get(point, words) for point in points]})


def counted(results: pd.DataFrame) -> str:
    """How many points of how many models there are, and with how many measurements, in a sentence."""
    models = results["model"].nunique() if "model" in results else len(results)
    theirs = int(published_rows(results).sum())
    kind = "published" if theirs == len(results) > 0 else "measured" if not theirs else "measured and published"
    keys = len(measurements_in(results))
    return (
        f"{len(results)} {kind} point{'s' if len(results) != 1 else ''} of {models} model{'s' if models != 1 else ''}, "
        f"with {keys} measurement{'s' if keys != 1 else ''} of {len(known_to(results))}."
    )


def not_measured(results: pd.DataFrame) -> dict[str, list[str]]:
    """The keys of the measurements that have no value in any row, by the reason."""
    reasons: dict[str, list[str]] = {}
    for key in known_to(results):
        if key not in measurements_in(results):
            own = NEEDS.get(key, "no row has a value")
            reason = "the published tables hold nothing from which it follows" if all_published(results) else own
            reasons.setdefault(reason, []).append(key)
    return reasons
