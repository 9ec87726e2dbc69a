"""Tables as the report and a notebook show them."""

import numpy as np
import pandas as pd
import pytest
from analysis_samples import made_results

from lcutils import analysis
from lcutils.report.parts import number_words, shown_table, table_html

RESULTS = made_results()


def test_a_long_table_says_that_it_is_cut():
    page = table_html(pd.DataFrame({"a": range(30)}), most=10, csv="tables/a.csv")
    assert page.count("<tr>") == 11
    assert "The first 10 of 30 rows" in page


def test_cells_say_what_their_kind_asks_for():
    table = pd.DataFrame({
        "model": ["a&b"], "checkpoint": [2], "known": [True], "n_params": pd.array([None], "Int64"),
        "r2": [1 / 3], "note": ["x" * 41],
    })  # fmt: skip
    page = table_html(table)
    assert '<a href="#row-a&amp;b@2">a&amp;b</a>' in page
    assert '<td>2</td><td class="words">yes</td><td></td>' in page.replace("\n", "")
    assert "<td>0.33333</td>" in page
    assert "<th>n params</th>" in page
    assert f'<td class="words long">{"x" * 41}</td>' in page
    rows = table_html(table, anchors=True)
    assert '<tr data-model="a&amp;b" id="row-a&amp;b@2" data-checkpoint="2">' in rows
    assert "href" not in rows


def test_a_table_escapes_what_it_shows():
    page = table_html(pd.DataFrame({"text": ["<b>"], "value": [np.nan]}), caption="a < b")
    assert "<b>" not in page
    assert "a &lt; b" in page
    assert "<td></td>" in page


@pytest.mark.parametrize(
    ("number", "words"),
    [(12345.0, "12,345"), (-0.00012345678, "−0.00012346"), (0, "0"), (np.inf, "∞"), (1 / 3, "0.33333")],
)
def test_numbers_are_readable(number, words):
    assert number_words(number) == words


def test_a_notebook_shows_a_table_or_the_sentence():
    styled = shown_table(RESULTS, ["model", "val_loss", "absent"], most=3)._repr_html_()
    rows = [line for line in styled.splitlines() if "<tr>" in line]
    assert len(rows) == 4
    assert all(row.count("</t") == 3 and row.endswith("</tr>") for row in rows)  # a notebook's file keeps one line each
    assert shown_table(RESULTS.iloc[[0, 0]]).to_html()  # the index may repeat
    assert shown_table(analysis.Missing("There is nothing.")).data == "There is nothing."


def test_a_space_at_the_end_of_a_cell_is_seen():
    table = pd.DataFrame({"token": [" Ben", "Ben", "a b "], "count": [1, 2, 3]})
    for html in (table_html(table), shown_table(table).to_html()):
        assert [html.count(f">{cell}<") for cell in ("␣Ben", "Ben", "a b␣")] == [1, 1, 1]
    assert shown_table(table).to_html() == shown_table(table.copy()).to_html()  # no random ids
