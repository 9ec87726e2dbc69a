"""Only the column of text decides: what other columns hold, and how files are written, does not matter."""

import gzip
import json
import re
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_corpus import TALES, read_all, settings

from lcutils.corpus import prepare_corpus
from lcutils.errors import UserError

LINES = [json.dumps({"text": tale}) for tale in TALES]
SPLIT = {"train": TALES[:38], "validation": TALES[38:]}


def read(path: Path) -> dict[str, list[str]]:
    return read_all(settings(source=str(path)), path.parent)


OTHERS = {
    "numbers and text": [i if i % 2 else str(i) for i in range(40)],
    "objects and lists": [{"a": [i]} if i % 2 else [i, None] for i in range(40)],
    "null but for the last": [None] * 39 + ["checked"],
    "not a number": [float("nan")] * 40,
    "an object with the same name": [{"text": i} for i in range(40)],
    "dates": ["2020-01-01"] * 40,
    "huge numbers": [10**400] * 40,
}


@pytest.mark.parametrize("other", OTHERS)
def test_other_values_of_json_may_be_anything(tmp_path, other):
    rows = [{"note": note, "text": tale} for note, tale in zip(OTHERS[other], TALES, strict=True)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1))
    assert read(tmp_path / "a.jsonl") == SPLIT
    assert read(tmp_path / "a.json") == SPLIT


