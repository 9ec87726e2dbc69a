"""Kept points made again by `lcutils repeat`, and how far off they are."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import TINY, lcutils_command
from test_kept import change_manifests

from lcutils.analysis.definitions import Missing
from lcutils.analysis.repeated import MAIN, Spread, differences, seed_spread, verdict
from lcutils.artifacts import MANIFEST
from lcutils.corpus import stories
from lcutils.manifests import read_manifest
from lcutils.pipeline.kept import ARCHIVE, export_points
from lcutils.pipeline.overrides import open_study
from lcutils.stages import extract_point, measure_point, prepare_data, train_run
from lcutils.text import read_csv

SEEDS, LARGE = "01x0016_01d", "01x0032_02d"
POINT = f"{LARGE}@1"
STUDY = TINY.replace(
    "- {depth: 1, width: [16, 32], epochs: 1, decay: d, checkpoints: 0}",
    "- {depth: 1, width: 16, epochs: 1, decay: d, checkpoints: 0, seed: [0, 1, 2]}\n"
    "  - {depth: 1, width: 32, epochs: 2, decay: d, checkpoints: [0, 1]}",
)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of one model with three seeds and one with two points, its text, and its points, exported."""
    folder = tmp_path_factory.mktemp("kept")
    (folder / "text.txt").write_text("<|endoftext|>".join(itertools.islice(stories.stories(7), 80)))
    (folder / "tiny.yaml").write_text(STUDY.replace("source: built-in", f"source: {folder / 'text.txt'}"))
    work = open_study(folder / "tiny.yaml", folder / "made")
    prepare_data(work)
    for model in work.study.runs:
        train_run(work, model)
    for point in work.study.points:
        extract_point(work, *point), measure_point(work, *point)
    export_points(work, folder / "export")
    return folder


@pytest.fixture
def here(kept: Path, tmp_path: Path) -> Path:
    """Another folder with the study, the text and the kept points, and nothing that was made."""
    study = (kept / "tiny.yaml").read_text().replace(str(kept), str(tmp_path))
    (tmp_path / "tiny.yaml").write_text(study)
    shutil.copy(kept / "text.txt", tmp_path)
    shutil.copytree(kept / "export", tmp_path / "export")
    return tmp_path


def words(folder: Path, *names: str) -> list[str | Path]:
    return ["repeat", folder / "tiny.yaml", folder / "export", *names, "--outputs", folder]


@pytest.fixture
def refused(here, lcutils_here):
    """Expect one line, and no work."""

    def check(said: str, *names: str) -> str:
        outcome = lcutils_here(*words(here, *names))
        assert outcome.returncode == 2, outcome.stdout
        assert said in outcome.stderr, outcome.stderr
        assert len(outcome.stderr.splitlines()) == 1
        assert not outcome.stdout
        assert not (here / "repeat").exists()
        return outcome.stderr

    return check


def test_a_point_is_made_again_from_the_text_to_the_same_numbers(kept, here, lcutils_here):
    outcome = lcutils_command(*words(here, POINT))
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    again = here / "repeat" / "tiny"
    copies = {path.stem for path in (again / "notebooks").iterdir()}
    assert copies == {"01_data", f"02_train_{LARGE}", f"03_extract_{POINT}", f"04_measure_{POINT}"}
    assert not (here / "tiny").exists()
    row, before = (folder / "measurements" / POINT / "row.json" for folder in (again, kept / "made" / "tiny"))
    assert row.read_text() == before.read_text()
    table = read_csv(again / "repeat.csv")
    assert table["measurement"].tolist() == [*MAIN]
    assert set(table["model"]) == {POINT}
    assert (table["difference"] == 0).all()
    assert (table["kept"] == table["again"]).all()
    assert set(table["seeds_of"]) == {f"3 seeds of {SEEDS}@0"}
    assert set(table["kept_device"]) == set(table["again_device"]) == {"cpu"}
    assert set(table["kept_torch"]) == set(table["again_torch"])
    losses = [
        json.loads((kept / f"made/tiny/measurements/{SEEDS}0{seed}@0/row.json").read_text())["val_loss"]
        for seed in range(3)
    ]
    assert math.isclose(table["seeds_std"][0], pd.Series(losses).std(), rel_tol=1e-9)
    lines = outcome.stdout.splitlines()
    assert re.match(rf"text: the one that {POINT} was made from \(sha256 [0-9a-f]{{12}}\)", lines[0])
    assert f"{POINT}: kept, trained on cpu, torch 2." in outcome.stdout
    assert f"standard deviation over the 3 seeds of {SEEDS}@0" in outcome.stdout
    assert re.search(r"^ *nc4_agreement .* \+0 ", outcome.stdout, re.MULTILINE)
    assert "…" not in outcome.stdout
    assert lines[-1] == f"Made again, {POINT} came out exactly as kept: no difference in the loss or the measurements."

    made = {path: path.stat().st_mtime_ns for path in again.glob(f"*/*/{MANIFEST}")}
    second = lcutils_here(*words(here, POINT))
    assert second.returncode == 0, second.stderr
    assert "Nothing to be done" in second.stdout
    assert second.stdout.splitlines()[-1] == lines[-1]
    assert {path: path.stat().st_mtime_ns for path in again.glob(f"*/*/{MANIFEST}")} == made


