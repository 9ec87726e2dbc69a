"""Which files a name or a folder stands for, how each is read, and which are left out."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lcutils.corpus.paths import is_file, is_folder, reason, shown_list
from lcutils.corpus.splits import canonical_split, divide_by_card, divide_by_name
from lcutils.errors import UserError
from lcutils.parameters import resolve_path
from lcutils.text import one_line

KINDS = {
    ".txt": "text", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".arrow": "arrow", ".csv": "csv",
}  # fmt: skip
GZIPPED = ("json", "csv")  # kinds that are read from .gz files too
PACKED = (".gz", ".zip", ".zst", ".xz", ".bz2", ".lz4", ".7z")
NO_STORIES = (  # what `datasets` and its users lay beside the data
    "config.json", "dataset_dict.json", "dataset_info.json", "dataset_infos.json", "state.json",
)  # fmt: skip
NOT_TEXT = ("readme", "license", "licence")  # stems of files about the data, whatever their ending
MOST_REPEATS = 1_000  # of folders, by links; more lead in circles


def local_files(name: str) -> list[tuple[str, Path]]:
    """Files that a local name stands for, each with its name for the digest; none if it is no local name.

    These are the file itself, or the files of a folder that may hold text or say how it is divided, under their
    paths inside the folder. Hidden files and other files of a folder do not count.
    """
    path = resolve_path(name)
    if is_file(path):
        return [(path.name, path)]
    if not is_folder(path):
        return []
    inside, _ = _walk(path)
    return [(f"./{name}", path / name) for name in inside if kind_of(path / name) or name == "README.md"]


def kind_of(path: Path) -> str | None:
    """How a file is read, by its ending in any case: "json" for a.JSONL and for a.jsonl.gz; None if it is not."""
    kind, packed = _ending(path)
    return None if packed and (packed != ".gz" or kind not in GZIPPED) else kind


def check_ending(path: Path) -> None:
    """Raise a `UserError` if a file is packed text that cannot be read so."""
    kind, packed = _ending(path)
    if packed and kind and kind_of(path) is None:
        tool = "gunzip" if packed == ".gz" else "a tool for that ending"
        raise UserError(f"{one_line(path)}: is compressed text; unpack it with {tool}")


def _ending(path: Path) -> tuple[str | None, str]:
    """Kind by the last ending that does not mean "packed", and the ending that does."""
    endings = ["", "", *(ending.lower() for ending in path.suffixes)]
    packed = endings[-1] if endings[-1] in PACKED else ""
    return KINDS.get(endings[-2] if packed else endings[-1]), packed


@dataclass
class Listing:
    """The files of a folder.

    Attributes:
        kind: of all files in `splits`; "" if there are none.
        splits: files of "train", "validation" and "test", in the order in which they are read.
        left_out: why files are not read -> their paths inside the folder.
    """

    kind: str = ""
    splits: dict[str, list[Path]] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, why: str, names: Iterable[str]) -> None:
        """Note files that are not read."""
        self.left_out.setdefault(why, []).extend(names)

    def note(self) -> str | None:
        """One line that names what was left out and why; None if nothing was."""
        parts = [
            f"{len(names)} {'file' if len(names) == 1 else 'files'} {why} ({shown_list(names, 3)})"
            for why, names in self.left_out.items()
            if names
        ]
        return f"left out: {'; '.join(parts)}" if parts else None


def list_source(path: Path) -> Listing:
    """The files of a folder by their splits; a file is a split "train" by itself.

    A folder may hold files of one kind, which README.md or the names of files and folders divide by the rules of
    `datasets`, or a dataset that was saved with `save_to_disk`.

    Raises:
        UserError: there is no text, or text of several or unknown kinds, or something cannot be read.
    """
    if is_file(path):
        return _list_file(path)
    if is_file(path / "dataset_dict.json") or is_file(path / "state.json"):
        return _list_saved(path)
    return _list_folder(path)


def size_of(path: Path) -> int:
    """Bytes of a file."""
    try:
        return path.stat().st_size
    except OSError as error:
        raise UserError(f"{one_line(path)}: cannot be read ({reason(error)}); correct the path") from None


def _list_file(path: Path) -> Listing:
    check_ending(path)
    if (kind := kind_of(path)) is None:
        raise UserError(f"{one_line(path)}: has an unknown ending; use {', '.join(KINDS)} or .jsonl.gz")
    if size_of(path) == 0:
        raise UserError(f"{one_line(path)}: the file is empty; name a file with stories")
    return Listing(kind, {"train": [path]})


def _list_saved(folder: Path) -> Listing:
    """The files of a saved dataset. Its format and its features do not matter, only what its tables hold."""
    index = folder / "dataset_dict.json"
    if not is_file(index):
        return Listing("arrow", {"train": _saved_files(folder)})
    listing = Listing("arrow")
    for name in _saved_value(index, "splits"):
        split = canonical_split(name)
        listing.splits.setdefault(split, []).extend(_saved_files(folder / name))
    listing.leave_out("of the test split", [str(path.relative_to(folder)) for path in listing.splits.get("test", [])])
    return listing


def _saved_files(folder: Path) -> list[Path]:
    index = folder / "state.json"
    files = []
    for item in _saved_value(index, "_data_files"):
        name = item.get("filename") if isinstance(item, dict) else None
        if not isinstance(name, str) or Path(name).name != name:
            raise _damaged(index, "it names no files")
        if not is_file(folder / name):
            raise _damaged(index, f"{one_line(name, 60)} is missing")
        files.append(folder / name)
    return files


def _saved_value(index: Path, key: str) -> list[Any]:
    """A list in one of the JSON files of a saved dataset."""
    try:
        value = json.loads(index.read_bytes())
    except OSError as error:
        raise _damaged(index, reason(error)) from None
    except (ValueError, RecursionError) as error:
        raise _damaged(index, f"it is not JSON: {reason(error)}") from None
    names = value.get(key) if isinstance(value, dict) else None
    if not isinstance(names, list) or (key == "splits" and not all(_is_plain(name) for name in names)):
        raise _damaged(index, f"it has no list {key!r}")
    return names


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and Path(name).name == name


def _damaged(index: Path, why: str) -> UserError:
    return UserError(
        f"{one_line(index.parent)}: cannot be read as a saved dataset ({index.name}: {one_line(why)}); save it again"
    )


def _list_folder(folder: Path) -> Listing:
    inside, special = _walk(folder)
    listing = Listing()
    listing.leave_out("of no kind that can be read, such as a pipe or a broken link", special)
    kinds: dict[str, str] = {}  # path inside the folder -> kind
    about: list[str] = []
    unknown: list[str] = []
    for name in inside:
        path = Path(name)
        if path.name.lower() in NO_STORIES:
            continue
        check_ending(folder / path)
        if (kind := kind_of(path)) is None or path.stem.lower() in NOT_TEXT:
            (about if path.stem.lower() in NOT_TEXT else unknown).append(name)
        else:
            kinds[name] = kind
    listing.leave_out("about the data", about)
    listing.leave_out("with an unknown ending", unknown)
    if not kinds:
        held = f" (only {shown_list(unknown, 3)})" if unknown else ""
        script = "; a dataset script is never run" if any(name.endswith(".py") for name in unknown) else ""
        raise UserError(
            f"{one_line(folder)}: there are no data files in this folder{held}; "
            f"put {', '.join(KINDS)} files there{script}"
        )
    if len(set(kinds.values())) > 1:
        endings = sorted({next(ending for ending in KINDS if ending in name.lower()) for name in kinds})
        raise UserError(
            f"{one_line(folder)}: {' and '.join(endings)} files are mixed in this folder; "
            "name a file or folder of one kind"
        )
    listing.kind = next(iter(kinds.values()))
    names = sorted(kinds)
    divided = divide_by_card(folder, names) or divide_by_name(names)
    for split, members in divided.items():
        if split in ("train", "validation", "test"):
            # Text files are read in the order of their paths, others in the order in which `datasets` finds them.
            paths = [folder / name for name in members]
            listing.splits[split] = sorted(paths) if listing.kind == "text" else paths
    listing.leave_out("of the test split", divided.get("test", []))
    used = {name for split in listing.splits for name in divided[split]}
    listing.leave_out("of no split", [name for name in names if name not in used])
    return listing


def _walk(folder: Path) -> tuple[list[str], list[str]]:
    """Paths inside a folder, sorted: those of files, and those of what cannot be read, such as pipes.

    Hidden names and, as in `datasets`, folders that begin with "__" are passed over. Links are followed, but not into
    a folder that they lie in.
    """

    seen: set[tuple[int, int]] = set()
    repeats = 0

    def visit(path: Path, inside: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, bool]]:
        nonlocal repeats
        state = path.stat()
        here = (state.st_dev, state.st_ino)
        if here in above:
            return
        repeats += here in seen
        seen.add(here)
        if repeats > MOST_REPEATS:
            raise UserError(f"{one_line(folder)}: its links lead to the same folders again and again; remove some")
        with os.scandir(path) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
        for name in names:
            try:
                mode = (path / name).stat().st_mode
            except OSError:
                if not (path / name).is_symlink():
                    raise
                yield inside + name, False  # a broken link, or one that leads to itself
                continue
            if not stat.S_ISDIR(mode):
                yield inside + name, stat.S_ISREG(mode)
            elif not name.startswith("__"):
                yield from visit(path / name, f"{inside}{name}/", above | {here})

    try:
        found = sorted(visit(folder, "", frozenset()), key=lambda item: Path(item[0]))
    except (OSError, RecursionError) as error:
        where = getattr(error, "filename", None) or folder
        raise UserError(f"{one_line(where)}: cannot be read ({reason(error)}); allow it, or move it away") from None
    return [name for name, regular in found if regular], [name for name, regular in found if not regular]
