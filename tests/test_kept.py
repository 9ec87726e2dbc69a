"""Finished points that were imported elsewhere are never made again there, and other values are told from theirs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import TINY, lcutils_command
from kept_samples import LARGE, POINTS, SMALL, change_manifests, opened

from lcutils.errors import UserError
from lcutils.gptneo.checkpoint import write_checkpoint
from lcutils.gptneo.model import GPTNeo
from lcutils.pipeline.changed import take_along
from lcutils.pipeline.checks import check_kept, check_pretrained
from lcutils.pipeline.jobs import all_jobs, check_corpora, check_overrides, measure_job, spared
from lcutils.pipeline.kept import ARCHIVE, export_points, import_points
from lcutils.pipeline.overrides import open_study
from lcutils.pipeline.paths import Workspace
from lcutils.pipeline.plan import describe_plan
from lcutils.pipeline.states import describe_states
from lcutils.runs import Architecture
from lcutils.stages import extract_point, measure_point, prepare_data, train_run


def test_after_an_import_only_the_analysis_is_made(swept, away, lcutils_here):
    outcome = lcutils_here("import", away / "tiny.yaml", away / "export", "--outputs", away)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.splitlines()[0] == f"4 of 4 points are kept in {away}/tiny"
    assert outcome.stdout.splitlines()[1] == "0 of 4 points are left to make: lcutils sweep tiny"
    outcome = lcutils_command("sweep", away / "tiny.yaml", "--outputs", away)
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    assert [path.stem for path in (away / "tiny/notebooks").iterdir()] == ["05_analyze"]
    assert not any((away / "tiny" / name).exists() for name in ("data", "runs", "statistics"))
    assert (away / "tiny/results.csv").read_bytes() == (swept / "tiny/results.csv").read_bytes()
    times, before = (pd.read_csv(folder / "tiny/analysis/tables/times.csv") for folder in (away, swept))
    assert times["model"].tolist() == before["model"].tolist()
    assert times.notna().all().all()
    outcome = lcutils_here("sweep", away / "tiny.yaml", "--outputs", away)
    assert outcome.stdout.startswith("Nothing to be done")

    archive = away / "export" / ARCHIVE
    made = archive.stat().st_mtime_ns, archive.read_bytes()
    outcome = lcutils_here("export", away / "tiny.yaml", away / "export", "--outputs", away)
    assert outcome.returncode == 0, outcome.stderr
    assert (archive.stat().st_mtime_ns, archive.read_bytes()) == made
    export_points(opened(away), away / "other")
    assert (away / "other" / ARCHIVE).read_bytes() == (swept / "export" / ARCHIVE).read_bytes()


def test_only_the_runs_of_missing_points_are_made_again(swept, away, lcutils_here):
    import_points(opened(away), away / "export")
    lost = f"{LARGE}@1"
    shutil.rmtree(away / "tiny/measurements" / lost)
    outcome = lcutils_here("sweep", away / "tiny.yaml", "--outputs", away)
    assert outcome.returncode == 2
    assert "no such file or folder" in outcome.stderr
    shutil.copy(swept / "text.txt", away)
    outcome = lcutils_command("sweep", away / "tiny.yaml", "--outputs", away)
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    copies = {path.stem for path in (away / "tiny/notebooks").iterdir()}
    made = {"01_data", f"02_train_{LARGE}", f"03_extract_{lost}", f"04_measure_{lost}", "05_analyze"}
    assert copies == made
    assert (away / "tiny/results.csv").read_bytes() == (swept / "tiny/results.csv").read_bytes()
    row, before = ((folder / "tiny/measurements" / lost / "row.json").read_text() for folder in (away, swept))
    assert row == before
    states = [line.split()[:2] for line in describe_states(opened(away)).splitlines()[1:]]
    assert states == [[point, "measured" if point == lost else "kept"] for point in POINTS]


def test_a_run_that_is_trained_again_for_one_point_leaves_no_weights(swept, away, lcutils_here):
    """With `drop_checkpoints` those of its kept points go too, and nothing is out of date without them."""
    work = opened(away, "drop_checkpoints=true")
    import_points(work, away / "export")
    shutil.rmtree(work.measurements(LARGE, 1))
    shutil.copy(swept / "text.txt", away)
    prepare_data(work), train_run(work, LARGE)
    weights = [work.checkpoint(LARGE, k) / "model.safetensors" for k in (0, 1)]
    assert all(path.is_file() for path in weights)
    extract_point(work, LARGE, 1), measure_point(work, LARGE, 1)
    assert not any(path.exists() for path in weights)
    unneeded = spared(work)
    assert [name for name, job in all_jobs(work).items() if not job.current and name not in unneeded] == []
    shutil.rmtree(work.measurements(LARGE, 0))  # now its weights are needed, and made again
    train_run(work, LARGE), extract_point(work, LARGE, 0)
    row = measure_point(work, LARGE, 0).row
    assert row == json.loads((swept / f"tiny/measurements/{LARGE}@0/row.json").read_text())
    assert not any(path.exists() for path in weights)
    unneeded = spared(work)
    assert [name for name, job in all_jobs(work).items() if not job.current and name not in unneeded] == []


def test_a_text_that_lies_elsewhere_is_the_same_text(swept, away, lcutils_here):
    work = opened(away)
    import_points(work, away / "export")
    elsewhere = away / "elsewhere" / "text.txt"
    elsewhere.parent.mkdir()
    shutil.copy(swept / "text.txt", elsewhere)
    there = opened(away, f"source={elsewhere}")
    check_overrides(there), check_kept(there)
    assert spared(there) == {name for name in all_jobs(work) if not name.startswith("measure")}
    with elsewhere.open("a") as file:
        file.write("<|endoftext|>Another story.")
    with pytest.raises(UserError, match=rf"{SMALL}@0 and 3 more kept points: was made from another text \(sha256"):
        check_kept(opened(away, f"source={elsewhere}"))
    assert "out of date: was made from another text" in describe_states(opened(away, f"source={elsewhere}"))
    shutil.copy(elsewhere, away / "text.txt")
    outcome = lcutils_here("sweep", away / "tiny.yaml", "--outputs", away)
    assert outcome.returncode == 2
    assert len(outcome.stderr.splitlines()) == 1
    assert "another text" in outcome.stderr
    assert (away / f"tiny/measurements/{SMALL}@0/row.json").is_file()


@pytest.mark.parametrize(
    ("then", "now", "why"),
    [
        ({"tokenizer": "a/folder", "digest": "1" * 64}, "owner/name", None),  # whether they are the same is not known
        ({"tokenizer": "owner/name", "digest": None}, "owner/name", None),
        ({"tokenizer": "owner/name", "digest": None}, "owner/other", "was made with tokenizer = owner/name"),
        ({"tokenizer": "a/folder", "digest": "1" * 64}, "bpe:300", "was made with tokenizer = a/folder"),
        ({"tokenizer": "bpe:300", "digest": None}, "bpe:400", "was made with tokenizer = bpe:300"),
    ],
)
def test_a_tokenizer_is_told_by_its_files_or_its_name(away, then, now, why):
    def change(manifest: dict[str, Any]) -> None:
        data = manifest["made_from"]["data"]
        data["parameters"]["tokenizer"], data["digests"]["tokenizer"] = then["tokenizer"], then["digest"]

    change_manifests(away, change)
    work = opened(away, f"tokenizer={now}")
    if why:
        with pytest.raises(UserError, match=why):
            import_points(work, away / "export")
    else:
        import_points(work, away / "export")
        assert measure_job(work, SMALL, 0).kept


def test_a_text_is_told_by_the_digest_that_older_manifests_hold(swept, away):
    change_manifests(away, lambda manifest: manifest["made_from"]["data"].pop("digests"))
    import_points(opened(away), away / "export")
    shutil.copy(swept / "text.txt", away)
    assert measure_job(opened(away), SMALL, 0).kept
    (away / "text.txt").write_text("Another text.<|endoftext|>Of two stories.")
    assert "another text" in str(measure_job(opened(away), SMALL, 0).out_of_date)


def test_the_plan_and_the_list_show_what_is_kept(away):
    work = opened(away)
    import_points(work, away / "export")
    assert describe_states(work).splitlines()[0] == "study tiny: 2 runs, 4 points: 4 kept"
    assert f"{SMALL}@0  kept       val_loss " in describe_states(work)
    assert check_corpora(work) == {}
    assert "done: 4 of 4 points, 4 of them kept from elsewhere; left to train: 0 runs\n" in describe_plan(work)
    shutil.rmtree(away / f"tiny/measurements/{LARGE}@0")
    assert "done: 3 of 4 points, 3 of them kept from elsewhere; left to train: 1 runs\n" in describe_plan(work)
    with pytest.raises(UserError, match="no such file"):
        check_corpora(work)


def test_other_values_are_refused_or_made_again(away, capsys):
    work = opened(away)
    import_points(work, away / "export")
    for override, words in (
        ("learning_rate=1", "learning_rate = 0.003, the override says 1.0"),
        ("block_size=16", "block_size = 32, the override says 16"),
        ("riesz_s=2", "riesz_s = 1.0, the override says 2.0"),
    ):
        with pytest.raises(UserError, match=words):
            check_overrides(opened(away, override))
    yaml = away / "tiny.yaml"
    yaml.write_text(yaml.read_text().replace("checkpoints: [0, 1]", "checkpoints: [1]"))
    assert measure_job(opened(away), SMALL, 1).kept  # which others there are is no difference
    yaml.write_text(yaml.read_text().replace("learning_rate: 3.0e-3", "learning_rate: 1.0e-3"))
    check_kept(opened(away))
    said = f"kept points that are made again: 2; {SMALL}@1 was made with learning_rate = 0.003, the study says 0.001\n"
    assert capsys.readouterr().err == said
    assert not spared(opened(away))
    for model in (SMALL, LARGE):
        with pytest.raises(UserError, match="run 01_data first"):
            measure_point(opened(away), model, 1)


def test_a_damaged_row_is_made_again(swept, away):
    work = opened(away)
    import_points(work, away / "export")
    (away / f"tiny/measurements/{SMALL}@0/sensitivity.csv").write_text("x")
    assert not {"data", f"train/{SMALL}", f"extract/{SMALL}@0"} & spared(work)
    assert f"extract/{SMALL}@1" in spared(work)
    shutil.copy(swept / "text.txt", away)
    prepare_data(work), train_run(work, SMALL), extract_point(work, SMALL, 0)
    row = measure_point(work, SMALL, 0).row
    assert row == json.loads((swept / f"tiny/measurements/{SMALL}@0/row.json").read_text())
    assert measure_job(work, SMALL, 0).current
    assert not measure_job(work, SMALL, 0).kept


def test_kept_rows_go_along_into_a_changed_folder(away):
    """What a notebook's changed values leave as it is needs no text there either."""
    work = opened(away)
    import_points(work, away / "export")
    own = replace(work, folder=away / "own" / "tiny")
    take_along(work, own)
    assert describe_states(own).splitlines()[0] == "study tiny: 2 runs, 4 points: 4 kept"


