"""Very long texts in pieces: a tokenizer takes over a hundred bytes of memory for each character that it is given.

A text is cut only where its tokens stay the same: with the byte-level rule of GPT-2 (and of our own tokenizers), which
no token crosses between a word and the white space behind it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from lcutils.corpus.tokenization import Encoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from lcutils.progress import Progress

LONG = 1 << 20  # characters of a text that is cut
PIECE = 1 << 16  # characters of its pieces, or a few more
GROUP = 16  # pieces that are tokenized together, on all cores
_PLACE = re.compile(r"""(?<=[A-Za-z0-9.,;:!?"')])(?=[ \n])""")


def may_cut(tokenizer: PreTrainedTokenizerFast) -> bool:
    """True if a tokenizer splits texts by GPT-2's rule, and nothing else that it does looks over a cut."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    split = rules["pre_tokenizer"] or {}
    return (
        rules["normalizer"] is None
        and split.get("type") == "ByteLevel"
        and split.get("use_regex", True)
        and not split["add_prefix_space"]
        and not any(
            token["lstrip"] or token["rstrip"] or re.search(r"\s", token["content"]) for token in rules["added_tokens"]
        )
    )


def cut(text: str, size: int = PIECE) -> Iterator[list[str]]:
    """Yield the pieces of a text, some at a time: each has at least `size` characters, but for the last."""
    start, group = 0, []
    while place := _PLACE.search(text, start + size):
        group.append(text[start : place.start()])
        start = place.start()
        if len(group) == GROUP:
            yield group
            group = []
    yield [*group, text[start:]]


def cut_long(texts: list[str]) -> Iterator[list[str]]:
    """Yield texts, some at a time, the long ones in pieces: enough to count the words in them."""
    yield [text for text in texts if len(text) <= LONG]
    for text in texts:
        if len(text) > LONG:
            yield from cut(text)


class LongEncoder:
    """An `Encoder` that takes long texts in pieces, with the same tokens and in little memory.

    Args:
        tokenizer: a fast tokenizer.
        end_of_text: id appended to every text; None to append nothing.
        progress: is told how far a long text is tokenized.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, end_of_text: int | None, progress: Progress) -> None:
        self.encode = Encoder(tokenizer, end_of_text)
        self.encode_part = Encoder(tokenizer)
        self.may_cut = may_cut(tokenizer)
        self.progress = progress

    def __call__(self, texts: list[str]) -> np.ndarray:  # (tokens,) uint32
        """Concatenate the tokens of `texts`."""
        if not self.may_cut or all(len(text) <= LONG for text in texts):
            return self.encode(texts)
        arrays = []
        for text in texts:
            *groups, last = cut(text) if len(text) > LONG else [[text]]
            for number, group in enumerate(groups, 1):
                arrays.append(self.encode_part(group))
                self.progress.update(0, MB_of_a_story=number * GROUP * PIECE / 1e6)
            arrays += [self.encode_part(last[:-1]), self.encode(last[-1:])]
        return np.concatenate(arrays)
