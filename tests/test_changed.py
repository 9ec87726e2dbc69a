"""A changed value in a notebook that a person works in: a folder of its own; elsewhere a refusal."""

from __future__ import annotations

import shlex
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from lcutils.errors import UserError
from lcutils.measuring import Outcome, measure_models
from lcutils.parameters import ROOT
from lcutils.pipeline.changed import name_of
from lcutils.pipeline.locks import TOKEN
from lcutils.stages import analyze_study, extract_point, measure_point, open_study, prepare_data, train_run

MODEL = "01x0016_01d"


@pytest.fixture(autouse=True)
def outside(monkeypatch):
    """Whatever these tests are started from, they begin outside of Jupyter and of a sweep."""
    for name in ("JPY_SESSION_NAME", TOKEN):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def measured(tiny):
    """A study with one measured point."""
    work = open_study(tiny, tiny.parent)
    prepare_data(work)
    train_run(work, MODEL)
    extract_point(work, MODEL, 0)
    return measure_point(work, MODEL, 0)


def test_a_changed_value_gets_a_folder_of_its_own(tiny, measured, monkeypatch, capsys):
    monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/04_measure.ipynb")
    own = open_study(tiny, tiny.parent, {"riesz_s": 3.0}, {})
    assert own.folder == tiny.parent / "changed" / "riesz_s=3.0" / "tiny"
    assert "changed/riesz_s=3.0/tiny" in capsys.readouterr().out
    assert (own.statistics(MODEL, 0) / "manifest.json").is_file()  # data, model and statistics are as before
    assert not own.measurements(MODEL, 0).exists()
    assert measure_point(own, MODEL, 0).row["gnc2_riesz_mean"] != measured.row["gnc2_riesz_mean"]
    again = open_study(tiny, tiny.parent, {"riesz_s": 3.0}, {})
    assert again.folder == own.folder
    back = open_study(tiny, tiny.parent, {}, {})
    assert measure_point(back, MODEL, 0).row == measured.row


def test_what_follows_from_a_changed_value_is_not_taken_along(tiny, measured, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/02_train.ipynb")
    own = open_study(tiny, tiny.parent, {"learning_rate": 0.002}, {})
    assert own.data.exists()
    assert not own.run_folder(MODEL).exists()
    assert not own.statistics(MODEL, 0).exists()
    train_run(own, MODEL)
    assert (own.run_folder(MODEL) / "manifest.json").is_file()


def test_what_comes_before_a_changed_value_is_made_with_it(tiny, measured, monkeypatch, capsys):
    """Notebook 04 asks for measurements with a value that extraction reads too; elsewhere 03 has to come first."""
    monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/04_measure.ipynb")
    own = open_study(tiny, tiny.parent, {"min_count": 5}, {})
    assert not own.statistics(MODEL, 0).exists()
    assert measure_point(own, MODEL, 0).row["n_classes"] < measured.row["n_classes"]
    assert f"statistics/{MODEL}@0 does not exist yet; it is made first." in capsys.readouterr().out
    further = open_study(tiny, tiny.parent, {"learning_rate": 0.002}, {})  # back to the training
    assert measure_point(further, MODEL, 0).row["val_loss"] != measured.row["val_loss"]
    assert capsys.readouterr().out.count("it is made first.") == 1
    with pytest.raises(UserError, match="run 02_train with model 01x0032_01d first"):
        measure_point(open_study(tiny, tiny.parent, {}, {}), "01x0032_01d", 0)


def test_an_analysis_with_other_values_stays(tiny, measured, undrawn, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/05_analyze.ipynb")
    analyze_study(open_study(tiny, tiny.parent, {}, {}))
    there = (tiny.parent / "tiny/analysis/manifest.json").read_bytes()
    own = open_study(tiny, tiny.parent, {"permutations": 100}, {})
    assert own.folder == tiny.parent / "changed/permutations=100/tiny"
    assert analyze_study(own).results["val_loss"].tolist() == [measured.row["val_loss"]]
    assert (own.analysis / "report.html").is_file()
    assert (tiny.parent / "tiny/analysis/manifest.json").read_bytes() == there


def test_without_points_of_a_changed_value_the_analysis_is_the_usual_one(tiny, measured, undrawn, monkeypatch, capsys):
    monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/05_analyze.ipynb")
    own = open_study(tiny, tiny.parent, {"learning_rate": 0.002}, {})
    analysis = analyze_study(own)
    assert analysis.results["val_loss"].tolist() == [measured.row["val_loss"]]
    assert not own.analysis.exists()
    *_, said = capsys.readouterr().out.rstrip().splitlines()
    words = dict(word.split("=", 1) for word in shlex.split(said)[2:])
    assert open_study(words["STUDY"], words["OUTPUTS"], words["SET"]).folder == own.folder  # what the sweep opens
    measure_point(own, MODEL, 0)
    assert analyze_study(own).results["val_loss"].tolist() != [measured.row["val_loss"]]
    assert (own.analysis / "report.html").is_file()


def test_changed_values_for_models_that_exist_get_a_folder_too(tiny, measured, monkeypatch, capsys):
    """Notebook 06, which writes its study from what it is asked for."""
    monkeypatch.setattr("lcutils.measuring.analyze_study", lambda work: None)  # takes most of the time otherwise
    model = tiny.parent / "tiny/runs" / MODEL / "checkpoint-0"
    usual = {"max_stories": 60, "max_validation_stories": 20, "block_size": 32, "device": "cpu"}

    def ask(namespace: dict[str, Any] | None = None, **changed: Any) -> Outcome:
        values = usual | changed
        return measure_models(
            model, "built-in", outputs=tiny.parent, name="mine", overrides=values, namespace=namespace
        )

    first = ask(namespace={})
    assert first.work.folder == tiny.parent / "mine"
    there = {path: path.read_bytes() for path in (tiny.parent / "mine").rglob("manifest.json")}
    with pytest.raises(UserError, match="was measured with max_stories = 60, not 40; give another --name"):
        ask(namespace={}, max_stories=40)
    monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/06_your_model.ipynb")
    capsys.readouterr()
    other = ask(namespace={}, max_stories=40)
    assert other.work.folder == tiny.parent / "changed/max_stories=40/mine"
    assert "changed/max_stories=40/mine" in capsys.readouterr().out
    rows = [measure_point(asked.work, *asked.work.study.points[0]).row for asked in (first, other)]
    assert rows[0]["nc1_cdnv"] != rows[1]["nc1_cdnv"]
    kernel = ask(namespace={}, riesz_s=3.0)  # data and statistics are as before
    assert kernel.work.folder == tiny.parent / "changed/riesz_s=3.0/mine"
    assert "extract" not in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tiny.parent / "mine").rglob("manifest.json")} == there


