"""Stories in local files and folders, as Arrow tables on disk (`datasets.Dataset`).

The length of such a table is known, any slice of it is read alone, and memory does not grow with the corpus.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcutils.errors import UserError, first_line

if TYPE_CHECKING:
    from datasets import Dataset

END_OF_TEXT = "<|endoftext|>"
ENDINGS = {".txt": "text", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
FOLDER_ENDINGS = ENDINGS | {".arrow": "arrow", ".csv": "csv"}
NO_STORIES = ("config.json", "dataset_info.json", "dataset_infos.json")  # `datasets` does not read these either
VALIDATION_WORDS = ("validation", "valid", "val", "dev")
CHUNK = 1 << 20  # characters read at a time from a text file


def local_files(name: str) -> list[Path]:
    """Files of a local path, sorted: the file itself, or all files of its folder that are not hidden; else none."""
    path = Path(name).expanduser()
    if path.is_dir():
        return sorted(
            file
            for file in path.rglob("*")
            if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
        )
    return [path] if path.is_file() else []


def read_separated(path: Path, chunk: int = CHUNK) -> Iterator[str]:
    """Yield the stories of a text file in which `<|endoftext|>` separates them.

    White space around a story is dropped, and so is a story of white space alone. No more is held in memory than
    `chunk` characters and one story.

    Raises:
        UserError: the file is not UTF-8.
    """
    rest = ""
    try:
        with path.open(encoding="utf-8-sig") as file:
            while text := file.read(chunk):
                *whole, rest = (rest + text).split(END_OF_TEXT)
                yield from (story for piece in whole if (story := piece.strip()))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text ({error.reason}); convert it, for example with iconv") from None
    if story := rest.strip():
        yield story


def load_file(path: Path, column: str, tables: Path) -> dict[str, Dataset]:
    """The stories of a file as a split "train"; the table goes under `tables`.

    Raises:
        UserError: the file is empty, broken, or of an unknown kind.
    """
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty; name a file with stories")
    if path.suffix == ".txt":
        return {"train": _tabulate_text([path], column, tables)}
    if _ending(path) not in ENDINGS:
        raise UserError(f"{path}: has an unknown ending; use {', '.join(ENDINGS)} or .jsonl.gz")
    return _load_with_datasets(path, ENDINGS[_ending(path)], tables, data_files=str(path))


def load_folder(path: Path, column: str, tables: Path) -> dict[str, Dataset]:
    """The splits of a folder of files of one kind, or of a dataset that was saved with `save_to_disk`.

    Raises:
        UserError: the folder holds no such files, files of several kinds, or a broken file.
    """
    from datasets import DatasetDict, load_from_disk

    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        try:
            saved = load_from_disk(str(path))
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(f"{path}: cannot be read as a saved dataset ({first_line(error)}); save it again") from None
        return dict(saved) if isinstance(saved, DatasetDict) else {"train": saved}
    endings = {file: _ending(file) for file in local_files(str(path)) if file.name not in NO_STORIES}
    text = [file for file, ending in endings.items() if ending == ".txt"]
    present = sorted({ending for ending in endings.values() if ending in FOLDER_ENDINGS})
    if not present:
        raise UserError(f"{path}: there are no data files in this folder; put {', '.join(ENDINGS)} files there")
    if len({FOLDER_ENDINGS[ending] for ending in present}) > 1:  # `datasets` would read the most frequent kind only
        raise UserError(
            f"{path}: {' and '.join(present)} files are mixed in this folder; name a file or folder of one kind"
        )
    if text:
        # `datasets` would take each line of a text file for a story.
        held_out = [file for file in text if set(re.split(r"[^a-z]+", file.stem.lower())) & set(VALIDATION_WORDS)]
        groups = {"train": [file for file in text if file not in held_out], "validation": held_out}
        return {split: _tabulate_text(group, column, tables / split) for split, group in groups.items() if group}
    return _load_with_datasets(path, str(path), tables)


def tabulate(rows: Any, arguments: dict[str, Any], tables: Path, column: str = "text") -> Dataset:
    """Write the rows of a generator into an Arrow table of one column under `tables`."""
    from datasets import Dataset, Features, Value
    from datasets.exceptions import DatasetGenerationError

    try:
        with _quiet():
            return Dataset.from_generator(
                rows,
                features=Features({column: Value("string")}),
                cache_dir=str(tables),
                gen_kwargs=arguments,
            )
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise


def _ending(path: Path) -> str:
    """Ending that says how a file is read: ".jsonl" for "a.jsonl.gz" too.

    Raises:
        UserError: the file is compressed text.
    """
    if path.name.endswith(".txt.gz"):
        raise UserError(f"{path}: is compressed text; unpack it with gunzip")
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def _tabulate_text(files: list[Path], column: str, tables: Path) -> Dataset:
    """The stories of text files. Text has no columns, so that any name of a column fits it."""

    def rows() -> Iterator[dict[str, str]]:
        return ({column: story} for file in files for story in read_separated(file))

    if next(rows(), None) is None:
        raise UserError(f"{files[0]}: holds no stories, only white space; name a file with stories")
    return tabulate(rows, {}, tables, column)


def _load_with_datasets(path: Path, builder: str, tables: Path, **options: Any) -> dict[str, Dataset]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        with _quiet():
            return dict(load_dataset(builder, cache_dir=str(tables), **options))
    except StopIteration:  # the files hold no bytes, or their .gz holds none
        raise UserError(f"{path}: holds no stories; name a file or folder with stories") from None
    except (DatasetsError, OSError, ValueError, EOFError, zlib.error) as error:
        for file in local_files(str(path)):
            if ".jsonl" in file.suffixes and (reason := _bad_line(file)):
                raise UserError(f"{file}: cannot be read ({reason}); correct or replace it") from None
        reason = first_line(_first_cause(error))
        raise UserError(f"{path}: cannot be read ({reason}); correct or replace it") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the bars and messages of `datasets` while local text is read: errors are reported as a UserError."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from datasets.utils import logging

    hidden, verbosity = are_progress_bars_disabled(), logging.get_verbosity()
    disable_progress_bars()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if not hidden:
            enable_progress_bars()


def _bad_line(path: Path) -> str | None:
    """What is wrong with the first line that is not a JSON object; None if all lines are."""
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                text = line.decode("utf-8-sig")
                if text.strip() and not isinstance(json.loads(text), dict):
                    return f"line {number} is not a JSON object"
    except UnicodeDecodeError:
        return f"line {number} is not UTF-8 text"
    except json.JSONDecodeError as error:
        return f"line {number} is not JSON: {error.msg}"
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        return f"not a complete gzip file: {first_line(error)}"
    return None


def _first_cause(error: BaseException) -> BaseException:
    """The error that came first: `datasets` wraps it in errors of its own."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
