"""Random tokenizer folders: whole and damaged files of every kind, odd configurations, odd texts."""

import json
import sys
from pathlib import Path
from random import Random
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from tokenizer_samples import KINDS, LINES, ids_of, sample
from tokenizers import AddedToken, Tokenizer
from transformers.models.auto import tokenization_auto  # noqa: F401 - imported before inputs are timed

from lcutils.corpus.tokenization import load_tokenizer, token_labels, vocabulary_size
from lcutils.errors import UserError

CLASSES = [
    "GPT2Tokenizer", "GPTNeoXTokenizer", "LlamaTokenizerFast", "Qwen2Tokenizer", "BertTokenizer", "T5TokenizerFast",
    "GemmaTokenizer", "DebertaV2Tokenizer", "NoSuchTokenizer", "PreTrainedTokenizerFast", None, 5,
]  # fmt: skip
VALUES: list[Any] = [None, True, -1, 0, 3, 2**40, 0.5, "", "a", "▁", "</s>", [], ["a"], {}, {"type": "ByteLevel"}]
BITS = [
    "Lily",
    " ",
    "  ",
    "\n",
    "😀",
    "漢",
    "1923",
    "<|endoftext|>",
    "</s>",
    "<s>",
    "[MASK]",
    "<new>",
    "\x00",
    "é",
    "##s",
]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) inside a JSON value, the vocabulary's entries left to a few."""
    keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
    found = [(value, key) for key in keys[:20]]
    return found + [place for _, key in found if isinstance(value[key], dict | list) for place in places(value[key])]


def configuration(random: Random) -> dict[str, Any]:
    roles = ["bos_token", "eos_token", "unk_token", "pad_token", "chat_template", "model_max_length", "auto_map"]
    tokens = ["</s>", "<|endoftext|>", "Lily", {"content": "<new>", "lstrip": True}, None, 5, ["a"]]
    flags = ["add_prefix_space", "split_special_tokens", "clean_up_tokenization_spaces", "add_bos_token"]
    chosen = {role: random.choice(tokens[:5] if random.random() < 0.9 else tokens) for role in random.sample(roles, 3)}
    chosen |= {flag: random.choice([True, False]) for flag in random.sample(flags, 2)}
    if random.random() < 0.3:
        chosen["added_tokens_decoder"] = {"3": {"content": "Lily and", "special": True}}
    return chosen | {"tokenizer_class": random.choice(CLASSES)}


def attempt(random: Random, folder: Path) -> str:
    """Load a folder; if it can be loaded, its ids are those of its tokenizer.json, also once it was saved."""
    tokenizer = sample(random.choice(sorted(KINDS)))
    if random.random() < 0.5:
        tokenizer.add_tokens([AddedToken("<new>", lstrip=random.random() < 0.5), AddedToken("Lily", single_word=True)])
    if random.random() < 0.3:
        tokenizer.enable_truncation(3)
        tokenizer.enable_padding(pad_token="<pads>", length=9)
    settings = json.loads(tokenizer.to_str())
    for _ in range(random.choice([0, 0, 1, 2])):
        container, key = random.choice(places(settings))
        container[key] = random.choice(VALUES)
    content = json.dumps(settings, ensure_ascii=random.random() < 0.5).encode()
    if random.random() < 0.2:
        start = random.randrange(len(content))
        cut = [content[:start], content[:start] + random.randbytes(3) + content[start + 3 :], b"\xef\xbb\xbf" + content]
        content = random.choice([*cut, content.decode().encode("utf-16"), b"", b"null", b"[]"])
    (folder / "tokenizer.json").write_bytes(content)
    if random.random() < 0.7:
        text = json.dumps(configuration(random))
        (folder / "tokenizer_config.json").write_text(text if random.random() < 0.95 else text[:-5])
    if random.random() < 0.3:
        (folder / "config.json").write_text(json.dumps({"model_type": random.choice(["gpt2", "llama", "nosuch", 3])}))
    texts = ["".join(random.choice(BITS + LINES) for _ in range(random.randrange(6))) for _ in range(4)]
    try:
        loaded = load_tokenizer(str(folder))
        ids = ids_of(loaded, texts)
    except UserError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert "\n" not in message
        assert len(message) < 500, message
        return "one line"
    right = Tokenizer.from_file(str(folder / "tokenizer.json"))
    right.no_truncation()
    right.no_padding()
    if getattr(right.model, "dropout", None):
        right.model.dropout = None
    assert ids == [i for text in texts for i in right.encode(text, add_special_tokens=False).ids]
    loaded.save_pretrained(folder / "saved")
    again = load_tokenizer(str(folder / "saved"))
    assert ids_of(again, texts) == ids
    assert max(ids, default=0) < vocabulary_size(again) == vocabulary_size(loaded)
    labels = token_labels(again.backend_tokenizer, sorted(set(again.get_vocab().values())))
    assert len(set(labels)) == len(labels)
    return "same ids"
