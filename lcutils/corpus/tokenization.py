"""Tokenizers: from the hub, from local files, or a byte-level BPE trained on the stories at hand."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lcutils.corpus.sources import END_OF_TEXT, one_line
from lcutils.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SMALLEST_BPE = 257  # 256 bytes and the end of text
TOKENIZER_FILES = (
    "vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json",
)  # fmt: skip


def bpe_size(name: str) -> int | None:
    """Vocabulary size that "bpe:4096" asks for; None when `name` is no such request.

    Raises:
        UserError: the size is no whole number or is below 257.
    """
    kind, colon, size = name.partition(":")
    if kind != "bpe" or not colon:
        return None
    if not size.isdecimal() or int(size) < SMALLEST_BPE:
        raise UserError(
            f"tokenizer: {name!r} has no vocabulary size of at least {SMALLEST_BPE} "
            f"(256 bytes and {END_OF_TEXT}); write for example bpe:4096"
        )
    return int(size)


def train_bpe(batches: Iterable[list[str]], size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE like GPT-2's: token 0 is `<|endoftext|>`, then the 256 bytes, then the merges.

    Text that offers fewer merges ends in a smaller vocabulary. The same text gives the same tokenizer.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),  # it comes as a set, in no fixed order
        show_progress=False,
    )
    bpe.train_from_iterator(batches, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END_OF_TEXT, bos_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    )


def check_tokenizer_name(name: str) -> None:
    """Raise a `UserError` if `name` can be seen to be no tokenizer without loading it."""
    folder = Path(name).expanduser()
    if bpe_size(name) is not None:
        return
    if not folder.exists() and name.startswith((".", "/", "~")):
        raise UserError(f"tokenizer: no folder {name}; mend the path, or train one on the stories with bpe:4096")
    pair = [folder / "vocab.json", folder / "merges.txt"]
    if folder.exists() and not (folder / "tokenizer.json").is_file() and not all(file.is_file() for file in pair):
        raise UserError(f"tokenizer: {name} holds neither tokenizer.json nor vocab.json with merges.txt; add them")


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Load a tokenizer from a folder (saved by transformers, or a vocab.json and merges.txt) or from the hub.

    Raises:
        UserError: the folder lacks the files, the hub is out of reach, or the tokenizer is empty or has no fast
            form.
    """
    from transformers import AutoTokenizer, GPT2TokenizerFast, PreTrainedTokenizerFast  # type: ignore[attr-defined]

    check_tokenizer_name(name)
    folder = Path(name).expanduser()
    local = folder.exists()
    try:
        if local and (folder / "tokenizer.json").is_file():
            tokenizer = AutoTokenizer.from_pretrained(str(folder))
        elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            # transformers 5 ignores the old names vocab_file and merges_file, and builds an empty tokenizer.
            tokenizer = GPT2TokenizerFast(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
        else:
            tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # the libraries raise bare Exception for a broken file
        where = "not read" if local else "no such folder here, and not loaded from the hub"
        raise UserError(
            f"tokenizer: {name}: {where} ({one_line(error)}); name a folder with a tokenizer, or bpe:4096"
        ) from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast) or not len(tokenizer):
        raise UserError(f"tokenizer: {name} is empty or has no fast (Rust) form; name another, or bpe:4096")
    return tokenizer


def end_of_text_id(tokenizer: PreTrainedTokenizerFast, name: str) -> int:
    """Id of the token that ends a text.

    Raises:
        UserError: the tokenizer has none.
    """
    token = tokenizer.eos_token or END_OF_TEXT
    number = tokenizer.get_vocab().get(token)
    if number is None:
        raise UserError(f"tokenizer: {name} has no end-of-text token; set end_of_text: false, or name another")
    return int(number)


class Encoder:
    """Turns batches of texts into one array of token ids, on all cores, without any per-token Python.

    Args:
        tokenizer: a fast tokenizer.
        end_of_text: id appended to every text; None for nothing between them, as in the paper.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, end_of_text: int | None = None) -> None:
        self.backend = tokenizer.backend_tokenizer  # without transformers' warnings about long texts
        self.backend.no_truncation()
        self.backend.no_padding()
        self.end_of_text = end_of_text

    def __call__(self, texts: list[str]) -> np.ndarray:  # (tokens,) uint32
        """Concatenate the tokens of `texts`."""
        encoded = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        ends = [] if self.end_of_text is None else [self.end_of_text]
        parts = [np.array(item.ids + ends, dtype=np.uint32) for item in encoded]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint32)
