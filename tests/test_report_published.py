"""The report of published rows: they are called so everywhere, and nothing on the page is said to be ours."""

from __future__ import annotations

import re

import pandas as pd
import pytest
from analysis_samples import few_columns, made_results, visible

from lcutils.report import write_analysis

FEW = few_columns(made_results())
THEIRS = "published by Wu and Papyan (lc-2024_05_18.csv of 2024-05-18, sha256 0123456789ab)"
OURS = "measured here, 2026-11-27 (commit 31b12bd)"


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """The report of published rows alone."""
    return write_analysis(FEW.assign(origin=THEIRS), tmp_path_factory.mktemp("theirs"), title="A grid", settings={})


def test_published_rows_are_called_so_everywhere(theirs):
    page = theirs.paths["report.html"].read_text()
    assert "<title>A grid: the published models of Wu and Papyan</title>" in page
    seen = visible(page)
    assert "Nothing on this page was measured here." in seen
    assert f"{len(FEW)} published points of {FEW['model'].nunique()} models" in seen
    for words in ("To cite this report", "No published table was given", "measured point", "measured here,"):
        assert words not in seen
    assert "To cite these numbers, cite the paper" in seen
    for name, figure in theirs.figures.items():
        if figure.chart is not None:
            assert figure.title.endswith("(published models)"), name
            assert THEIRS in figure.caption, name
            assert THEIRS in seen
    single = theirs.paths["figures/figure_1.html"].read_text()
    assert "the published models of Wu and Papyan" in single
    assert "(published models)" in theirs.paths["figures/figure_1.svg"].read_text()


def test_every_exported_table_of_points_has_their_origin(theirs):
    none = {"table_2", "table_3", "measurements"}  # of no points
    tables = {place[7:-4]: path for place, path in theirs.paths.items() if place.startswith("tables/")}
    for name, path in tables.items():
        table = pd.read_csv(path)
        assert ("origin" in table.columns) == (name not in none), name
        if name not in none:
            assert table["origin"].str.contains(THEIRS, regex=False).all(), name


def test_a_page_of_both_says_which_rows_are_which(tmp_path, undrawn):
    ours, published = FEW.assign(origin=OURS), FEW.assign(origin=THEIRS)
    report = write_analysis(ours, tmp_path, title="x", settings={}, published=published)
    seen = visible(report.paths["report.html"].read_text())
    whose = re.search('<p id="whose">(.*?)</p>', seen, re.DOTALL)[1]
    assert f"Rows: {len(FEW)} rows {OURS}." in whose
    assert f"Set beside them: {len(FEW)} rows {THEIRS}." in whose
    assert f"{len(FEW)} measured points" in seen
    assert "The rows set beside ours are the paper's" in seen
    beside = pd.read_csv(report.paths["tables/beside_published.csv"])["origin"]
    assert set(beside) == {f"Ours: {len(FEW)} rows {OURS}. Published: {len(FEW)} rows {THEIRS}"}
    assert set(pd.read_csv(report.paths["tables/influence.csv"])["origin"]) == {OURS}
    assert THEIRS not in report.figures["figure_1"].caption
    assert THEIRS in report.figures["overlaid"].caption


def test_a_page_of_published_rows_has_no_section_of_notices_alone(theirs):
    """What the authors' table cannot give is said once, at the end; no study of ours has a column in Table 2."""
    seen = visible(theirs.paths["report.html"].read_text())
    sections = dict(re.findall('<h2 id="(.*?)">(.*?)</section>', seen, re.DOTALL))
    notice = re.compile('<p class="notice".*?</p>', re.DOTALL)
    for anchor, section in sections.items():
        assert len(notice.sub("", section).partition("</h2>")[2].strip("<>/figure \n")) > 40, anchor
    assert not {"sensitive", "beside", "tokens", "explore"} & set(sections)
    said = re.findall("<li>(.*?)</li>", sections["lacking"])
    assert "Token explorer: No token table was given: the measure stage writes one per checkpoint." in said
    assert [line.partition(":")[0] for line in said] == [
        "Sensitivity to the minimum class count", "Ours beside the published models", "Tokens", "Token explorer",
    ]  # fmt: skip
    contents = re.findall('<li><a href="#(.*?)">', seen[: seen.index("</nav>")])
    assert contents == list(sections)
    assert "ours" not in pd.read_csv(theirs.paths["tables/table_2.csv"])
    assert "Configuration of the paper&#39;s models." in seen
