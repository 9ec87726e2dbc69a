"""Random names and token texts through every table, figure and line that shows them."""

import csv
import gzip
import io
import json
import xml.etree.ElementTree as ET
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path
from random import Random

import pandas as pd

from lcutils import analysis, charts
from lcutils.charts.theme import slim
from lcutils.report.parts import data_json, shown_table, table_html
from lcutils.text import csv_text, drawable, markdown_text, one_line, read_csv, storable

SPECIAL = [
    *map(chr, range(33)), "\x7f", "\x85", "\x9b", "\xad", "\u0301",
    "\u200b", "\u200d", "\u2028", "\u202e", "\u2066", "\ufe0f",
    "\ufeff", "\ufffd", "\ufffe", "\uffff", "\ud83d", "\udc80",
    "😀", "𒈙", "日", "ש", "=", "+", "-", "@", "'", '"', ",", ";", "|",
    "<", ">", "&", "$", "*", "_", "`", "#", "%", "{{", "}}", "\\",
    "/", ".", "[", "]", ":", "NA", "1e5", "007", "null", "nan",
    "</script>", "<!--", "]]>", "<script>alert(1)</script>",
    "=HYPERLINK(1)", "\x1b[31m", "\r\n", "__proto__", "toString", "&amp;",
]  # fmt: skip
MARKUP = {"p", "a", "br", "div", "table", "thead", "tr", "th", "tbody", "td", "style"}


class _Words(HTMLParser):
    """What a page says: its tags with their attributes' names, and the text of its cells."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags |= {tag, *(name for name, _ in attrs if name.startswith("on"))}
        if tag == "td":
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


def _name(random: Random) -> str:
    if random.random() < 0.02:
        return random.choice(SPECIAL) * random.choice([500, 10_000])
    letters = [random.choice(SPECIAL) if random.random() < 0.7 else chr(random.randrange(0x110000)) for _ in range(4)]
    return "".join(letters[: random.randrange(5)])


def attempt(random: Random, folder: Path) -> str:
    """Write tables of random names, read them back, show them as HTML, Markdown and a line, draw the tokens."""
    names = [_name(random) for _ in range(random.randrange(1, 8))]
    kept = [storable(name) for name in names]
    values = [random.choice([random.gauss(0, 1), float("nan"), 1e300, -7.0]) for _ in names]
    table = pd.DataFrame({"model": kept, "checkpoint": 0, "value": values})
    path = folder / "table.csv"
    path.write_text(csv_text(table), encoding="utf-8")
    pd.testing.assert_frame_equal(read_csv(path), table, rtol=1e-12)
    with path.open(newline="", encoding="utf-8") as file:
        assert {len(row) for row in csv.reader(file)} == {3}
    _read_html(str(table_html(table, caption=names[0], anchors=random.random() < 0.5)), kept)
    _read_html(shown_table(table).to_html(), kept)
    for name in names:
        assert "\n" not in markdown_text(name)
        assert len(one_line(name)) <= 500
        assert drawable(name) == storable(drawable(name))
        packed = gzip.decompress(b64decode(data_json({name: name})))
        assert json.loads(packed.decode()) == {name: name}
    tokens = pd.DataFrame({"token_id": range(len(kept)), "text": kept, "count": range(len(kept), 0, -1), "cdnv": 0.5})
    tokens["nearest_ids"] = [[0, 1]] * len(kept)
    analysis.table_5(tokens.assign(interference=0.1), names)
    data = csv_text(slim(tokens, ["token_id", "text"]), for_spreadsheets=False)
    rows = list(csv.reader(io.StringIO(data, newline="")))
    assert [row[1] for row in rows[1:]] == [drawable(name) for name in kept]
    if random.random() > 0.05:  # drawing takes a hundred times as long as all else
        return "kept"
    ET.fromstring(charts.token_kinds(tokens).svg)
    return "drawn"


def _read_html(page: str, names: list[str]) -> None:
    words = _Words()
    words.feed(page)
    words.close()
    assert words.tags <= MARKUP, words.tags - MARKUP
    cells = [cell.strip() for cell in words.cells]
    assert len(cells) == 3 * len(names)
    lines = [one_line(name, 2_000) for name in names]
    insides = [line.strip(" ") for line in lines]
    assert [cell.strip("␣") for cell in cells[::3]] == [inside.strip("␣ ") for inside in insides]
    assert [len(cell) for cell in cells[::3]] == [len(line) for line in lines]  # no space at an end is lost
