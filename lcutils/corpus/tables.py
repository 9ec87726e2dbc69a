"""Tables in files (Parquet, Arrow, CSV): the texts of one column. No other column is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcutils.corpus.paths import Advance, encodes, no_column, opened
from lcutils.errors import UserError
from lcutils.text import one_line

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 1_000  # read at a time


def read_parquet(path: Path, column: str, advance: Advance) -> Iterator[pa.Array]:
    """Yield the column of a Parquet file in pieces."""
    import pyarrow.parquet as pq

    size, done = path.stat().st_size, 0
    with path.open("rb") as raw, pq.ParquetFile(raw, buffer_size=1 << 20, pre_buffer=False) as file:
        _place(file.schema_arrow.names, path, column)
        rows = file.metadata.num_rows
        for batch in file.iter_batches(batch_size=ROWS, columns=[column]):
            yield batch.column(_place(batch.schema.names, path, column))
            done += batch.num_rows
            advance(size * done // max(rows, 1))


def read_arrow(path: Path, column: str, advance: Advance) -> Iterator[pa.Array]:
    """Yield the column of an Arrow file in pieces, be it written as a stream or with an index at its end."""
    import pyarrow as pa

    with path.open("rb") as file:
        try:
            schema, is_stream = pa.ipc.open_stream(file).schema, True
        except (OSError, pa.ArrowInvalid):
            file.seek(0)
            schema, is_stream = pa.ipc.open_file(file).schema, False
        options = pa.ipc.IpcReadOptions(included_fields=[_place(schema.names, path, column)])
        file.seek(0)
        if is_stream:
            batches = iter(pa.ipc.open_stream(file, options=options))
        else:
            reader = pa.ipc.open_file(file, options=options)
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        for batch in batches:
            yield batch.column(0)
            advance(file.tell())


def read_csv(path: Path, column: str, advance: Advance) -> Iterator[pa.Array]:
    """Yield the column of a CSV file, gzipped or not, in pieces."""
    import pandas as pd
    import pyarrow as pa

    options: dict[str, Any] = {
        "dtype": object,
        "encoding_errors": "surrogateescape",
    }  # other columns may hold any bytes
    with opened(path) as (file, _):
        names = pd.read_csv(file, header=None, nrows=1, keep_default_na=False, **options).iloc[0].tolist()
    place = _place([str(name) for name in names], path, column)
    with opened(path) as (file, position):
        frames = pd.read_csv(
            file,
            header=None,
            skiprows=1,
            names=range(len(names)),
            usecols=[place],
            index_col=False,
            chunksize=ROWS,
            **options,
        )
        row = 1
        for frame in frames:
            texts = frame[place]
            # CSV has no types: a column whose first texts are all numbers is not meant.
            if row == 1 and texts.notna().any() and pd.to_numeric(texts.dropna(), errors="coerce").notna().all():
                raise UserError(
                    f"{one_line(path)}: column {one_line(column, 40)!r} holds numbers, not text; "
                    "set text_column to a column of text"
                )
            try:
                yield pa.array(texts, pa.string(), from_pandas=True)
            except UnicodeEncodeError:
                wrong = next(i for i, text in enumerate(texts) if isinstance(text, str) and not encodes(text))
                raise _not_utf8(path, column, row + wrong) from None
            row += len(frame)
            advance(position())


def _place(names: list[str], path: Path, column: str) -> int:
    """Which column is the one of text."""
    if column not in names:
        raise no_column(path, column, names)
    if names.count(column) > 1:
        raise UserError(f"{one_line(path)}: there are {names.count(column)} columns {one_line(column, 40)!r}; keep one")
    return names.index(column)


def _not_utf8(path: Path, column: str, row: int) -> UserError:
    return UserError(
        f"{one_line(path)}: row {row:,}: column {one_line(column, 40)!r} is not UTF-8 text; "
        "convert it, for example with iconv"
    )


def as_strings(array: pa.Array, path: Path, column: str, row: int) -> pa.Array:
    """The texts of a column as Arrow's usual strings; `row` is the first one's number in the file."""
    import pyarrow as pa

    kind = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    plain = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    if not any(is_kind(kind) for is_kind in plain):
        raise UserError(
            f"{one_line(path)}: column {one_line(column, 40)!r} holds {one_line(kind, 60)}, not text; "
            "set text_column to a column of text"
        )
    try:
        array.validate(full=True)
        texts = array.cast(pa.string())
        texts.validate(full=True)
    except pa.ArrowException:
        wrong = next((i for i in range(len(array)) if not _is_valid(array.slice(i, 1))), 0)
        raise _not_utf8(path, column, row + wrong) from None
    return texts


def _is_valid(array: pa.Array) -> bool:
    import pyarrow as pa

    try:
        array.validate(full=True)
        array.cast(pa.string()).validate(full=True)
    except pa.ArrowException:
        return False
    return True
