"""Tokenizers give the ids of their own files, read from a folder or saved again, or are trained on the text."""

import json

import huggingface_hub.constants
import numpy as np
import pytest
from test_corpus import SHARED, TALES, needs_gpt2, settings, write_text
from tokenizer_samples import ids_of
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lcutils.corpus import prepare_corpus
from lcutils.corpus.tokenization import Encoder, load_tokenizer, train_bpe

END = "<|endoftext|>"
NUMBERED = [f"In 19{i:02} the {i} Cats saw 12345 birds. It was {1000 + i} o'clock." for i in range(40)]


def digits_apart() -> Tokenizer:
    """A byte-level BPE that splits numbers into digits, as no class of one model in transformers does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.pre_tokenizer = byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(NUMBERED, trainer)  # the vocabulary has numbers, which split digits never use
    tokenizer.normalizer = normalizers.Replace(Regex("Cats"), "cats")
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    return tokenizer


@pytest.mark.parametrize("named", ["GPT2Tokenizer", "GPTNeoXTokenizer", "PreTrainedTokenizerFast", None])
@pytest.mark.parametrize("model_type", ["gpt2", "gpt_neo", None])
def test_ids_are_those_of_tokenizer_json_whatever_class_the_configuration_names(tmp_path, named, model_type):
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    file = digits_apart()
    file.save(str(folder / "tokenizer.json"))
    if named is not None:
        configuration = {"tokenizer_class": named, "eos_token": END, "chat_template": "{{ messages }}"}
        (folder / "tokenizer_config.json").write_text(json.dumps(configuration))
    if model_type is not None:
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    right = [i for encoded in file.encode_batch(NUMBERED) for i in encoded.ids]

    tokenizer = load_tokenizer(str(folder))
    assert ids_of(tokenizer, NUMBERED) == right
    assert len(tokenizer) == file.get_vocab_size()
    if named is not None:
        assert (tokenizer.eos_token, tokenizer.chat_template) == (END, "{{ messages }}")

    # The data stage saves it, and the train stage puts it beside a GPT-Neo's configuration.
    tokenizer.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "config.json").write_text(json.dumps({"model_type": "gpt_neo"}))
    for again in (load_tokenizer(str(tmp_path / "saved")), AutoTokenizer.from_pretrained(tmp_path / "saved")):
        assert ids_of(again, NUMBERED) == right
        assert (again.eos_token, again.chat_template) == (tokenizer.eos_token, tokenizer.chat_template)


def test_a_tokenizer_from_the_hub_has_the_ids_of_its_tokenizer_json(tmp_path, monkeypatch):
    """A repository in the hub's cache stands for one on the hub."""
    commit = "0" * 40
    repository = tmp_path / "models--some--digits"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    file = digits_apart()
    file.save(str(snapshot / "tokenizer.json"))
    (snapshot / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    (snapshot / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    tokenizer = load_tokenizer("some/digits")
    assert ids_of(tokenizer, NUMBERED) == [i for text in NUMBERED for i in file.encode(text).ids]
    assert tokenizer.eos_token == END  # GPT-2's class knows it, the files do not


def test_a_bpe_trained_here_keeps_its_files_when_it_is_loaded_and_saved_again(tmp_path):
    train_bpe([TALES], 300).save_pretrained(tmp_path / "first")
    load_tokenizer(str(tmp_path / "first")).save_pretrained(tmp_path / "second")
    first, second = ((tmp_path / name / "tokenizer.json").read_bytes() for name in ("first", "second"))
    assert first == second


def test_a_vocabulary_with_missing_ids_ends_at_the_largest(tmp_path):
    words = {"<unk>": 0, "cat": 3, "sat": 7, "mat": 40}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path / "tokenizer")
    source = write_text(tmp_path / "tales.txt", ["cat sat mat cat", "sat mat cat sat"] * 4)
    (tmp_path / "out").mkdir()
    corpus = settings(source=source, tokenizer=str(tmp_path / "tokenizer"), block_size=4)
    summary = prepare_corpus(corpus, tmp_path / "out")
    assert summary["vocab_size"] == 41
    counts = np.load(tmp_path / "out" / "counts.npy")  # (2, V)
    assert np.flatnonzero(counts.sum(axis=0)).tolist() == [3, 7, 40]


@needs_gpt2
@pytest.mark.parametrize("saved", [False, True])
def test_gpt2_tokenizer_of_vocab_and_merges_and_saved(tmp_path, saved):
    tokenizer = load_tokenizer(str(SHARED / "gpt2-tokenizer"))
    if saved:
        tokenizer.save_pretrained(tmp_path)
        tokenizer = load_tokenizer(str(tmp_path))
    assert len(tokenizer) == 50_257
    (ids,) = Encoder(tokenizer)(["Once upon a time, there was a little girl named Lily."])
    assert ids.tolist() == [7454, 2402, 257, 640, 11, 612, 373, 257, 1310, 2576, 3706, 20037, 13]
    assert ids_of(tokenizer, ["Hi", ""]) == [17_250]


def test_a_long_story_gives_no_warning(capfd):
    tokenizer = train_bpe([TALES], 300)
    tokenizer.model_max_length = 8
    assert len(ids_of(tokenizer, TALES)) > 8
    assert "longer than" not in "".join(capfd.readouterr())


def test_a_trained_bpe_is_byte_level_and_round_trips():
    tokenizer = train_bpe([TALES], 400)
    assert tokenizer.eos_token == "<|endoftext|>"
    assert tokenizer.eos_token_id == 0
    assert 257 < len(tokenizer) <= 400
    text = "Größe, 漢字 and a cat\n\tthat sat . ,"
    assert tokenizer.decode(ids_of(tokenizer, [text])) == text
    assert len(train_bpe([TALES], 257)) == 257
