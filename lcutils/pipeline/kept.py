"""Finished points as one small file that git keeps: `lcutils export` writes it, `lcutils import` reads it.

Rows, tables and manifests of every finished point, without weights, statistics and most tables of tokens. After an
import a sweep makes nothing of these points again, on whatever machine, and several sittings add up.
"""

from __future__ import annotations

import io
import json
import lzma
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lcutils.artifacts import FULL, MANIFEST, atomic_folder, atomic_path, explain_full_disk, sealed, write_sealed_json
from lcutils.errors import UserError, first_line
from lcutils.manifests import read_manifest
from lcutils.parameters import resolve_path
from lcutils.pipeline.carried import KEPT, MADE_FROM, another_input, carries_origin, made_from
from lcutils.pipeline.job import Job, alone
from lcutils.pipeline.jobs import all_jobs
from lcutils.pipeline.paths import Workspace
from lcutils.runs import TrainedRun
from lcutils.text import one_line

ARCHIVE = "points.tar.xz"
TOKENS = "tokens.parquet"  # the table of tokens, larger than all else of a row
LEFT_OUT = "left_out"  # in a manifest: files of the row that did not come along
MEMBER = re.compile(r"measurements/[^/.][^/]*/[^/.][^/]*")  # a file of a row


def export_points(work: Workspace, folder: str | Path, tokens: Sequence[str] | None = None) -> str:
    """Write all finished points of a study into `points.tar.xz`; returns a line that says what it holds.

    The same points give the same bytes, and a file that holds them already is not touched.

    Args:
        work: the study.
        folder: where the file goes.
        tokens: the points whose tables of tokens are kept, as "model@checkpoint". If None, that of the largest model,
            trained longest, and those that were imported or that the file holds.

    Raises:
        UserError: nothing is finished, a table of tokens is not there, or the file holds points that this study's
            folder does not have and that would be lost.
    """
    rows = {name.partition("/")[2]: job for name, job in all_jobs(work).items() if job.stage == "measure"}
    rows = {point: job for point, job in rows.items() if job.current}
    if not rows:
        raise UserError(f"{work.display(work.folder)}: no point is finished; nothing is exported")
    archive = resolve_path(folder) / ARCHIVE
    held = _held(archive)
    with_tokens = _points_with_tokens(work, rows, tokens, held)
    _expect_no_loss(work, archive, rows, held, with_tokens if tokens is None else None)
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for point, row in sorted(rows.items()):
            for name, data in sorted(_files_of(row, point in with_tokens).items()):
                entry = tarfile.TarInfo(f"measurements/{point}/{name}")  # no time, no owner
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    if not _holds(archive, content.getvalue()):
        with atomic_path(archive) as aside:
            aside.write_bytes(lzma.compress(content.getvalue(), preset=9 | lzma.PRESET_EXTREME))
    said = f"{len(rows)} of {len(work.study.points)} points, tables of tokens of {', '.join(with_tokens) or 'none'}"
    return f"{work.display(archive)}: {said}, {archive.stat().st_size / 1e6:.1f} MB"


def _points_with_tokens(
    work: Workspace, rows: Mapping[str, Job], asked: Sequence[str] | None, held: Mapping[str, Sequence[str]]
) -> list[str]:
    """The points whose tables of tokens are exported: those asked for, or the largest model's and those kept before."""
    there = [point for point, row in rows.items() if (row.folder / TOKENS).is_file()]
    if asked is None:
        before = {point for point in there if rows[point].kept or TOKENS in held.get(point, ())}
        values = {point: json.loads((rows[point].folder / "row.json").read_text()) for point in there}
        return sorted(before | {longest_trained(values)}) if there else []
    for point in asked:
        if point not in there:
            why = "has no table of tokens here" if point in rows else "is no finished point of this study"
            raise UserError(f"tokens: {one_line(point)} {why}; see lcutils list {work.study.name}")
    return sorted(set(asked))


