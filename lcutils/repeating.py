"""One command that repeats kept points, `lcutils repeat`: it makes them again from the text and compares."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from lcutils.analysis.repeated import Spread, differences, seed_spread, verdict
from lcutils.artifacts import atomic_path
from lcutils.errors import UserError
from lcutils.parameters import load_study
from lcutils.pipeline.carried import another_input, another_recipe, carries_origin, trained_on
from lcutils.pipeline.job import Job
from lcutils.pipeline.jobs import check_corpora, data_job, has_kept, measure_job
from lcutils.pipeline.kept import kept_points
from lcutils.pipeline.paths import Workspace
from lcutils.pipeline.sweep import run_sweep
from lcutils.progress import said_if_slow
from lcutils.text import csv_text, one_line

FOLDER = "repeat"  # in the outputs folder: studies whose points were made again
TABLE = "repeat.csv"  # in such a study's folder: how far off the points are


@dataclass(frozen=True)
class _Kept:
    """What is known of kept points before they are made again.

    Attributes:
        rows: the values of all rows of the archive, by point.
        origins: where each of the asked points was made (`trained_on`).
        words: lines on their text.
    """

    rows: Mapping[str, Mapping[str, Any]]
    origins: Mapping[str, Mapping[str, str | None]]
    words: Sequence[str]


def repeat_points(work: Workspace, source: str | Path, names: Sequence[str]) -> int:
    """Make kept points again, from the text, in a folder of their own, and print how far off they are.

    Nothing of the kept points is used. What is made lies in `<outputs>/repeat/<study>`, as a sweep leaves it, and
    beside it `repeat.csv`: one row per point and measurement (`analysis.repeated.differences`), with the device and
    the release of torch of both.

    Args:
        work: the study, in its usual folder, of which nothing is read.
        source: an archive of kept points, or the folder that it lies in.
        names: of points ("02x0768_01d@0"), or of runs for all their points that are kept.

    Returns:
        The sweep's exit status; 0 whatever the differences are.

    Raises:
        UserError: a point is not kept, or was made from another text or with other values; before any work.
    """
    again = replace(work, folder=work.folder.parent / FOLDER / work.folder.name)
    with said_if_slow(f"reading what is kept of {len(work.study.points)} points"):
        if has_kept(again):
            raise UserError(f"{work.display(again.folder)}: holds imported points; name another outputs folder")
        points, kept = _look(again, source, names)
    print("\n".join(kept.words), flush=True)
    status = run_sweep(again, points=points)
    jobs = {f"{model}@{k}": measure_job(again, model, k) for model, k in points}
    made = {point: job for point, job in jobs.items() if job.current}
    if made:
        _report(again, kept, made)
    return status


def _look(work: Workspace, source: str | Path, names: Sequence[str]) -> tuple[list[tuple[str, int]], _Kept]:
    """The points that are asked for, and what is kept of them; refuses what would be no repetition."""
    with kept_points(work, source) as (archive, there):
        points = _asked(work, archive, names, there)
        asked = {f"{model}@{k}": there[f"{model}@{k}"] for model, k in points}
        readme = archive.with_name("README.md")
        described = (
            f"the right one is described in {work.display(readme)}"
            if readme.is_file()
            else "name the one that was used"
        )
        for point, row in asked.items():
            if why := row.out_of_date:
                fix = described if another_input(row) else "a repetition changes no value: leave it as it was"
                raise UserError(f"{one_line(point)} {why}; {fix}")
        _expect_usual(work, points, asked)
        try:
            check_corpora(work)
        except UserError as error:
            raise UserError(f"{error}; {described}") from None
        rows = {point: json.loads((row.folder / "row.json").read_text()) for point, row in there.items()}
        origins = {point: trained_on(row) for point, row in asked.items()}
        return points, _Kept(rows, origins, _words_on_text(work, asked, there))


def _asked(work: Workspace, archive: Path, names: Sequence[str], there: Mapping[str, Job]) -> list[tuple[str, int]]:
    """The points that names mean, of those that are kept."""
    points = []
    for name in names:
        meant = work.points_of([name])
        found = [(model, k) for model, k in meant if f"{model}@{k}" in there]
        if not found:
            near = difflib.get_close_matches(name, there, n=3, cutoff=0)
            raise UserError(
                f"{work.display(archive)}: {one_line(name)} is not among its {len(there)} points; take for instance "
                f"{one_line(', '.join(near))}"
            )
        points += found
    return list(dict.fromkeys(points))


def _expect_usual(work: Workspace, points: Sequence[tuple[str, int]], asked: Mapping[str, Job]) -> None:
    """Refuse overrides for points that do not say what they were made with: then the study's own values count."""
    if not work.overrides:
        return
    usual = replace(work, study=load_study(work.study.source), overrides={})
    for (model, k), row in zip(points, asked.values(), strict=True):
        if not carries_origin(row) and (
            key := another_recipe(measure_job(work, model, k), measure_job(usual, model, k))
        ):
            raise UserError(
                f"{key}: {one_line(model)}@{k} does not say what it was made with, so the study's own value counts; "
                "leave it as it was"
            )