def test_a_name_of_a_run_means_all_its_kept_points(here, refused, monkeypatch, lcutils_here):
    asked = []
    monkeypatch.setattr("lcutils.repeating.run_sweep", lambda _, points: asked.append(points) or 0)
    assert lcutils_here(*words(here, LARGE, POINT)).returncode == 0
    assert asked == [[(LARGE, 0), (LARGE, 1)]]


def test_a_failed_sweep_is_an_error_and_what_is_missing_in_no_table(here, monkeypatch, lcutils_here):
    monkeypatch.setattr("lcutils.repeating.run_sweep", lambda _, points: 1)
    outcome = lcutils_here(*words(here, POINT))
    assert outcome.returncode == 1
    assert len(outcome.stdout.splitlines()) == 1  # on the text
    assert not (here / "repeat").exists()


def test_another_text_is_refused_and_the_right_one_pointed_at(here, refused):
    (here / "text.txt").write_text("Another text.<|endoftext|>Of two stories.")
    said = refused(rf"{POINT} was made from another text (sha256 ", POINT)
    assert said.endswith("; name the one that was used\n")
    assert len(re.findall(r"\b[0-9a-f]{12}\b", said)) == 2
    (here / "export/README.md").write_text("The text.")
    assert refused("another text", POINT).endswith(f"the right one is described in {here}/export/README.md\n")
    (here / "text.txt").unlink()
    assert "README.md" in refused("no such file or folder", POINT)


def test_other_values_are_no_repetition(here, refused):
    for value, said in (
        ("learning_rate=1", "made with learning_rate = 0.003, the study says 1.0"),
        ("block_size=16", "made with block_size = 32, the study says 16"),
        ("riesz_s=2", "made with riesz_s = 1.0, the study says 2.0"),
    ):
        assert "a repetition changes no value: leave it as it was" in refused(said, POINT, "--set", value)


def test_points_that_are_not_kept_are_refused(here, refused, kept):
    refused("01x0064_02d is not in the grid of study", "01x0064_02d@0")
    refused(f"{LARGE} keeps 0, 1, not '7'", f"{LARGE}@7")
    study = here / "tiny.yaml"
    study.write_text(study.read_text().replace("[0, 1, 2]", "[0, 1, 2, 3]"))
    said = refused(f"{SEEDS}03@0 is not among its 5 points; take for instance {SEEDS}0", f"{SEEDS}03@0")
    assert ARCHIVE in said
    study.write_text(study.read_text().replace("width: 32", "width: 48"))
    refused(f"{LARGE}@0 is no point of study tiny; name the study that it was exported from", f"{SEEDS}00@0")
    shutil.rmtree(here / "export")
    refused("there is no such file; name an archive, or its folder", POINT)


def test_points_of_unknown_text_are_made_all_the_same(here, refused, monkeypatch, lcutils_here):
    change_manifests(here, lambda manifest: manifest["inputs"] and manifest.pop("made_from"))
    said = f"learning_rate: {POINT} does not say what it was made with, so the study's own value counts; leave it as"
    refused(said, POINT, "--set", "learning_rate=1")
    shutil.copy(here / "text.txt", here / "same.txt")
    monkeypatch.setattr("lcutils.repeating.run_sweep", lambda _, points: 0)
    outcome = lcutils_here(*words(here, POINT, "--set", f"source={here / 'same.txt'}"))
    assert outcome.returncode == 0, outcome.stderr
    assert re.fullmatch(
        rf"text: what {POINT} was made from is not known; now it is the study's \(sha256 [0-9a-f]{{12}}\)\n",
        outcome.stdout,
    )


def test_what_other_points_say_of_an_unknown_text(here, monkeypatch, lcutils_here):
    change_manifests(
        here, lambda manifest: manifest["made_from"]["train"]["parameters"]["width"] == 32 and manifest.pop("made_from")
    )
    monkeypatch.setattr("lcutils.repeating.run_sweep", lambda _, points: 0)
    outcome = lcutils_here(*words(here, POINT, f"{SEEDS}01@0"))
    known, unknown = outcome.stdout.splitlines()
    assert known.startswith(f"text: the one that {SEEDS}01@0 was made from (sha256 ")
    assert unknown.endswith("; 3 of the 3 kept points that say theirs were made from it")


def test_points_that_were_imported_are_no_repetition(here, lcutils_here):
    assert lcutils_here("import", here / "tiny.yaml", here / "export", "--outputs", here / "repeat").returncode == 0
    outcome = lcutils_here(*words(here, POINT))
    assert outcome.returncode == 2
    assert "repeat/tiny: holds imported points; name another outputs folder" in outcome.stderr