def longest_trained(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The point of the largest model that was trained longest, by its row: at its last checkpoint, with less decay."""

    def order(point: str) -> tuple[float | str, ...]:
        size, epochs, checkpoint, decay = (
            rows[point][key] or 0 for key in ("n_params", "epochs", "checkpoint", "weight_decay")
        )  # of pretrained models some are not known
        return -size, -epochs, -checkpoint, decay, point

    return min(rows, key=order)


def _files_of(row: Job, with_tokens: bool) -> dict[str, bytes]:
    """A row's files as they are exported, its manifest among them, which names those that are left out."""
    manifest = {key: value for key, value in (read_manifest(row.folder) or {}).items() if key != KEPT}
    kept = {name: entry for name, entry in manifest["files"].items() if with_tokens or name != TOKENS}
    left_out = {name: entry for name, entry in manifest["files"].items() if name not in kept}
    manifest |= {"files": kept, LEFT_OUT: manifest.get(LEFT_OUT, {}) | left_out}
    if not row.kept and not manifest.get(MADE_FROM):
        manifest[MADE_FROM] = made_from(row)
    files = {name: (row.folder / name).read_bytes() for name in kept}
    return files | {MANIFEST: json.dumps(sealed(manifest), indent=1).encode() + b"\n"}


def _held(archive: Path) -> dict[str, list[str]]:
    """The points that an archive holds, and the names of their files; empty if there is none yet."""
    if not archive.is_file():
        return {}
    with _unpacked(archive) as folder:
        return {path.name: [file.name for file in path.iterdir()] for path in (folder / "measurements").iterdir()}


def _expect_no_loss(
    work: Workspace,
    archive: Path,
    rows: Mapping[str, Job],
    held: Mapping[str, Sequence[str]],
    with_tokens: Sequence[str] | None,
) -> None:
    """Refuse to write over points, and tables that nobody asked to leave out, that would then be nowhere."""
    if lost := sorted(held.keys() - rows.keys()):
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise UserError(
            f"{work.display(archive)}: holds {one_line(lost[0])}{more}, not finished in {work.display(work.folder)}; "
            "import it first, or delete it"
        )
    tables = {point for point, files in held.items() if TOKENS in files}
    if with_tokens is not None and (lost := sorted(tables.difference(with_tokens))):
        raise UserError(
            f"{work.display(archive)}: holds the table of tokens of {one_line(lost[0])}, which is not in "
            f"{work.display(work.folder)}; import it first, or name the tables to keep: --tokens"
        )


def _holds(archive: Path, content: bytes) -> bool:
    """True if an archive's content is this: another release of the compressor may write it in other bytes."""
    try:
        with lzma.open(archive) as file:
            return file.read() == content
    except (OSError, lzma.LZMAError, EOFError):
        return False


def import_points(work: Workspace, source: str | Path) -> str:
    """Put exported points into a study's outputs, where they are finished; returns lines that say what was done.

    All are verified before the first one is put there. One that is finished there stays as it is, but for a table of
    tokens that was left out of it before.

    Args:
        work: the study.
        source: an archive, or the folder that `points.tar.xz` lies in.

    Raises:
        UserError: the archive is damaged, or holds a point of another study, or from another text.
    """
    with kept_points(work, source) as (archive, there):
        for point, row in there.items():
            if why := row.out_of_date:
                fix = "name that one" if another_input(row) else "name the study that it was exported from"
                raise UserError(f"{one_line(archive, 200)}: {one_line(point)} {why}; {fix}")
        here = _jobs_by_folder(work)
        new = [point for point in there if not here[point].current or _lacks_table(here[point], there[point])]
        for point in new:
            with alone(here[point]), atomic_folder(here[point].folder) as aside:
                for path in there[point].folder.glob("[!.]*"):
                    shutil.copyfile(path, aside / path.name)
        unknown = sum(not carries_origin(there[point]) for point in new)
    return _describe_import(work, len(new), len(there), unknown)


def _lacks_table(here: Job, there: Job) -> bool:
    """True if a row was kept here without its table of tokens, and there is the same one with it."""
    left_out = (read_manifest(here.folder) or {}).get(LEFT_OUT, {}).get(TOKENS)
    return left_out is not None and left_out == (read_manifest(there.folder) or {})["files"].get(TOKENS)


@contextmanager
def kept_points(work: Workspace, source: str | Path) -> Iterator[tuple[Path, dict[str, Job]]]:
    """Yield the path of an archive, and its points, unpacked until the end: jobs of the study, by "model@checkpoint".

    They are whole. Whether this study would make them so, from its text, is not asked (`Job.out_of_date`).

    Args:
        work: the study.
        source: an archive, or the folder that `points.tar.xz` lies in.

    Raises:
        UserError: the archive is damaged, or holds a point that is not of this study.
    """
    given = resolve_path(source)
    archive = given / ARCHIVE if given.is_dir() else given
    if not archive.is_file():
        raise UserError(f"{one_line(archive, 200)}: there is no such file; name an archive, or its folder")
    with _unpacked(archive) as folder:
        names = sorted(path.name for path in (folder / "measurements").iterdir())
        known = {f"{model}@{k}": (model, k) for model, k in work.study.points}
        for name in names:
            if name not in known:
                fix = "name the study that it was exported from"
                raise UserError(f"{archive}: {one_line(name)} is no point of study {work.study.name}; {fix}")
            manifest = read_manifest(folder / "measurements" / name)
            if manifest is not None:
                write_sealed_json(folder / "measurements" / name / MANIFEST, manifest | {KEPT: True})
        there = _jobs_by_folder(replace(work, folder=folder))
        for name in names:
            _expect_whole(work, f"{one_line(archive, 200)}: {one_line(name)}", known[name], there[name])
        yield archive, {name: there[name] for name in names}


def _jobs_by_folder(work: Workspace) -> dict[str, Job]:
    """The rows' jobs of a study by their folders' names."""
    return {job.folder.name: job for job in all_jobs(work).values() if job.stage == "measure"}


def _expect_whole(work: Workspace, where: str, point: tuple[str, int], row: Job) -> None:
    """Refuse a point that is not whole, or whose row is of another model or checkpoint."""
    if not row.complete:
        raise UserError(f"{where}: {(row.damaged or [MANIFEST])[0]} is damaged or missing; restore the file")
    values = json.loads((row.folder / "row.json").read_text())
    model, checkpoint = point
    run = work.study.run(model)
    asked: dict[str, Any] = {"model": model, "checkpoint": checkpoint}
    if isinstance(run, TrainedRun):
        asked |= {"depth": run.depth, "width": run.width}
        asked |= {key: getattr(run.recipe, key) for key in ("epochs", "weight_decay", "seed")}
    for key, value in asked.items():
        if values.get(key) != value:
            raise UserError(f"{where}: row.json says {key} = {one_line(values.get(key))}, the study says {value}")


def _describe_import(work: Workspace, new: int, all_points: int, unknown: int) -> str:
    lines = [f"{new} of {all_points} points are kept in {work.display(work.folder)}"]
    lines[0] += "; the others were finished there and stay as they are" if new < all_points else ""
    if unknown:
        lines += [
            f"where {unknown} of them come from is not known: their manifests name neither text nor training nor "
            "extraction; the parameters that they do name are the study's"
        ]
    left = sum(not row.current for row in _jobs_by_folder(work).values())
    lines += [f"{left} of {len(work.study.points)} points are left to make: lcutils sweep {work.study.name}"]
    return "\n".join(lines)


@contextmanager
def _unpacked(archive: Path) -> Iterator[Path]:
    """Yield a temporary folder with an archive's rows, its digests not yet verified; a `UserError` if it is damaged."""
    with TemporaryDirectory(prefix="lcutils-") as name, explain_full_disk(Path(name)):
        folder = Path(name)
        (folder / "measurements").mkdir()
        try:
            with tarfile.open(archive) as tar:
                for member in tar:
                    _unpack(tar, member, folder)
        except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            raise UserError(f"{one_line(archive, 200)}: is damaged ({first_line(error)}); restore it") from error
        yield folder


def _unpack(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    if member.isdir():
        return
    if not member.isreg() or not MEMBER.fullmatch(member.name):
        raise tarfile.TarError(f"{member.name} is no file of a row")
    path, content = folder / member.name, tar.extractfile(member)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.read() if content else b"")
