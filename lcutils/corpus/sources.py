"""Where stories come from: the built-in generator, local files and folders (`files`), or the hub.

Every source becomes splits that are `datasets.Dataset`s with one column, "text".
"""

from __future__ import annotations

import gc
import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lcutils.corpus.files import END_OF_TEXT, ENDINGS, VALIDATION_WORDS, load_file, load_folder, tabulate
from lcutils.corpus.stories import stories
from lcutils.errors import UserError, first_line

if TYPE_CHECKING:
    from datasets import Dataset

    from lcutils.parameters import CorpusSettings

BUILT_IN = "built-in"
BUILT_IN_STORIES = 10_000  # train stories of the built-in corpus if max_stories gives no number


@contextmanager
def open_stories(settings: CorpusSettings, scratch: Path) -> Iterator[dict[str, Dataset]]:
    """Yield the splits "train", "validation" and, if the settings name one, "ood", each with one column, "text".

    Without a validation split, the last `validation_share` of the train stories becomes one. Then the first
    `max_stories` and `max_validation_stories` of each are kept. Tables made from local files lie in a folder under
    `scratch`, which is removed when the context ends; hub datasets stay in the cache of `datasets`, as its users
    expect.

    Raises:
        UserError: anything is wrong with a source.
    """
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".tables-", ignore_cleanup_errors=True) as tables:
        splits = _open_splits(settings, Path(tables))
        yield splits
        splits.clear()
        gc.collect()  # network file systems do not remove a folder whose files are still mapped


def check_sources(settings: CorpusSettings) -> None:
    """Check what can be checked without reading the sources; raise a `UserError` if one cannot exist."""
    for key in ("source", "validation", "ood"):
        name = getattr(settings, key)
        if name is None or (key == "source" and name == BUILT_IN):
            continue
        fix = f"name a file, a folder or a hub dataset, {_alternative(key)}"
        if name == BUILT_IN:
            raise UserError(f"{key}: only source can be {BUILT_IN!r}; {fix}")
        if not name.strip():
            raise UserError(f"{key}: the name is empty; {fix}")
        # No name on the hub has one of these forms.
        looks_local = name.startswith((".", "/", "~")) or Path(name).suffix in (*ENDINGS, ".gz") or name.count("/") > 1
        if looks_local and not Path(name).expanduser().exists():
            raise UserError(f"{key}: {name}: no such file or folder; correct the path, {_alternative(key)}")


def origin(settings: CorpusSettings, split: str) -> str:
    """How a message begins: key and name of the source that a split was read from."""
    key = split if split != "train" and getattr(settings, split) is not None else "source"
    return f"{key}: {getattr(settings, key)}"


def _alternative(key: str) -> str:
    """What a message about a missing source suggests last."""
    return f"or use {BUILT_IN!r}" if key == "source" else "or leave it out"


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
    """Distinct stories of one stream, the first ones for validation: they do not depend on the size of train.

    Where the user's own validation text replaces them, the train stories stay the same.
    """
    train = settings.max_stories or BUILT_IN_STORIES
    validation = settings.max_validation_stories or max(1, round(settings.validation_share * train))

    def part(start: int, stop: int) -> Iterator[dict[str, str]]:
        return ({"text": story} for story in itertools.islice(stories(settings.seed), start, stop))

    return {
        "train": tabulate(part, {"start": validation, "stop": validation + train}, tables / "train"),
        "validation": tabulate(part, {"start": 0, "stop": validation}, tables / "validation"),
    }


def _cut(dataset: Dataset, settings: CorpusSettings) -> dict[str, Dataset]:
    n = len(dataset)
    held_out = max(1, round(settings.validation_share * n))
    if held_out >= n:
        fix = "lower validation_share" if n > 1 else f"give more text (its stories separated by {END_OF_TEXT})"
        raise UserError(
            f"source: {settings.source}: too few stories ({n}) to cut a validation split from; "
            f"{fix}, or name a file in validation"
        )
    return {
        "train": dataset.select(range(n - held_out)),
        "validation": dataset.select(range(n - held_out, n)),
    }


def _load(key: str, settings: CorpusSettings, tables: Path) -> dict[str, Dataset]:
    """Splits of the file, folder or hub dataset that `key` names, each with one column, "text".

    "train" is among them, unless `key` is "validation" and there is a split of that name.
    """
    name, column = getattr(settings, key), settings.text_column
    path = Path(name).expanduser()
    try:
        if path.is_file():
            splits = load_file(path, column, tables / key)
        elif path.is_dir():
            splits = load_folder(path, column, tables / key)
        else:
            splits = _load_from_hub(key, name)
        for split in VALIDATION_WORDS[1:]:
            if split in splits:
                splits.setdefault("validation", splits.pop(split))
        if "train" not in splits and not (key == "validation" and key in splits):
            raise UserError(f"{name}: has no train split, only {', '.join(splits)}; rename one of them to train")
        return {split: _text_only(splits[split], name, column) for split in ("train", "validation") if split in splits}
    except UserError as error:
        raise UserError(f"{key}: {error}") from None


def _load_from_hub(key: str, name: str) -> dict[str, Dataset]:
    """Load a hub dataset into the cache of `datasets`."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        return dict(load_dataset(name))
    except (DatasetsError, OSError, ValueError) as error:
        raise UserError(
            f"{name}: is not a file or folder here and cannot be loaded from the hub ({first_line(error)}); "
            f"name a local path, {_alternative(key)}"
        ) from None


def _text_only(dataset: Dataset, name: str, column: str) -> Dataset:
    """The column of that name alone, called "text"."""
    import pyarrow as pa

    if column not in dataset.column_names:
        raise UserError(
            f"{name}: there is no column {column!r}; set text_column to one of {', '.join(dataset.column_names)}"
        )
    kind = getattr(dataset.features[column], "dtype", "nested data")
    if kind not in ("string", "large_string"):
        raise UserError(f"{name}: column {column!r} holds {kind}, not text; set text_column to a column of text")
    dataset = dataset.select_columns([column])
    try:  # the reader of JSON lines accepts any bytes as text
        dataset.data.column(column).validate(full=True)
    except pa.ArrowInvalid:
        raise UserError(f"{name}: column {column!r} is not UTF-8 text; convert it, for example with iconv") from None
    return dataset if column == "text" else dataset.rename_column(column, "text")
