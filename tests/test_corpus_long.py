"""Very long texts: read in linear time, tokenized in pieces."""

import io
import random

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lcutils.corpus import cutting
from lcutils.corpus.readers import read_separated
from lcutils.corpus.tokenization import Encoder, train_bpe
from lcutils.progress import Progress

WORDS = [
    "cat", "sat.", " ", "  ", "\n", "\n\n", "\t", "don't", "'s", "é", "。", "12", "3.14", "!", "\r", "\x0c", "\u2028",
    "<|endoftext|>", " <|endoftext|>", "Ünï", "\u00a0", "\x1c", "\x85", "",
]  # fmt: skip


def random_texts(seed: int, n: int = 60, words: int = 300) -> list[str]:
    chance = random.Random(seed)
    return ["".join(chance.choices(WORDS, k=chance.randrange(words))) for _ in range(n)]


@pytest.fixture
def short_pieces(monkeypatch):
    monkeypatch.setattr(cutting, "LONG", 50)
    monkeypatch.setattr(cutting.cut, "__defaults__", (7,))


@pytest.mark.parametrize("seed", range(5))
def test_a_text_in_pieces_has_the_same_tokens(short_pieces, seed):
    texts = random_texts(seed)
    tokenizer = train_bpe([texts], 400)
    with Progress("test", 1) as progress:
        for ending in ((), (0,), (3, 0)):
            encoder, whole = cutting.LongEncoder(tokenizer, ending, progress), Encoder(tokenizer)
            assert encoder.may_cut
            for batch in (texts, texts[:1], ["", "a" * 500], []):
                right = [[*ids.tolist(), *ending] for ids in whole(batch)]
                assert [ids.tolist() for ids in encoder.each(batch)] == right
    pieces = [[piece for group in cutting.cut(text) for piece in group] for text in texts]
    assert ["".join(some) for some in pieces] == texts
    assert sum(map(len, pieces)) > 4 * len(texts)


def test_a_tokenizer_trained_on_pieces_is_the_same(short_pieces):
    texts = random_texts(9)
    parts = list(cutting.cut_long(texts))
    assert sum(map(len, parts)) > 2 * len(texts)
    tokenizers = [train_bpe(batches, 400).backend_tokenizer.to_str() for batches in ([texts], parts)]
    assert tokenizers[0] == tokenizers[1]


def test_texts_are_not_cut_for_tokenizers_that_may_look_over_a_cut(short_pieces):
    plain = train_bpe([random_texts(1)], 300)
    assert cutting.may_cut(plain)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for split, normalizer in (
        (pre_tokenizers.Metaspace(), None),
        (pre_tokenizers.ByteLevel(add_prefix_space=True), None),
        (pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), None),
        (byte_level, normalizers.NFKC()),
        (None, None),
    ):
        tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
        if split is not None:
            tokenizer.pre_tokenizer = split
        if normalizer is not None:
            tokenizer.normalizer = normalizer
        assert not cutting.may_cut(PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    plain.add_tokens([" b c"])
    assert not cutting.may_cut(plain)


def test_each_character_of_a_text_without_separators_is_looked_at_once(tmp_path):
    """Time in proportion to size, counted in characters that are searched rather than in seconds."""
    searched = []

    class Text(str):
        def __radd__(self, other):
            return Text(str(other) + str(self))

        def split(self, *separators):
            searched.append(len(self))
            return str(self).split(*separators)

    class File(io.TextIOWrapper):
        def read(self, size=-1):
            return Text(super().read(size))

    class Dump:
        def open(self, encoding):
            return File(path.open("rb"), encoding=encoding)

    path = tmp_path / "dump.txt"
    path.write_text("Once upon a time. " * 5_000)
    told: list[int] = []
    (story,) = read_separated(Dump(), 1_000, told.append)
    size = path.stat().st_size
    assert len(story) == size - 1
    assert size <= sum(searched) < 1.1 * size
    assert told == sorted(told)  # progress
    assert told[-1] == size
    assert len(told) == 90