FORMS = {
    "byte order mark": b"\xef\xbb\xbf" + "\n".join(LINES).encode(),
    "CRLF and blank lines": "\r\n\r\n".join(LINES).encode(),
    "objects behind each other": " ".join(LINES).encode(),
    "objects over several lines": "\n".join(json.dumps({"text": tale}, indent=2) for tale in TALES).encode(),
    "a list": json.dumps([{"text": tale} for tale in TALES]).encode(),
    "a list over several lines": json.dumps([{"text": tale} for tale in TALES], indent=2).encode(),
    "a list of texts": json.dumps(TALES).encode(),
    "bytes that are not UTF-8 in another column": b"\n".join(
        b'{"n": "\xff\xfe", ' + line[1:].encode() for line in LINES
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_json(tmp_path, form):
    for name in ("a.json", "a.jsonl"):
        (tmp_path / name).write_bytes(FORMS[form])
        assert read(tmp_path / name) == SPLIT
    (tmp_path / "a.JSONL.GZ").write_bytes(gzip.compress(FORMS[form]))
    assert read(tmp_path / "a.JSONL.GZ") == SPLIT


def test_characters_of_json_come_through(tmp_path):
    tales = [f"{i} \u2028 \x85 \t \0 é 😀 \x7f\ufeff" for i in range(8)]
    (tmp_path / "a.jsonl").write_text(
        "\n".join(json.dumps({"text": tale}, ensure_ascii=bool(i % 2)) for i, tale in enumerate(tales))
    )
    splits = read(tmp_path / "a.jsonl")
    assert splits["train"] + splits["validation"] == tales


KINDS = {
    "large": pa.large_string(),
    "view": pa.string_view(),
    "dictionary": pa.dictionary(pa.int8(), pa.string()),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["parquet", "stream", "file"])
def test_kinds_of_text_in_tables_and_of_other_columns(tmp_path, kind, form):
    table = pa.table(
        {
            "text.more": pa.array([{"text": "inside"}] * 40),
            "headers": pa.array([[("a", "b")]] * 40, pa.map_(pa.string(), pa.string())),
            "text": pa.array(TALES).cast(KINDS[kind]),
            "raw": pa.array([b"\xff"] * 40),
        }
    )
    path = tmp_path / ("a.Parquet" if form == "parquet" else "a.ARROW")
    if form == "parquet":
        pq.write_table(table, path, row_group_size=7)
    else:
        with (pa.ipc.new_stream if form == "stream" else pa.ipc.new_file)(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=9)
    assert read(path) == SPLIT


def test_shards_may_have_different_columns(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    pq.write_table(pa.table({"text": TALES[:20]}), folder / "a.parquet")
    pq.write_table(pa.table({"licence": [1] * 20, "text": TALES[20:]}), folder / "b.parquet")
    assert read(folder) == SPLIT


@pytest.mark.parametrize("columns", [None, ["label"]])
@pytest.mark.parametrize("kind", ["numpy", "torch", "arrow", "pandas"])
def test_a_saved_dataset_may_have_a_format(tmp_path, kind, columns):
    table = datasets.Dataset.from_dict({"text": TALES, "label": list(range(40))})
    table.with_format(kind, columns=columns).save_to_disk(tmp_path / "one", num_shards=3)
    assert read(tmp_path / "one") == SPLIT
    both = datasets.DatasetDict(train=table, val=table.select(range(3)), test=table)
    both.set_format(kind, columns=columns)
    both.save_to_disk(tmp_path / "both")
    assert read(tmp_path / "both") == {"train": TALES, "validation": TALES[:3]}


def test_columns_of_csv(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbfid,text,raw\r\n1,"a, ""b""\nc",\xff\r\n2,NA,x\r\n3,d,y,,\r\n4,1e5,z\r\n')
    splits = read(path)
    assert splits["train"] + splits["validation"] == [
        'a, "b"\nc',
        None,
        "d",
        "1e5",
    ]  # as pandas reads it: NA is missing


EMOJI = '{"text": "cut \\ud83d off"}'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"null", r"a\.json: cannot be read \(line 1 is not a JSON object\)"),
        ("a.json", b"\n\n[null]", r"item 1 is not a JSON object"),
        ("a.json", b"[]", r"holds no stories;"),
        ("a.json", b"3", r"line 1 is not a JSON object"),
        ("a.json", b'{"data": [{"text": "a"}]}', r"there is no column 'text'; set text_column to one of data"),
        ("a.json", b'{"text": ["a", "b"]}', r"line 1: column 'text' holds a list, not text; set text_column to"),
        ("a.json", b'[{"text": "a"},\n{"text": "b"},]', r"line 2 is not JSON"),
        ("a.json", b"[" * 100_000, r"line 1 is nested too deeply"),
        ("a.json", b'["a", {"text": 3}]', r"item 2: column 'text' holds a number, not text"),
        ("a.jsonl", b'{"text": "a"},\n', r"line 1 is not JSON: "),
        ("a.jsonl", f"{LINES[0]}\n\n{EMOJI}".encode(), r"line 3: column 'text' holds half a character \('\\ud83d'\)"),
        ("a.jsonl", b'{"text": "a", "text": "b"}', r"line 1: column 'text' is given twice"),
        ("a.jsonl", b'{"text": NaN}', r"line 1: column 'text' holds a number"),
        ("a.jsonl", b'{"text": {"text": "a"}}', r"line 1: column 'text' holds an object"),
        ("a.jsonl", b'{"text": null}\n' * 9, r"holds no stories, only rows without text"),
        ("a.jsonl", b"{}\n" * 9, r"there is no column 'text'; there are no columns at all"),
        ("a.jsonl", b"\0" * 99, r"line 1 is not JSON"),
        ("a.jsonl", "\n".join(LINES).encode("utf-16"), r"line 1 is not UTF-8 text"),
        ("a.jsonl.gz", gzip.compress("\n".join([*LINES, EMOJI]).encode()), r"line 41: column 'text' holds half"),
        ("a.txt", "A tale.".encode("utf-16-le"), r"looks like UTF-16; convert it to UTF-8"),
        ("a.csv", b"text\n1\n2\n", r"column 'text' holds numbers, not text"),
        ("a.csv", b"text,text\na,b\n", r"there are 2 columns 'text'; keep one"),
        ("a.csv", b"text\na\n\xff\n", r"row 2: column 'text' is not UTF-8 text"),
        ("a.csv", b'text\n"open', r"cannot be read \(.*EOF inside string"),
        ("a.csv", b"a,b\n1,2\n", r"there is no column 'text'; set text_column to one of a, b"),
        ("a.csv", b"\n", r"cannot be read \("),
        ("a.arrow", b"ARROW1\0\0", r"a\.arrow: cannot be read \("),
        ("a.jsonl.zst", b"x", r"a\.jsonl\.zst: is compressed text; unpack it"),
        ("a.txt.XZ", b"x", r"is compressed text; unpack it"),
        ("a.zip", b"x", r"has an unknown ending"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_reported_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        prepare_corpus(settings(source=str(tmp_path / name)), tmp_path)
    assert str(caught.value).startswith(f"source: {tmp_path / name}: ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    assert [path.name for path in tmp_path.iterdir()] == [name]  # no half-made tables


@pytest.mark.parametrize("ending", ["txt", "json", "jsonl", "jsonl.gz", "parquet", "csv", "arrow"])
def test_a_pointer_to_a_large_file_is_told_from_the_file(tmp_path, ending):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
    (tmp_path / f"a.{ending}").write_bytes(pointer)
    with pytest.raises(UserError, match=r"is a Git LFS pointer, not the file itself; get it with git lfs pull"):
        prepare_corpus(settings(source=str(tmp_path / f"a.{ending}")), tmp_path)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_a_late_row_that_is_not_text_is_named(tmp_path, kind, ending):
    texts = pa.array([*(tale.encode() for tale in TALES * 100), b"caf\xe9", b"end"], pa.binary()).cast(
        pa.large_binary()
    )
    texts = texts if kind == pa.large_string() else texts.cast(pa.binary())
    table = pa.table({"n": range(4_002), "text": pa.Array.from_buffers(kind, len(texts), texts.buffers())})
    path = tmp_path / f"a.{ending}"
    if ending == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_stream(str(path), table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(UserError, match=rf"a\.{ending}: row 4,001: column 'text' is not UTF-8 text; convert it"):
        prepare_corpus(settings(source=str(path)), tmp_path)


def test_columns_that_hold_no_text_are_named_with_their_kind(tmp_path):
    columns = {"text": pa.array([["a"]]), **{f"column {i} {'x' * 100}": pa.array([1]) for i in range(300)}}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: column 'text' holds list<.*>, not text"):
        prepare_corpus(settings(source=str(tmp_path / "a.parquet")), tmp_path)
    with pytest.raises(
        UserError, match=r"no column 'story'; set text_column to one of text, .* and 295 more"
    ) as caught:
        prepare_corpus(settings(source=str(tmp_path / "a.parquet"), text_column="story"), tmp_path)
    assert len(str(caught.value)) < 500


def test_damaged_saved_datasets_are_reported_in_one_line(tmp_path):
    table = datasets.Dataset.from_dict({"text": TALES})
    for name, content, message in (
        ("state.json", b"[]", r"saved: cannot be read as a saved dataset \(state\.json: it has no list '_data_files'"),
        ("state.json", b"{", r"state\.json: it is not JSON"),
        ("state.json", b'{"_data_files": [{"filename": "../x"}]}', r"state\.json: it names no files"),
        ("state.json", b'{"_data_files": [{"filename": "gone.arrow"}]}', r"state\.json: gone\.arrow is missing"),
        ("data-00000-of-00001.arrow", b"", r"arrow: cannot be read \("),
        ("data-00000-of-00001.arrow", b"\xff" * 200, r"arrow: cannot be read \("),
    ):
        table.save_to_disk(tmp_path / "saved")
        (tmp_path / "saved" / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            prepare_corpus(settings(source=str(tmp_path / "saved")), tmp_path)
    datasets.DatasetDict(test=table).save_to_disk(tmp_path / "both")
    (tmp_path / "both" / "dataset_dict.json").write_text('{"splits": [["train"]]}')
    with pytest.raises(
        UserError, match=r"both: cannot be read as a saved dataset \(dataset_dict\.json: it has no list"
    ):
        prepare_corpus(settings(source=str(tmp_path / "both")), tmp_path)


def test_a_shard_without_the_column_is_named(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_text("\n".join(LINES))
    (folder / "b.jsonl").write_text('{"story": "x"}\n')
    with pytest.raises(UserError, match=r"b\.jsonl: there is no column 'text'; set text_column to one of story"):
        read(folder)


def test_reading_shows_how_far_it_is(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(LINES))
    (tmp_path / "out").mkdir()
    prepare_corpus(settings(source=str(tmp_path / "a.jsonl")), tmp_path / "out", log=tmp_path / "log")
    said = (tmp_path / "log").read_text()
    assert re.search(r"^\S+ \S+ read source log 100 %, \S+ (\w )?bytes/s$", said, re.MULTILINE)