def test_where_a_point_was_made_is_said_as_far_as_it_is_known(here, kept):
    from lcutils.pipeline.carried import trained_on
    from lcutils.pipeline.jobs import measure_job

    work = open_study(kept / "tiny.yaml", kept / "made")
    row = measure_job(work, LARGE, 1)
    torch = (read_manifest(row.folder) or {})["versions"]["torch"]
    assert trained_on(row) == {"done": "trained", "device": "cpu", "torch": torch}


def compared(losses: dict[str, float], spread: Spread | Missing, **others: float) -> str:
    """The verdict on points whose kept loss is 2, and measurements whose kept value is 1."""
    kept = {point: {"val_loss": 2.0} | dict.fromkeys(others, 1.0) for point in losses}
    again = {point: {"val_loss": loss} | others for point, loss in losses.items()}
    return verdict(differences(kept, again, spread), spread)


SPREAD = Spread("02x0768_01d@0", 21, {"val_loss": 0.01, "nc1_cdnv": 0.1, "nc4_agreement": 0.0})


@pytest.mark.parametrize(
    ("losses", "spread", "others", "said"),
    [
        (
            {"02x0768_01d@0": 2.005},
            SPREAD,
            {"nc1_cdnv": 1.05, "nc4_agreement": 1.0},
            "Made again, 02x0768_01d@0 has a validation loss within the seeds' spread (+0.005 nats or 0.5 standard "
            "deviations over the 21 seeds of 02x0768_01d@0); so are 1 of 1 measurements.",
        ),
        (
            {"12x1024_10L@9": 1.96},
            SPREAD,
            {"nc1_cdnv": 0.7},  # its spread is a share
            "Made again, 12x1024_10L@9 has a validation loss outside the seeds' spread (-0.04 nats or 4 standard "
            "deviations over the 21 seeds of 02x0768_01d@0, another architecture); 0 of 1 measurements are within it, "
            "furthest off is nc1_cdnv with 3.",
        ),
        (
            {"02x0768_01d@0": 2.0, "01x0064_01d@0": 2.02},
            SPREAD,
            {},
            "Made again, 1 of 2 points has a validation loss outside the seeds' spread (at most +0.02 nats "
            "(01x0064_01d@0) or 2 standard deviations over the 21 seeds of 02x0768_01d@0, whose architecture is not "
            "that of all); 0 of 0 measurements are within it.",
        ),
        (
            {"a@0": 2.0, "b@0": 2.0},
            SPREAD,
            {"nc1_cdnv": 1.0},
            "Made again, all 2 points came out exactly as kept: no difference in the loss or the measurements.",
        ),
        (
            {"a@0": 2.25},
            Missing("Seeds cannot be compared."),
            {},
            "Made again, a@0 has another validation loss: +0.25 nats. How much that is cannot be said: Seeds cannot be "
            "compared.",
        ),
        (
            {"a@0": 2.25},
            Spread("a@0", 3, {"val_loss": 0.0}),
            {},
            "Made again, a@0 has another validation loss: +0.25 nats; in the 3 seeds of a@0 it does not vary.",
        ),
    ],
)
def test_the_sentence(losses, spread, others, said):
    assert compared(losses, spread, **others) == said


def test_two_seeds_are_no_spread():
    row = {"depth": 1, "width": 16, "epochs": 1, "weight_decay": 0.1, "checkpoint": 0, "val_loss": 2.0}
    rows = [row | {"model": f"01x0016_01d0{seed}", "seed": seed} for seed in range(3)]
    assert "at least 3 seeds" in str(seed_spread(pd.DataFrame(rows[:2])))
    spread = seed_spread(pd.DataFrame(rows))
    assert isinstance(spread, Spread)
    assert (spread.of, spread.seeds, spread.std) == ("01x0016_01d@0", 3, {"val_loss": 0.0})


def test_the_spread_of_what_is_drawn_on_a_log_scale_is_a_share():
    row = {"depth": 1, "width": 16, "epochs": 1, "weight_decay": 0.1, "checkpoint": 0}
    values = [(2.0, 0.1), (2.1, 1.0), (2.2, 10.0)]
    rows = [
        row | {"model": f"01x0016_01d0{seed}", "seed": seed, "val_loss": loss, "nc1_cdnv": cdnv}
        for seed, (loss, cdnv) in enumerate(values)
    ]
    spread = seed_spread(pd.DataFrame(rows))
    assert isinstance(spread, Spread)
    table = differences(
        {"a@0": {"val_loss": 3.0, "nc1_cdnv": 100.0}}, {"a@0": {"val_loss": 3.2, "nc1_cdnv": 50.0}}, spread
    )
    assert table["seeds_std"].tolist() == pytest.approx([0.1, 100 * math.log(10)])
    assert table["in_stds"].tolist() == pytest.approx([2, 0.5 / math.log(10)])
