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
        ending: ids put behind every text.
        progress: is told how far a long text is tokenized.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, ending: tuple[int, ...], progress: Progress) -> None:
        self.encode = Encoder(tokenizer)
        self.ending = np.array(ending, dtype=np.uint32)
        self.may_cut = may_cut(tokenizer)
        self.progress = progress

    def each(self, texts: list[str]) -> list[np.ndarray]:
        """The tokens of each text: (tokens,) uint32."""
        if not self.may_cut or all(len(text) <= LONG for text in texts):
            encoded = self.encode(texts)
        else:
            encoded = [np.concatenate(list(self._pieces(text))) for text in texts]
        return [np.concatenate((tokens, self.ending)) for tokens in encoded] if len(self.ending) else encoded

    def _pieces(self, text: str) -> Iterator[np.ndarray]:
        for number, group in enumerate(cut(text) if len(text) > LONG else [[text]], 1):
            yield from self.encode(group)
            if len(text) > LONG:
                self.progress.update(0, MB_of_a_story=number * GROUP * PIECE / 1e6)
