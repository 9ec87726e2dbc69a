"""Sources, tokenizers, packing and counts, beside naive implementations."""

import gzip
import json
import os
import tracemalloc
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lcutils.corpus import open_blocks, prepare_corpus, source_digest
from lcutils.corpus.layout import pack
from lcutils.corpus.prepare import entropy, paper_batches, plain_batches
from lcutils.corpus.readers import read_separated
from lcutils.corpus.sources import open_stories
from lcutils.errors import UserError
from lcutils.parameters import CorpusSettings

SHARED = Path(__file__).parents[2] / "shared"
TALES = [f"Once there was a cat number {i}. It sat, and it sat!" for i in range(40)]

needs_gpt2 = pytest.mark.skipif(
    not (SHARED / "gpt2-tokenizer").is_dir(), reason="../shared/gpt2-tokenizer is not on this machine"
)
needs_tinystories = pytest.mark.skipif(
    not (SHARED / "tinystories").is_dir(), reason="../shared/tinystories is not on this machine"
)


def settings(**changes) -> CorpusSettings:
    return CorpusSettings(**({"tokenizer": "bpe:300", "block_size": 8, "packing": "lossless"} | changes))


def write_text(path: Path, stories: list[str]) -> str:
    path.write_text("\n<|endoftext|>\n".join(stories))
    return str(path)


def read_all(corpus: CorpusSettings, folder: Path) -> dict[str, list[str]]:
    with open_stories(corpus, folder) as splits:
        return {split: dataset["text"][:] for split, dataset in splits.items()}


# --- packing


def naive_blocks(stories: list[list[int]], size: int, packing: str) -> list[list[int]]:
    """One token at a time, as the words of the paper's setting say it."""
    if packing == "paper":
        first = len(stories) - len(stories) // 2
        halves = [stories[:first], stories[first:]]
        groups = [half[i : i + 1000] for half in halves for i in range(0, len(half), 1000)]
    else:
        groups = [stories]
    blocks = []
    for group in groups:
        block: list[int] = []
        for story in group:
            for token in story:
                block.append(token)
                if len(block) == size:
                    blocks.append(block)
                    block = []
    return blocks


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=60),
    st.integers(2, 9),
    st.sampled_from(["paper", "lossless"]),
    st.sampled_from([1, 40]),
)
def test_packing_equals_the_naive_one(lengths, size, packing, times):
    lengths = lengths * times  # up to 2,400 stories: more than two batches
    stories = [[(17 * i + j) % 1000 for j in range(n)] for i, n in enumerate(lengths)]
    batches = (paper_batches if packing == "paper" else plain_batches)(len(stories))
    arrays = (np.array([token for i in batch for token in stories[i]], dtype=np.uint32) for batch in batches)
    packed = list(pack(arrays, size, packing))
    blocks = [block for blocks, _ in packed for block in blocks.tolist()]
    assert blocks == naive_blocks(stories, size, packing)
    assert sum(n for _, n in packed) == sum(lengths)


def test_the_first_half_takes_the_odd_story():
    assert [len(batch) for batch in paper_batches(5_001)] == [1000, 1000, 501, 1000, 1000, 500]
    assert [i for batch in paper_batches(5_001) for i in batch] == list(range(5_001))


@pytest.mark.parametrize("packing", ["paper", "lossless"])
@pytest.mark.parametrize("end_of_text", [False, True])
def test_prepared_blocks_and_counts_equal_naive_ones(tmp_path, packing, end_of_text):
    corpus = settings(source=write_text(tmp_path / "tales.txt", TALES), packing=packing, end_of_text=end_of_text)
    folder = tmp_path / "out"
    folder.mkdir()
    summary = prepare_corpus(corpus, folder)
    assert summary == json.loads((folder / "corpus.json").read_text())

    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    ending = [tokenizer.eos_token_id] if end_of_text else []
    counts = np.load(folder / "counts.npy")
    assert counts.dtype == np.int64
    assert counts.shape == (2, len(tokenizer)) == (2, summary["vocab_size"])
    for row, (split, stories) in enumerate({"train": TALES[:38], "validation": TALES[38:]}.items()):
        ids = [tokenizer(story)["input_ids"] + ending for story in stories]
        blocks = naive_blocks(ids, 8, packing)
        assert open_blocks(folder, split).tolist() == blocks
        labels = Counter(token for block in blocks for token in block[1:])
        assert counts[row].tolist() == [labels[token] for token in range(len(tokenizer))]
        total = sum(map(len, ids))
        assert summary[split] == {
            "stories": len(stories),
            "characters": sum(map(len, stories)),
            "tokens": total,
            "blocks": len(blocks),
            "predictions": 7 * len(blocks),
            "dropped_tokens": total - 8 * len(blocks),
        }
    assert summary["label_types"] == int((counts[0] > 0).sum())
    shares = [n / counts[1].sum() for n in counts[1] if n]
    assert summary["unigram_entropy"] == pytest.approx(-sum(p * np.log(p) for p in shares), abs=1e-12)
    assert sorted(path.name for path in folder.iterdir()) == [
        "corpus.json", "counts.npy", "tokenizer", "train.bin", "validation.bin",
    ]  # fmt: skip


