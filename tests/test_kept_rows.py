"""Rows of a study that were measured elsewhere and committed: whole, current, and the committed table is of them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from lcutils.analysis.rows import TokenTables, load_row, results_table
from lcutils.parameters import ROOT
from lcutils.pipeline.jobs import measure_job, spared
from lcutils.pipeline.kept import import_points
from lcutils.stages import open_study
from lcutils.text import csv_text

SAMPLE = ROOT / "outputs" / "tinystories-sample"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    said = import_points(open_study("tinystories", folder), SAMPLE)
    assert "where 88 of them come from is not known" in said
    return folder


def folders_of(outputs: Path) -> dict[str, Path]:
    """The folders of rows; beside them lie files of locks."""
    return {path.name: path for path in (outputs / "tinystories" / "measurements").iterdir() if path.is_dir()}


def test_committed_rows_are_current_and_the_committed_table_is_of_them(outputs: Path) -> None:
    """Neither text nor weights nor statistics are here; the rows are whole, and made with the study's values."""
    work = open_study("tinystories", outputs)
    jobs = {point: measure_job(work, *point) for point in work.study.points}
    measured = [point for point, job in jobs.items() if job.current]
    assert not [job.damaged for job in jobs.values() if job.damaged]
    assert len(measured) == len(folders_of(outputs))
    assert all(job.kept for job in jobs.values() if job.current)
    assert len(spared(work)) > len(measured)
    table = results_table([load_row(work.measurements(*point)) for point in measured])
    assert csv_text(table) == (SAMPLE / "results.csv").read_text(encoding="utf-8")


def test_rows_without_a_table_of_tokens_are_gathered(outputs: Path) -> None:
    """Most rows came without; those that have one show it."""
    folders = folders_of(outputs)
    tokens = TokenTables.kept(folders)
    assert 0 < len(tokens) < len(folders)
    assert all(len(tokens[name]) > 10_000 for name in tokens)


def test_what_the_folder_says_of_the_learning_rate_and_the_runs_follows_from_its_tables() -> None:
    """The excess over each run's best rate; how many runs and points there are; planned and real seconds."""
    text = " ".join((SAMPLE / "README.md").read_text(encoding="utf-8").split())
    tried = pd.read_csv(SAMPLE / "learning_rates.csv").pivot_table(
        index=["run", "checkpoint"], columns="learning_rate", values="val_loss"
    )
    tried = tried.dropna(subset=[5e-4, 1e-3, 2e-3])
    excess = tried.sub(tried.min(axis=1), axis=0)[[5e-4, 1e-3, 2e-3]].median()
    assert len(tried) == 7
    assert "Over the seven runs" in text
    assert excess.idxmin() == 1e-3
    assert f"({excess[1e-3]:.3f} nats; {excess[5e-4]:.3f} and {excess[2e-3]:.3f} at the others)" in text
    narrow = tried.loc[("02x0064_01d", 0)]
    assert f"{narrow[1e-3]:.2f} nats, {narrow.min():.2f} at the best rate" in text
    results = pd.read_csv(SAMPLE / "results.csv")
    widths = results.groupby("width").size()
    assert f"the first {len(results)} of 230 points" in text
    assert f"of {results['model'].nunique()} of the 170 runs" in text
    assert 64 not in widths
    assert (widths[128], widths[256]) == (6, 7)
    best = results.loc[results["val_loss"].idxmin()]
    assert (best["model"], best["checkpoint"], round(best["val_loss"], 2)) == ("12x0128_10d", 9, 2.72)
    runs, said = pd.read_csv(SAMPLE / "runs.csv"), (ROOT / "tests/benchmarks/README.md").read_text(encoding="utf-8")
    trained, planned = runs["training_seconds"].sum(), runs["planned_training_seconds"].sum()
    assert f"{trained:,.0f} s of training where the plan says {planned:.0f}" in said
    assert f"{len(runs)} of 170 runs were trained" in said
