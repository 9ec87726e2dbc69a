"""The five stages as plain functions: what they skip, what they refuse, how a run is shared by processes."""

import copy
import json
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from safetensors.torch import load_file

from lcutils.charts.theme import LIGHT
from lcutils.drawing import draw_svg
from lcutils.errors import UserError
from lcutils.manifests import claim_folder, read_note
from lcutils.parameters import ROOT
from lcutils.pipeline.job import alone
from lcutils.pipeline.jobs import analyze_job, extract_job, train_job
from lcutils.stages import (
    analyze_study,
    extract_point,
    load_tokenizer,
    measure_point,
    open_study,
    prepare_data,
    train_run,
)

MODEL = "01x0016_01d"


@pytest.fixture
def work(tiny):
    return open_study(tiny, tiny.parent)


def test_all_stages_in_order_and_a_second_time(work, monkeypatch):
    data = prepare_data(work)
    run = train_run(work, MODEL)
    extracted = extract_point(work, MODEL, 0)
    measured = measure_point(work, MODEL, 0)
    assert int(extracted.statistics.counts.sum()) == data.train.shape[0] * (data.train.shape[1] - 1)
    assert (extracted.statistics.counts.numpy() == data.counts[0]).all()
    assert run.log()["loss"].iloc[-1] < run.log()["loss"].iloc[0]
    assert measured.row["val_loss"] == run.checkpoints[0]["val_loss"]
    assert measured.row["train_loss"] == run.checkpoints[0]["train_loss"]
    assert measured.row["tokens_seen"] == data.train.size
    assert 0 <= measured.row["nc4_agreement"] <= 1
    kept = measured.tokens
    assert len(kept) == measured.row["n_classes"] == (data.counts[0] > 0).sum()
    assert kept["text"].tolist() == [load_tokenizer(work).decode([i]) for i in kept["token_id"]]
    assert kept["hits"].sum() / kept["total"].sum() == pytest.approx(measured.row["nc4_agreement"])

    written = {path: path.stat().st_mtime_ns for path in work.folder.rglob("manifest.json")}
    assert len(written) == 5  # one of every stage so far, and the checkpoint's own
    prepare_data(work), train_run(work, MODEL), extract_point(work, MODEL, 0), measure_point(work, MODEL, 0)
    assert written == {path: path.stat().st_mtime_ns for path in work.folder.rglob("manifest.json")}

    analysis = analyze_study(work)
    assert len(analysis.results) == 1
    pd.testing.assert_frame_equal(pd.read_csv(work.results), analysis.results, check_dtype=False)
    columns = list(analysis.results)
    assert columns[columns.index("perplexity") :][1:3] == ["train_loss", "n_classes"]
    assert analysis.paths["report.html"].is_file()
    drawn = {f"figures/{name}.svg" for name, figure in analysis.figures.items() if figure.chart is not None}
    assert drawn == {place for place in analysis.paths if place.endswith(".svg")}
    assert list(analysis.tokens) == [f"{MODEL}@0"]
    pd.testing.assert_frame_equal(analysis.tokens[f"{MODEL}@0"], measured.tokens)
    assert {"results", "table_1", "partial_correlations", "influence"} <= set(analysis.tables)

    figures = {place: path.read_bytes() for place, path in analysis.paths.items() if place.endswith((".svg", ".png"))}
    assert figures["figures/strips.svg"].decode() == draw_svg(json.dumps(analysis.figures["strips"].spec), LIGHT)
    monkeypatch.setattr("lcutils.charts.theme.draw_svg", lambda *_: pytest.fail("it is drawn already"))
    for name, figure in analysis.figures.items():
        assert figure.chart is None or figure.svg == figures[f"figures/{name}.svg"].decode()

    # Made again, here and with a changed value in a folder of its own, it draws only figures that are another.
    monkeypatch.setattr("lcutils.report.pictures.draw_all", lambda specs, *_: {one: pytest.fail(one) for one in specs})
    monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/05_analyze.ipynb")
    changed = open_study(work.study.source, work.folder.parent, {"permutations": 100}, {})
    assert changed.changed_from is not None
    for paths in (analyze_study(work).paths, analyze_study(changed).paths):
        assert figures == {place: path.read_bytes() for place, path in paths.items() if place in figures}