def test_rows_of_pretrained_models_need_neither_model_nor_its_place(tmp_path):
    def study(folder: Path, model: Path) -> Workspace:
        folder.mkdir(exist_ok=True)
        text = "\n".join(line for line in TINY.splitlines() if "grid" not in line and "depth" not in line)
        (folder / "given.yaml").write_text(f"{text}\npretrained: {{theirs: {model}}}\n")
        return open_study(folder / "given.yaml", folder)

    write_checkpoint(GPTNeo(Architecture(1, 16, 300), 0), tmp_path / "model")
    work = study(tmp_path / "here", tmp_path / "model")
    prepare_data(work), extract_point(work, "theirs", 0), measure_point(work, "theirs", 0)
    export_points(work, tmp_path / "export")
    away = study(tmp_path / "away", tmp_path / "gone")
    import_points(away, tmp_path / "export")
    check_kept(away), check_pretrained(away)
    assert spared(away) == {"data", "extract/theirs@0"}
    assert spared(study(tmp_path / "away", tmp_path / "model")) == {"data", "extract/theirs@0"}
    write_checkpoint(GPTNeo(Architecture(1, 16, 300), 1), tmp_path / "model")
    with pytest.raises(UserError, match=r"theirs@0: was made from another model \(sha256"):
        check_kept(study(tmp_path / "away", tmp_path / "model"))
