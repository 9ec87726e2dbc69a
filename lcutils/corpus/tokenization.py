"""Tokenizers: from the hub, from local files, or a byte-level BPE trained on the stories of the study."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lcutils.corpus.readers import END_OF_TEXT
from lcutils.errors import UserError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SMALLEST_BPE = 257  # 256 bytes and the end of text
TOKENIZER_FILES = (
    "vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json",
)  # fmt: skip


def bpe_size(name: str) -> int | None:
    """Vocabulary size that "bpe:4096" asks for; None if `name` is the name of a tokenizer.

    Raises:
        UserError: the size is not a whole number, or is below 257.
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

    The vocabulary is smaller where the text offers fewer merges. The same text gives the same tokenizer.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),  # a set, which has no fixed order
        show_progress=False,
    )
    bpe.train_from_iterator(batches, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END_OF_TEXT, bos_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    )


def check_tokenizer_name(name: str) -> None:
    """Check what can be checked without loading the tokenizer; raise a `UserError` if it cannot be one."""
    folder = Path(name).expanduser()
    if bpe_size(name) is not None:
        return
    if not folder.exists() and name.startswith((".", "/", "~")):
        raise UserError(f"tokenizer: there is no folder {name}; correct the path, or train one with bpe:4096")
    pair = [folder / "vocab.json", folder / "merges.txt"]
    if folder.exists() and not (folder / "tokenizer.json").is_file() and not all(file.is_file() for file in pair):
        raise UserError(f"tokenizer: {name} holds neither tokenizer.json nor vocab.json with merges.txt; add them")


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Load a tokenizer from a folder (saved by transformers, or a vocab.json and merges.txt) or from the hub.

    Where there is a `tokenizer.json`, texts get the ids that this file gives them, also once the tokenizer was saved.

    Raises:
        UserError: the folder lacks the files, the hub is out of reach, or the tokenizer is empty or has no fast
            form.
    """
    from transformers import GPT2TokenizerFast, PreTrainedTokenizerFast  # type: ignore[attr-defined]

    check_tokenizer_name(name)
    folder = Path(name).expanduser()
    files = [folder / file for file in ("tokenizer.json", "vocab.json", "merges.txt")]
    whole, vocabulary, merges = (file.is_file() for file in files)
    try:
        if vocabulary and merges and not whole:
            # transformers 5 ignores the old names vocab_file and merges_file, and builds an empty tokenizer.
            tokenizer = GPT2TokenizerFast(vocab=str(files[1]), merges=str(files[2]))
        else:
            tokenizer = _load_saved(str(folder) if folder.exists() else name)
    except Exception as error:  # the libraries raise bare Exception for a broken file
        where = "cannot be read" if folder.exists() else "is not a folder here and cannot be loaded from the hub"
        raise UserError(
            f"tokenizer: {name} {where} ({first_line(error)}); name a folder with a tokenizer, or bpe:4096"
        ) from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast) or not len(tokenizer):
        raise UserError(f"tokenizer: {name} is empty or has no fast (Rust) form; name another tokenizer, or bpe:4096")
    return tokenizer


def _load_saved(source: str) -> Any:
    """Load a tokenizer that was saved by transformers, with exactly the ids of its `tokenizer.json`.

    The class that the configuration names (GPT2Tokenizer, GPTNeoXTokenizer …) may read only the vocabulary and the
    merges from that file, and replace its normalizer and pre-tokenizer by those of one model. The general class takes
    the file as it is. The names of special tokens, some of which only the other class knows, go with it.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.utils.hub import cached_file

    tokenizer = AutoTokenizer.from_pretrained(source)
    file = cached_file(source, "tokenizer.json", _raise_exceptions_for_missing_entries=False)
    if file is None or type(tokenizer) is PreTrainedTokenizerFast:
        return tokenizer
    vocabulary = Tokenizer.from_file(file).get_vocab()
    special: dict[str, Any] = {
        role: token for role, token in tokenizer.special_tokens_map.items() if token in vocabulary
    }
    return PreTrainedTokenizerFast.from_pretrained(source, **special)


def vocabulary_size(tokenizer: PreTrainedTokenizerFast) -> int:
    """The largest id + 1: more than the number of tokens where ids are missing, as in a pruned vocabulary."""
    return max(tokenizer.get_vocab().values()) + 1


def end_of_text_id(tokenizer: PreTrainedTokenizerFast, name: str) -> int:
    """Id of the token that ends a text.

    Raises:
        UserError: the tokenizer has no such token.
    """
    token_id = tokenizer.get_vocab().get(tokenizer.eos_token or END_OF_TEXT)
    if token_id is None:
        raise UserError(
            f"tokenizer: {name} has no end-of-text token; set end_of_text: false, or name another tokenizer"
        )
    return int(token_id)


class Encoder:
    """Turns batches of texts into one array of token ids, on all cores and without Python code per token.

    Args:
        tokenizer: a fast tokenizer.
        end_of_text: id appended to every text; None to append nothing, as in the paper.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, end_of_text: int | None = None) -> None:
        self.backend = tokenizer.backend_tokenizer  # it does not warn about long texts as transformers does
        self.backend.no_truncation()
        self.backend.no_padding()
        self.end_of_text = end_of_text

    def __call__(self, texts: list[str]) -> np.ndarray:  # (tokens,) uint32
        """Concatenate the tokens of `texts`."""
        encoded = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        ends = [] if self.end_of_text is None else [self.end_of_text]
        parts = [np.array(item.ids + ends, dtype=np.uint32) for item in encoded]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint32)
