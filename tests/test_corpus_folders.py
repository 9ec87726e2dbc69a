"""Folders of text: which files are read for which split, and what is said of the others."""

import json
import os
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_corpus import TALES, read_all, settings, write_text

from lcutils.corpus import prepare_corpus, source_digest
from lcutils.corpus.folders import list_source
from lcutils.errors import UserError

FILE_DIGEST = "fafb056165403c0973d2a2c898e24bdf7355eb1c88562172d858b50e73d6eabc"
BUILT_IN_DIGEST = "c8dc7bc72dfcea47a67b87ed7ade24f0e7ae0cea6c9de7e6d23dbb663883013a"
FORMATS = ["txt", "json", "jsonl", "parquet", "csv", "arrow"]


def write(path: Path, stories: list[str]) -> None:
    """A file of stories in the format of its ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ending = path.suffix.lower()
    if ending == ".txt":
        write_text(path, stories)
    elif ending == ".json":
        path.write_text(json.dumps([{"text": story} for story in stories]))
    elif ending == ".jsonl":
        path.write_text("\n".join(json.dumps({"text": story}) for story in stories))
    elif ending == ".csv":
        path.write_text("\n".join(["text", *(json.dumps(story) for story in stories)]))
    elif ending == ".parquet":
        pq.write_table(pa.table({"text": stories}), path)
    else:
        with pa.ipc.new_file(str(path), pa.schema({"text": pa.string()})) as writer:
            writer.write_table(pa.table({"text": stories}))


def divided(folder: Path) -> dict[str, list[str]]:
    """Files by split, as paths inside the folder."""
    return {
        split: [path.relative_to(folder).as_posix() for path in paths]
        for split, paths in list_source(folder).splits.items()
    }


# layout: path without its ending -> split, None for no split
LAYOUTS = {
    "files": {"train": "train", "valid": "validation", "test": "test"},
    "files in words": {"my-train.1": "train", "my_validation_set": "validation", "x testing 3": "test"},
    "folders": {"training/a": "train", "training/b/c": "train", "dev/a": "validation", "evaluation/a": "test"},
    "shards": {
        "data/train-00000-of-00002": "train",
        "data/train-00001-of-00002": "train",
        "data/test-00000-of-00001": "test",
        "old/more": None,
    },
    "no split in a longer word": dict.fromkeys(
        ["contest", "latest", "trainer", "devil/pretraining", "evaluate"], "train"
    ),
    "a rest beside named files": {"train": "train", "val": "validation", "more": None},
    "a folder of tests in that of training": {"train/a": "train", "train/test/b": "test", "val/c": "validation"},
    "training in a folder of tests": {"train/a": "train", "test/train/b": "test"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ending", ["txt", "parquet"])
def test_files_are_divided_by_their_names(tmp_path, layout, ending):
    for name in LAYOUTS[layout]:
        write(tmp_path / f"{name}.{ending}", TALES)
    expected: dict[str, list[str]] = {}
    for name, split in LAYOUTS[layout].items():
        if split is not None:
            expected.setdefault(split, []).append(f"{name}.{ending}")
    found = divided(tmp_path)
    assert {split: sorted(names) for split, names in found.items()} == {
        split: sorted(names) for split, names in expected.items()
    }


@pytest.mark.parametrize("layout", ["files", "files in words", "folders", "shards"])
def test_the_division_is_that_of_datasets(tmp_path, layout):
    for name in LAYOUTS[layout]:
        write(tmp_path / "in" / f"{name}.jsonl", [f"{name} {i}" for i in range(3)])
    theirs = datasets.load_dataset(str(tmp_path / "in"), cache_dir=str(tmp_path / "cache"))
    ours = read_all(settings(source=str(tmp_path / "in")), tmp_path)
    if "validation" in theirs:
        assert ours == {split: theirs[split]["text"][:] for split in ("train", "validation")}
    else:
        assert ours["train"] + ours["validation"] == theirs["train"]["text"][:]


@pytest.mark.parametrize("ending", FORMATS)
def test_test_text_is_never_trained_on_in_any_format(tmp_path, ending, capsys):
    parts = {"Train": "alpha", "Valid": "beta", "TEST": "gamma"}
    for name, word in parts.items():
        write(tmp_path / "in" / f"{name}.{ending.upper()}", [f"{word} {i}" for i in range(20)])
    splits = read_all(settings(source=str(tmp_path / "in")), tmp_path)
    assert {split: {story.split()[0] for story in stories} for split, stories in splits.items()} == {
        "train": {"alpha"},
        "validation": {"beta"},
    }
    assert f"in: left out: 1 file of the test split (TEST.{ending.upper()})\n" in capsys.readouterr().err


def test_where_no_file_is_named_for_training_the_rest_is(tmp_path):
    for name in ("valid/a.txt", "test.txt", "stories.txt"):
        write(tmp_path / name, TALES)
    assert divided(tmp_path) == {"train": ["stories.txt"], "validation": ["valid/a.txt"], "test": ["test.txt"]}


@pytest.mark.parametrize(("name", "only"), [("test.txt", "test"), ("dev.jsonl", "validation")])
def test_a_folder_without_text_to_train_on_is_refused(tmp_path, name, only):
    write(tmp_path / "in" / name, TALES)
    with pytest.raises(
        UserError, match=rf"^source: .*/in: has no train split, only {only}; rename one of them to train"
    ):
        prepare_corpus(settings(source=str(tmp_path / "in")), tmp_path)


CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: stories/*.jsonl
  - split: val
    path: ["held/a*", held/b.jsonl]
  - split: test
    path: held/t.jsonl
---
# Tales
"""


