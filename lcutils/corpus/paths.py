"""Local paths: what lies there, how a message shows them, and their bytes."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lcutils.errors import UserError, first_line
from lcutils.text import one_line

Advance = Callable[[int], None]  # told how many bytes of a file are read


def shown_list(names: Iterable[object], most: int = 6) -> str:
    """The first names of a list, shortened, and how many there are beside them."""
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(one_line(name, 30) for name in names[:most]) + rest


def is_file(path: Path) -> bool:
    """True for a file, also by a link; False for anything else, names that cannot be a path too."""
    try:
        return path.is_file()
    except OSError as error:  # no permission, or a name that is too long
        raise UserError(f"{one_line(path)}: cannot be read ({reason(error)}); correct the path") from None


def is_folder(path: Path) -> bool:
    """True for a folder, also by a link."""
    try:
        return path.is_dir()
    except OSError as error:
        raise UserError(f"{one_line(path)}: cannot be read ({reason(error)}); correct the path") from None


def reason(error: BaseException) -> str:
    """An error in a few words, without the path that Python appends."""
    return (error.strerror if isinstance(error, OSError) else None) or first_line(error)


def encodes(text: str) -> bool:
    """False for text with lone surrogates: bytes that are not UTF-8, or half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def no_column(path: Path, column: str, others: Iterable[str]) -> UserError:
    """What a file without the column of text is reported with."""
    names = shown_list(others)
    there = f"set text_column to one of {names}" if names else "there are no columns at all"
    return UserError(f"{one_line(path)}: there is no column {one_line(column, 40)!r}; {there}")


@contextmanager
def opened(path: Path) -> Iterator[tuple[IO[bytes], Callable[[], int]]]:
    """The bytes of a file, unpacked if it is gzipped, and a function that says how far it is read."""
    with path.open("rb") as raw:
        if path.suffix.lower() == ".gz":
            with gzip.open(raw) as file:
                yield file, raw.tell  # type: ignore[misc]
        else:
            yield raw, raw.tell