def test_dropped_weights_do_not_make_anything_stale(tiny):
    work = open_study(tiny, tiny.parent, "drop_checkpoints=true")
    prepare_data(work)
    train_run(work, MODEL)
    extract_point(work, MODEL, 0)
    first = measure_point(work, MODEL, 0)
    checkpoint = work.checkpoint(MODEL, 0)
    assert not (checkpoint / "model.safetensors").exists()
    assert (checkpoint / "evaluation.json").exists()
    extract_point(work, MODEL, 0)
    measure_point(work, MODEL, 0)
    shutil.rmtree(work.data)  # nor are the text and its tokenizer opened again
    tiny.write_text(tiny.read_text() + "\nmeasurement: {riesz_s: 2.0}\n")
    other = measure_point(open_study(tiny, tiny.parent), MODEL, 0)
    for key, value in first.row.items():
        assert (other.row[key] == value) == (not key.startswith("gnc2_riesz")), key
    shutil.rmtree(work.statistics(MODEL, 0))
    prepare_data(work)
    with pytest.raises(
        UserError, match=r"checkpoint-0/model.safetensors is damaged or missing; run 02_train with .* first$"
    ):
        extract_point(work, MODEL, 0)
    train_run(work, MODEL), extract_point(work, MODEL, 0)
    assert measure_point(work, MODEL, 0).row == first.row


def test_dropped_weights_that_another_extraction_needs_are_reported(tiny):
    work = open_study(tiny, tiny.parent, "drop_checkpoints=true")
    prepare_data(work), train_run(work, MODEL), extract_point(work, MODEL, 0), measure_point(work, MODEL, 0)
    tiny.write_text(tiny.read_text().replace("blocks_per_batch: 32", "blocks_per_batch: 16"))
    with pytest.raises(UserError, match=r"weights were deleted .* run 02_train with model 01x0016_01d again"):
        extract_point(open_study(tiny, tiny.parent), MODEL, 0)


def test_a_stale_input_is_reported_and_a_stale_row_is_left_out(work, tiny, capsys):
    prepare_data(work), train_run(work, MODEL), extract_point(work, MODEL, 0), measure_point(work, MODEL, 0)
    tiny.write_text(tiny.read_text().replace("3.0e-3", "1.0e-3"))
    changed = open_study(tiny, tiny.parent)
    for stage in (extract_point, measure_point):
        with pytest.raises(UserError, match=f"learning_rate = 0.003, .* 0.001; run 02_train with model {MODEL} first"):
            stage(changed, MODEL, 0)
    with pytest.raises(UserError, match="nothing is measured yet"):
        analyze_study(changed)
    assert "2 of 2 points of study tiny are not measured yet, or out of date (1)" in capsys.readouterr().err


def test_results_can_be_analysed_without_what_they_were_made_from(work, tiny, undrawn):
    prepare_data(work), train_run(work, MODEL), extract_point(work, MODEL, 0), measure_point(work, MODEL, 0)
    for name in ("data", "runs", "statistics"):
        shutil.rmtree(work.folder / name)
    with pytest.raises(UserError, match="min_count = 1, the override says 2; name another outputs folder"):
        analyze_study(open_study(tiny, tiny.parent, "min_count=2"))
    overridden = open_study(tiny, tiny.parent, "permutations=100")
    assert len(analyze_study(overridden).results) == 1
    assert analyze_job(overridden).current
    assert not analyze_job(work).current  # so that the next sweep makes the study's own again


def test_an_unfinished_folder_of_another_job_is_not_continued(tiny):
    work = open_study(tiny, tiny.parent)
    prepare_data(work)
    train_run(work, MODEL)
    (work.run_folder(MODEL) / "manifest.json").unlink()  # as if killed at the very end
    before = (work.run_folder(MODEL) / "checkpoint-0" / "model.safetensors").stat().st_mtime_ns
    train_run(work, MODEL)
    assert (work.run_folder(MODEL) / "checkpoint-0" / "model.safetensors").stat().st_mtime_ns == before
    tiny.write_text(tiny.read_text().replace("3.0e-3", "1.0e-3"))
    other = open_study(tiny, tiny.parent)
    train_run(other, MODEL)
    assert (work.run_folder(MODEL) / "checkpoint-0" / "model.safetensors").stat().st_mtime_ns != before