def _words_on_text(work: Workspace, asked: Mapping[str, Job], there: Mapping[str, Job]) -> list[str]:
    """What is known of the text that points were made from, beside the one that they are made from now."""
    digest = data_job(work).digests["text"]
    now = f"sha256 {digest[:12]}" if digest else "which is gone; its blocks of tokens are here"
    known = [point for point, row in asked.items() if carries_origin(row)]
    unknown = [point for point in asked if point not in known]
    lines = [f"text: the one that {_names(known)} {_was(known)} made from ({now})"] if known else []
    if unknown:
        others = [row for row in there.values() if carries_origin(row)]
        same = sum(another_input(row) is None for row in others)
        beside = f"; {same} of the {len(others)} kept points that say theirs were made from it" if others else ""
        words = f"what {_names(unknown)} {_was(unknown)} made from is not known; now it is the study's"
        lines += [f"text: {words} ({now}){beside}"]
    return lines


def _names(points: Sequence[str]) -> str:
    return one_line(", ".join(points))


def _was(points: Sequence[str]) -> str:
    return "was" if len(points) == 1 else "were"


def _report(again: Workspace, kept: _Kept, made: Mapping[str, Job]) -> None:
    """Write the table of differences and print it, point by point, with a sentence at the end."""
    spread = seed_spread(pd.DataFrame([*kept.rows.values()]))
    rows = {point: json.loads((job.folder / "row.json").read_text()) for point, job in made.items()}
    table = differences(kept.rows, rows, spread)
    origins = {point: (kept.origins[point], trained_on(job)) for point, job in made.items()}
    for number, side in enumerate(("kept", "again")):
        for fact in ("device", "torch"):
            table[f"{side}_{fact}"] = [origins[point][number][fact] for point in table["model"]]
    with atomic_path(again.folder / TABLE) as aside:
        aside.write_text(csv_text(table), encoding="utf-8")
    console = Console(highlight=False, markup=False)  # a name may hold brackets
    for point, values in table.groupby("model", sort=False):
        then, now = map(_origin_words, origins[str(point)])
        print(f"\n{one_line(point)}: kept, {then}; again, {now}", flush=True)
        console.print(_shown(values))
    if isinstance(spread, Spread):
        print(f"seeds' std     standard deviation over the {spread.words} (for nc1_cdnv, as a share)")
    print(f"differences    {again.display(again.folder / TABLE)}")
    print(verdict(table, spread), flush=True)


def _origin_words(origin: Mapping[str, str | None]) -> str:
    return f"{origin['done']} on {origin['device'] or 'an unknown device'}, torch {origin['torch'] or 'unknown'}"


def _shown(values: pd.DataFrame) -> Table:
    """One point's differences, as a terminal shows them."""
    shown, with_seeds = Table(box=box.SIMPLE, pad_edge=False), values["seeds_of"].notna().any()
    shown.add_column("", no_wrap=True)
    for head in ("kept", "again", "difference", *(("seeds'\nstd", "in\nthese") if with_seeds else ())):
        shown.add_column(head, justify="right", no_wrap=True)
    for row in values.to_dict("records"):
        cells = [f"{row['kept']:.4g}", f"{row['again']:.4g}", f"{row['difference']:+.2g}"]
        if with_seeds:
            cells += ["" if pd.isna(row[key]) else f"{row[key]:.2g}" for key in ("seeds_std", "in_stds")]
        shown.add_row(row["measurement"], *cells)
    return shown
