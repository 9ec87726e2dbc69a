"""A whole report of names, tokens, titles and settings that break things elsewhere: nothing breaks, nothing runs."""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from analysis_samples import made_results, made_sensitivity, made_tokens
from browser import chromium, needs_chromium, new_page

from lcutils import analysis, charts
from lcutils.analysis.rows import Measured
from lcutils.collapse.catalogue import COUNTS
from lcutils.report import write_analysis
from lcutils.report.parts import figures_page, shown_table
from lcutils.text import drawable, one_line, read_csv

RUN = "window.__ran = 1"  # what a script from a name would do
NAMES = [
    f"</script><script>{RUN}</script>", f'"><img src=x onerror="{RUN}">',
    f"'-(({RUN}))-'", "a\x00b\x1b[31m", "NA", "1e5", "007",
    "=1+1", "model", "MODEL", "a\rb", "c\nd", "e\u2028f",
    "g\u202eh", "%41 ü", "A ü", "<!--", "{{ 7 * 7 }}", "__proto__",
    "$x$ *y*", "k" * 10_000,
]  # fmt: skip
TEXTS = [
    "\f", "\r", "\r\n", "\t", "\x00", "\x1b[2J", "\ufffe", "\u200b",
    "\u202e", "", "   ", "\u0301", "e" + "\u0301" * 40, "😀" * 60,
    "𒈙" * 60, "x" * 10_000, "</text><script>", "]]>", "&amp;",
    "null", "NaN", "=1+1", "'", '"', ",", "toString", "ﷺ", "\ufe0f",
]  # fmt: skip
TITLE = f"</title><script>{RUN}</script> \x07 \u202e {{{{ 1 }}}} \x1b]0;x"
SETTINGS = {
    "title": TITLE, "corpus": {"source": "/data/\udce9\n=1+1/<b>.txt"}, "a\x00</dt><script>": "-->",
    "analysis": {"permutations": 49, "names": ["=1+1", "\r", "\ud83d", "   ", "<i>", "'"]},
}  # fmt: skip
COLUMNS = ["nc1_cdnv", "nc4_agreement"]


def hostile_results() -> pd.DataFrame:
    """Two checkpoints of every name; each is of a size of its own."""
    rows = made_results(seeds=20).head(2 * len(NAMES))
    names = [name for name in NAMES for _ in range(2)]
    rows = rows[[*rows.columns[:14], *COLUMNS]].assign(model=names, checkpoint=[0, 2] * len(NAMES))
    return rows.assign(seed=range(len(rows)), weight_decay=0.1)


def hostile_tokens() -> pd.DataFrame:
    tokens = made_tokens(80)
    tokens["text"] = [*TEXTS, *tokens["text"][len(TEXTS) :]]
    return tokens


RESULTS = hostile_results()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write_analysis(
        RESULTS,
        tmp_path_factory.mktemp("any"),
        title=TITLE,
        settings=SETTINGS,
        tokens={f"{NAMES[0]}@0": hostile_tokens()},
        sensitivity=made_sensitivity(RESULTS),
        published=RESULTS,
    )