def test_a_dataset_card_divides_files_before_their_names_do(tmp_path):
    for name in ("stories/test.jsonl", "held/a1.jsonl", "held/b.jsonl", "held/t.jsonl", "train.jsonl"):
        write(tmp_path / name, TALES)
    (tmp_path / "README.md").write_text(CARD)
    assert divided(tmp_path) == {
        "train": ["stories/test.jsonl"],
        "validation": ["held/a1.jsonl", "held/b.jsonl"],
        "test": ["held/t.jsonl"],
    }
    digest = source_digest(settings(source=str(tmp_path)))
    (tmp_path / "README.md").write_text(CARD.replace("stories/*", "train"))
    assert source_digest(settings(source=str(tmp_path))) != digest
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\nNothing about files.")
    assert divided(tmp_path) == {"train": ["train.jsonl"], "test": ["stories/test.jsonl"]}


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("---\nconfigs:\n- [\n---\n", r"README\.md: its configs cannot be read \("),
        ("---\nconfigs: 5\n---\n", r"README\.md: its configs cannot be read \("),
        (
            "---\nconfigs:\n- {config_name: a, data_files: a}\n- {config_name: b, data_files: b}\n---\n",
            r"README\.md: names several configurations \(a, b\), none of them the default; name a file or a folder",
        ),
        ("---\nconfigs:\n- {config_name: a, data_files: gone/*}\n---\n", r"README\.md: no file fits the data_files"),
    ],
)
def test_a_dataset_card_that_cannot_be_used_is_reported(tmp_path, card, message):
    write(tmp_path / "a.jsonl", TALES)
    (tmp_path / "README.md").write_text(card)
    with pytest.raises(UserError, match=message):
        list_source(tmp_path)


def test_files_that_are_left_out_are_named_and_why(tmp_path, capsys):
    folder = tmp_path / "in"
    for name in ("train.txt", "test/a.txt", "notes.txt", ".hidden.txt", "__MACOSX/train.txt", "LICENSE.txt"):
        write(folder / name, TALES)
    for name in ("README.md", "notes.docx", "script.py", ".ipynb_checkpoints"):
        (folder / name).write_text("raise SystemExit")
    os.mkfifo(folder / "pipe.txt")
    (folder / "broken.txt").symlink_to("nowhere")
    log = tmp_path / "log"
    (tmp_path / "out").mkdir()
    prepare_corpus(settings(source=str(folder)), tmp_path / "out", log=log)
    line = next(line for line in log.read_text().splitlines() if "left out" in line)
    assert line.endswith(
        "in: left out: 2 files of no kind that can be read, such as a pipe or a broken link (broken.txt, pipe.txt); "
        "2 files about the data (LICENSE.txt, README.md); 2 files with an unknown ending (notes.docx, script.py); "
        "1 file of the test split (test/a.txt); 1 file of no split (notes.txt)"
    )
    assert line.split(" ", 2)[2] in capsys.readouterr().err


