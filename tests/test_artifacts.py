"""Files are complete or absent; a manifest says what was made from what."""

import os
import subprocess
import time
from dataclasses import replace

import pytest

from lcutils.artifacts import (
    MANIFEST,
    atomic_folder,
    atomic_path,
    claim_folder,
    content_digest,
    git_commit,
    read_manifest,
    write_json,
    write_manifest,
)
from lcutils.errors import UserError
from lcutils.pipeline.jobs import Job


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


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    for process in (ended.pid, os.getppid()):
        (tmp_path / f".f.{process}.part").mkdir()
    with atomic_folder(tmp_path / "f"):
        pass
    assert {p.name for p in tmp_path.iterdir()} == {"f", f".f.{os.getppid()}.part"}


def test_an_unfinished_folder_belongs_to_one_job(tmp_path, monkeypatch):
    folder = tmp_path / "f"
    for job in ({"a": {"b": (1, 2)}}, {"a": {"b": (1, 2)}}):  # claimed, then continued
        claim_folder(folder, job, discard=True)
        (folder / "work").touch()
    assert {path.name for path in folder.iterdir()} == {"job.json", "work"}
    with pytest.raises(UserError, match=r"holds a run with a.b = \[1, 2\], not 3; choose another folder"):
        claim_folder(folder, {"a": {"b": 3}}, discard=False)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):  # killed while it deletes
        patched.setattr("lcutils.artifacts.shutil.rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        claim_folder(folder, {"a": {"b": 3}}, discard=True)
    assert not folder.exists()  # not half of it
    claim_folder(folder, {"a": {"b": 3}}, discard=True)
    assert [path.name for path in folder.iterdir()] == ["job.json"]


def test_files_that_no_job_claimed_are_never_deleted(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="holds files of an unknown job; choose another folder or delete this one"):
        claim_folder(tmp_path, {"a": 1}, discard=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_machine_without_git_has_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert git_commit() is None


def test_manifest_and_staleness(tmp_path):
    job = Job(tmp_path, "01_data", {"a": 1, "b": [1, 2]}, {"data": "x"})
    assert not job.current
    (tmp_path / "result.txt").write_text("1")
    write_manifest(tmp_path, job.parameters, job.inputs, time.monotonic(), {"device": "cpu"})
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert {"parameters", "inputs", "content", "device", "seconds", "written", "commit", "versions"} <= set(manifest)
    assert manifest["versions"]["torch"]
    assert job.current
    assert replace(job, parameters={"a": 2, "b": [1, 2]}).out_of_date == "was made with a = 1, the study says 2"
    assert replace(job, inputs={"data": "y"}).out_of_date == "was made from another data"
    assert replace(job, inputs={"data": "x", "more": "y"}).out_of_date == "was made from another more"
    assert replace(job, inputs={}).out_of_date == "was made from another data"
    assert replace(job, inputs={"data": None}).current  # moved without what it was made from
    assert not replace(job, extra_files=(tmp_path / "results.csv",)).current
    after = Job(tmp_path / "after", "02_train", {}, {}, (replace(job, parameters={}),))
    assert "was made with a = 1" in (after.out_of_date or "")


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
