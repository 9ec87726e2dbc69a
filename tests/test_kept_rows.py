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
    """All rows but one came without; that has it."""
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
    assert f"{len(results)} points" in text
    assert (len(results), results["model"].nunique(), results.groupby(["depth", "width"]).ngroups) == (230, 170, 30)
    best = results.loc[results["val_loss"].idxmin()]
    assert (best["depth"], best["width"], best["epochs"], best["checkpoint"]) == (12, 128, 10, 9)
    assert round(best["val_loss"], 2) == 2.71
    report, notebook = ((SAMPLE / name).read_text(encoding="utf-8") for name in ("report.html", "05_analyze.ipynb"))
    assert "230 measured points of 170 models" in " ".join(report.split())
    assert f"230 rows; the best: {best['model']}@9, validation loss {best['val_loss']:.3f}" in notebook


def test_what_is_said_of_the_time_is_what_the_runs_took() -> None:
    """Minutes by architecture, the sums, and how much slower jobs are that share a GPU."""
    text = (SAMPLE / "README.md").read_text(encoding="utf-8")
    runs = pd.read_csv(SAMPLE / "runs.csv")
    assert sorted(runs["run"]) == sorted(open_study("tinystories").study.runs)
    columns = ["training_seconds", "compile_seconds", "extraction_seconds", "measuring_seconds"]
    minutes = runs[columns].sum(axis=1) / runs["sitting"].map({1: 4, 2: 6}) / 60
    planned = (runs["planned_training_seconds"] + runs["planned_extraction_seconds"]) / 60
    depth, width = runs["run"].str[:2].astype(int), runs["run"].str[3:7].astype(int)
    for layers in (1, 2, 4, 8, 12):
        cells = [(depth == layers) & (width == one) for one in (64, 128, 256, 512, 768, 1024)]
        words = [f"{minutes[chosen].sum():.1f} ({planned[chosen].sum():.1f})" for chosen in cells]
        assert f"| {layers} | {' | '.join(words)} |" in text
    assert f"All of it is {minutes.sum():.0f} GPU minutes, the plan says {planned.sum():.0f}" in text
    counted = runs.groupby("sitting")[["training_seconds", "planned_training_seconds"]].sum()
    said = (ROOT / "tests/benchmarks/README.md").read_text(encoding="utf-8")
    for (seconds, plan), jobs in zip(counted.to_numpy(), ("Four", "six"), strict=True):
        assert f"{jobs} jobs side by side" in said
        assert f"{seconds:,.0f} s of training where the plan says {plan:.0f}" in said


def test_what_is_said_of_the_second_corpus_learning_rate_follows_from_its_table() -> None:
    folder = ROOT / "outputs" / "stories-sample"
    text = " ".join((folder / "README.md").read_text(encoding="utf-8").split())
    losses = pd.read_csv(folder / "learning_rates.csv").pivot_table(
        index=["run", "checkpoint"], columns="learning_rate", values="val_loss"
    )
    excess = losses.sub(losses.min(axis=1), axis=0)[[2.5e-4, 5e-4, 1e-3, 2e-3]]
    assert (len(excess), excess.isna().sum().sum()) == (6, 0)
    assert excess.median().idxmin() == excess.mean().idxmin() == open_study("stories").study.training.learning_rate
    low, half, chosen, high = excess.median()
    assert f"({chosen:.3f} nats; {low:.3f}, {half:.3f} and {high:.3f} at the others)" in text
    large, small = losses.loc[("12x1024_01d", 0)], losses.loc[("01x0064_01d", 0)]
    assert large.idxmin() == 2.5e-4
    assert f"{large[1e-3]:.2f} nats, {large.min():.2f} at a quarter of it" in text
    assert small.idxmin() == 4e-3
    assert f"({small[1e-3]:.2f}, {small.min():.2f} at four times the rate)" in text


def test_what_is_said_of_the_repeated_points_follows_from_their_table() -> None:
    text = " ".join((SAMPLE / "README.md").read_text(encoding="utf-8").split())
    table, results = pd.read_csv(SAMPLE / "repeat.csv"), pd.read_csv(SAMPLE / "results.csv")
    values = results.set_index(results["model"] + "@" + results["checkpoint"].astype(str))
    assert all(row.kept == pytest.approx(values.at[row.model, row.measurement]) for row in table.itertuples())
    assert all(row.difference == pytest.approx(row.again - row.kept) for row in table.itertuples())
    losses, others = table[table["measurement"] == "val_loss"], table[table["measurement"] != "val_loss"]
    first, second, third = losses["model"]
    assert f"The points {first}, {second} and {third} were made again" in text
    first, second, third = (f"{value:+.4f}".replace("-", "−") for value in losses["difference"])
    assert f"{first}, {second} and {third} nats" in text
    assert f"nats, {losses['in_stds'].max():.2f} standard deviations over the 21 seeds of 02x0768_01d at most" in text
    assert losses["seeds_std"].round(4).tolist() == [0.0134] * 3
    far = others[others["in_stds"] > 1]
    assert f"{len(others) - len(far)} of {len(others)} measurements are within one, too" in text
    words = [f"`{row.measurement}` {row.again:.3g} for {row.kept:.3g} ({row.in_stds:.1f}" for row in far.itertuples()]
    assert set(far["model"]) == {"01x0128_01d@0"}
    assert f"other two are of 01x0128_01d@0: {words[0]} of them), and {words[1]}), a CoV near its pole" in text
    assert values.at["01x0128_01d@0", "unc3_cosine_cov"] > 5 * results[results["seed"] != 42]["unc3_cosine_cov"].max()
    assert (set(table["again_device"]), set(table["again_torch"])) == ({"cpu"}, {"2.13.0+cpu"})
