"""Where stories come from: the built-in generator, local files and folders, the hub.

Every source ends as Arrow tables on disk (`datasets.Dataset`, one column "text"): their length is known, any
slice of them is read alone, and memory does not grow with the corpus.
"""

from __future__ import annotations

import gc
import gzip
import itertools
import json
import re
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcutils.corpus.stories import stories
from lcutils.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

    from lcutils.parameters import CorpusSettings

BUILT_IN = "built-in"
BUILT_IN_STORIES = 10_000  # train stories of the built-in corpus when max_stories names no number
END_OF_TEXT = "<|endoftext|>"
ENDINGS = {".txt": "text", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
FOLDER_ENDINGS = ENDINGS | {".arrow": "arrow", ".csv": "csv"}
NO_STORIES = ("config.json", "dataset_info.json", "dataset_infos.json")  # `datasets` does not read these either
VALIDATION_WORDS = ("validation", "valid", "val", "dev")
CHUNK = 1 << 20  # characters read at a time from a text file


def read_separated(path: Path, chunk: int = CHUNK) -> Iterator[str]:
    """Yield the stories of a text file in which `<|endoftext|>` separates them.

    White space around a story is dropped, and so is a story of nothing else. `chunk` characters are held at a
    time, and the story that they end in.

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
        raise UserError(f"{path}: not UTF-8 text ({error.reason}); convert it, for example with iconv") from None
    if story := rest.strip():
        yield story


def local_files(name: str) -> list[Path]:
    """Files behind a local path, sorted: the file itself, or all that its folder holds but the hidden; else none."""
    path = Path(name).expanduser()
    if path.is_dir():
        return sorted(
            file
            for file in path.rglob("*")
            if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
        )
    return [path] if path.is_file() else []


@contextmanager
def open_stories(settings: CorpusSettings, scratch: Path) -> Iterator[dict[str, Dataset]]:
    """Yield the splits "train", "validation" and, where settings name one, "ood", each with one column, "text".

    Without a validation split, the last `validation_share` of the train stories becomes one. `max_stories` and
    `max_validation_stories` then keep the first so many of each. Tables made of local files lie in a folder
    under `scratch` that goes when the context ends; hub datasets stay in the cache of `datasets`, as its users
    expect.

    Raises:
        UserError: anything wrong with a source, in one line.
    """
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".tables-", ignore_cleanup_errors=True) as tables:
        splits = _open_splits(settings, Path(tables))
        yield splits
        splits.clear()
        gc.collect()  # let go of the mapped files before their folder goes: network file systems insist


def origin(settings: CorpusSettings, split: str) -> str:
    """Key and name of what a split was read from, as messages begin."""
    key = split if split != "train" and getattr(settings, split) is not None else "source"
    return f"{key}: {getattr(settings, key)}"


def _otherwise(key: str) -> str:
    """How a message about a source that is not there ends."""
    return f"or use {BUILT_IN!r}" if key == "source" else "or leave it out"


def check_sources(settings: CorpusSettings) -> None:
    """Raise a `UserError` if a source can be seen to be none without reading it."""
    for key in ("source", "validation", "ood"):
        name = getattr(settings, key)
        if name is None or (key == "source" and name == BUILT_IN):
            continue
        mend = f"name a file, a folder or a hub dataset, {_otherwise(key)}"
        if name == BUILT_IN:
            raise UserError(f"{key}: only source can be {BUILT_IN!r}; {mend}")
        if not name.strip():
            raise UserError(f"{key}: the name is empty; {mend}")
        # A form that no name on the hub has.
        looks_local = name.startswith((".", "/", "~")) or Path(name).suffix in (*ENDINGS, ".gz") or name.count("/") > 1
        if looks_local and not Path(name).expanduser().exists():
            raise UserError(f"{key}: {name}: no such file or folder; mend the path, {_otherwise(key)}")


def _open_splits(settings: CorpusSettings, tables: Path) -> dict[str, Dataset]:
    check_sources(settings)
    built_in = settings.source == BUILT_IN
    splits = _built_in(settings, tables) if built_in else _load("source", settings, tables)
    if settings.validation is not None:
        separate = _load("validation", settings, tables)
        # A folder may hold both splits; a single file is a "train" split to `datasets`.
        splits["validation"] = separate["validation" if "validation" in separate else "train"]
    if "validation" not in splits:
        splits |= _cut(splits["train"], settings)
    limits = {"train": settings.max_stories, "validation": settings.max_validation_stories}
    for split, limit in limits.items():
        if limit is not None and limit < len(splits[split]):
            splits[split] = splits[split].select(range(limit))
    if settings.ood is not None:
        splits["ood"] = _load("ood", settings, tables)["train"]
    for split, dataset in splits.items():
        if not len(dataset):
            raise UserError(f"{origin(settings, split)}: no stories in the {split} split; name a source that has some")
    return {split: splits[split] for split in ("train", "validation", "ood") if split in splits}


def _built_in(settings: CorpusSettings, tables: Path) -> dict[str, Dataset]:
    """Distinct stories of one stream. Validation takes its head: a larger train split leaves that as it is.

    Validation text of the user's own takes the place of that head; the train stories stay the same.
    """
    train = settings.max_stories or BUILT_IN_STORIES
    validation = settings.max_validation_stories or max(1, round(settings.validation_share * train))

    def part(start: int, stop: int) -> Iterator[dict[str, str]]:
        return ({"text": story} for story in itertools.islice(stories(settings.seed), start, stop))

    return {
        "train": _tabulate(part, {"start": validation, "stop": validation + train}, tables / "train"),
        "validation": _tabulate(part, {"start": 0, "stop": validation}, tables / "validation"),
    }


def _cut(dataset: Dataset, settings: CorpusSettings) -> dict[str, Dataset]:
    n = len(dataset)
    held_out = max(1, round(settings.validation_share * n))
    if held_out >= n:
        mend = "lower validation_share" if n > 1 else f"give more text (its stories separated by {END_OF_TEXT})"
        raise UserError(
            f"source: {settings.source}: too few stories ({n}) to cut a validation split from; "
            f"{mend}, or name a file in validation"
        )
    return {
        "train": dataset.select(range(n - held_out)),
        "validation": dataset.select(range(n - held_out, n)),
    }


def _load(key: str, settings: CorpusSettings, tables: Path) -> dict[str, Dataset]:
    """Splits of the file, folder or hub dataset that `key` names, "train" among them, as one column "text".

    What `validation` names may lack "train".
    """
    name, column = getattr(settings, key), settings.text_column
    path = Path(name).expanduser()
    try:
        if path.is_file():
            splits = _load_file(path, column, tables / key)
        elif path.is_dir():
            splits = _load_folder(path, column, tables / key)
        else:
            splits = _load_from_hub(key, name)
        for split in VALIDATION_WORDS[1:]:
            if split in splits:
                splits.setdefault("validation", splits.pop(split))
        if "train" not in splits and not (key == "validation" and key in splits):
            raise UserError(f"{name}: no train split; its splits are {', '.join(splits)}")
        return {split: _text_only(splits[split], name, column) for split in ("train", "validation") if split in splits}
    except UserError as error:
        raise UserError(f"{key}: {error}") from None


def _text_only(dataset: Dataset, name: str, column: str) -> Dataset:
    import pyarrow as pa

    if column not in dataset.column_names:
        raise UserError(f"{name}: no column {column!r}; set text_column to one of {', '.join(dataset.column_names)}")
    kind = getattr(dataset.features[column], "dtype", "nested data")
    if kind not in ("string", "large_string"):
        raise UserError(f"{name}: column {column!r} holds {kind}, no text; set text_column to a column of text")
    dataset = dataset.select_columns([column])
    try:  # the reader of JSON lines takes any bytes for text
        dataset.data.column(column).validate(full=True)
    except pa.ArrowInvalid:
        raise UserError(f"{name}: column {column!r} is not UTF-8 text; convert it, for example with iconv") from None
    return dataset if column == "text" else dataset.rename_column(column, "text")


def _load_file(path: Path, column: str, tables: Path) -> dict[str, Dataset]:
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty; name a file with stories")
    if path.suffix == ".txt":
        return {"train": _tabulate_text([path], column, tables)}
    if _ending(path) not in ENDINGS:
        raise UserError(f"{path}: unknown ending; text comes as {', '.join(ENDINGS)} or .jsonl.gz")
    return _call_datasets(path, ENDINGS[_ending(path)], tables, data_files=str(path))


def _ending(path: Path) -> str:
    """Ending that tells how a file is read: ".jsonl" of "a.jsonl.gz" too.

    Raises:
        UserError: compressed text.
    """
    if path.name.endswith(".txt.gz"):
        raise UserError(f"{path}: compressed text is not read; unpack it with gunzip")
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def _load_folder(path: Path, column: str, tables: Path) -> dict[str, Dataset]:
    from datasets import DatasetDict, load_from_disk

    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        try:
            saved = load_from_disk(str(path))
        except (OSError, ValueError, LookupError, TypeError) as error:
            reason = one_line(error)
            raise UserError(f"{path}: not readable as a saved dataset ({reason}); save it again") from None
        return dict(saved) if isinstance(saved, DatasetDict) else {"train": saved}
    endings = {file: _ending(file) for file in local_files(str(path)) if file.name not in NO_STORIES}
    text = [file for file, ending in endings.items() if ending == ".txt"]
    present = sorted({ending for ending in endings.values() if ending in FOLDER_ENDINGS})
    if not present:
        raise UserError(f"{path}: no data files in this folder; put {', '.join(ENDINGS)} files there")
    if len({FOLDER_ENDINGS[ending] for ending in present}) > 1:  # `datasets` would read the most frequent kind only
        raise UserError(
            f"{path}: {' and '.join(present)} files are mixed in this folder; name a file or folder of one kind"
        )
    if text:
        # `datasets` would take each line of a text file for a story.
        held_out = [file for file in text if set(re.split(r"[^a-z]+", file.stem.lower())) & set(VALIDATION_WORDS)]
        groups = {"train": [file for file in text if file not in held_out], "validation": held_out}
        return {split: _tabulate_text(group, column, tables / split) for split, group in groups.items() if group}
    return _call_datasets(path, str(path), tables)


def _load_from_hub(key: str, name: str) -> dict[str, Dataset]:
    """Load a hub dataset into the cache of `datasets`."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        return dict(load_dataset(name))
    except (DatasetsError, OSError, ValueError) as error:
        raise UserError(
            f"{name}: no such file or folder here, and not loaded from the hub ({one_line(error)}); "
            f"name a local path, {_otherwise(key)}"
        ) from None


def _call_datasets(path: Path, builder: str, tables: Path, **options: Any) -> dict[str, Dataset]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        with _quiet():
            return dict(load_dataset(builder, cache_dir=str(tables), **options))
    except StopIteration:  # files of no bytes, or with none inside their .gz
        raise UserError(f"{path}: no stories in it; name one with stories") from None
    except (DatasetsError, OSError, ValueError, EOFError, zlib.error) as error:
        for file in local_files(str(path)):
            if ".jsonl" in file.suffixes and (reason := _bad_line(file)):
                raise UserError(f"{file}: not readable ({reason}); mend or replace it") from None
        raise UserError(f"{path}: not readable ({one_line(_root(error))}); mend or replace it") from None


def _tabulate_text(files: list[Path], column: str, tables: Path) -> Dataset:
    """Stories of text files: they have no columns, so the text is the column that is asked for."""

    def rows() -> Iterator[dict[str, str]]:
        return ({column: story} for file in files for story in read_separated(file))

    if next(rows(), None) is None:
        raise UserError(f"{files[0]}: no stories in it, only white space; name a file with stories")
    return _tabulate(rows, {}, tables, column)


def _tabulate(rows: Any, arguments: dict[str, Any], tables: Path, column: str = "text") -> Dataset:
    """Write the rows of a generator into an Arrow table under `tables`."""
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the bars and messages of `datasets` while local text is read: what matters comes as a UserError."""
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
    """What is wrong with the first line that is no JSON object; None where each line is one."""
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                text = line.decode("utf-8-sig")
                if text.strip() and not isinstance(json.loads(text), dict):
                    return f"line {number} is no JSON object"
    except UnicodeDecodeError:
        return f"line {number} is not UTF-8 text"
    except json.JSONDecodeError as error:
        return f"line {number} is no JSON: {error.msg}"
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        return f"no whole gzip file: {one_line(error)}"
    return None


def one_line(error: BaseException) -> str:
    """First line of what an error says, however long it is."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _root(error: BaseException) -> BaseException:
    """What first went wrong: `datasets` wraps it in errors of its own."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
