"""A manifest says what was made from what and whether it is whole; a note says whose unfinished work a folder holds."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from lcutils.errors import UserError
from lcutils.manifests import (
    check_artifact,
    claim_folder,
    damaged_files,
    git_commit,
    read_manifest,
    read_note,
    write_manifest,
)
from lcutils.pipeline.job import Job


def test_an_unfinished_folder_belongs_to_one_job(tmp_path, monkeypatch):
    folder = tmp_path / "f"
    for job in ({"a": {"b": (1, 2)}}, {"a": {"b": (1, 2)}}):  # claimed, then continued
        claim_folder(folder, job, discard=True)
        (folder / "work").touch()
    assert {path.name for path in folder.iterdir()} == {"job.json", "work"}
    with pytest.raises(UserError, match=r"holds a run with a.b = \[1, 2\], not 3; choose another folder"):
        claim_folder(folder, {"a": {"b": 3}}, discard=False)

    def killed(path):
        if path.exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):  # killed while it deletes
        patched.setattr("lcutils.artifacts.shutil.rmtree", lambda path, **_: killed(path))
        claim_folder(folder, {"a": {"b": 3}}, discard=True)
    assert not folder.exists()  # not half of it
    claim_folder(folder, {"a": {"b": 3}}, discard=True)
    assert [path.name for path in folder.iterdir()] == ["job.json"]


@pytest.mark.parametrize("note", [None, b"", b"{", b"null", b"[1]", b"\xff", b'{"a": 1}'])
def test_work_whose_note_is_lost_is_begun_anew_if_all_of_it_is_ours(tmp_path, note):
    folder = tmp_path / "disk"
    folder.mkdir()
    (tmp_path / "f").symlink_to(folder)
    (folder / "state-1").touch()
    if note is not None:
        (folder / "job.json").write_bytes(note)
    with pytest.raises(UserError, match="choose another folder or delete this one"):
        claim_folder(tmp_path / "f", {"a": 2}, discard=False, ours=["state-*"])
    claim_folder(tmp_path / "f", {"a": 2}, discard=True, ours=["state-*"])
    assert (tmp_path / "f").is_symlink()
    assert [path.name for path in folder.iterdir()] == ["job.json"]
    assert read_note(folder) == {"a": 2}


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
    job = replace(job)  # a job is a look at one moment
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
    after = Job(tmp_path / "after", "02_train", {}, {}, (replace(job, parameters={}),))
    assert "was made with a = 1" in (after.out_of_date or "")


def damage_text(path):
    path.write_bytes(path.read_bytes()[:-1] + b"?")


@pytest.mark.parametrize(
    "damage",
    [
        damage_text,
        Path.unlink,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes() + b"x"),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), path.symlink_to("nowhere")),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "sub/b.bin", "../results.csv", "manifest.json"])
def test_every_damage_to_a_file_is_found(tmp_path, name, damage):
    folder = tmp_path / "artifact"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("one")
    (folder / "sub/b.bin").write_bytes(bytes(range(256)))
    (tmp_path / "results.csv").write_text("x\n1\n")
    assert damaged_files(folder) == []  # it is not complete yet
    write_manifest(folder, {}, {}, time.monotonic(), {}, {"../results.csv": tmp_path / "results.csv"})
    assert damaged_files(folder) == []
    damage(folder / name)
    absent = not os.path.lexists(folder / "manifest.json")
    assert damaged_files(folder) == ([] if absent else [name])
    if not absent:
        with pytest.raises(UserError, match=f"{name}: is damaged or missing; run the stage that makes artifact again"):
            check_artifact(folder)
        job = Job(folder, "01_data", {}, {})
        assert job.out_of_date == f"{name} is damaged or missing"
        assert not job.complete
        after = Job(tmp_path / "after", "02_train", {}, {}, (job,))
        assert after.blocked_by is job


@pytest.mark.parametrize("content", ["null", "[]", "{}", '{"files": {}}', "", "\x00", "[" * 100_000])
def test_a_manifest_that_is_none_is_damaged(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    assert read_manifest(tmp_path) is None
    assert damaged_files(tmp_path) == ["manifest.json"]


def test_a_changed_value_breaks_the_seal(tmp_path):
    write_manifest(tmp_path, {"rate": (1, 2.5)}, {"data": "x"}, time.monotonic(), {"device": "cpu"})
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert manifest["parameters"] == {"rate": [1, 2.5]}
    text = (tmp_path / "manifest.json").read_text()
    (tmp_path / "manifest.json").write_text(text.replace("2.5", "2.6"))
    assert damaged_files(tmp_path) == ["manifest.json"]


def test_what_nothing_needs_may_be_missing_but_not_be_wrong(tmp_path):
    (tmp_path / "weights").write_text("1")
    write_manifest(tmp_path, {}, {}, time.monotonic(), {})
    (tmp_path / "weights").write_text("2")
    assert damaged_files(tmp_path, ["weights"]) == ["weights"]
    (tmp_path / "weights").unlink()
    assert damaged_files(tmp_path, ["weights"]) == []
    assert damaged_files(tmp_path) == ["weights"]


def test_files_are_read_once(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("1")
    write_manifest(tmp_path, {}, {}, time.monotonic(), {})
    monkeypatch.setattr("lcutils.artifacts.file_digest", None)
    assert damaged_files(tmp_path) == []
