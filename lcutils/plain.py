"""What people write, read as it is: plain YAML, values from Python, and how messages show them.

YAML's own reading surprises: `010` is eight, `no` is false, `1:30` is ninety, a key written twice counts once, a tag
runs code, and a few aliases fill the memory. Here a scalar is the text that is written. The schema of a study
(`lcutils.parameters`) says where a number, true or false is due. Only `null`, `~` and an empty value are None.
"""

from __future__ import annotations

import numbers
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import yaml

from lcutils.errors import UserError
from lcutils.text import one_line

MOST_BYTES = 200_000  # of a text: a study of thousands of models has a tenth
MOST_VALUES = 20_000  # of a text, those of aliases counted
MOST_DEPTH = 20
MOST_INTEGER = 2**63  # larger ones fit no tensor

NULLS = {"", "~", "null", "Null", "NULL"}
_ALLOWED_TAGS = {None, "!", *(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))}

_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = _brief.maxlong = 80
_brief.maxdict = _brief.maxlist = _brief.maxtuple = _brief.maxlevel = 3


class PlainError(ValueError):
    """A text or value that is not plain: what is wrong, and where in it; `syntax` if it is not even YAML."""

    def __init__(self, message: str, *, syntax: bool = False) -> None:
        super().__init__(message)
        self.syntax = syntax


def brief(value: Any) -> str:
    """A value as a message shows it: in one line, in quotes if it is text, and cut if it is long."""
    return one_line(_brief.repr(value))


def join_problems(place: str, problems: list[str], most: int = 440) -> str:
    """One line of several problems of one place; those that would make it too long are only counted."""
    line = f"{place}: {one_line(problems[0], most - len(place))}"
    for number, problem in enumerate(problems[1:], 1):
        if len(line) + len(problem) > most:
            return f"{line}; and {len(problems) - number} more"
        line += f"; {one_line(problem, most)}"
    return line


def text_of(key: str, value: Any) -> str:
    """A name or path that a person gave; whole numbers count as text, as papermill makes them of digits."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if abs(value) < MOST_INTEGER else ""
    if not isinstance(value, str | PurePath) or not str(value):
        raise UserError(f"{key}: should be text that is not empty, not {brief(value)}; put it in quotes")
    try:
        return _whole_text(str(value))
    except PlainError as error:
        raise UserError(f"{key}: {error}") from None


def _whole_text(text: str) -> str:
    """The text, halves of characters joined (JSON's \\ud83d\\ude00); refuses what no file or name can hold."""
    if "\0" in text:
        raise PlainError(f"{brief(text)} holds a NUL character; delete it")
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise PlainError(f"{brief(text)} holds half a character, or bytes that are not UTF-8; rename it") from None


def plain(value: Any, depth: int = 0) -> Any:
    """A value from Python as text, numbers, lists and mappings.

    Raises:
        PlainError: it is, or holds, something else.
    """
    if depth > MOST_DEPTH:
        raise PlainError(f"is nested more than {MOST_DEPTH} deep; write it flat")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str | PurePath):
        return _whole_text(str(value))
    if isinstance(value, numbers.Integral):
        if abs(int(value)) >= MOST_INTEGER:
            raise PlainError("holds a number of more than 64 bits; give a smaller one")
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, list | tuple):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, Mapping):
        return {str(plain(key, depth + 1)): plain(item, depth + 1) for key, item in value.items()}
    raise PlainError(f"should be text, a number, a list or a mapping, not {brief(value)}")


# ---------------------------------------------------------------------------------------------------------- YAML


@dataclass
class _Open:
    """A list or mapping that is being read."""

    value: list[Any] | dict[str, Any]
    anchor: str | None
    key: str | None = None  # read, its value not yet
    lines: dict[str, int] = field(default_factory=dict)  # where each key stands
    size: int = 1


def read_yaml(source: str | bytes) -> Any:
    """The value of a YAML text (JSON is YAML too): None, text, lists and mappings with text as keys.

    Raises:
        PlainError: it is not YAML, or not plain: a key twice, a tag, a second document, too long, too deep.
    """
    if len(source) > MOST_BYTES:
        raise PlainError(f"is longer than {MOST_BYTES:,} bytes; is it the right file?")
    try:
        return _read(source)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        reason = one_line(error.problem or error.context, 200)
        raise PlainError(f"is not valid YAML: {where}{reason}", syntax=True) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        if isinstance(error, PlainError):
            raise
        reason = one_line(" ".join(str(error).split()), 200)
        raise PlainError(f"is not valid YAML: {reason}", syntax=True) from None


def _read(source: str | bytes) -> Any:
    opened: list[_Open] = []
    anchors: dict[str, tuple[Any, int]] = {}  # name -> value and its size
    result, documents, total = None, 0, 0

    def put(value: Any, size: int, line: int) -> None:
        nonlocal result, total
        total += size
        if total > MOST_VALUES:
            raise PlainError(f"line {line}: holds more than {MOST_VALUES:,} values, aliases counted; write less")
        if not opened:
            result = value
            return
        place = opened[-1]
        place.size += size
        if isinstance(place.value, list):
            place.value.append(value)
        elif place.key is None:
            place.key = _key(value, place.lines, line)
        else:
            place.value[place.key] = value
            place.key = None

    for event in yaml.parse(source, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise PlainError(f"line {line}: a second document begins (---); keep one")
        if getattr(event, "tag", None) not in _ALLOWED_TAGS:
            raise PlainError(f"line {line}: the tag {one_line(event.tag)} is not read; delete it")
        if isinstance(event, yaml.CollectionStartEvent):
            if len(opened) >= MOST_DEPTH:
                raise PlainError(f"line {line}: is nested more than {MOST_DEPTH} deep; write it flat")
            opened.append(_Open([] if isinstance(event, yaml.SequenceStartEvent) else {}, event.anchor))
            anchors.pop(event.anchor, None)
        elif isinstance(event, yaml.CollectionEndEvent):
            done = opened.pop()
            if done.anchor:
                anchors[done.anchor] = done.value, done.size
            total -= done.size - 1  # they were counted one by one
            put(done.value, done.size, line)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchors:
                raise PlainError(f"line {line}: there is no whole value *{one_line(event.anchor)}; write it out")
            put(*anchors[event.anchor], line)
        elif isinstance(event, yaml.ScalarEvent):
            is_key = bool(opened) and isinstance(opened[-1].value, dict) and opened[-1].key is None
            null = event.style is None and event.value in NULLS and not is_key
            value = None if null else _whole_text(event.value)
            if event.anchor:
                anchors[event.anchor] = value, 1
            put(value, 1, line)
    return result


def _key(value: Any, lines: dict[str, int], line: int) -> str:
    """A key, which is text, and new in its mapping."""
    if not isinstance(value, str) or not value:
        raise PlainError(f"line {line}: a key should be text, not {brief(value)}")
    if value == "<<":
        raise PlainError(f"line {line}: merging (<<) is not read; write the keys out")
    if value in lines:
        raise PlainError(f"the key {one_line(value)} stands in line {lines[value]} and again in line {line}; keep one")
    lines[value] = line
    return value
