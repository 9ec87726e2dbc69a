"""Every bad source and tokenizer is reported in one line that names it and the fix."""

import gzip
import json
from pathlib import Path

import datasets
import huggingface_hub.constants
import pytest
from test_corpus import TALES, settings, write_text

from lcutils.corpus import prepare_corpus, source_digest
from lcutils.corpus.tokenization import load_tokenizer
from lcutils.errors import UserError


def broken_tokenizer(folder: Path, files: dict[str, str]) -> str:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    return str(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.txt", None, r"gone\.txt: no such file or folder; correct the path"),
        ("tales.docx", b"text", r"tales\.docx: has an unknown ending; use \.txt, \.json, .* or \.jsonl\.gz"),
        ("tales.txt", b"", r"tales\.txt: the file is empty"),
        ("tales.txt", b" \n<|endoftext|>\n", r"tales\.txt: holds no stories, only white space"),
        ("tales.txt", b"\xff\xfe\x00", r"tales\.txt: is not UTF-8 text"),
        ("tales.txt", b"One story.", r"too few stories \(1\) to cut a validation split from; give more text \(its"),
        ("tales.txt", b"One.<|endoftext|>Two.", r"tales\.txt: the train split \(1 stories, .* fills no block of 8"),
        ("tales.jsonl", b'{"story": "a", "id": 1}', r"there is no column .text.; set text_column to one of story, id"),
        ("tales.jsonl", b'{"text": 5}', r"tales\.jsonl: line 1: column 'text' holds a number, not text"),
        ("tales.jsonl", b'{"text": "a"}\n{"text": "b\n', r"tales\.jsonl: cannot be read \(line 2 is not JSON"),
        ("tales.jsonl", b'{"text": "a"}\n["b"]', r"tales\.jsonl: cannot be read \(line 2 is not a JSON object"),
        ("tales.jsonl", b'{"text": "caf\xe9 "}\n' * 2, r"column 'text' is not UTF-8 text; convert it"),
        ("tales.jsonl", '{"text": "a"}\n'.encode("utf-16"), r"tales\.jsonl: cannot be read \(line 1 is not UTF-8 text"),
        ("tales.jsonl.gz", b'{"text": "a"}', r"cannot be read \(not a complete gzip file: Not a gzipped file"),
        ("tales.jsonl.gz", gzip.compress(b'{"text": "a"}', mtime=0)[:-9], r"not a complete gzip file: Compressed file"),
        ("tales.jsonl.gz", gzip.compress(b"", mtime=0), r"tales\.jsonl\.gz: holds no stories"),
        ("tales.txt.gz", gzip.compress(b"A tale.", mtime=0), r"tales\.txt\.gz: is compressed text; unpack it"),
        ("tales.json", b'[{"text": "a"}, ', r"tales\.json: cannot be read \("),
        ("tales.parquet", b"no parquet", r"tales\.parquet: cannot be read \(Parquet magic bytes not found"),
    ],
)  # fmt: skip
def test_a_bad_source_is_reported_in_one_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        prepare_corpus(settings(source=str(tmp_path / name)), tmp_path)
    assert str(caught.value).startswith(f"source: {tmp_path / name}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "name", "message"),
    [
        ("source", "", r"the name is empty; name a file, a folder or a hub dataset, or use 'built-in'"),
        ("source", "gone.txt", r"gone\.txt: no such file or folder; correct the path, or use 'built-in'"),
        ("validation", " ", r"the name is empty; name a file, a folder or a hub dataset, or leave it out"),
        ("validation", "built-in", r"only source can be 'built-in'; name a file, .* or leave it out"),
        ("ood", "built-in", r"only source can be 'built-in'; name a file, .* or leave it out"),
        ("ood", "gone.txt", r"gone\.txt: no such file or folder; correct the path, or leave it out"),
    ],
)
def test_a_source_that_is_none_is_reported_by_its_key_before_any_work(tmp_path, key, name, message):
    for check in (source_digest, lambda corpus: prepare_corpus(corpus, tmp_path)):
        with pytest.raises(UserError, match=f"^{key}: {message}$"):
            check(settings(**{key: name}))


@pytest.mark.parametrize("key", ["validation", "ood"])
def test_a_message_names_the_key_of_the_text_that_is_wrong(tmp_path, key):
    for content, message in ((b"caf\xe9", "is not UTF-8 text"), (b"One.", f"the {key} split .* fills no block of 8")):
        (tmp_path / "tale.txt").write_bytes(content)
        with pytest.raises(UserError, match=rf"^{key}: .*tale\.txt: {message}"):
            prepare_corpus(settings(max_stories=20, **{key: str(tmp_path / "tale.txt")}), tmp_path)


