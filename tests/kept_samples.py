"""A study of two runs with two points each, swept and exported, and the folder of another machine."""

from __future__ import annotations

import io
import itertools
import json
import lzma
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import TINY

from lcutils.artifacts import MANIFEST, sealed
from lcutils.corpus import stories
from lcutils.pipeline.kept import ARCHIVE, export_points
from lcutils.pipeline.overrides import open_study
from lcutils.pipeline.paths import Workspace
from lcutils.stages import analyze_study, extract_point, measure_point, prepare_data, train_run

SMALL, LARGE = "01x0016_02d", "01x0032_02d"
POINTS = [f"{model}@{k}" for model in (SMALL, LARGE) for k in (0, 1)]
STUDY = TINY.replace("epochs: 1, decay: d, checkpoints: 0", "epochs: 2, decay: d, checkpoints: [0, 1]")


def swept_in(folder: Path) -> Path:
    """Make all of the study in `folder`, on a text in a file, and export it."""
    text = folder / "text.txt"
    text.write_text("<|endoftext|>".join(itertools.islice(stories.stories(7), 80)))
    (folder / "tiny.yaml").write_text(STUDY.replace("source: built-in", f"source: {text}"))
    work = opened(folder)
    prepare_data(work)
    for model in (SMALL, LARGE):
        train_run(work, model)
    for point in work.study.points:
        extract_point(work, *point), measure_point(work, *point)
    analyze_study(work)
    said = export_points(work, folder / "export")
    assert said.endswith(f"/export/{ARCHIVE}: 4 of 4 points, tables of tokens of {LARGE}@1, 0.0 MB")
    return folder


def away_from(swept: Path, folder: Path) -> Path:
    """Make `folder` another machine's: the study and the export, neither text nor outputs."""
    study = (swept / "tiny.yaml").read_text().replace(str(swept), str(folder))
    (folder / "tiny.yaml").write_text(study)
    shutil.copytree(swept / "export", folder / "export")
    return folder


def measured_here(swept: Path, away: Path) -> None:
    """Take the outputs too, and the text from where it is."""
    shutil.copytree(swept / "tiny", away / "tiny")
    shutil.copy(swept / "tiny.yaml", away)


def opened(folder: Path, *overrides: str) -> Workspace:
    return open_study(folder / "tiny.yaml", folder, overrides)


def contents(folder: Path) -> dict[str, bytes]:
    """The files of an archive, by their names in it."""
    with tarfile.open(folder / ARCHIVE) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def rewrite(folder: Path, files: dict[str, bytes]) -> None:
    """Make an archive of other files."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    (folder / "export" / ARCHIVE).write_bytes(lzma.compress(content.getvalue()))


def change_manifests(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change every manifest of an archive, whole again behind it."""
    files = contents(folder / "export")
    for name in [name for name in files if name.endswith(MANIFEST)]:
        manifest = json.loads(files[name])
        del manifest["seal"]
        change(manifest)
        files[name] = json.dumps(sealed(manifest)).encode()
    rewrite(folder, files)
