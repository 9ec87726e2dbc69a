"""Readers of local files: the texts of one column, in pieces, whatever else the file holds.

Only the column of text is read. A mistake is reported with the file and the line or row, however late it comes.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lcutils.corpus.json_rows import read_json
from lcutils.corpus.paths import Advance, reason
from lcutils.corpus.tables import as_strings, read_arrow, read_csv, read_parquet
from lcutils.errors import UserError
from lcutils.text import one_line

if TYPE_CHECKING:
    import pyarrow as pa

END_OF_TEXT = "<|endoftext|>"
CHUNK = 1 << 20  # characters read at a time from a text file
TEXTS = 1_000  # in a piece, at most
CHARACTERS = 1 << 24  # in a piece, unless one text alone has more
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1"


def check_content(path: Path) -> None:
    """Find out, from its first bytes, that a file is not what its ending says; raise a `UserError` then."""
    with _reported(path), path.open("rb") as file:
        start = file.read(4096)
    if start.startswith(LFS_POINTER):
        raise UserError(f"{one_line(path)}: is a Git LFS pointer, not the file itself; get it with git lfs pull")


def read_texts(path: Path, kind: str, column: str, advance: Advance) -> Iterator[pa.Array]:
    """Yield the texts of a file as Arrow arrays of strings; a missing text is null.

    Args:
        path: the file.
        kind: one of `folders.KINDS`.
        column: name of the column of text. A text file has none, so that any name fits it.
        advance: called now and then with the number of bytes that are read.

    Raises:
        UserError: the file cannot be read, or its column of that name is missing or not text.
    """
    with _reported(path):
        if kind == "text":
            yield from pieces(read_separated(path, advance=advance))
        elif kind == "json":
            yield from pieces(read_json(path, column, advance))
        else:
            row = 1
            for array in {"parquet": read_parquet, "arrow": read_arrow, "csv": read_csv}[kind](path, column, advance):
                yield as_strings(array, path, column, row)
                row += len(array)


def read_separated(path: Path, chunk: int = CHUNK, advance: Advance = lambda done: None) -> Iterator[str]:
    """Yield the stories of a text file in which `<|endoftext|>` separates them.

    White space around a story is dropped, and so is a story of white space alone. No more is held in memory than
    `chunk` characters and one story.

    Raises:
        UserError: the file is not UTF-8.
    """
    pieces: list[str] = []  # of the story that is being read
    end = ""  # the last characters read, which may begin a separator
    try:
        with path.open(encoding="utf-8-sig") as file:
            while text := file.read(chunk):
                if not pieces and not end and text.count("\0") > len(text) // 10:
                    raise UserError(f"{one_line(path)}: looks like UTF-16; convert it to UTF-8, for example with iconv")
                *whole, rest = (end + text).split(END_OF_TEXT)
                for piece in whole:
                    pieces.append(piece)
                    if story := "".join(pieces).strip():
                        yield story
                    pieces.clear()
                cut = max(0, len(rest) - len(END_OF_TEXT) + 1)
                pieces.append(rest[:cut])
                end = rest[cut:]
                advance(file.buffer.tell())  # type: ignore[attr-defined]
    except UnicodeDecodeError as error:
        raise UserError(
            f"{one_line(path)}: is not UTF-8 text ({error.reason}); convert it, for example with iconv"
        ) from None
    if story := ("".join(pieces) + end).strip():
        yield story


def pieces(texts: Iterable[str | None]) -> Iterator[pa.Array]:
    """Gather texts into Arrow arrays of a size that is quick to write and small to hold."""
    import pyarrow as pa

    piece: list[str | None] = []
    characters = 0
    for text in texts:
        piece.append(text)
        characters += len(text or "")
        if len(piece) >= TEXTS or characters >= CHARACTERS:
            yield pa.array(piece, pa.string())
            piece, characters = [], 0
    if piece:
        yield pa.array(piece, pa.string())


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Report what a library says about a file in one line."""
    import pyarrow as pa

    try:
        yield
    except UserError:
        raise
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        said = f"not a complete gzip file: {reason(error)}"
        raise UserError(f"{one_line(path)}: cannot be read ({said}); correct or replace it") from None
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise UserError(
            f"{one_line(path)}: cannot be read ({one_line(reason(error))}); correct or replace it"
        ) from None
