"""Files are complete or absent; a manifest says what was made from what."""

import time

import pytest

from lcutils.artifacts import (
    MANIFEST,
    atomic_folder,
    atomic_path,
    content_digest,
    is_current,
    read_manifest,
    write_json,
    write_manifest,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as aside:
        aside.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_finished_write_replaces(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_path(path) as aside:
        assert aside.suffix == ".txt"
        assert not path.exists()
        aside.write_text("new")
    assert path.read_text() == "new"


def test_folders_are_complete_or_absent(tmp_path):
    folder = tmp_path / "f"
    with pytest.raises(RuntimeError), atomic_folder(folder) as aside:
        (aside / "half").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    for text in ("first", "second"):
        with atomic_folder(folder) as aside:
            (aside / text).write_text(text)
        assert [p.name for p in folder.iterdir()] == [text]
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_manifest_and_staleness(tmp_path):
    parameters, inputs = {"a": 1, "b": [1, 2]}, {"data": "x"}
    assert not is_current(tmp_path, parameters, inputs)
    (tmp_path / "result.txt").write_text("1")
    manifest = write_manifest(tmp_path, parameters, inputs, time.monotonic(), {"device": "cpu"})
    assert read_manifest(tmp_path) == manifest
    assert {"parameters", "inputs", "content", "device", "seconds", "written", "commit", "versions"} <= set(manifest)
    assert manifest["versions"]["torch"]
    assert is_current(tmp_path, parameters, inputs)
    assert not is_current(tmp_path, parameters | {"a": 2}, inputs)
    assert not is_current(tmp_path, parameters, {"data": "y"})


def test_content_is_names_and_bytes_alone(tmp_path):
    (tmp_path / "a").write_text("1")
    before = content_digest(tmp_path)
    write_json(tmp_path / MANIFEST, {"seconds": 3})
    (tmp_path / ".hidden").write_text("x")
    (tmp_path / "a").touch()
    assert content_digest(tmp_path) == before
    (tmp_path / "a").write_text("2")
    assert content_digest(tmp_path) != before
    (tmp_path / "a").write_text("1")
    (tmp_path / "a").rename(tmp_path / "b")
    assert content_digest(tmp_path) != before
