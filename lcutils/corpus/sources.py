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

from lcutils.corpus.files import TableMaker, say, tabulate
from lcutils.corpus.folders import KINDS, list_source
from lcutils.corpus.paths import is_file, is_folder, reason, shown_list
from lcutils.corpus.readers import END_OF_TEXT, pieces
from lcutils.corpus.splits import canonical_split
from lcutils.corpus.stories import stories
from lcutils.errors import UserError
from lcutils.parameters import resolve_path
from lcutils.text import one_line

if TYPE_CHECKING:
    from datasets import Dataset

    from lcutils.parameters import CorpusSettings

BUILT_IN = "built-in"
BUILT_IN_STORIES = 10_000  # train stories of the built-in corpus if max_stories gives no number


@contextmanager
def open_stories(settings: CorpusSettings, scratch: Path, log: Path | None = None) -> Iterator[dict[str, Dataset]]:
    """Yield the splits "train", "validation" and, if the settings name one, "ood", each with one column, "text".

    Without a validation split, the last `validation_share` of the train stories becomes one. Then the first
    `max_stories` and `max_validation_stories` of each are kept. Tables made from local files lie in a folder under
    `scratch`, which is removed when the context ends; hub datasets stay in the cache of `datasets`, as its users
    expect. Progress of reading, and what was left out, go to standard error and to `log`.

    Raises:
        UserError: anything is wrong with a source.
    """
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".tables-", ignore_cleanup_errors=True) as tables:
        splits = _open_splits(settings, Path(tables), log)
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
        looks_local = (
            name.startswith((".", "/", "~")) or Path(name).suffix.lower() in (*KINDS, ".gz") or name.count("/") > 1
        )
        try:
            path = resolve_path(name)
            if is_file(path) or is_folder(path):
                continue
            if path.exists():
                raise UserError(f"{one_line(name)}: is neither a file nor a folder; {fix}")
            if looks_local:
                raise UserError(f"{one_line(name)}: no such file or folder; correct the path, {_alternative(key)}")
        except UserError as error:
            raise UserError(f"{key}: {error}") from None


def origin(settings: CorpusSettings, split: str) -> str:
    """How a message begins: key and name of the source that a split was read from."""
    key = split if split != "train" and getattr(settings, split) is not None else "source"
    return f"{key}: {one_line(getattr(settings, key))}"


def _alternative(key: str) -> str:
    """What a message about a missing source suggests last."""
    return f"or use {BUILT_IN!r}" if key == "source" else "or leave it out"


def _open_splits(settings: CorpusSettings, tables: Path, log: Path | None) -> dict[str, Dataset]:
    check_sources(settings)
    built_in = settings.source == BUILT_IN
    splits = _built_in(settings, tables) if built_in else _load("source", settings, tables, log)
    if settings.validation is not None:
        # A folder may hold both splits; a single file is a "train" split to `datasets`.
        (splits["validation"],) = _load("validation", settings, tables, log).values()
    if "validation" not in splits:
        splits |= _cut(splits["train"], settings)
    limits = {"train": settings.max_stories, "validation": settings.max_validation_stories}
    for split, limit in limits.items():
        if limit is not None and limit < len(splits[split]):
            splits[split] = splits[split].select(range(limit))
    if settings.ood is not None:
        splits["ood"] = _load("ood", settings, tables, log)["train"]
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

    parts = {"train": (validation, validation + train), "validation": (0, validation)}
    return {
        split: tabulate(
            pieces(itertools.islice(stories(settings.seed), start, stop)), tables / BUILT_IN / f"{split}.arrow"
        )
        for split, (start, stop) in parts.items()
    }


def _cut(dataset: Dataset, settings: CorpusSettings) -> dict[str, Dataset]:
    n = len(dataset)
    held_out = max(1, round(settings.validation_share * n))
    if held_out >= n:
        fix = "lower validation_share" if n > 1 else f"give more text (its stories separated by {END_OF_TEXT})"
        raise UserError(
            f"source: {one_line(settings.source)}: too few stories ({n}) to cut a validation split from; "
            f"{fix}, or name a file in validation"
        )
    return {
        "train": dataset.select(range(n - held_out)),
        "validation": dataset.select(range(n - held_out, n)),
    }


def _load(key: str, settings: CorpusSettings, tables: Path, log: Path | None) -> dict[str, Dataset]:
    """Splits of the file, folder or hub dataset that `key` names, each with one column, "text".

    For the source these are "train" and, if there is one and the settings name no other, "validation"; for the others
    one split: "validation" for validation if there is one, else "train".
    """
    name, column = getattr(settings, key), settings.text_column
    path = resolve_path(name)
    try:
        if is_file(path) or is_folder(path):
            listing = list_source(path)
            if note := listing.note():
                say(f"{key}: {one_line(path)}: {note}", log)
            wanted = _wanted(key, settings, list(listing.splits))
            maker = TableMaker(column, tables / key, f"read {key}", log)
            return maker.read(path, listing.kind, {split: listing.splits[split] for split in wanted})
        splits = {canonical_split(split): dataset for split, dataset in _load_from_hub(key, name).items()}
        return {split: _text_only(splits[split], name, column) for split in _wanted(key, settings, list(splits))}
    except UserError as error:
        raise UserError(f"{key}: {error}") from None


def _wanted(key: str, settings: CorpusSettings, present: list[str]) -> list[str]:
    """Which of the splits that are present are read for a key."""
    if key == "validation" and key in present:
        return ["validation"]
    if "train" not in present:
        raise UserError(
            f"{one_line(getattr(settings, key))}: has no train split, only {shown_list(present)}; "
            "rename one of them to train"
        )
    return (
        ["train", "validation"]
        if key == "source" and not settings.validation and "validation" in present
        else ["train"]
    )


def _load_from_hub(key: str, name: str) -> dict[str, Dataset]:
    """Load a hub dataset into the cache of `datasets`, which runs no scripts."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        return dict(load_dataset(name))
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:  # a RuntimeError: it is a script
        raise UserError(
            f"{one_line(name)}: is not a file or folder here and cannot be loaded from the hub "
            f"({one_line(reason(error))}); name a local path, {_alternative(key)}"
        ) from None


def _text_only(dataset: Dataset, name: str, column: str) -> Dataset:
    """The column of that name alone, called "text"."""
    import pyarrow as pa

    dataset = dataset.with_format(None)
    if column not in dataset.column_names:
        raise UserError(
            f"{one_line(name)}: there is no column {one_line(column, 40)!r}; "
            f"set text_column to one of {shown_list(dataset.column_names)}"
        )
    kind = getattr(dataset.features[column], "dtype", "nested data")
    if kind not in ("string", "large_string", "string_view"):
        raise UserError(
            f"{one_line(name)}: column {one_line(column, 40)!r} holds {kind}, not text; "
            "set text_column to a column of text"
        )
    dataset = dataset.select_columns([column])
    try:
        dataset.data.column(column).validate(full=True)
    except pa.ArrowInvalid:
        raise UserError(
            f"{one_line(name)}: column {one_line(column, 40)!r} is not UTF-8 text; convert it, for example with iconv"
        ) from None
    return dataset if column == "text" else dataset.rename_column(column, "text")
