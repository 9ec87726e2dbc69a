"""`lcutils compare`: tables side by side in a terminal, in a file and on a page; mistakes in one line."""

import pandas as pd
import pytest
from analysis_samples import made_results

from lcutils.__main__ import main
from lcutils.analysis.findings import AWAY, HIGHER, NONE, TOWARDS, UNKNOWN, findings
from lcutils.analysis.hidden import poles, table_facts
from lcutils.analysis.questions import QUESTIONS
from lcutils.analysis.side_by_side import AGREE, DIFFER, NEITHER, agreement
from lcutils.report.findings import BEGIN, END, full_cell, numbers, put_section, sign_table
from lcutils.text import csv_text, read_csv

KEYS = ["nc1_cdnv", "nc1_quotient", "nc3_cosine_mean", "nc4_agreement"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Two studies with results: `first`, and `second` with the first one's NC4 turned round."""
    folder = tmp_path_factory.mktemp("outputs")
    results = made_results()
    results = results[[*results.columns[: results.columns.get_loc("n_classes") + 1], *KEYS]]
    turned = results.assign(nc4_agreement=1 - results["nc4_agreement"])
    for name, table in {"first": results, "second": turned}.items():
        (folder / name).mkdir()
        (folder / name / "results.csv").write_text(csv_text(table))
    return folder


def compare(outputs, *words):
    return main(["compare", *map(str, words), "--outputs", str(outputs)])


def test_studies_side_by_side(outputs, tmp_path, capsys):
    assert compare(outputs, "first", outputs / "second" / "results.csv", "--csv", tmp_path / "both.csv") == 0
    long = read_csv(tmp_path / "both.csv")
    assert long["table"].unique().tolist() == ["first", "second"]
    alone = findings(read_csv(outputs / "first" / "results.csv"))
    pd.testing.assert_series_equal(long.loc[long["table"] == "first", "r"], alone["r"], check_index=False)
    agreed = long.set_index(["question", "measurement"])["agreement"]
    assert set(agreed["loss", "nc1_cdnv"]) == {AGREE}
    assert set(agreed["loss", "nc4_agreement"]) == {DIFFER}
    printed = capsys.readouterr().out
    assert all(question.words in printed for question in QUESTIONS.values())
    row = next(line for line in printed.split("over all points?")[1].splitlines() if line.strip().startswith("NC4"))
    assert "●" in row and "○" in row and "differ" in row and "n = 41" in row  # noqa: PT018


def test_one_table_alone_agrees_with_nobody(outputs, tmp_path, capsys):
    assert compare(outputs, outputs / "first", "--csv", tmp_path / "one.csv") == 0
    assert read_csv(tmp_path / "one.csv")["agreement"].isna().all()
    assert "together" not in capsys.readouterr().out


def test_a_page_gets_them_between_its_marks_and_keeps_the_rest(outputs, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"# Mine\n{BEGIN}\nearlier words\n{END}\nbelow\n")
    assert compare(outputs, "first", "second", "--into", page) == 0
    once = page.read_text()
    assert once.startswith(f"# Mine\n{BEGIN}\n```bash\nlcutils compare first second --into {page}\n```")
    assert once.endswith(f"{END}\nbelow\n")
    assert "earlier words" not in once
    assert "**first**: 41 points of 23 runs; by width 64: 12, 128: 17" in once
    assert "Tables oppose each other on NC4." in once
    assert compare(outputs, "first", "second", "--into", page) == 0
    assert page.read_text() == once
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none"], "none: no such table, folder or study with results"),
        (["first", "first"], "a second table called first"),
        (["{empty}"], "holds no results.csv and no published table"),
        (["{text}"], "text.csv: is not a published table"),
        (["{binary}"], "binary.csv: is not a CSV table"),
        (["first", "--into", "{text}"], "has no place for findings"),
        (["first", "--into", "{empty}/none.md"], "none.md: cannot be read; give a Markdown page"),
    ],
)
def test_mistakes_are_one_line(outputs, tmp_path, capsys, words, said):
    places = {name: tmp_path / f"{name}.csv" for name in ("text", "binary")} | {"empty": tmp_path / "empty"}
    places["empty"].mkdir()
    places["text"].write_text("a,b\n1,2\n")
    places["binary"].write_bytes(bytes(range(256)))
    assert compare(outputs, *(word.format(**places) for word in words)) == 2
    error = capsys.readouterr().err.removeprefix("starting\n")
    assert said in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_mistake_in_the_page_is_said_before_any_work(outputs, tmp_path, capsys):
    """Nothing is written: neither the page nor the table of findings."""
    page = tmp_path / "page.md"
    page.write_text("no marks")
    assert compare(outputs, "first", "--csv", tmp_path / "one.csv", "--into", page) == 2
    assert page.read_text() == "no marks"
    assert not (tmp_path / "one.csv").exists()
    capsys.readouterr()


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        ([TOWARDS, TOWARDS], AGREE),
        ([AWAY, AWAY], AGREE),
        ([TOWARDS, AWAY], DIFFER),
        ([TOWARDS, NONE], "only a"),
        ([UNKNOWN, AWAY], "only b"),
        ([NONE, UNKNOWN], NEITHER),
        ([TOWARDS], "only a"),
    ],
)
def test_tables_agree_only_where_all_show_the_same(verdicts, said):
    assert agreement(dict(zip("ab", verdicts, strict=False)), 2) == said


