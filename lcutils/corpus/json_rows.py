"""JSON, as lines or as one document: the texts of one column, whatever the others hold."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lcutils.corpus.paths import Advance, encodes, no_column, opened
from lcutils.errors import UserError
from lcutils.text import one_line

FIRST_ROWS = 10_000  # of which one must have the column
ROWS = 1_000  # read between two reports of progress
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_TWICE = object()  # the text of a row that has two


def read_json(path: Path, column: str, advance: Advance) -> Iterator[str | None]:
    """Yield the texts of JSON lines, of one list of objects or texts, or of objects one after the other."""
    others: dict[str, None] = {}  # names of columns, as a set that keeps its order
    found, rows = False, 0
    for rows, (place, value) in enumerate(_json_values(path, column, advance), 1):
        if not isinstance(value, dict):
            raise UserError(f"{one_line(path)}: cannot be read ({place} is not a JSON object); correct or replace it")
        text = value.get(column)
        found = found or column in value
        if not found:
            others |= dict.fromkeys(value)
            if rows >= FIRST_ROWS:
                break
        if text is not None:
            _check_json_text(text, f"{one_line(path)}: {place}", column)
        yield text
    if rows and not found:
        raise no_column(path, column, others)


def _check_json_text(text: Any, where: str, column: str) -> None:
    if text is _TWICE:
        raise UserError(f"{where}: column {one_line(column, 40)!r} is given twice; keep one")
    if not isinstance(text, str):
        name = {bool: "true or false", float: "a number", list: "a list", dict: "an object"}[type(text)]
        raise UserError(
            f"{where}: column {one_line(column, 40)!r} holds {name}, not text; set text_column to a column of text"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        char = text[error.start]
        if "\udc80" <= char <= "\udcff":
            wrong = "is not UTF-8 text; convert it, for example with iconv"
        else:
            wrong = f"holds half a character ({char!r:.8}); correct it"
        raise UserError(f"{where}: column {one_line(column, 40)!r} {wrong}") from None


def _json_values(path: Path, column: str, advance: Advance) -> Iterator[tuple[str, Any]]:
    """Yield each row, and where it stands. Bytes that are not UTF-8 may stand in any other column."""
    decoder = json.JSONDecoder(object_pairs_hook=_object_hook(column), parse_int=float, strict=False)
    begun = False
    with opened(path) as (file, position):
        for number, line in enumerate(file, 1):
            line = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
            if not line.strip():
                continue
            text = line.decode("utf-8", "surrogateescape")
            if not begun and _begins_document(decoder, text):
                text += file.read().decode("utf-8", "surrogateescape")
                advance(position())
                yield from _document_values(_decode(decoder, text, path, number), column)
                return
            begun = True
            yield from ((f"line {place}", value) for place, value in _decode(decoder, text, path, number))
            if number % ROWS == 0:
                advance(position())


def _begins_document(decoder: json.JSONDecoder, line: str) -> bool:
    """True if the first line of a file is no value by itself, but the beginning of one, or of a list."""
    if line.lstrip().startswith("["):
        return True
    try:
        decoder.raw_decode(line.strip())
    except json.JSONDecodeError as error:
        return error.pos >= len(line.strip())
    except (RecursionError, ValueError):  # reported when the line is read as a row
        return False
    return False


def _document_values(values: Iterator[tuple[int, Any]], column: str) -> Iterator[tuple[str, Any]]:
    """The rows of a whole document: the items of its only list, or else its values."""
    first = next(values)
    second = next(values, None)
    if second is None and isinstance(first[1], list):
        for number, item in enumerate(first[1], 1):
            yield f"item {number}", {column: item} if isinstance(item, str) else item
    else:
        yield f"line {first[0]}", first[1]
        if second is not None:
            yield f"line {second[0]}", second[1]
        yield from ((f"line {number}", value) for number, value in values)


def _decode(decoder: json.JSONDecoder, text: str, path: Path, number: int) -> Iterator[tuple[int, Any]]:
    """Yield the values in a text whose first line has that number in the file, each with its own line."""
    blank = re.compile(r"[ \t\n\r]*")
    position, counted = 0, 0
    while True:
        start = blank.match(text, position).end()  # type: ignore[union-attr]
        if start == len(text):
            return
        number += text.count("\n", counted, start)
        counted = start
        try:
            value, position = decoder.raw_decode(text, start)
        except RecursionError:
            wrong = f"line {number} is nested too deeply"
        except json.JSONDecodeError as error:
            line = number + text.count("\n", start, error.pos)
            around = text[max(0, error.pos - 100) : error.pos + 100]
            wrong = f"line {line} is not JSON: {error.msg}" if encodes(around) else f"line {line} is not UTF-8 text"
        else:
            yield number, value
            continue
        raise UserError(f"{one_line(path)}: cannot be read ({wrong}); correct or replace it")


def _object_hook(column: str) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    def row(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs) and sum(name == column for name, _ in pairs) > 1:
            values[column] = _TWICE
        return values

    return row