def test_a_run_of_the_same_weights_is_evaluated_on_the_new_validation_text(tiny):
    source, validation = tiny.parent / "train.txt", tiny.parent / "validation.txt"
    source.write_text("The cat sat on the red mat and saw a big dog.\n<|endoftext|>\n" * 60)
    work = open_study(tiny, tiny.parent, {"source": str(source), "validation": str(validation)})
    records = []
    for story in ("The dog saw the cat.", "A mat and a cat."):
        validation.write_text(f"{story}\n<|endoftext|>\n" * 40)
        prepare_data(work)
        records += train_run(work, MODEL).checkpoints
    assert records[0]["train_loss"] == records[1]["train_loss"]
    assert records[0]["val_loss"] != records[1]["val_loss"]


def test_a_run_begun_on_another_type_of_device_is_not_thrown_away(work, tiny):
    prepare_data(work)
    train_run(work, MODEL)
    (work.run_folder(MODEL) / "manifest.json").unlink()
    note = copy.deepcopy(read_note(work.run_folder(MODEL)))
    note["recipe"]["autocast"] = "bf16"  # as if on a GPU
    claim_folder(tiny.parent / "gpu", note, discard=False)
    shutil.copy(tiny.parent / "gpu/job.json", work.run_folder(MODEL))
    with pytest.raises(UserError, match=r"autocast = bf16, not fp32; choose another folder or delete this one"):
        train_run(work, MODEL)
    assert (work.run_folder(MODEL) / "checkpoint-0" / "model.safetensors").is_file()


def test_stages_out_of_order_name_what_is_missing(work):
    with pytest.raises(UserError, match="run 01_data first"):
        train_run(work, MODEL)
    prepare_data(work)
    with pytest.raises(UserError, match=f"run 02_train with model {MODEL} first"):
        extract_point(work, MODEL, 0)
    with pytest.raises(UserError, match=f"run 02_train with model {MODEL} first"):
        measure_point(work, MODEL, 0)
    train_run(work, MODEL)
    with pytest.raises(UserError, match=f"run 03_extract with model {MODEL} first"):
        measure_point(work, MODEL, 0)
    with pytest.raises(UserError, match="nothing is measured yet"):
        analyze_study(work)
    with pytest.raises(UserError, match="keeps 0, not 7"):
        extract_point(work, MODEL, 7)


def test_out_of_distribution_text_adds_nc5(tiny):
    text = tiny.parent / "other.txt"
    text.write_text("The committee approved the annual budget of the ministry.\n<|endoftext|>\n" * 50)
    work = open_study(tiny, tiny.parent, {"ood": str(text)})
    prepare_data(work)
    train_run(work, MODEL)
    extract_point(work, MODEL, 0)
    measured = measure_point(work, MODEL, 0)
    assert 0 < measured.row["nc5_ood_deviation"] < 1
    assert measured.sensitivity["nc5_ood_deviation"].nunique() == 3  # no class has one sample alone


def test_two_processes_train_the_same_model(tiny):
    alone = open_study(tiny, tiny.parent / "alone")
    prepare_data(alone)
    train_run(alone, MODEL)
    shared = open_study(tiny, tiny.parent / "shared")
    prepare_data(shared)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "lcutils"]
    command += ["train", str(tiny), MODEL, "--outputs", str(tiny.parent / "shared")]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3000)
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    one, two = (load_file(w.run_folder(MODEL) / "checkpoint-0" / "model.safetensors") for w in (alone, shared))
    assert one.keys() == two.keys()
    for name in one:
        assert (one[name] - two[name]).abs().max() < 1e-4, name
    assert train_run(shared, MODEL).checkpoints[0]["val_loss"] == pytest.approx(
        train_run(alone, MODEL).checkpoints[0]["val_loss"], abs=1e-4
    )


def test_two_processes_do_not_make_one_artifact(work):
    prepare_data(work)
    for job, make in (
        (train_job(work, MODEL), lambda: train_run(work, MODEL)),
        (extract_job(work, MODEL, 0), lambda: extract_point(work, MODEL, 0)),
    ):
        with alone(job), pytest.raises(UserError, match=f"{job.folder}: another process is making it; wait for that"):
            make()
        make()


def test_a_lock_that_cannot_be_taken_is_one_line(work):
    lock = work.folder / ".data.lock"
    work.folder.mkdir()
    lock.symlink_to(work.folder / "no" / "where")
    with pytest.raises(UserError, match=rf"{lock}: cannot be locked \(.*\); delete it"):
        prepare_data(work)
    lock.unlink()
    prepare_data(work)