def test_numbers_as_they_are_written():
    row = {
        "r": -0.004,
        "low": -0.5,
        "high": 0.4,
        "note": "",
        "verdict": TOWARDS,
        "n": 7,
        "p_holm": 0.0123,
        "scale": "log",
    }
    row |= {"change": 0.5, "change_low": 0.4, "change_high": 0.66}
    assert numbers(row) == "0.00 (−0.50 to 0.40)"  # no minus before 0.00
    assert full_cell(row) == "● 0.00 (−0.50 to 0.40), n = 7, p = 0.012; change × 0.5 (0.4 to 0.66)"
    pole = row | {"note": "near its pole: the mean crosses 0", "low": float("nan"), "verdict": NONE}
    assert full_cell(pole) == "– 0.00† (no interval), n = 7, p = 0.012 (near its pole: the mean crosses 0)"


def test_means_that_cross_0_are_named():
    table = pd.DataFrame({
        "gnc2_log_mean": [-0.1, 0.2], "gnc2_log_std": [0.3, 0.4], "gnc2_log_cov": [-3.0, 2.0],
        "gnc2_log_uncentred_mean": [-0.1, -0.2], "gnc2_log_uncentred_std": [0.3, 0.4],
        "gnc2_log_uncentred_cov": [-3.0, -2.0],
    })  # fmt: skip
    assert poles(table) == [
        "`gnc2_log_mean` crosses 0 between models (−0.1 to 0.2), so `gnc2_log_cov` runs from −3 to 2 while the spread "
        "`gnc2_log_std` is 0.3 to 0.4."
    ]


def test_facts_count_trainings_that_end_worse():
    rows = [("a", 1, 0, 2.0), ("b", 3, 1, 1.5), ("b", 3, 2, 1.9), ("c", 10, 5, 1.0), ("c", 10, 9, 2.5)]
    table = pd.DataFrame(rows, columns=["model", "epochs", "checkpoint", "val_loss"])
    table = table.assign(depth=1, width=64, weight_decay=0.1, seed=42, n_classes=10, singleton_classes=1)
    said = " ".join(table_facts(table))
    assert "5 points of 3 runs; by width 64: 5; by depth 1: 5." in said
    assert "10 classes, 10.0 % of them with one sample." in said
    assert "1.000 to 2.500 nats; it rose between first and last checkpoint in 2 of 2 trainings" in said
    assert "a model's longest training ended above its shortest in 1 of 1." in said


def test_each_table_has_its_place_among_the_signs():
    rows = [("a", "loss", "nc1_cdnv", TOWARDS), ("b", "loss", "nc1_cdnv", AWAY), ("b", "loss", "nc4_agreement", NONE)]
    rows += [("a", "width", "val_loss", HIGHER), ("b", "width", "val_loss", UNKNOWN)]
    long = pd.DataFrame(rows, columns=["table", "question", "measurement", "verdict"]).assign(holm_group="paper")
    signs = sign_table(long)
    assert signs.columns.tolist() == ["question", "NC1", "NC4", "validation loss"]
    assert signs.to_numpy().tolist() == [["width", "", "", "○ ?"], ["loss", "● ○", "· –", ""]]
    alone = sign_table(long[long["table"] == "a"].drop(columns="table"))
    assert alone.to_numpy().tolist() == [["width", "", "○"], ["loss", "●", ""]]


def test_only_marked_pages_take_a_section():
    assert put_section(f"a{BEGIN}b{END}c", "new", "page") == f"a{BEGIN}\nnew\n{END}c"
    with pytest.raises(ValueError, match="page: has no place for findings"):
        put_section(f"{END}{BEGIN}", "new", "page")
