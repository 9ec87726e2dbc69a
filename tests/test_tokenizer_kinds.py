"""Every kind of tokenizer gives the ids of its own files, and is refused in one line if they are damaged."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from test_corpus import settings, write_text
from tokenizer_samples import BYTES, END, KINDS, LINES, ids_of, sample
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, GPT2TokenizerFast

from lcutils.corpus import prepare_corpus
from lcutils.corpus.tokenization import end_of_text_id, load_tokenizer, token_labels
from lcutils.corpus.tokenizer_files import tokenizer_files
from lcutils.errors import UserError
from lcutils.parameters import ROOT

CLASSES = [
    "GPT2Tokenizer", "GPTNeoXTokenizer", "LlamaTokenizer", "LlamaTokenizerFast", "Qwen2Tokenizer", "BertTokenizer",
    "T5Tokenizer", "GemmaTokenizer", "DebertaTokenizer", "DebertaV2Tokenizer", "RobertaTokenizer", "CLIPTokenizer",
    "MistralCommonBackend", "CTRLTokenizer", "PreTrainedTokenizerFast", "NoSuchTokenizer", None,
]  # fmt: skip
PROBES = [
    *LINES, "</s> Lily <s> <new>x <|endoftext|> <pads> Lily<pads>", "  two  spaces \t\n", "<unk><pad> [CLS] a", "",
    "e\u0301 \u00e9 \ufb01",
]  # fmt: skip
CONFIGURATION = {
    "eos_token": "</s>", "bos_token": "<pads>", "additional_special_tokens": ["saw"], "split_special_tokens": True,
    "add_prefix_space": True, "clean_up_tokenization_spaces": True, "added_tokens_decoder":
    {"3": {"content": "the", "special": True, "lstrip": True}},
}  # fmt: skip


def right_ids(tokenizer: Tokenizer, texts: list[str] = PROBES) -> list[int]:
    return [i for text in texts for i in tokenizer.encode(text, add_special_tokens=False).ids]


def folder_of(path, files):
    path.mkdir()
    for name, content in files.items():
        text = content if isinstance(content, str | bytes) else json.dumps(content)
        (path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refusal(folder) -> str:
    with pytest.raises(UserError) as caught:
        load_tokenizer(str(folder))
    message = str(caught.value)
    assert message.startswith("tokenizer: ")
    assert "\n" not in message
    assert len(message) < 500
    return message


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("odd", [False, True])
def test_ids_are_those_of_tokenizer_json_for_every_class(tmp_path, kind, odd):
    """Loaded, saved by us and loaded again, and loaded by transformers from what we saved beside a GPT-Neo."""
    file = sample(kind)
    if odd:
        new = AddedToken("<new>", lstrip=True, rstrip=True, normalized=False)
        file.add_tokens([new, AddedToken("Lily", single_word=True)])
    right = right_ids(file)
    plain = [text for text in PROBES if "<" not in text]
    right_ids_of_plain = right_ids(file, plain)
    if odd:  # what must not cut or fill texts, and configurations that name tokens which the file does not have
        file.enable_truncation(5)
        file.enable_padding(pad_token="<pads>", pad_id=3, length=64)
    for named in CLASSES:
        files = {"tokenizer.json": file.to_str()}
        if named:
            files["tokenizer_config.json"] = {"tokenizer_class": named} | (CONFIGURATION if odd else {})
        if odd:
            files |= {"special_tokens_map.json": {"eos_token": "<other>"}, "added_tokens.json": {"Lily and": 7000}}
        folder, saved = folder_of(tmp_path / f"{named}", files), tmp_path / f"{named}-saved"
        loaded = load_tokenizer(str(folder))
        loaded.save_pretrained(saved)
        (saved / "config.json").write_text('{"model_type": "gpt_neo"}')
        for tokenizer in (loaded, load_tokenizer(str(saved))):
            assert ids_of(tokenizer, PROBES) == right, named
        # transformers makes an added token of an ordinary one that plays a part, as <unk> does among `words`
        theirs = AutoTokenizer.from_pretrained(saved)
        assert ids_of(theirs, plain) == right_ids_of_plain, named
        assert len(loaded) == file.get_vocab_size()


def test_the_tokens_that_play_a_part_are_in_the_vocabulary(tmp_path):
    """`</s>` is an ordinary token of the file, which must not become an added one; the others it lacks."""
    file = sample("words").to_str()
    roles = {"eos_token": {"content": "</s>"}, "bos_token": "<bos>", "unk_token": "<unk>", "pad_token": None}
    folder = folder_of(tmp_path / "t", {"tokenizer.json": file, "special_tokens_map.json": roles})
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.special_tokens_map == {"eos_token": "</s>", "unk_token": "<unk>"}
    assert end_of_text_id(tokenizer, str(folder)) == 1
    assert ids_of(tokenizer, ["Lily</s>"]) == [0]  # one unknown word, as the file has it
    (folder / "special_tokens_map.json").unlink()
    (folder / "config.json").write_text('{"model_type": "t5"}')
    assert load_tokenizer(str(folder)).eos_token == "</s>"  # which T5's class knows


def test_an_end_of_text_that_the_vocabulary_lacks_is_named(tmp_path):
    files = {"tokenizer.json": sample("wordpiece").to_str(), "tokenizer_config.json": {"eos_token": "<end>"}}
    folder = folder_of(tmp_path / "t", files)
    with pytest.raises(UserError, match=r"no end-of-text token in its vocabulary, which lacks '<end>'; set end_of"):
        end_of_text_id(load_tokenizer(str(folder)), str(folder))
    files["tokenizer.json"] = sample("byte_level").to_str()
    folder = folder_of(tmp_path / "other", files)
    assert end_of_text_id(load_tokenizer(str(folder)), str(folder)) == 0  # <|endoftext|>, which it has


def test_dropout_of_a_bpe_is_off(tmp_path):
    settings_of = json.loads(sample("byte_level").to_str())
    settings_of["model"]["dropout"] = 0.5
    tokenizer = load_tokenizer(str(folder_of(tmp_path / "t", {"tokenizer.json": settings_of})))
    assert ids_of(tokenizer, PROBES) == right_ids(sample("byte_level"))


def test_a_text_that_cannot_be_encoded_is_one_line(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"cat": 0, "sat": 1}, unk_token="<unk>"))  # which is not there
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = folder_of(tmp_path / "t", {"tokenizer.json": tokenizer.to_str()})
    source = write_text(tmp_path / "tales.txt", ["cat sat", "cat lay"] * 8)
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=r"tokenizer: .*t cannot encode the text \(WordLevel error: Missing"):
        prepare_corpus(settings(source=source, tokenizer=str(folder), block_size=4), tmp_path / "out")


DAMAGES = {
    "truncated": lambda text: text[:-40].encode(),
    "empty": lambda text: b"",
    "null": lambda text: b"null",
    "list": lambda text: b"[]",
    "byte order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "version": lambda text: text.replace('"1.0"', '"9.0"').encode(),
    "negative id": lambda text: text.replace('"</s>":1', '"</s>":-1').encode(),
    "one id twice": lambda text: text.replace('"</s>":1', '"</s>":0').encode(),
    "large id": lambda text: text.replace('"</s>":1', '"</s>":4000000000').encode(),
    "LFS pointer": lambda text: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
    "panic": lambda text: text.replace(  # the library panics over it, with no Exception
        '"normalizer":null', '"normalizer":{"type":"Precompiled","precompiled_charsmap":"AAAA"}'
    ).encode(),
    "empty vocabulary": lambda text: Tokenizer(models.WordLevel({}, unk_token="u")).to_str().encode(),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_tokenizer_json_is_one_line(tmp_path, damage):
    text = sample("words").to_str()
    assert DAMAGES[damage](text) != text.encode()
    assert "t" in refusal(folder_of(tmp_path / "t", {"tokenizer.json": DAMAGES[damage](text)}))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer_config.json": "null"}, "tokenizer_config.json is no JSON object; correct or remove it"),
        ({"tokenizer_config.json": '{"eos_'}, r"tokenizer_config.json cannot be read \("),
        ({"tokenizer_config.json": {"eos_token": 5}}, "eos_token is 5; give a token"),
        ({"special_tokens_map.json": "[]"}, "special_tokens_map.json is no JSON object"),
    ],
)
def test_a_damaged_configuration_is_one_line(tmp_path, files, message):
    folder = folder_of(tmp_path / "t", {"tokenizer.json": sample("words").to_str()} | files)
    with pytest.raises(UserError, match=message):
        load_tokenizer(str(folder))
    refusal(folder)


# ------------------------------------------------------------------------------------------ without tokenizer.json


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A vocab.json and merges.txt like GPT-2's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=350, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(LINES, trainer)
    folder = tmp_path_factory.mktemp("pair")
    tokenizer.model.save(str(folder))
    return {name: (folder / name).read_text() for name in ("vocab.json", "merges.txt")}


NEW = {"content": "Lily", "special": False, "lstrip": True, "rstrip": False, "single_word": False, "normalized": False}


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({}, GPT2TokenizerFast),
        ({"tokenizer_config.json": {"add_prefix_space": True}}, GPT2TokenizerFast),
        ({"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"}}, GPT2TokenizerFast),
        ({"tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<new>"}}, AutoTokenizer),
        ({"tokenizer_config.json": {"added_tokens_decoder": {"350": NEW}}}, GPT2TokenizerFast),
        ({"added_tokens.json": {"Lily and": 350}}, GPT2TokenizerFast),
        ({"special_tokens_map.json": {"eos_token": "<new>", "pad_token": NEW | {"content": "saw"}}}, GPT2TokenizerFast),
        ({"tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer"}}, AutoTokenizer),
        ({"config.json": {"model_type": "qwen2"}}, AutoTokenizer),
        ({"tokenizer_config.json": {"tokenizer_class": "RobertaTokenizer"}}, AutoTokenizer),
    ],
)
def test_vocabulary_and_merges_give_the_ids_of_transformers(tmp_path, pair, files, kind):
    folder = folder_of(tmp_path / "t", pair | files)
    theirs, ours = kind.from_pretrained(folder), load_tokenizer(str(folder))
    right = [i for text in PROBES for i in theirs(text, add_special_tokens=False)["input_ids"]]
    ours.save_pretrained(tmp_path / "saved")
    for tokenizer in (ours, load_tokenizer(str(tmp_path / "saved"))):
        assert ids_of(tokenizer, PROBES) == right
        assert tokenizer.eos_token == theirs.eos_token
        assert end_of_text_id(tokenizer, str(folder)) == theirs.eos_token_id
    assert {file.name for file in tokenizer_files(str(folder))} == {*pair, *files}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"vocab.json": "[1]"}, "vocab.json is no JSON object"),
        ({"vocab.json": '{"a": "b"}'}, "the id of 'a' is no whole number"),
        ({"vocab.json": '{"a": 0}'}, r"cannot be read \("),
        ({"merges.txt": "#version\na b c\n"}, r"cannot be read \(.*Merges text file invalid"),
        ({"vocab.json": '{"a</w>": 0}', "merges.txt": ""}, "its vocab.json is of another kind than GPT-2's"),
        ({"tokenizer_config.json": {"tokenizer_class": "MyTokenizer"}}, "MyTokenizer is not one of transformers"),
        ({"tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["mine.T", None]}}}, "code .* is not run"),
        ({"tokenizer_config.json": {"tokenizer_class": "BertTokenizer"}}, "BertTokenizer does not take "),
        ({"tokenizer_config.json": {"tokenizer_class": "CTRLTokenizer"}}, "has no fast"),
    ],
)
def test_vocabulary_and_merges_of_another_kind_are_one_line(tmp_path, pair, files, message):
    folder = folder_of(tmp_path / "t", pair | files)
    with pytest.raises(UserError, match=message):
        load_tokenizer(str(folder))
    refusal(folder)


def test_a_vocabulary_of_wordpieces_needs_its_class(tmp_path):
    text = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\ncat\n##s\n"
    assert "its vocab.txt is of another kind than GPT-2's" in refusal(folder_of(tmp_path / "bare", {"vocab.txt": text}))
    files = {"vocab.txt": text, "tokenizer_config.json": {"tokenizer_class": "BertTokenizer"}}
    assert ids_of(load_tokenizer(str(folder_of(tmp_path / "t", files))), ["the cats"]) == [5, 6, 7]


@pytest.mark.parametrize("file", ["tokenizer.model", "spiece.model", "qwen.tiktoken", "tekken.json"])
def test_files_of_other_libraries_are_one_line(tmp_path, file):
    assert f"holds {file} but no tokenizer.json" in refusal(folder_of(tmp_path / "t", {file: b"\x0a\x0b"}))


def test_a_file_or_no_path_is_one_line(tmp_path, pair):
    folder = folder_of(tmp_path / "t", pair)
    assert f"is a file; name the folder that it lies in, {folder}" in refusal(folder / "vocab.json")
    for name in ("a\0b", "x" * 300, "~no-such-user/tokenizer"):
        assert "is no path" in refusal(name)


# ------------------------------------------------------------------------------------------------ code, beginnings


def test_no_code_of_a_folder_is_run(tmp_path, pair):
    """Neither with tokenizer.json nor without, even where somebody types y."""
    automatic = {"auto_map": {"AutoTokenizer": ["mine.Mine", "mine.Mine"]}, "tokenizer_class": "Mine"}
    code = f"open({str(tmp_path / 'ran')!r}, 'w').close()\nfrom transformers import GPT2TokenizerFast as Mine\n"
    files = {"mine.py": code, "tokenizer_config.json": automatic, "config.json": {"model_type": "mine"}}
    whole = folder_of(tmp_path / "whole", {"tokenizer.json": sample("byte_level").to_str()} | files)
    parts = folder_of(tmp_path / "parts", pair | files)
    script = (
        "import sys\nfrom lcutils.corpus import load_tokenizer\n"
        "print(len(load_tokenizer(sys.argv[1])))\nload_tokenizer(sys.argv[2])\n"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", script, whole, parts],
        input="y\n" * 9, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert outcome.stdout == f"{sample('byte_level').get_vocab_size()}\n"
    assert "Mine is not one of transformers, and code that comes with it is not run" in outcome.stderr
    assert not (tmp_path / "ran").exists()


# ---------------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_tokens_share_a_label(tmp_path, kind):
    file = sample(kind)
    file.add_tokens([AddedToken("th"), AddedToken("  ")])  # text that other tokens may have
    tokenizer = load_tokenizer(str(folder_of(tmp_path / "t", {"tokenizer.json": file.to_str()})))
    vocabulary = tokenizer.get_vocab()
    labels = dict(zip(vocabulary, token_labels(tokenizer.backend_tokenizer, vocabulary.values()), strict=True))
    assert len(set(labels.values())) == len(labels)
    assert "\ufffd" not in "".join(labels.values())
    for token in file.get_added_tokens_decoder().values():
        assert labels[token.content].startswith(token.content)  # special tokens show their names
    assert token_labels(tokenizer.backend_tokenizer, [vocabulary[next(iter(labels))]]) == [next(iter(labels.values()))]


def test_labels_tell_the_beginning_of_a_word(tmp_path):
    def labels(kind, *names):
        folder = tmp_path / kind
        if not folder.exists():
            folder_of(folder, {"tokenizer.json": sample(kind).to_str()})
        tokenizer = load_tokenizer(str(folder))
        return token_labels(tokenizer.backend_tokenizer, [tokenizer.get_vocab()[name] for name in names])

    assert labels("byte_level", "ĠLily", "Lily", "ð", "Ġ", END) == [" Lily", "Lily", "<0xF0>", " ", END]
    assert labels("sentencepiece_bpe", "▁Lily", "Lily", "▁", *BYTES[9:11]) == [" Lily", "Lily", " ", "<0x09>", "<0x0A>"]
    assert labels("unigram", "▁19", "▁", "y") == [" 19", " ", "y"]
    assert labels("wordpiece", "Lily", "##l", "L") == ["Lily", "##l", "L"]
    assert labels("word_ends", "Lily</w>", "L") == ["Lily ", "L"]
    assert labels("words", "Lily", "</s>") == ["Lily", "</s>"]


def test_labels_of_a_byte_level_bpe_are_its_decoded_texts(tmp_path):
    tokenizer = load_tokenizer(str(folder_of(tmp_path / "t", {"tokenizer.json": sample("byte_level").to_str()})))
    numbers = range(len(tokenizer))
    texts = [str(tokenizer.decode([number])) for number in numbers]
    labels = token_labels(tokenizer.backend_tokenizer, numbers)
    assert [label for label, text in zip(labels, texts, strict=True) if "\ufffd" not in text] == [
        text for text in texts if "\ufffd" not in text
    ]
    half = np.flatnonzero(["\ufffd" in text for text in texts])  # bytes of letters
    assert len(half) > 128
    assert all("<0x" in labels[number] for number in half)
