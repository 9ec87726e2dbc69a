"""Text from outside in each target: any character, and nothing changes for ordinary text."""

from __future__ import annotations

import csv
import doctest
import io
import xml.etree.ElementTree as ET

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcutils import text
from lcutils.errors import UserError, first_line
from lcutils.progress import Progress
from lcutils.text import csv_text, drawable, markdown_text, one_line, read_csv, storable

ANY = st.text(st.characters(exclude_categories=()), max_size=12)  # halves of characters too
WHOLE = st.text(st.characters(exclude_categories=("Cs",)) | st.sampled_from("=+-@'\"\r\n,\t\0 1e"), max_size=8)
ORDINARY = ["02x0768_01d07", " Lily", "é", "שלום", "日本", "👨‍👩‍👧", "❤️", "می‌خواهم", "a\u00a0b", "$5", "<b>", "C:\\a"]


def test_the_examples_hold():
    assert doctest.testmod(text).failed == 0


@pytest.mark.parametrize("ordinary", ORDINARY)
def test_ordinary_text_stays_as_it_is(ordinary):
    assert drawable(ordinary) == one_line(ordinary) == storable(ordinary) == ordinary


@given(ANY)
def test_xml_holds_what_is_drawable(anything):
    held = drawable(anything)
    element = ET.Element("text", label=held)
    element.text = held
    again = ET.fromstring(ET.tostring(element, encoding="utf-8"))
    assert (again.text or "").splitlines() == held.replace("\r", "\n").splitlines()
    assert drawable(held) == held


@given(ANY, st.integers(1, 9))
def test_one_line_is_one_line_and_visible(anything, most):
    line = one_line(anything, most)
    assert len(line) <= most
    assert not set(line) & {*map(chr, range(32)), "\x7f", "\x85", "\u2028", "\u202e", "\ud83d", "\ufeff"}
    assert line.strip(" ") or not anything


@pytest.mark.parametrize(
    ("hidden", "seen"),
    [
        ("\x1b[31mred", "␛[31mred"), ("a\r\nb\tc", "a␍⏎b⇥c"), ("\x07\x7f\x9b", "␇␡\\x9b"), ("   ", "␣␣␣"),
        ("\u202egnp.exe", "\\u202egnp.exe"), ("\u200b", "\\u200b"), ("\ufe0f", "\\ufe0f"), ("\ud83d", "\\ud83d"),
        ("\U000e0041", "\\U000e0041"), ("\f", "␌"), ("\ufffe", "\\ufffe"),
    ],
)  # fmt: skip
def test_what_is_invisible_gets_a_sign(hidden, seen):
    assert one_line(hidden) == seen


@given(st.lists(WHOLE, min_size=1, max_size=5))
def test_texts_come_back_from_csv_as_they_were(tmp_path_factory, names):
    table = pd.DataFrame({"model": names, "value": [1 / 3, *[float("nan")] * (len(names) - 1)]})
    path = tmp_path_factory.mktemp("csv") / "table.csv"
    path.write_text(csv_text(table), encoding="utf-8")
    pd.testing.assert_frame_equal(read_csv(path), table)
    with path.open(newline="", encoding="utf-8") as file:  # another reader finds as many rows, and no formula
        cells = [row[0] for row in csv.reader(file)]
    assert len(cells) == len(names) + 1
    assert not [c for c in cells if c.strip()[:1] in {*"=+-@"} and len(c.strip()) > 1 and not text._NUMBER.fullmatch(c)]


def test_names_that_look_like_numbers_or_nothing_are_names(tmp_path):
    names = ["NA", "125", "1e5", "007", "null", "nan", "inf", "True", "", "-1", "a", "A", "model", "None", "#N/A"]
    table = pd.DataFrame({"model": names, "nc1_cdnv": range(len(names)), "min_count": 1})
    (tmp_path / "x.csv").write_text(csv_text(table))
    again = read_csv(tmp_path / "x.csv")
    assert again["model"].to_list() == names
    assert again["nc1_cdnv"].to_list() == list(range(len(names)))


def test_ordinary_tables_are_written_as_pandas_does(tmp_path):
    table = pd.DataFrame({
        "model": ["02x0064_01d", 'a "b"', "x,y", None], "limit": ["-1/(K-1)", "=", "0", ""],
        "setting": ["-1", "+", "a", ""],
        "value": [1e-300, float("inf"), -0.1, float("nan")], "n": pd.array([1, None, 3, 4], "Int64"), "paper": True,
    })  # fmt: skip
    assert csv_text(table) == table.to_csv(index=False)


def test_a_spreadsheet_runs_no_name_as_a_formula():
    names = ["=1+1", "@SUM(1)", "+cmd|'x'!A0", "\t=1", "'=1", "＝1", "-2+3"]
    table = pd.DataFrame({"model": names, "value": -1.5})
    written = csv_text(table)
    rows = list(csv.reader(io.StringIO(written, newline="")))
    assert [row[0] for row in rows[1:]] == [f"'{name}" for name in names]
    assert [row[1] for row in rows[1:]] == ["-1.5"] * len(names)
    plain = csv_text(table, for_spreadsheets=False)
    assert [row[0] for row in csv.reader(io.StringIO(plain, newline=""))][1:] == names


def test_half_a_character_is_written_as_its_escape():
    table = pd.DataFrame({"model": ["a\ud83d"], "n": [1]}, dtype=object)
    assert csv_text(table) == "model,n\na\\ud83d,1\n"


def test_markdown_shows_a_text_as_it_is():
    assert markdown_text("Needs 3 rows (val_loss).") == "Needs 3 rows (val\\_loss)."
    shown = markdown_text("<script>*a* `b` [c](d) $x$\n# e")
    for markup in ("<script", " *", " `", "$", "\n"):
        assert markup not in shown


def test_a_users_mistake_is_one_short_visible_line():
    error = UserError("study\x1b[2J\r\n\x07: no such file; name another")
    assert str(error) == "study␛[2J␍⏎␇: no such file; name another"
    assert error._render_traceback_() == [f"error: {error}"]
    long = str(UserError(f"{'x' * 10_000}: is not a name; choose another"))
    assert len(long) < 500
    assert long.endswith("is not a name; choose another")
    assert first_line(ValueError("\x1b[1mred")) == "␛[1mred"


def test_a_title_cannot_break_a_line_of_the_log(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    log = tmp_path / "run.log"
    with Progress("a\r\x1b[2K\nb\ud83d", total=1, log=log) as bar:
        bar.update(1)
    for lines in (log.read_text(encoding="utf-8"), capsys.readouterr().err):
        assert len(lines.splitlines()) == 1
        assert "a␍␛[2K⏎b\\ud83d run 100 %" in lines