@pytest.mark.parametrize("case", ["papermill", "sweep", "no server"])
def test_without_a_person_it_is_refused(tiny, measured, monkeypatch, case):
    namespace = {"In": ["# Parameters\noverrides = {}"], "overrides": {}} if case == "papermill" else {}
    if case != "no server":
        monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/04_measure.ipynb")
    if case == "sweep":
        monkeypatch.setenv(TOKEN, "token")
        monkeypatch.setattr("lcutils.pipeline.overrides.join_sweep", lambda folder: None)
    work = open_study(tiny, tiny.parent, {"riesz_s": 3.0}, namespace)
    with pytest.raises(UserError, match="was made with riesz_s"):
        measure_point(work, MODEL, 0)


def test_a_folder_is_named_by_what_is_changed():
    assert name_of({"training.learning_rate": 0.001}) == "learning_rate=0.001"
    assert name_of({"measurement.sensitivity": [1, 5]}).startswith("sensitivity-")
    assert name_of({"source": "a/b"}) != name_of({"source": "a/c"})


def test_a_notebook_runs_with_a_changed_value(tiny, measured, monkeypatch):
    """As a person runs it in Jupyter, without the browser: 04 with a value that clashes with what is measured."""
    monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/04_measure.ipynb")
    notebook = nbformat.read(ROOT / "notebooks" / "04_measure.ipynb", 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    given = {"study": str(tiny), "outputs": str(tiny.parent), "model": MODEL, "checkpoint": 0}
    given["overrides"] = {"riesz_s": 3.0}
    code[0].source += "".join(f"\n{name} = {value!r}" for name, value in given.items())
    notebook.cells = code[:3]
    # What a cell prints may reach the client late on a busy machine; four seconds after, it would be dropped.
    NotebookClient(notebook, startup_timeout=600, iopub_timeout=600, kernel_name="python3").execute(cwd=str(ROOT))
    assert "changed/riesz_s=3.0/tiny" in "".join(output.get("text", "") for output in code[1].outputs)
    assert (tiny.parent / "changed/riesz_s=3.0/tiny/measurements" / f"{MODEL}@0" / "row.json").is_file()
