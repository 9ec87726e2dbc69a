"""Rows of a study that were measured elsewhere and committed: whole, current, and the committed table is of them."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from lcutils.analysis.rows import TokenTables, load_row, results_table
from lcutils.parameters import ROOT
from lcutils.pipeline.jobs import measure_job
from lcutils.stages import open_study
from lcutils.text import csv_text

SAMPLE = ROOT / "outputs" / "tinystories-sample"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    with tarfile.open(SAMPLE / "measurements.tgz") as archive:
        archive.extractall(folder / "tinystories", filter="data")
    return folder


def test_committed_rows_are_current_and_the_committed_table_is_of_them(outputs: Path) -> None:
    """Neither text nor weights nor statistics are here; the rows are whole, and made with the study's values."""
    work = open_study("tinystories", outputs)
    jobs = {point: measure_job(work, *point) for point in work.study.points}
    measured = [point for point, job in jobs.items() if job.current]
    assert not [job.damaged for job in jobs.values() if job.damaged]
    assert len(measured) == len(list((outputs / "tinystories" / "measurements").iterdir()))
    table = results_table([load_row(work.measurements(*point)) for point in measured])
    assert csv_text(table) == (SAMPLE / "results.csv").read_text(encoding="utf-8")


def test_rows_without_a_table_of_tokens_are_gathered(outputs: Path) -> None:
    """Most rows came without; those that have one show it."""
    folders = {path.name: path for path in (outputs / "tinystories" / "measurements").iterdir()}
    tokens = TokenTables.kept(folders)
    assert 0 < len(tokens) < len(folders)
    assert all(len(tokens[name]) > 10_000 for name in tokens)
