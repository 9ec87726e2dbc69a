"""The playground: a folder for each setting, what they share computed once, and all of them side by side."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import nbformat
import pytest

from lcutils.errors import UserError
from lcutils.parameters import ROOT
from lcutils.playground import START, Setting, open_playground, settings_beside, through_training
from lcutils.stages import extract_point, measure_point, prepare_data, train_run

TINY = {"stories": 60, "vocabulary": 300, "width": 16, "epochs": 2}


@pytest.fixture
def usual(monkeypatch) -> Setting:
    """A setting that is run in seconds, which takes the place of the one that the playground begins with."""
    setting = Setting(**TINY)
    monkeypatch.setattr("lcutils.playground.Setting", lambda: setting)
    monkeypatch.setattr("lcutils.playground.fields", lambda kind: Setting.__dataclass_fields__.values())
    return setting


def run(work):
    model = next(iter(work.study.runs))
    prepare_data(work)
    train_run(work, model)
    checkpoints = work.study.run(model).checkpoints
    for checkpoint in checkpoints:
        extract_point(work, model, checkpoint)
    return [measure_point(work, model, checkpoint) for checkpoint in checkpoints]


def test_the_notebook_begins_with_the_usual_setting():
    notebook = nbformat.read(ROOT / "notebooks" / "playground.ipynb", 4)
    values: dict = {}
    exec(next(cell.source for cell in notebook.cells if cell.cell_type == "code"), values)
    assert {key: values[key] for key in asdict(Setting())} == asdict(Setting())
    call = next(cell.source for cell in notebook.cells if "Setting(" in cell.source)
    assert f"Setting({', '.join(asdict(Setting()))})" in call


def test_settings_lie_side_by_side(usual, tmp_path):
    assert settings_beside(tmp_path).chart is None
    first = open_playground(usual, tmp_path)
    assert first.folder == tmp_path / START
    points = run(first)
    table = through_training(points)
    assert table.columns.tolist() == [
        "property", "measurement", "before training", "epoch 1", "epoch 2", "by chance", "limit",
    ]  # fmt: skip
    assert table["epoch 2"].tolist() == [points[-1].row[key] for key in table["measurement"]]
    assert table.set_index("measurement").loc["nc3_cosine_mean", "by chance"] == pytest.approx(0, abs=0.2)

    there = {path: path.read_bytes() for path in first.folder.rglob("manifest.json")}
    second = open_playground(replace(usual, epochs=1), tmp_path, {"riesz_s": 3.0})
    assert second.folder.name == "epochs=1,riesz_s=3.0"
    (point,) = run(second)
    assert point.row["val_loss"] != points[-1].row["val_loss"]
    drawn = json.dumps(settings_beside(tmp_path).spec)
    assert "epochs=1,riesz_s=3.0" in drawn
    assert START in drawn
    assert {path: path.read_bytes() for path in first.folder.rglob("manifest.json")} == there


def test_what_settings_share_is_computed_once(usual, tmp_path, capsys):
    run(open_playground(usual, tmp_path))
    capsys.readouterr()
    other = open_playground(replace(usual, min_count=10), tmp_path)
    (model,) = other.study.runs
    assert (other.run_folder(model) / "manifest.json").is_file()
    assert not list(other.folder.glob("statistics/*"))
    run(other)
    said = capsys.readouterr().err
    assert "extract" in said
    assert "train" not in said


def test_a_mistake_is_one_line(usual, tmp_path):
    with pytest.raises(UserError, match=r"grid\[0\].width: 20 is not divisible by 16 heads"):
        open_playground(replace(usual, width=20), tmp_path)
    with pytest.raises(UserError, match=r"epochs\[0\]: .* not 'two'"):
        open_playground(replace(usual, epochs="two"), tmp_path)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"epochs\[0\]: input should be greater than 0"):
        open_playground(replace(usual, epochs=0), tmp_path)
    with pytest.raises(UserError, match="min_cont: no such parameter; did you mean min_count?"):
        open_playground(usual, tmp_path, {}, {"In": ["# Parameters\nmin_cont = 3"], "min_cont": 3})
    for key, meant in (("min_cont", "min_count"), ("vocabluary", "vocabulary"), ("dept", "depth"), ("nuls", "nulls")):
        with pytest.raises(UserError, match=f"^{key}: no such parameter; did you mean {meant}?"):
            open_playground(usual, tmp_path, {key: 3})
        with pytest.raises(UserError, match=f"^{key}: no such parameter; did you mean {meant}?"):
            open_playground(usual, tmp_path, {}, {"In": [f"# Parameters\n{key} = 3"], key: 3})
    with pytest.raises(UserError, match="^depth: is a parameter of the notebook, no value of a study; set it in its"):
        open_playground(usual, tmp_path, {"depth": 2})
    assert not list(tmp_path.iterdir())