def test_a_dataset_script_is_never_run(tmp_path):
    (tmp_path / "tales").mkdir()
    (tmp_path / "tales" / "tales.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    for name, message in (("tales", "a dataset script is never run"), ("tales/tales.py", "has an unknown ending")):
        with pytest.raises(UserError, match=message):
            prepare_corpus(settings(source=str(tmp_path / name)), tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_hub_dataset_that_is_a_script_is_reported_in_one_line(tmp_path, monkeypatch):
    def load_dataset(name):
        raise RuntimeError("Dataset scripts are no longer supported, but found tales.py\nmore")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UserError, match=r"some/tales: .*scripts are no longer supported, but found tales.py\)"):
        prepare_corpus(settings(source="some/tales"), tmp_path)


def test_links_are_followed_but_not_in_circles(tmp_path):
    folder = tmp_path / "in"
    write(tmp_path / "elsewhere" / "b.txt", TALES)
    write(folder / "a.txt", TALES)
    (folder / "c.txt").symlink_to(folder / "a.txt")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "up").symlink_to(folder)
    (folder / "self").symlink_to("self")
    assert divided(folder) == {"train": ["a.txt", "c.txt", "linked/b.txt"]}
    source_digest(settings(source=str(folder)))
    many = tmp_path / "many"
    for i in range(9):
        (many / f"{i}").mkdir(parents=True)
        for other in range(9):
            (many / f"{i}" / f"to{other}").symlink_to(many / f"{other}")
    with pytest.raises(UserError, match="many: its links lead to the same folders again and again; remove some"):
        list_source(many)


def test_names_of_any_characters_work_and_are_shown_in_one_line(tmp_path):
    folder = tmp_path / "od\udcffd\n[1]*"
    write(folder / "tr\nain\udcfe.txt", TALES)
    assert read_all(settings(source=str(folder)), tmp_path)["train"] == TALES[:38]
    source_digest(settings(source=str(folder)))
    (folder / "b\udcfe.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError) as caught:
        prepare_corpus(settings(source=str(folder / "b\udcfe.parquet")), tmp_path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "name", ["~nobody-here/a.txt", "x" * 300 + ".txt", "/" + "x/" * 3000, "./a\0b.txt", "/dev/null"]
)
def test_names_that_cannot_be_a_path_are_reported_in_one_line(tmp_path, name):
    for check in (source_digest, lambda corpus: prepare_corpus(corpus, tmp_path)):
        with pytest.raises(UserError) as caught:
            check(settings(source=name))
        assert str(caught.value).startswith("source: ")
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 500


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_what_may_not_be_read_is_reported_in_one_line(tmp_path):
    for name in ("file/a.txt", "folder/sub/a.txt"):
        write(tmp_path / name, TALES)
    (tmp_path / "file" / "a.txt").chmod(0)
    (tmp_path / "folder" / "sub").chmod(0)
    try:
        for name, bad in (("file", "a.txt"), ("folder", "sub")):
            for check in (source_digest, lambda corpus: prepare_corpus(corpus, tmp_path)):
                with pytest.raises(UserError, match=f"{bad}: cannot be read .Permission denied"):
                    check(settings(source=str(tmp_path / name)))
    finally:
        (tmp_path / "folder" / "sub").chmod(0o700)


def test_the_digest_follows_where_a_file_lies_in_its_folder(tmp_path):
    for name in ("train/a.jsonl", "train/b.jsonl", "validation/c.jsonl"):
        write(tmp_path / "in" / name, [f"{name} {i}" for i in range(9)])
    digest = source_digest(settings(source=str(tmp_path / "in")))
    (tmp_path / "in").rename(tmp_path / "moved")
    assert source_digest(settings(source=str(tmp_path / "moved"))) == digest
    (tmp_path / "moved" / "train" / "b.jsonl").rename(tmp_path / "moved" / "validation" / "b.jsonl")
    assert source_digest(settings(source=str(tmp_path / "moved"))) != digest


def test_the_digest_of_one_file_stays_where_it_moves(tmp_path):
    write(tmp_path / "a.txt", TALES)
    digest = source_digest(settings(source=str(tmp_path / "a.txt")))
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").rename(tmp_path / "deep" / "a.txt")
    assert source_digest(settings(source=str(tmp_path / "deep" / "a.txt"))) == digest


def test_digests_of_the_built_in_corpus_and_of_one_file_are_what_they_were(tmp_path):
    """Else every corpus that was ever prepared would be made again."""
    (tmp_path / "a.txt").write_text("One.<|endoftext|>Two.")
    assert source_digest(settings(source=str(tmp_path / "a.txt"))) == FILE_DIGEST
    assert source_digest(settings()) == BUILT_IN_DIGEST


def test_only_the_splits_that_are_needed_are_read(tmp_path):
    write(tmp_path / "in" / "train.jsonl", TALES)
    (tmp_path / "in" / "valid.jsonl").write_text("broken")
    write(tmp_path / "own.txt", TALES)
    splits = read_all(settings(source=str(tmp_path / "in"), validation=str(tmp_path / "own.txt")), tmp_path)
    assert splits == {"train": TALES, "validation": TALES}
