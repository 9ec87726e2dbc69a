"""How tokens become blocks and rows: what stands in front, where stories end, and what is a label."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
from tokenizer_samples import LINES, sample
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer

from lcutils.corpus import open_data, prepare_corpus
from lcutils.corpus.readers import END_OF_TEXT
from lcutils.documents import Documents
from lcutils.errors import UserError
from lcutils.features.batches import batches, tokens_in
from lcutils.parameters import CorpusSettings

STORIES = [*LINES, "Tom.", "a", " ".join(LINES * 3), LINES[0]]
FRONT, FRONT_2, BEHIND = 2, 4, 3  # ids of [CLS], [MASK] and [SEP] in the sample


def tokenizer_folder(tmp_path, front: list[int], behind: list[int], **configuration) -> tuple[str, Tokenizer]:
    """A tokenizer that puts some tokens around a text when it is called."""
    tokenizer = sample("wordpiece")
    names = {number: tokenizer.id_to_token(number) for number in (FRONT, FRONT_2, BEHIND)}
    whole = [*(names[i] for i in front), "$A", *(names[i] for i in behind)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=" ".join(whole), special_tokens=[(names[i], i) for i in (*front, *behind)]
    )
    folder = tmp_path / "tokenizer"
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    if configuration:
        (folder / "tokenizer_config.json").write_text(json.dumps(configuration))
    return str(folder), tokenizer


def prepare(tmp_path, tokenizer: str, **settings):
    text = tmp_path / "tales.txt"
    text.write_text(END_OF_TEXT.join(STORIES), encoding="utf-8")
    folder = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    usual = {"packing": "lossless", "block_size": 8, "validation": str(text)}
    prepare_corpus(CorpusSettings(source=str(text), tokenizer=tokenizer, **usual | settings), folder)
    return open_data(folder)


def plain_ids(tokenizer: Tokenizer) -> list[list[int]]:
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in STORIES]


def labels_met(blocks) -> Counter[int]:
    """Labels as extraction sees them, from batches of another size than a block."""
    met: Counter[int] = Counter()
    for _, tokens, labels in batches(blocks, 3, torch.device("cpu")):
        assert tokens.dtype == torch.int32
        assert int(tokens.min()) >= 0
        met.update(labels[labels >= 0].tolist())
    return met


@pytest.mark.parametrize("front", [[], [FRONT], [FRONT_2, FRONT]])
def test_a_stream_has_what_the_tokenizer_puts_in_front_of_every_block(tmp_path, front):
    folder, tokenizer = tokenizer_folder(tmp_path, front, [BEHIND])
    data = prepare(tmp_path, folder)
    ids = [i for story in plain_ids(tokenizer) for i in story]
    size = 8 - len(front)
    parts = [ids[start : start + size] for start in range(0, len(ids) - size + 1, size)]
    rows = [row[row >= 0].tolist() for row in np.asarray(data.train[:])]
    assert rows == [front + part for part in parts]
    right = Counter(i for part in parts for i in (part if front else part[1:]))
    assert labels_met(data.train) == right
    assert data.counts[0].tolist() == [right[i] for i in range(data.summary["vocab_size"])]
    train = data.summary["train"]
    assert train["predictions"] == right.total()
    assert train["tokens"] - train["dropped_tokens"] == len(parts) * size
    assert data.summary["beginning"] == front


@pytest.mark.parametrize("front", [[], [FRONT], [FRONT_2, FRONT]])
@pytest.mark.parametrize("behind", [[], [BEHIND]])
def test_documents_are_rows_of_one_story_each(tmp_path, capsys, front, behind):
    folder, tokenizer = tokenizer_folder(tmp_path, front, behind)
    data = prepare(tmp_path, folder, layout="documents")
    assert isinstance(data.train, Documents)
    size = 8 - len(front)
    stories = [story + behind for story in plain_ids(tokenizer)]
    rows = [front + story[start : start + size] for story in stories for start in range(0, len(story), size)]
    rows = [row for row in rows if len(row) > max(len(front), 1)]
    found = [row[row >= 0].tolist() for row in data.train[:]]
    assert sorted(found) == sorted(rows)
    assert [len(row) for row in found] == sorted(map(len, rows))
    right = Counter(label for row in rows for label in row[max(len(front), 1) :])
    assert labels_met(data.train) == right
    assert data.counts[0].tolist() == [right[i] for i in range(data.summary["vocab_size"])]
    assert data.summary["train"]["predictions"] == right.total()
    assert data.summary["train"]["characters"] == sum(map(len, STORIES))
    assert (BEHIND in right) == bool(behind)
    assert not {FRONT, FRONT_2} & right.keys()
    long = sum(len(story) > size for story in stories)
    assert f"train: {long:,} of {len(STORIES)} stories have more than 8 tokens; they are cut into rows" in (
        capsys.readouterr().err
    )


def test_batches_of_documents_are_the_same_from_any_of_their_ends():
    random = np.random.default_rng(0)
    lengths = random.integers(2, 401, 500).astype(np.int32)
    documents = Documents(random.integers(0, 9, lengths.sum()).astype(np.uint16), lengths, 1, 400)
    device = torch.device("cpu")
    whole = [(number, tokens, labels) for number, tokens, labels in batches(documents, 4, device)]
    assert sum(number for number, _, _ in whole) == 500
    assert max(number for number, _, _ in whole) > 8
    assert all(tokens.numel() <= 4 * 400 for _, tokens, _ in whole)
    start = 0
    for place, (number, _, _) in enumerate(whole[:-1]):
        start += number
        again = next(batches(documents, 4, device, start))
        assert again[0] == whole[place + 1][0]
        assert torch.equal(again[1], whole[place + 1][1])
    assert tokens_in(documents, 0, 500) == documents.size == lengths.sum()


@pytest.mark.parametrize(("asked", "front"), [("auto", [FRONT]), (True, [FRONT]), (False, [])])
def test_the_study_decides_what_stands_in_front(tmp_path, asked, front):
    folder, _ = tokenizer_folder(tmp_path, [FRONT], [])
    assert prepare(tmp_path, folder, beginning_of_text=asked).summary["beginning"] == front


def test_true_takes_the_tokenizers_own_token_where_it_adds_none(tmp_path):
    folder, _ = tokenizer_folder(tmp_path, [], [], bos_token="[MASK]", eos_token="[SEP]")
    assert prepare(tmp_path, folder).summary["beginning"] == []
    for layout, ending in (("stream", []), ("documents", [])):
        summary = prepare(tmp_path, folder, layout=layout, beginning_of_text=True).summary
        assert (summary["beginning"], summary["ending"]) == ([FRONT_2], ending)
    summary = prepare(tmp_path, folder, layout="documents", end_of_text=True).summary
    assert (summary["beginning"], summary["ending"]) == ([], [BEHIND])
    bare, _ = tokenizer_folder(tmp_path, [], [])
    (tmp_path / "tokenizer" / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match="has no beginning-of-text token; set beginning_of_text: auto, or false"):
        prepare(tmp_path, bare, beginning_of_text=True)


def test_what_is_added_is_what_transformers_adds(tmp_path):
    folder, _ = tokenizer_folder(tmp_path, [FRONT_2, FRONT], [BEHIND])
    theirs = AutoTokenizer.from_pretrained(folder)(STORIES[0])["input_ids"]
    summary = prepare(tmp_path, folder, layout="documents").summary
    assert (theirs[:2], theirs[-1:]) == (summary["beginning"], summary["ending"])


def test_blocks_need_room_beside_what_stands_in_front(tmp_path):
    folder, _ = tokenizer_folder(tmp_path, [FRONT_2, FRONT], [])
    with pytest.raises(UserError, match="block_size: 3 leaves no prediction beside the 2 token"):
        prepare(tmp_path, folder, block_size=3)


def test_a_chat_template_is_put_around_every_story(tmp_path):
    template = "{% for m in messages %}[MASK]{{ m['content'] }}[SEP]{% endfor %}"
    folder, tokenizer = tokenizer_folder(tmp_path, [FRONT], [], chat_template=template)
    data = prepare(tmp_path, folder, layout="documents", chat_template=True, block_size=20_000)
    rows = sorted([FRONT_2, *story, BEHIND] for story in plain_ids(tokenizer))
    assert sorted(row[row >= 0].tolist() for row in data.train[:]) == rows
    refusing, _ = tokenizer_folder(tmp_path, [], [], chat_template="{{ raise_exception('no user here') }}")
    with pytest.raises(UserError, match="chat_template: that of .* cannot be used .*no user here"):
        prepare(tmp_path, refusing, layout="documents", chat_template=True)
    bare, _ = tokenizer_folder(tmp_path, [], [], bos_token="[MASK]")
    with pytest.raises(UserError, match="chat_template: .* has none; set chat_template: false"):
        prepare(tmp_path, bare, layout="documents", chat_template=True)


@pytest.mark.parametrize("layout", ["stream", "documents"])
def test_max_tokens_leaves_out_what_follows(tmp_path, layout):
    folder, _ = tokenizer_folder(tmp_path, [FRONT], [])
    whole = prepare(tmp_path, folder, layout=layout)
    part = prepare(tmp_path, folder, layout=layout, max_tokens=30)
    assert len(part.validation) == len(whole.validation)
    if layout == "stream":
        assert np.array_equal(part.train, whole.train[: 30 // 7])
    else:  # the story in which the limit lies is whole
        rows = [row[row >= 0].tolist() for row in part.train[:]]
        known = [row[row >= 0].tolist() for row in whole.train[:]]
        assert all(row in known for row in rows)
        assert 30 <= part.summary["train"]["tokens"] < 30 + max(map(len, known)) * 3