def test_a_validation_share_that_leaves_no_train_stories_is_to_be_lowered(tmp_path):
    source = write_text(tmp_path / "tales.txt", TALES)
    with pytest.raises(UserError, match=r"too few stories \(40\) .*; lower validation_share, or name a file"):
        prepare_corpus(settings(source=source, validation_share=0.999), tmp_path)


def test_bad_folders_and_splits_are_reported_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: there are no data files in this folder; put \.txt"):
        prepare_corpus(settings(source=str(tmp_path / "empty")), tmp_path)
    (tmp_path / "mixed").mkdir()
    write_text(tmp_path / "mixed" / "a.txt", TALES)
    (tmp_path / "mixed" / "b.json").write_text('[{"text": "A tale."}]')
    with pytest.raises(
        UserError, match=r"mixed: \.json and \.txt files are mixed in this folder; name a file or folder"
    ):
        prepare_corpus(settings(source=str(tmp_path / "mixed")), tmp_path)
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "a.jsonl").write_text('{"text": "A tale."}')
    (tmp_path / "lines" / "b.jsonl").write_text('{"text": "A tale."}\n{"text": ')
    with pytest.raises(UserError, match=r"lines/b\.jsonl: cannot be read \(line 2 is not JSON"):
        prepare_corpus(settings(source=str(tmp_path / "lines")), tmp_path)
    table = datasets.Dataset.from_dict({"text": TALES})
    datasets.DatasetDict(test=table).save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match=r"saved: has no train split, only test; rename one of them to train"):
        prepare_corpus(settings(source=str(tmp_path / "saved")), tmp_path)
    (tmp_path / "saved" / "test" / "state.json").write_text("{}")
    with pytest.raises(UserError, match=r"saved/test: cannot be read as a saved dataset \("):
        prepare_corpus(settings(source=str(tmp_path / "saved")), tmp_path)


def test_an_empty_split_is_reported_in_one_line(tmp_path, monkeypatch):
    table = datasets.Dataset.from_dict({"text": TALES})
    tables = datasets.DatasetDict(train=table, validation=table.select([]))
    monkeypatch.setattr(datasets, "load_dataset", lambda name: tables)
    with pytest.raises(UserError, match=r"^source: some/tales: no stories in the validation split"):
        prepare_corpus(settings(source="some/tales"), tmp_path)


def test_a_hub_out_of_reach_is_reported_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match=r"nobody/tales: is not a file or folder here and cannot be loaded from the hub .*built-in"
    ):
        prepare_corpus(settings(source="nobody/tales"), tmp_path)
    with pytest.raises(UserError, match=r"tokenizer: nobody/bpe is not a folder here and cannot be loaded") as caught:
        prepare_corpus(settings(tokenizer="nobody/bpe"), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", ["100", "256", "many", "", "-5", "4096.5"])
def test_a_bad_bpe_size_is_reported_in_one_line(tmp_path, size):
    with pytest.raises(UserError, match=rf"tokenizer: 'bpe:{size}' has no vocabulary size of at least 257"):
        prepare_corpus(settings(tokenizer=f"bpe:{size}"), tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds neither tokenizer.json nor vocab.json with merges.txt"),
        ({"vocab.json": "{}"}, "holds neither tokenizer.json nor vocab.json with merges.txt"),
        ({"tokenizer.json": "{"}, r"cannot be read \("),
        ({"vocab.json": "{", "merges.txt": ""}, r"cannot be read \("),
    ],
)
def test_a_bad_tokenizer_folder_is_reported_in_one_line(tmp_path, files, message):
    folder = broken_tokenizer(tmp_path / "tok", files)
    with pytest.raises(UserError, match=message) as caught:
        prepare_corpus(settings(tokenizer=folder), tmp_path)
    assert str(caught.value).startswith("tokenizer: ")
    assert "\n" not in str(caught.value)


def test_a_missing_tokenizer_folder_is_reported_in_one_line(tmp_path):
    with pytest.raises(UserError, match="tokenizer: there is no folder .*gone; correct the path"):
        prepare_corpus(settings(tokenizer=str(tmp_path / "gone")), tmp_path)


def test_an_end_of_text_that_the_tokenizer_lacks_is_reported_in_one_line(tmp_path):
    vocab = {chr(i): i for i in range(33, 127)}
    folder = broken_tokenizer(tmp_path / "tok", {"vocab.json": json.dumps(vocab), "merges.txt": "#version: 0.2\n"})
    tokenizer = load_tokenizer(folder)
    tokenizer.eos_token = None
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend["added_tokens"] = []
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "tokenizer.json").write_text(json.dumps(backend))
    with pytest.raises(UserError, match="tokenizer: .*bare has no end-of-text token; set end_of_text: false"):
        prepare_corpus(settings(tokenizer=str(tmp_path / "bare"), end_of_text=True, max_stories=20), tmp_path)
