"""Stories in local files and folders, as Arrow tables on disk (`datasets.Dataset`).

The length of such a table is known, any slice of it is read alone, and memory does not grow with the corpus.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lcutils.corpus.folders import size_of
from lcutils.corpus.readers import END_OF_TEXT, check_content, read_texts
from lcutils.errors import UserError
from lcutils.progress import Progress
from lcutils.text import one_line

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

LONG_STORY = 1 << 25  # bytes of a story that is probably many, without what separates them


def say(line: str, log: Path | None) -> None:
    """Write a line to standard error and, if there is one, to the log."""
    print(line, file=sys.stderr, flush=True)
    if log is not None:
        with log.open("a") as file:
            print(time.strftime("%Y-%m-%d %H:%M:%S"), line, file=file)


def tabulate(texts: Iterable[pa.Array], file: Path) -> Dataset:
    """Write texts, given in pieces, into an Arrow table of one column, "text"."""
    import pyarrow as pa
    from datasets import Dataset

    schema = pa.schema({"text": pa.string()})
    file.parent.mkdir(parents=True, exist_ok=True)
    with pa.ipc.new_stream(str(file), schema) as writer:
        for piece in texts:
            writer.write_batch(pa.RecordBatch.from_arrays([piece], schema=schema))
    return Dataset.from_file(str(file))


class TableMaker:
    """Reads files of stories into tables.

    Args:
        column: name of the column of text.
        tables: folder for the tables.
        title: what the progress is called.
        log: file for lines of progress, or None.
    """

    def __init__(self, column: str, tables: Path, title: str, log: Path | None = None) -> None:
        self.column, self.tables, self.title, self.log = column, tables, title, log

    def read(self, source: Path, kind: str, splits: dict[str, list[Path]]) -> dict[str, Dataset]:
        """Read the files of each split into a table.

        Raises:
            UserError: a file is damaged or not what its ending says, or a split holds no text.
        """
        files = [path for members in splits.values() for path in members]
        for path in files:
            check_content(path)
        read = {}
        with Progress(self.title, sum(map(size_of, files)), unit="bytes", log=self.log) as progress:
            for split, members in splits.items():
                texts = (piece for path in members for piece in self._pieces(path, kind, progress))
                table = read[split] = tabulate(texts, self.tables / f"{split}.arrow")
                if table.data.column("text").null_count == len(table):
                    where = one_line(members[0] if len(members) == 1 else source)
                    only = ", only white space" if kind == "text" else ", only rows without text" if len(table) else ""
                    raise UserError(f"{where}: holds no stories{only}; name a file or folder with stories")
        return read

    def _pieces(self, path: Path, kind: str, progress: Progress) -> Iterator[pa.Array]:
        before, stories, size = progress.done, 0, 0

        def advance(done: int) -> None:
            progress.update(before + done - progress.done)

        for piece in read_texts(path, kind, self.column, advance):
            stories, size = stories + len(piece), size + piece.nbytes
            yield piece
        advance(size_of(path))
        if kind == "text" and stories == 1 and size > LONG_STORY:
            say(
                f"{one_line(path)}: is one story of {size / 1e6:,.0f} MB; if it holds many, put {END_OF_TEXT} between",
                self.log,
            )