def test_blocks_are_little_endian_uint16_and_read_only(tmp_path):
    prepare_corpus(settings(source="built-in", max_stories=20), tmp_path)
    blocks = open_blocks(tmp_path, "train")
    raw = (tmp_path / "train.bin").read_bytes()
    assert int(blocks[0, 1]) == raw[2] + 256 * raw[3]
    with pytest.raises(ValueError, match="read-only"):
        blocks[0, 0] = 1
    with pytest.raises(UserError, match=r"ood\.bin: is missing; prepare the corpus first"):
        open_blocks(tmp_path, "ood")


def test_a_large_vocabulary_takes_uint32(tmp_path):
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(70_000)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path / "tok")
    source = write_text(tmp_path / "tales.txt", ["w1 w2 w69999 w65536 w5 w6 w7 w8"] * 4)
    (tmp_path / "out").mkdir()
    summary = prepare_corpus(settings(source=source, tokenizer=str(tmp_path / "tok")), tmp_path / "out")
    assert summary["dtype"] == "uint32"
    assert open_blocks(tmp_path / "out", "train").tolist() == [[1, 2, 69_999, 65_536, 5, 6, 7, 8]] * 3


def test_the_same_settings_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        prepare_corpus(settings(max_stories=60, tokenizer="bpe:500"), tmp_path / name)
    for file in ("train.bin", "validation.bin", "counts.npy", "tokenizer/tokenizer.json", "corpus.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_entropy_of_a_uniform_distribution():
    assert entropy(np.array([3, 3, 0, 3, 3])) == pytest.approx(np.log(4))


def test_out_of_distribution_text_is_packed_without_loss_by_the_same_tokenizer(tmp_path):
    other = write_text(tmp_path / "other.txt", ["Engines hum. " * 30, "Rust never sleeps. " * 30])
    (tmp_path / "out").mkdir()
    summary = prepare_corpus(settings(max_stories=50, ood=other, packing="paper"), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "tokenizer")
    text = tokenizer.decode(open_blocks(tmp_path / "out", "ood").ravel().tolist())
    whole = ("Engines hum. " * 30).strip() + ("Rust never sleeps. " * 30).strip()
    assert whole.startswith(text)
    assert summary["ood"]["dropped_tokens"] < 8


# --- sources


def test_text_is_split_at_the_separator_whatever_the_chunk(tmp_path):
    path = tmp_path / "tales.txt"
    path.write_bytes("\ufeffOne.\r\n<|endoftext|>\r\n\r\nTwo,\r\ntwo é.<|endoftext|> \n<|endoftext|>Three".encode())
    for chunk in (1, 2, 5, 13, 1 << 20):
        assert list(read_separated(path, chunk)) == ["One.", "Two,\ntwo é.", "Three"]


@pytest.mark.parametrize("kind", ["txt", "json", "jsonl", "jsonl.gz", "parquet", "folder", "saved", "text folder"])
def test_each_kind_of_source_gives_the_same_stories(tmp_path, kind):
    held_out = [f"Another tale, {i}." for i in range(5)]
    tables = datasets.DatasetDict(
        train=datasets.Dataset.from_dict({"text": TALES}),
        validation=datasets.Dataset.from_dict({"text": held_out}),
    )
    source, other = tmp_path / "source", None
    lines = {name: [json.dumps({"text": text}) for text in texts] for name, texts in (("a", TALES), ("b", held_out))}
    if kind in ("txt", "json", "jsonl", "jsonl.gz", "parquet"):
        source, other = tmp_path / f"a.{kind}", tmp_path / f"b.{kind}"
        for path, name, split in ((source, "a", "train"), (other, "b", "validation")):
            if kind == "txt":
                write_text(path, tables[split]["text"][:])
            elif kind == "json":
                path.write_text(f"[{','.join(lines[name])}]")
            elif kind == "jsonl":
                path.write_text("\n".join(lines[name]))
            elif kind == "jsonl.gz":
                path.write_bytes(gzip.compress("\n".join(lines[name]).encode()))
            else:
                tables[split].to_parquet(path)
    elif kind == "folder":
        (source / "data").mkdir(parents=True)
        for split, table in tables.items():
            table.to_parquet(source / "data" / f"{split}-00000-of-00001.parquet")
    elif kind == "saved":
        tables.save_to_disk(source)
    else:
        source.mkdir()
        write_text(source / "TinyStories-train.txt", TALES)
        write_text(source / "TinyStories-valid.txt", held_out)
        (source / "README.md").write_text("Read me.")
    corpus = settings(source=str(source), validation=str(other) if other else None)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert read_all(corpus, scratch) == {"train": TALES, "validation": held_out}
    assert not list(scratch.iterdir())  # nothing is left behind


def test_a_hub_dataset_is_asked_for_by_its_name(tmp_path, monkeypatch):
    asked = []

    def load_dataset(name):
        asked.append(name)
        return datasets.DatasetDict(train=datasets.Dataset.from_dict({"story": TALES, "id": list(range(40))}))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    splits = read_all(settings(source="roneneldan/TinyStories", text_column="story"), tmp_path)
    assert asked == ["roneneldan/TinyStories"]
    assert splits == {"train": TALES[:38], "validation": TALES[38:]}


def test_limits_and_shares(tmp_path):
    source = write_text(tmp_path / "tales.txt", TALES)
    splits = read_all(settings(source=source, validation_share=0.25, max_stories=7, max_validation_stories=3), tmp_path)
    assert splits == {"train": TALES[:7], "validation": TALES[30:33]}


def test_the_built_in_splits_are_disjoint_and_validation_does_not_depend_on_max_stories(tmp_path):
    small = read_all(settings(max_stories=100, max_validation_stories=30), tmp_path)
    large = read_all(settings(max_stories=300, max_validation_stories=30), tmp_path)
    assert small["validation"] == large["validation"]
    assert large["train"][:100] == small["train"]
    assert not set(large["train"]) & set(large["validation"])
    assert len(set(large["train"])) == 300
    assert read_all(settings(max_stories=100, seed=1), tmp_path)["train"] != small["train"]


def test_validation_text_of_ones_own_goes_with_the_built_in_stories(tmp_path):
    own = write_text(tmp_path / "valid.txt", TALES)
    alone = read_all(settings(max_stories=100, max_validation_stories=30), tmp_path)
    splits = read_all(settings(validation=own, max_stories=100, max_validation_stories=30), tmp_path)
    assert splits == {"train": alone["train"], "validation": TALES[:30]}


def test_validation_may_name_a_folder_without_a_train_split(tmp_path):
    (tmp_path / "held out").mkdir()
    write_text(tmp_path / "held out" / "valid.txt", TALES)
    splits = read_all(settings(validation=str(tmp_path / "held out"), max_stories=20), tmp_path)
    assert splits["validation"] == TALES


def test_a_dataset_saved_from_a_generator_has_columns_like_any_other(tmp_path):
    table = datasets.Dataset.from_generator(lambda: ({"story": text} for text in TALES), cache_dir=str(tmp_path / "c"))
    table.save_to_disk(tmp_path / "saved")
    splits = read_all(settings(source=str(tmp_path / "saved"), text_column="story"), tmp_path)
    assert splits == {"train": TALES[:38], "validation": TALES[38:]}
    with pytest.raises(UserError, match=r"saved.*: there is no column .text.; set text_column to one of story"):
        read_all(settings(source=str(tmp_path / "saved")), tmp_path)


def test_a_text_folder_may_hold_metadata_and_hidden_folders(tmp_path):
    folder = tmp_path / "tales"
    (folder / ".ipynb_checkpoints").mkdir(parents=True)
    write_text(folder / "tales.txt", TALES)
    write_text(folder / ".ipynb_checkpoints" / "tales-checkpoint.txt", TALES)
    (folder / "dataset_infos.json").write_text("{}")
    assert read_all(settings(source=str(folder)), tmp_path)["train"] == TALES[:38]


def test_a_missing_text_in_a_table_is_an_empty_story(tmp_path):
    path = tmp_path / "tales.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in [*TALES, None, *TALES]))
    (tmp_path / "out").mkdir()
    assert prepare_corpus(settings(source=str(path)), tmp_path / "out")["train"]["stories"] == 77


def test_memory_does_not_grow_with_the_corpus(tmp_path):
    peaks = []
    for times in (1, 2, 6):  # the first one pays for the imports
        path = tmp_path / f"{times}.txt"
        with path.open("w") as file:
            for i in range(1_000 * times):
                file.write(f"Tale {i}. {TALES[i % 40] * 10}\n<|endoftext|>\n")
        folder = tmp_path / f"out{times}"
        folder.mkdir()
        tracemalloc.start()
        prepare_corpus(settings(source=str(path)), folder)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.3 * peaks[1]


def test_the_digest_follows_content_not_time(tmp_path):
    source = write_text(tmp_path / "tales.txt", TALES)
    digest = source_digest(settings(source=source))
    os.utime(source, (1, 1))
    assert source_digest(settings(source=source)) == digest
    write_text(tmp_path / "tales.txt", [*TALES[:-1], "Another end."])
    assert source_digest(settings(source=source)) != digest
    assert source_digest(settings(source=source, ood=source)) != source_digest(settings(source=source))
    assert source_digest(settings()) == source_digest(settings()) != source_digest(settings(source="a/hub-name"))


@needs_gpt2
@needs_tinystories
def test_block_counts_of_the_tinystories_sample(tmp_path):
    summary = prepare_corpus(
        CorpusSettings(source=str(SHARED / "tinystories"), tokenizer=str(SHARED / "gpt2-tokenizer")), tmp_path
    )
    assert summary["train"]["stories"] == 13_819
    assert summary["validation"]["stories"] == 4_217
    assert summary["train"]["blocks"] == 1_356  # the paper's packing
    assert summary["train"]["tokens"] // 2048 == 1_363  # packed without loss
    assert summary["validation"]["tokens"] // 2048 == 408