class Page(HTMLParser):
    """The tags of a page, the attributes of each, and the words of titles and cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: dict[str, list[str]] = {"title": [], "h1": [], "td": []}
        self._open = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in self.words:
            self.words[tag].append("")
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        inside = "td" if self._open == "a" and self.words["td"] else self._open
        if inside in self.words:
            self.words[inside][-1] += data


@pytest.fixture(scope="module")
def page(report):
    return Page(report.paths["report.html"].read_text(encoding="utf-8"))


def test_every_drawing_is_well_formed_and_every_page_is_text(report):
    drawn = [path for path in report.paths.values() if path.suffix == ".svg"]
    assert {"figure_1", "token_kinds", "token_explorer", "trajectories"} <= {path.stem for path in drawn}
    for path in drawn:
        ET.parse(path)
    for path in report.paths.values():
        if path.suffix in (".html", ".csv"):
            written = path.read_bytes().decode()  # whole characters alone
            assert path.suffix == ".csv" or "\x1b" not in written


def test_no_name_becomes_markup(page):
    assert {tag for tag, _ in page.tags} & {"img", "b", "i", "text"} == set()
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]
    scripts = [attrs for tag, attrs in page.tags if tag == "script"]
    assert all("id" in attrs for attrs in scripts if attrs)
    assert len([attrs for attrs in scripts if not attrs]) == 1  # the page's own; Vega is packed in one with an id
    assert page.words["title"] == page.words["h1"] == [drawable(TITLE)]


def test_rows_carry_their_names_and_links_lead_to_them(page):
    rows = [attrs for tag, attrs in page.tags if tag == "tr" and "id" in attrs]
    assert [attrs["data-model"] for attrs in rows] == [drawable(model) for model in RESULTS["model"]]
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a" and (attrs["href"] or "").startswith("#")]
    assert {unquote(link[1:]) for link in links} <= set(ids)
    assert set(map(one_line, NAMES[:5])) <= set(page.words["td"])


def test_tables_come_back_as_they_were(report):
    again = read_csv(report.paths["tables/results.csv"])
    assert again["model"].to_list() == RESULTS["model"].to_list()
    assert again["val_loss"].to_list() == pytest.approx(RESULTS["val_loss"].to_list(), rel=1e-15)
    assert set(read_csv(report.paths["tables/sensitivity.csv"])["model"]) == set(NAMES)
    named = read_csv(report.paths["tables/table_5.csv"])["token"].to_list()
    assert named == ["average token", "=1+1", "\r", "\\ud83d", "   ", "<i>", "'"]
    for place, path in report.paths.items():
        if place.startswith("tables/"):
            with path.open(newline="", encoding="utf-8") as file:
                lines = list(csv.reader(file))
            assert {len(line) for line in lines} == {len(lines[0])}, place
            assert not [cell for line in lines for cell in line if cell.startswith("=")], place


def test_a_token_of_white_space_is_found_by_itself_alone():
    tokens = hostile_tokens()
    table = analysis.table_5(tokens, ["   ", "\r\n"])
    assert table["token_id"].to_list()[1:] == [TEXTS.index("   "), TEXTS.index("\r\n")]


def test_the_lists_of_tokens_show_signs():
    drawn = ET.fromstring(charts.token_explorer(hostile_tokens()).svg)
    words = ["".join(node.itertext()) for node in drawn.iter() if node.tag.endswith("}text")]
    for sign in (
        "␌",
        "␍",
        "␍⏎",
        "⇥",
        "␀",
        "␛[2J",
        "\\ufffe",
        "\\u200b",
        "\\u202e",
        '""',
        "␣␣␣",
        "◌\u0301",
        "😀😀😀😀😀😀…",
    ):
        assert sign in words, sign
    assert max(len(word) for word in words if "xxx" in word) < 250


def test_half_a_character_in_a_token_ends_nothing(tmp_path):
    tokens = {"token_id": np.array([0]), "count": np.array([1]), "nearest": np.array([[0]])}
    counts = {"hits": np.array([1]), "totals": np.array([2])}
    record = {"model": "NA", "checkpoint": 0}
    by_count = {1: dict.fromkeys(COUNTS, 1) | {"nc1_cdnv": 0.5}}
    measured = Measured.of(record, by_count, 1, tokens, {0: "a\ud83d"}, counts)
    measured.save(tmp_path)
    again = Measured.load(tmp_path)
    assert again.tokens["text"].to_list() == ["a\\ud83d"]
    assert again.sensitivity["model"].to_list() == ["NA"]
    assert again.sensitivity["nc1_cdnv"].to_list() == [0.5]


def test_a_notebook_escapes_its_tables_and_sentences():
    page = shown_table(RESULTS, ["model", "val_loss"], most=len(RESULTS)).to_html()
    parsed = Page(page)
    assert "script" not in {tag for tag, _ in parsed.tags}
    assert parsed.words["td"][::2] == [one_line(model, 2_000) for model in RESULTS["model"]]
    assert "mathjax_ignore" in page
    missing = charts.Figure("x", NAMES[0], missing="$x$ *y*")._repr_mimebundle_()["text/markdown"]
    assert "<script" not in missing
    assert "$" not in missing
    assert "$" not in shown_table(analysis.Missing("$x$ and $y$")).data


def test_a_template_escapes_text_attributes_and_data():
    figure = charts.Figure("x", '"<\r\x00', missing="</p>\ufffe")
    page = figures_page("a\x1b&", "<", figure)
    assert "<strong>&#34;&lt;&#13;␀.</strong> &lt;/p&gt;\\ufffe" in page
    assert "<h1>a␛&amp;</h1>" in page


@needs_chromium
def test_no_script_of_a_name_runs_in_a_browser(report):
    with chromium() as browser, new_page(browser, offline=True) as (opened, errors):
        opened.goto(report.paths["report.html"].as_uri())
        for name in ("figure_1", "token_kinds", "token_explorer"):
            opened.evaluate("name => document.getElementById('drawing-' + name).scrollIntoView()", name)
            opened.wait_for_selector(f"#drawing-{name}[data-drawn]", state="attached", timeout=300_000)
        points = opened.locator("#drawing-figure_1 path[aria-roledescription=circle]")
        assert points.count() == len(COLUMNS) * len(RESULTS)
        for model in (NAMES[0], "a\rb", "c\nd", "1e5", "__proto__"):  # a row and the points of a model find each other
            place = RESULTS["model"].to_list().index(model)
            opened.evaluate("place => document.querySelectorAll('tr[id][data-model]')[place].cells[1].click()", place)
            opened.wait_for_timeout(500)
            assert opened.locator("#picked strong").evaluate("node => node.textContent") == drawable(model)
            assert opened.locator("tr.chosen[id]").count() == 2
            bright = "nodes => nodes.filter(node => +node.getAttribute('opacity') > 0.5).length"
            assert points.evaluate_all(bright) == 2 * len(COLUMNS), model
        points.nth(0).hover(force=True)  # the tooltip holds the name
        opened.wait_for_timeout(500)
        assert opened.evaluate("window.__ran") is None
        assert errors == []
