"""`--tokens auto`: the text is doubled until the chosen measurements have settled, or until it ends."""

import json

import pytest
import yaml
from test_measuring import SETTINGS, shelf  # noqa: F401

from lcutils import enough_text, measuring
from lcutils.analysis.convergence import last_changes
from lcutils.analysis.rows import Measured, load_parts
from lcutils.errors import UserError
from lcutils.measuring import measure_models


@pytest.fixture
def steps(monkeypatch, capsys):
    """Begin with little text, make no report, and give the lines that were said."""
    monkeypatch.setattr(enough_text, "FIRST", 1000)
    monkeypatch.setattr(measuring, "analyze_study", lambda work: None)

    def said():
        return [line for line in capsys.readouterr().err.splitlines() if "settled" in line or "twice the text" in line]

    return said


def study_of(folder, name="auto"):
    return yaml.safe_load((folder / name / f"{name}.yaml").read_text())


def test_the_text_is_doubled_until_all_has_settled(shelf, tmp_path, steps):  # noqa: F811
    words = ["settle=[nc1_quotient, nc2_cosine_std]", "tolerance=0.15"]
    models = [shelf / "llama", shelf / "neox"]
    options = {"tokens": "auto", "outputs": tmp_path, "name": "auto", "overrides": [*SETTINGS, *words]}
    work = measure_models(models, shelf / "tales.txt", **options).work
    lines, tokens = steps(), study_of(tmp_path)["corpus"]["max_tokens"]
    assert len(lines) >= 2
    assert [line.split(" ")[0] for line in lines] == [f"{1000 * 2**step:,}" for step in range(len(lines))]
    assert lines[-1].startswith(f"{tokens:,} tokens: nc1_quotient, nc2_cosine_std have settled to 15 %")
    for model, k in work.study.points:
        changes = last_changes(load_parts(work.measurements(model, k))[1])
        assert max(changes["nc1_quotient"], changes["nc2_cosine_std"]) <= 0.15
        row = Measured.load(work.measurements(model, k)).row
        assert row["nc1_cdnv_se"] > 0
    # The same again measures nothing anew, and begins where it ended.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "auto").rglob("row.json")}
    measure_models(models, shelf / "tales.txt", **options)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "auto").rglob("row.json")}
    assert len(steps()) == 1
    with pytest.raises(UserError, match="was measured with max_tokens"):
        measure_models(models, shelf / "tales.txt", **options | {"tokens": "9K"})


def test_the_end_of_the_text_ends_it(shelf, tmp_path, steps):  # noqa: F811
    options = {"tokens": "AUTO", "outputs": tmp_path, "name": "auto", "overrides": [*SETTINGS, "tolerance=1e-9"]}
    work = measure_models(shelf / "llama", shelf / "tales.txt", **options).work
    lines = steps()
    assert lines[-1].startswith("the text has ended, and not all has settled: ")
    most = study_of(tmp_path)["corpus"]["max_tokens"]
    train = json.loads((work.data / "corpus.json").read_text())["train"]
    assert train["blocks"] * 32 <= most - 32
    assert train["blocks"] * 32 > most / 2 - 32  # it ended no sooner than the text did


@pytest.mark.parametrize(("words", "line"), [
    (["settle=nc4_agreement"], "measurement.settle: nc4_agreement is no measurement of the text's statistics"),
    (["settle=[nc1_cdnv, nonsense]"], "measurement.settle: nonsense is no measurement"),
    (["parts=false"], "extraction.parts: --tokens auto needs parts"),
    (["settle=[]"], "measurement.settle: is empty; give at least one value"),
    (["tolerance=0"], "measurement.tolerance: input should be greater than 0"),
])  # fmt: skip
def test_mistakes_are_one_line_and_write_nothing(shelf, tmp_path, words, line):  # noqa: F811
    with pytest.raises(UserError, match=line) as caught:
        measure_models(
            shelf / "llama", shelf / "tales.txt", tokens="auto", outputs=tmp_path, overrides=[*SETTINGS, *words]
        )
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
