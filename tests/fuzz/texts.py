"""Random files and folders of text: of every format, whole or damaged, under odd names, divided into splits.

Half of the inputs are left as they were written: their stories must come back, each in its split. The others are
damaged, and may be read or refused, in one line.
"""

import contextlib
import gzip
import io
import json
from pathlib import Path
from random import Random

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict

from lcutils.corpus import prepare_corpus, source_digest
from lcutils.corpus.sources import open_stories
from lcutils.errors import UserError
from lcutils.parameters import CorpusSettings

WORDS = [
    "cat",
    "sat",
    "été",
    "😀",
    "\u2028",
    "\t",
    '"',
    "a,b",
    "\\",
    "{",
    "NA",
    "1e5",
    "=1",
    "x" * 300,
    "\x0c",
    "\u00a0",
]
FORMATS = (".txt", ".json", ".jsonl", ".jsonl.gz", ".parquet", ".arrow", ".csv")
NAMES = {
    "train": ["train", "Train-00000-of-00001", "my_training.set", "tiny train"],
    "validation": ["valid", "dev-1", "VALIDATION", "a.val.b"],
    "test": ["test", "Testing", "eval_1", "x-evaluation"],
    "none": [
        "contest",
        "latest",
        "trainer",
        "pretest",
        "été",
        "a b",
        "new\nline",
        "b\udcff",
        "[a]",
        "x" * 120,
        "-",
        "~",
    ],
}
CONTENTS = [
    b"", b"\n", b"null", b"[]", b"{}", b"[null]", b"\x00" * 50, b"\xef\xbb\xbf", b"\xff\xfe" + "[]".encode("utf-16-le"),
    b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", b'{"text": "\\ud83d"}', b"[" * 5000,
    b'{"text": ' * 3000, b'{"text": [1, {"a": null}]}', b'{"text": "a", "text": "b"}', b'{"text": "a"},\n', b"PAR1PAR1",
    b"ARROW1\0\0", b"text\n", b'text\n"open', b"9" * 6000, b'{"story": "a"}\n' * 3, b'{"text": NaN}', b'["a", "b", 1]',
]  # fmt: skip


def attempt(random: Random, folder: Path) -> str:
    """Write a source, perhaps damage it, and read it."""
    source, out = folder / "in", folder / "out"
    source.mkdir()
    out.mkdir()
    written = _write(random, source)
    named = source
    if len(written) == 1 and random.random() < 0.5 and next(iter(written))[1].is_file():
        named = next(iter(written))[1]
        written = {("train", named): next(iter(written.values()))}
    whole = random.random() < 0.5
    if not whole:
        for _ in range(random.randint(1, 3)):
            _damage(random, source)
    settings = CorpusSettings(
        source=str(named), tokenizer="bpe:300", block_size=8, packing="lossless", validation_share=0.4
    )
    splits, refused = None, None
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            digest = source_digest(settings)
            if random.random() < 0.1:
                prepare_corpus(settings, out)
            else:
                with open_stories(settings, out) as tables:
                    splits = {split: table["text"][:] for split, table in tables.items()}
            assert source_digest(settings) == digest
    except UserError as error:
        refused = str(error)
    assert not list(out.glob(".*"))
    if refused is not None:
        assert len(refused) < 500, refused
        assert refused.isprintable(), refused
        few = "too few stories" in refused or "fills no block" in refused or not _has_train(written)
        assert few or not whole, refused
        return "one line"
    if splits is None:
        return "prepared"
    assert not list(out.iterdir())
    if not whole:
        return "damaged, and read"
    expected: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for (split, _), stories in sorted(written.items(), key=lambda item: str(item[0][1])):
        expected[split] += stories
    if not expected["validation"]:
        assert sorted(splits["train"] + splits["validation"]) == sorted(expected["train"])
    else:
        assert sorted(splits["train"]) == sorted(expected["train"])
        assert sorted(splits["validation"]) == sorted(expected["validation"])
    return "read"


def _has_train(written: dict[tuple[str, Path], list[str]]) -> bool:
    return any(split == "train" for split, _ in written)


def _stories(random: Random, ending: str) -> list[str]:
    stories = [
        " ".join(random.choices(WORDS, k=random.randint(1, 12))) + f" {random.random()}"
        for _ in range(random.randint(1, 30))
    ]
    return [story.strip() for story in stories] if ending == ".txt" else stories


def _write(random: Random, source: Path) -> dict[tuple[str, Path], list[str]]:
    """Write stories in files of one format; returns them by split and path."""
    ending = random.choice((*FORMATS, "saved"))
    layout = random.choice(("names", "folders", "none"))
    splits = ["train", *random.sample(["validation", "test"], random.randint(0, 2))] if layout != "none" else ["train"]
    if random.random() < 0.1:
        splits = splits[1:] or ["train"]
    if ending == "saved":
        stories = {split: _stories(random, ending) for split in splits}
        tables = DatasetDict(
            {split: Dataset.from_dict({"text": some, "n": [1] * len(some)}) for split, some in stories.items()}
        )
        if random.random() < 0.5:
            tables.set_format("numpy", columns=["n"])
        with contextlib.redirect_stderr(io.StringIO()):
            tables.save_to_disk(source)
        return {(split, source / split): some for split, some in stories.items()}
    written = {}
    for split in splits:
        for number in range(random.randint(1, 2)):
            stem = random.choice(NAMES[split if layout == "names" else "none"])
            folder = source / random.choice(NAMES[split][:2] if layout == "folders" else ["", "deep/er"])
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{stem}{number if layout != 'names' else ''}{random.choice([ending, ending.upper()])}"
            stories = _stories(random, ending)
            path.write_bytes(_bytes(random, ending, stories))
            written[split, path] = stories
    if random.random() < 0.3:
        (source / random.choice(["README.md", "notes.docx", ".hidden.txt", "LICENSE", "script.py"])).write_text("test")
    return written


def _bytes(random: Random, ending: str, stories: list[str]) -> bytes:
    """The bytes of a file of stories, other columns beside them."""
    other = random.choice(
        [lambda i: i, str, lambda i: None if i < 9 else "x", lambda i: {"a": [i]}, lambda i: [str(i)] * i]
    )
    rows = [{"text": story, "other": other(i)} for i, story in enumerate(stories)]
    if ending == ".txt":
        return random.choice(["\n<|endoftext|>\n", "<|endoftext|>"]).join(stories).encode()
    if ending == ".json":
        document = random.choice([rows, stories])
        return json.dumps(document, indent=random.choice([None, 1]), ensure_ascii=random.random() < 0.5).encode()
    if ending in (".jsonl", ".jsonl.gz"):
        text = random.choice(["\n", "\r\n", "\n\n"]).join(json.dumps(row) for row in rows).encode()
        text = random.choice([b"", b"\xef\xbb\xbf"]) + text
        return gzip.compress(text) if ending.endswith("gz") else text
    if ending == ".csv":
        return pd.DataFrame(rows).to_csv(index=False).encode()
    kind = random.choice([pa.string(), pa.large_string(), pa.string_view()])
    table = pa.table({"n": [str(row["other"]) for row in rows], "text": pa.array(stories, kind)})
    buffer = io.BytesIO()
    if ending == ".parquet":
        pq.write_table(table, buffer, row_group_size=random.choice([3, 100]))
    else:
        with random.choice([pa.ipc.new_stream, pa.ipc.new_file])(buffer, table.schema) as writer:
            writer.write_table(table)
    return buffer.getvalue()


def _damage(random: Random, source: Path) -> None:
    """Change some bytes of a file, or all of them, or its ending, or add or remove something."""
    files = [path for path in sorted(source.rglob("*")) if path.is_file()]
    if not files:
        return
    path = random.choice(files)
    content = bytearray(path.read_bytes())
    what = random.randrange(8)
    if what == 0:
        for _ in range(random.randint(1, 20)):
            if content:
                content[random.randrange(len(content))] = random.randrange(256)
        path.write_bytes(content)
    elif what == 1:
        path.write_bytes(content[: random.randrange(len(content) + 1)])
    elif what == 2:
        start = random.randrange(len(content) + 1)
        path.write_bytes(content[:start] + random.choice(CONTENTS) + content[start:])
    elif what == 3:
        path.write_bytes(random.choice(CONTENTS))
    elif what == 4:
        path.rename(path.with_suffix(random.choice([*FORMATS, ".zip", ".txt.gz", ".csv.gz", ".xz", ""])))
    elif what == 5:
        (path.parent / f"link{random.random()}{random.choice(FORMATS)}").symlink_to(
            random.choice(["nowhere", "..", ".", path.name])
        )
    elif what == 6:
        path.with_name(f"extra{random.choice(FORMATS)}").write_bytes(random.choice(CONTENTS))
    else:
        path.unlink()
