"""Text from outside (token texts, names, titles, paths, settings), as each target can hold it: one function per target.

| target | function |
|---|---|
| SVG, Vega, HTML | `drawable`; `lcutils.report.parts.html_text` escapes markup too |
| a line of a terminal or a log, a title, a cell of a table | `one_line` |
| Markdown in a notebook | `markdown_text` |
| CSV | `csv_text`, and `read_csv` that gives the same texts back |
| UTF-8: Parquet, pages | `storable` |
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

# What XML cannot hold (control characters, U+FFFE, halves of characters), and what is invisible or turns the text
# around it: C1 controls, zero-width spaces, marks of direction, line separators, tags. The joiners U+200C and U+200D
# are missing, because emoji and several scripts need them.
_UNDRAWABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f]"
)
# Joiners, fillers and variation selectors have a meaning beside other characters; a text of nothing else is invisible.
_INVISIBLE_ALONE = re.compile("[\u034f\u115f\u1160\u200c\u200d\u3164\ufe00-\ufe0f]+")
_WHITE_SPACE = str.maketrans({"\n": "⏎", "\r": "␍", "\t": "⇥"})

# Columns of our tables whose cells are text from outside, whatever they look like: `007` is a name there, no number.
OUTSIDE = (
    "model", "text", "token", "group", "setting", "ours", "family", "source", "revision", "base", "note",
)  # fmt: skip
# A cell that a spreadsheet may run as a formula: one of these signs, also in full width, with something behind it.
_FORMULA = re.compile(r"'*\s*[=+\-@＝＋－＠].", re.DOTALL)
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def _sign(character: str) -> str:
    """A visible sign for a character: ␛ for an escape, \\u202e for a mark of direction."""
    code = ord(character)
    return chr(0x2400 + code) if code < 32 else "␡" if code == 127 else ascii(character)[1:-1]


def drawable(text: str) -> str:
    """Text as SVG, Vega and HTML can hold it: signs stand for what they cannot hold, or would not show.

    White space stays as it is. Vega draws it as signs where it matters (`lcutils.charts.tokens`).

    >>> drawable("a\\x1b[31m b\\n") == "a␛[31m b\\n"
    True
    """
    if not text.isprintable():
        text = _UNDRAWABLE.sub(lambda match: _sign(match[0]), text)
    if _INVISIBLE_ALONE.fullmatch(text):
        text = "".join(map(_sign, text))
    return text


def one_line(text: object, most: int = 160) -> str:
    """Text, or a path, as one visible line of at most `most` characters; what is too long loses its middle.

    >>> one_line("a\\r\\n b"), one_line("  "), one_line("abcdefgh", 5)
    ('a␍⏎ b', '␣␣', 'ab…gh')
    """
    # Signs take up to ten characters: cut before, so that a very long text costs nothing, and after.
    text = _cut(drawable(_cut(str(text), most)).translate(_WHITE_SPACE), most)
    return text if text.strip(" ") else text.replace(" ", "␣")


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end]}…{text[len(text) - end :]}"


def markdown_text(text: str) -> str:
    """Text as one line of Markdown: no character of it is markup, and MathJax leaves it alone."""
    quoted = re.sub(r"[\\`*_{}\[\]#+|~!]", r"\\\g<0>", one_line(text, 500))
    quoted = quoted.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return quoted.replace("$", '<span class="mathjax_ignore">&#36;</span>')


def storable(text: str) -> str:
    """Text as UTF-8 can hold it: half a character, which it cannot, becomes its escape such as \\ud83d."""
    return text.encode("utf-8", "backslashreplace").decode()


class _Lines(io.StringIO):
    """Takes rows that end in CR LF, and keeps them with LF.

    Python's writer quotes a cell that holds a character of the line's end: before 3.11.9 no other cells with a
    carriage return, which cut the row in two.
    """

    def write(self, row: str) -> int:
        return super().write(row.removesuffix("\r\n") + "\n")


def csv_text(table: pd.DataFrame, *, for_spreadsheets: bool = True) -> str:
    """A table as CSV, in UTF-8, without its index.

    Spreadsheets run cells such as `=1+1` as formulas. In columns of names, texts and settings (`OUTSIDE`) an apostrophe
    is written before those; `read_csv` takes it away again. Numbers, and texts that look like numbers, stay.

    Args:
        table: its column names are ours.
        for_spreadsheets: false for data that only Vega reads, which knows no formulas.
    """
    if for_spreadsheets:
        names = [name for name in OUTSIDE if name in table.columns]
        table = table.assign(**{name: table[name].astype(object).map(_quoted_formula) for name in names})
    lines = _Lines(newline="")
    table.to_csv(lines, index=False, lineterminator="\r\n")
    return storable(lines.getvalue())


def _quoted_formula(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    return storable(f"'{cell}" if _FORMULA.match(cell) and not _NUMBER.fullmatch(cell) else cell)


def _unquoted_formula(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def read_csv(path: Path) -> pd.DataFrame:
    """A table that `csv_text` wrote: the columns of `OUTSIDE` hold the same texts, `NA`, `007` and `1e5` too."""
    import pandas as pd

    table = pd.read_csv(path)
    if names := [name for name in OUTSIDE if name in table.columns]:
        texts = pd.read_csv(path, dtype=str, keep_default_na=False)
        table = table.assign(**{name: [_unquoted_formula(cell) for cell in texts[name]] for name in names})
    return table
