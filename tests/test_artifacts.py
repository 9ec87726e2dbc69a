"""Files and folders are complete or absent."""

import errno
import hashlib
import os
import subprocess
import time

import pytest
from safetensors import SafetensorError

from lcutils.artifacts import (
    ABANDONED,
    HOST,
    MANIFEST,
    DigestMemory,
    atomic_folder,
    atomic_path,
    check_space,
    content_digest,
    find_sealed,
    remove_leftovers,
    write_json,
    write_sealed,
)
from lcutils.errors import UserError


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
    leftovers = [f".f.{HOST}-{ended.pid}.part", f".f.{HOST}-{ended.pid}.old", f".f.old-machine-{os.getppid()}.part"]
    others = [f".f.{HOST}-{os.getppid()}.part", ".f.another-1.part", ".f.notes", ".git"]
    for name in leftovers + others:
        (tmp_path / name).mkdir()
        (tmp_path / "below" / name).mkdir(parents=True)
    long_ago = time.time() - 2 * ABANDONED
    for folder in (tmp_path, tmp_path / "below"):
        os.utime(folder / leftovers[2], (long_ago, long_ago))
    with atomic_folder(tmp_path / "f"):
        pass
    assert {p.name for p in tmp_path.iterdir()} == {"f", "below", *others}
    remove_leftovers(tmp_path)
    assert {p.name for p in (tmp_path / "below").iterdir()} == set(others)


@pytest.mark.parametrize("ending", ["", ".json"])
def test_leftovers_of_files_are_removed_by_the_next_writer(tmp_path, ending):
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / f".f.{HOST}-{ended.pid}.part{ending}").touch()
    with atomic_path(tmp_path / f"f{ending}") as aside:
        aside.touch()
    assert [p.name for p in tmp_path.iterdir()] == [f"f{ending}"]


def test_links_stay_links(tmp_path):
    (tmp_path / "disk").mkdir()
    for name in ("folder", "new", "file.txt"):  # "new" leads to nothing yet
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
    (tmp_path / "disk/folder").mkdir()
    (tmp_path / "disk/folder/old").touch()
    for name in ("folder", "new"):
        with atomic_folder(tmp_path / name) as aside:
            (aside / "a").touch()
        assert (tmp_path / name).is_symlink()
        assert [p.name for p in (tmp_path / "disk" / name).iterdir()] == ["a"]
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    write_json(tmp_path / "circle", 1)
    assert (tmp_path / "circle").read_text() == "1\n"
    write_json(tmp_path / "file.txt", 1)
    assert (tmp_path / "file.txt").is_symlink()
    assert (tmp_path / "disk/file.txt").read_text() == "1\n"
    assert {p.name for p in (tmp_path / "disk").iterdir()} == {"folder", "new", "file.txt"}


def test_whatever_lies_in_the_place_is_replaced(tmp_path):
    (tmp_path / "folder").write_text("a file")
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "inside").touch()
    with atomic_folder(tmp_path / "folder") as aside:
        (aside / "a").touch()
    write_json(tmp_path / "file", 1)
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["a"]
    assert (tmp_path / "file").read_text() == "1\n"
    assert {p.name for p in tmp_path.iterdir()} == {"folder", "file"}


def test_names_as_long_as_a_file_system_allows(tmp_path):
    name = "n" * 255
    write_json(tmp_path / name, 1)
    with atomic_folder(tmp_path / ("f" * 255)):
        pass
    assert len(list(tmp_path.iterdir())) == 2


ENOSPC = OSError(errno.ENOSPC, "No space left on device")
TOFILE = OSError("13408 requested and 12052 written")  # numpy's, without a number
DATASETS = OSError("Not enough disk space. Needed: Unknown size (download: Unknown size, generated: Unknown size)")
OLD_RUST = SafetensorError("Error while serializing: I/O error: File too large (os error 27)")
RUST = SafetensorError('Error while serializing: I/O error: Os { code: 28, kind: StorageFull, message: "No space" }')


@pytest.mark.parametrize(
    "error",
    [ENOSPC, RUST, OLD_RUST, TOFILE, DATASETS, OSError(errno.EDQUOT, "Quota"), OSError(errno.EFBIG, "Too large")],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_is_one_line(tmp_path, error, wrapped):
    message = r"a\.bin: the disk is full or a limit is reached \(.*B free\); make room or name"
    with pytest.raises(UserError, match=message), atomic_path(tmp_path / "a.bin"):
        if wrapped:
            raise RuntimeError("by a library") from error
        raise error
    assert not list(tmp_path.iterdir())
    with pytest.raises(PermissionError), atomic_path(tmp_path / "a.bin"):  # other errors stay what they are
        raise PermissionError(errno.EACCES, "no")


def test_room_is_asked_for_before_the_work(tmp_path):
    check_space(tmp_path / "not/yet/there", 1)
    with pytest.raises(UserError, match=r"there: needs 1,000,000,000\.0 GB, but the disk is full .*; make room"):
        check_space(tmp_path / "not/yet/there", 10**18)


def test_a_sealed_file_is_whole_and_its_jobs_own(tmp_path):
    def write(path):
        path.write_bytes(b"12345678")

    for number in (1, 2):
        write_sealed(tmp_path, f"state-{number}.bin", write, job="a", replaces="state-*")
    (only,) = tmp_path.iterdir()
    assert only.name.startswith("state-2-")
    assert find_sealed(tmp_path, "state-*", job="a") == (only, [])
    assert find_sealed(tmp_path, "state-*", job="b") == (None, [only])
    content = only.read_bytes()
    for damage in (content[:-1], b"", content + b"x", b"X" + content[1:]):
        only.write_bytes(damage)
        assert find_sealed(tmp_path, "state-*", job="a") == (None, [only])
    only.unlink()
    only.mkdir()
    assert find_sealed(tmp_path, "state-*", job="a") == (None, [only])


def test_digests_are_remembered_as_long_as_the_file_stays(tmp_path, monkeypatch):
    file, memory = tmp_path / "a.bin", tmp_path / ".memory"
    file.write_bytes(b"1")
    first = DigestMemory(memory)
    digest = first.digest(file)
    first.save()
    assert digest == hashlib.sha256(b"1").hexdigest()
    with monkeypatch.context() as patched:
        patched.setattr("lcutils.artifacts.file_digest", None)  # nothing is read
        assert DigestMemory(memory).digest(file) == digest
    file.write_bytes(b"2")
    assert DigestMemory(memory).digest(file) == hashlib.sha256(b"2").hexdigest()
    second = DigestMemory(memory)
    second.digest(file)
    second.save()
    memory.write_text(memory.read_text().replace(second.digest(file)[:8], "00000000"))
    assert DigestMemory(memory).digest(file) == hashlib.sha256(b"2").hexdigest()  # it is not believed
    for damaged in ("", "null", "[]", f'{{"{file}": 1}}', f'{{"{file}": [1]}}', f'{{"{file}": [1, 2, 3, 4, 5]}}'):
        memory.write_text(damaged)
        assert DigestMemory(memory).digest(file) == hashlib.sha256(b"2").hexdigest()


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
