"""What disks and people do to one file: `damage` does one of these things at random, and says what it did."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from study import NAME, NOWHERE

from lcutils.artifacts import MANIFEST


def file_class(place: str) -> str:
    """The class of a file of a study by its place: runs, points, figures and tables are alike."""
    place = re.sub(r"\d+x\d+_\w+|theirs", "*", place)
    place = re.sub(r"(checkpoint-|@|statistics-)\d+", r"\1*", place)
    return re.sub(r"^(notebooks|logs|\.current|\.snakemake/[^/]*|analysis/figures|analysis/tables)/.*", r"\1/…", place)


def files_by_class(folder: Path) -> dict[str, list[Path]]:
    """All files of a study, by class."""
    classes: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            classes.setdefault(file_class(path.relative_to(folder).as_posix()), []).append(path)
    return classes


def damage(path: Path, others: list[Path], random: Random) -> str:
    """Damage one file, and say how. `others` are the files of its class. Half of the time its time stays as it was."""
    before, state = path.read_bytes(), path.stat()
    kinds = list(KINDS)
    random.shuffle(kinds)
    for kind in kinds:
        if KINDS[kind](path, [other for other in others if other != path], random) and not _same(path, before):
            if random.random() < 0.5 and path.exists():
                os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
                return f"{kind}, time kept"
            return kind
    raise ValueError(f"{path}: cannot be damaged")


def _same(path: Path, before: bytes) -> bool:
    return path.is_file() and os.access(path, os.R_OK) and path.read_bytes() == before


# Each does one thing to `path`, and returns whether it could.
Damage = Callable[[Path, list[Path], Random], bool]


def _written(change: Callable[[bytearray, Random], bytes | bytearray]) -> Damage:
    """A damage that changes a file's bytes."""

    def do(path: Path, others: list[Path], random: Random) -> bool:
        path.write_bytes(change(bytearray(path.read_bytes()), random))
        return True

    return do


def _flip_bit(content: bytearray, random: Random) -> bytearray:
    if content:
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    return content


def _overwrite_byte(content: bytearray, random: Random) -> bytearray:
    if content:
        content[random.randrange(len(content))] = random.randrange(256)
    return content


def _zero_block(content: bytearray, random: Random) -> bytearray:
    """Zeros in place of 512 bytes, as of a disk's lost sector."""
    begin = random.randrange(max(1, len(content)))
    stop = min(len(content), begin + 512)
    content[begin:stop] = bytes(stop - begin)
    return content


def _insert_lines(content: bytearray, random: Random) -> bytearray:
    """The marks of a merge that was not resolved."""
    place = random.randrange(len(content) + 1)
    content[place:place] = b"\n<<<<<<< HEAD\n"
    return content


def _remove(path: Path, others: list[Path], random: Random) -> bool:
    path.unlink()
    return True


def _become_folder(path: Path, others: list[Path], random: Random) -> bool:
    path.unlink()
    path.mkdir()
    if random.random() < 0.5:
        (path / "inside").write_text("x")
    return True


def _dangle(path: Path, others: list[Path], random: Random) -> bool:
    path.unlink()
    path.symlink_to(NOWHERE if random.random() < 0.7 else path.name)
    return True


def _forbid(path: Path, others: list[Path], random: Random) -> bool:
    if os.geteuid() == 0:  # root reads everything
        return False
    path.chmod(0)
    return True


def _other_file(path: Path, others: list[Path], random: Random) -> bool:
    if others:
        shutil.copyfile(random.choice(others), path)
    return bool(others)


def _swap(path: Path, others: list[Path], random: Random) -> bool:
    if others:
        other = random.choice(others)
        aside = path.with_name("aside")
        path.rename(aside), other.rename(path), aside.rename(other)
    return bool(others)


def _json_of(text: str) -> Damage:
    def do(path: Path, others: list[Path], random: Random) -> bool:
        if path.suffix in (".json", ".ipynb"):
            path.write_text(text)
        return path.suffix in (".json", ".ipynb")

    return do


def _change_json(path: Path, others: list[Path], random: Random) -> bool:
    """Valid JSON with one number changed, one key gone, or one text another."""
    if path.suffix != ".json":
        return False
    value = json.loads(path.read_text())
    places = list(_leaves(value))
    if not places:
        return False
    holder, key = random.choice(places)
    if isinstance(holder[key], bool) or holder[key] is None or random.random() < 0.2:
        del holder[key]
    elif isinstance(holder[key], str):
        holder[key] += "x"
    else:
        holder[key] = random.choice((holder[key] + 1, -holder[key], holder[key] * 10, str(holder[key]), 1e400))
    path.write_text(json.dumps(value, indent=1) + "\n")
    return True


def _leaves(value: Any) -> Any:
    """Yield (list or mapping, key) of everything in a JSON value that holds no more."""
    for key, inside in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        if isinstance(inside, dict | list):
            yield from _leaves(inside)
        else:
            yield value, key


def _change_number(path: Path, others: list[Path], random: Random) -> bool:
    """Another digit in a number of a table or a log."""
    if path.suffix not in (".csv", ".jsonl"):
        return False
    text = path.read_text()
    digits = [match.start() for match in re.finditer(r"\d", text)]
    place = random.choice(digits)
    path.write_text(text[:place] + str((int(text[place]) + random.randrange(1, 10)) % 10) + text[place + 1 :])
    return True


def _drop_line(path: Path, others: list[Path], random: Random) -> bool:
    if path.suffix not in (".csv", ".jsonl"):
        return False
    lines = path.read_text().splitlines(keepends=True)
    del lines[random.randrange(len(lines))]
    path.write_text("".join(lines))
    return True


KINDS: dict[str, Damage] = {
    "deleted": _remove,
    "emptied": _written(lambda content, _: b""),
    "cut in half": _written(lambda content, _: content[: len(content) // 2]),
    "last byte cut": _written(lambda content, _: content[:-1]),
    "one bit flipped": _written(_flip_bit),
    "one byte changed": _written(_overwrite_byte),
    "bytes appended": _written(lambda content, random: content + random.randbytes(random.choice((1, 7, 4096)))),
    "zeros of the same size": _written(lambda content, _: bytes(len(content))),
    "a sector of zeros": _written(_zero_block),
    "noise": _written(lambda content, random: random.randbytes(len(content) or 9)),
    "a merge's marks": _written(_insert_lines),
    "a folder": _become_folder,
    "a dangling link": _dangle,
    "not readable": _forbid,
    "another file of its kind": _other_file,
    "two files swapped": _swap,
    "null": _json_of("null"),
    "[]": _json_of("[]"),
    "{}": _json_of("{}"),
    "a value changed": _change_json,
    "a digit changed": _change_number,
    "a line lost": _drop_line,
}


def names(text: str, path: Path) -> bool:
    """True if a message names the file: by its place in the study, or its name and its folder's.

    Of a manifest the folder is enough: with the manifest of another artifact, the other files seem to be the damaged.
    """
    place = path.as_posix().rpartition(f"/{NAME}/")[2]
    return place in text or (path.parent.name in text and (path.name in text or path.name == MANIFEST))
