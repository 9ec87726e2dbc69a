"""The data stage: from stories to blocks of tokens and counts of labels.

S = block_size (tokens per block), V = vocabulary size. A block gives S-1 predictions: the token at each position
but the first is the label of the feature before it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lcutils.artifacts import file_digest, write_json
from lcutils.corpus.cutting import LongEncoder, cut_long
from lcutils.corpus.folders import local_files
from lcutils.corpus.paths import reason
from lcutils.corpus.sources import BUILT_IN, check_sources, open_stories, origin
from lcutils.corpus.stories import fingerprint
from lcutils.corpus.tokenization import (
    bpe_size,
    check_tokenizer_name,
    end_of_text_id,
    load_tokenizer,
    train_bpe,
    vocabulary_size,
    warn_of_beginning,
)
from lcutils.corpus.tokenizer_files import tokenizer_files
from lcutils.errors import UserError
from lcutils.manifests import check_artifact
from lcutils.progress import Progress
from lcutils.text import one_line

if TYPE_CHECKING:
    from datasets import Dataset

    from lcutils.parameters import CorpusSettings

BATCH = 1_000  # stories tokenized at a time, and packed at a time in the paper
SUMMARY = "corpus.json"


def paper_batches(n: int) -> Iterator[range]:
    """The paper's batches, each packed by itself: 1,000 stories of one half of the split, or what is left of the half.

    The released code tokenized in two processes, each with a contiguous half; the first half takes an odd story.
    """
    half = (n + 1) // 2
    for start, stop in ((0, half), (half, n)):
        for first in range(start, stop, BATCH):
            yield range(first, min(first + BATCH, stop))


def plain_batches(n: int) -> Iterator[range]:
    """Batches of 1,000 stories in order."""
    for first in range(0, n, BATCH):
        yield range(first, min(first + BATCH, n))


def pack(arrays: Iterator[np.ndarray], block_size: int, packing: str) -> Iterator[tuple[np.ndarray, int]]:
    """Cut token arrays into blocks.

    "paper" drops the tokens that are left at the end of each array; "lossless" carries them into the next array, so
    that only the last, partial block is dropped.

    Yields:
        For each array: blocks (n, block_size), and the number of tokens in the array (not in the blocks).
    """
    rest = np.empty(0, dtype=np.uint32)
    for array in arrays:
        tokens = np.concatenate((rest, array)) if packing == "lossless" else array
        n = len(tokens) // block_size
        rest = tokens[n * block_size :]
        yield tokens[: n * block_size].reshape(n, block_size), len(array)


def prepare_corpus(settings: CorpusSettings, folder: Path, *, log: Path | None = None) -> dict[str, Any]:
    """Read the stories, tokenize, pack and count them, into `folder` (present and empty).

    Files: `train.bin`, `validation.bin` and, with out-of-distribution text, `ood.bin` (raw little-endian
    blocks, uint16, or uint32 for a vocabulary above 65,535); `counts.npy` int64 (2, V), how often each token is a
    label in train and in validation; `tokenizer/`; `corpus.json`, the summary.

    Out-of-distribution text is always packed without loss, since it is never trained on.

    Returns:
        The summary: packing, block_size, vocab_size, dtype, end_of_text; for each split its
        stories, tokens, blocks, predictions and dropped_tokens; `label_types`, the number of token types among
        the train labels; `unigram_entropy` in nats, the entropy of the validation labels, which is the lowest
        validation loss that a model without context can reach.

    Raises:
        UserError: a source or the tokenizer is wrong, or there is too little text.
    """
    size = bpe_size(settings.tokenizer)
    # A wrong tokenizer is reported before any slow work.
    tokenizer = load_tokenizer(settings.tokenizer) if size is None else None
    if tokenizer is not None:
        warn_of_beginning(tokenizer)
    with open_stories(settings, folder, log) as splits:
        if tokenizer is None:
            assert size is not None
            train = splits["train"]
            with Progress("train tokenizer", len(train), unit="story", log=log) as progress:
                texts = _texts(train, plain_batches(len(train)), progress)
                tokenizer = train_bpe((part for batch in texts for part in cut_long(batch)), size)
        vocab_size = vocabulary_size(tokenizer)
        dtype = np.dtype("<u2" if vocab_size <= 65_535 else "<u4")
        ending = end_of_text_id(tokenizer, settings.tokenizer) if settings.end_of_text else None

        counts = {split: np.zeros(vocab_size, dtype=np.int64) for split in splits}  # (V,)
        figures: dict[str, dict[str, int]] = {}
        with Progress("tokenize", sum(map(len, splits.values())), unit="story", log=log) as progress:
            encoder = LongEncoder(tokenizer, ending, progress)
            for split, dataset in splits.items():
                packing = "lossless" if split == "ood" else settings.packing
                batches = (paper_batches if packing == "paper" else plain_batches)(len(dataset))
                tokens = blocks = 0
                arrays = map(encoder, _texts(dataset, batches, progress))
                with (folder / f"{split}.bin").open("wb") as file:
                    for block, n in pack(arrays, settings.block_size, packing):
                        block.astype(dtype).tofile(file)
                        counts[split] += np.bincount(block[:, 1:].ravel(), minlength=vocab_size)
                        tokens, blocks = tokens + n, blocks + len(block)
                if not blocks:
                    raise UserError(
                        f"{origin(settings, split)}: the {split} split "
                        f"({len(dataset):,} stories, {tokens:,} tokens) fills no block of {settings.block_size}; "
                        f"use more text{' or' if packing == 'lossless' else ', packing: lossless or'} "
                        "a smaller block_size"
                    )
                figures[split] = {
                    "stories": len(dataset),
                    "tokens": tokens,
                    "blocks": blocks,
                    "predictions": blocks * (settings.block_size - 1),
                    "dropped_tokens": tokens - blocks * settings.block_size,
                }

    tokenizer.save_pretrained(str(folder / "tokenizer"))
    np.save(folder / "counts.npy", np.stack((counts["train"], counts["validation"])))
    summary: dict[str, Any] = {
        "packing": settings.packing,
        "block_size": settings.block_size,
        "vocab_size": vocab_size,
        "dtype": dtype.name,
        "end_of_text": settings.end_of_text,
        **figures,
        "label_types": int(np.count_nonzero(counts["train"])),
        "unigram_entropy": entropy(counts["validation"]),
    }
    write_json(folder / SUMMARY, summary)
    return summary


def entropy(counts: np.ndarray) -> float:
    """Entropy in nats of the distribution that `counts` (V,) are proportional to: -sum p ln p."""
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


def _texts(dataset: Dataset, batches: Iterable[range], progress: Progress) -> Iterator[list[str]]:
    """Yield the stories batch by batch; a missing text (a null in the table) becomes an empty one."""
    for batch in batches:
        yield [text or "" for text in dataset[batch.start : batch.stop]["text"]]
        progress.update(len(batch))


def open_blocks(folder: Path, split: str) -> np.ndarray:
    """Map the blocks of a split ("train", "validation", "ood") of a prepared corpus: (n_blocks, S), read-only.

    Raises:
        UserError: the folder holds no corpus, or the corpus no such split.
    """
    check_artifact(folder)
    path = folder / f"{split}.bin"
    if not path.is_file() or not (folder / SUMMARY).is_file():
        raise UserError(f"{path}: is missing; prepare the corpus first (make sweep, or notebook 01)")
    summary = json.loads((folder / SUMMARY).read_text())
    dtype = np.dtype(summary["dtype"]).newbyteorder("<")
    return np.memmap(path, dtype=dtype, mode="r").reshape(-1, summary["block_size"])


@dataclass(frozen=True)
class Data:
    """A prepared corpus: blocks of token ids, and how often each token is a label.

    Attributes:
        summary: what `prepare_corpus` returns.
        train, validation: (n_blocks, S) memory maps.
        counts: (2, V) how often each token is a label in train and in validation.
    """

    folder: Path
    summary: dict[str, Any]
    train: np.ndarray
    validation: np.ndarray
    counts: np.ndarray

    def blocks(self, split: str) -> np.ndarray:
        """The blocks (n_blocks, S) of a split: "train", "validation" or "ood"."""
        return open_blocks(self.folder, split)

    def check_min_count(self, least: int) -> None:
        """Raise a `UserError` if fewer than two token types have at least `least` samples in the train text."""
        if (kept := int((self.counts[0] >= least).sum())) < 2:
            raise UserError(
                f"measurement.min_count: {kept} token types have at least {least} samples in the train text, "
                f"two are needed; use at most {np.sort(self.counts[0])[-2]}"
            )


def open_data(folder: Path) -> Data:
    """Open the corpus that `prepare_corpus` wrote; a `UserError` names a file of it that is damaged."""
    check_artifact(folder)
    summary = json.loads((folder / SUMMARY).read_text())
    train, validation = (open_blocks(folder, split) for split in ("train", "validation"))
    return Data(folder, summary, train, validation, np.load(folder / "counts.npy"))


def source_digest(settings: CorpusSettings, digest_file: Callable[[Path], str] = file_digest) -> str:
    """SHA-256 of all that the corpus is made from: contents of local text and tokenizer files, names on the hub.

    For the built-in corpus it covers the plots and a sample of stories, so that a new generator makes old corpora
    stale. A hub dataset is assumed not to change under its name.

    Raises:
        UserError: a file or folder that the settings name does not exist. Cheap enough to check before any work.
    """
    check_tokenizer_name(settings.tokenizer)
    check_sources(settings)
    digest = hashlib.sha256()
    if settings.source == BUILT_IN:
        digest.update(fingerprint().encode())
    for key in ("source", "validation", "ood"):
        name = getattr(settings, key)
        if name is not None and name != BUILT_IN:
            try:
                _add(digest, name, local_files(name), digest_file)
            except UserError as error:
                raise UserError(f"{key}: {error}") from None
    files = [(file.name, file) for file in tokenizer_files(settings.tokenizer)]
    _add(digest, settings.tokenizer, files, digest_file)
    return digest.hexdigest()


def _add(digest: Any, name: str, files: list[tuple[str, Path]], digest_file: Callable[[Path], str]) -> None:
    """Add the names and contents of `files`, or the name if there are none."""
    if not files:
        digest.update(os.fsencode(name) + b"\0")
    for inside, file in files:
        try:
            content = digest_file(file)
        except OSError as error:
            raise UserError(f"{one_line(file)}: cannot be read ({reason(error)}); correct or replace it") from None
        digest.update(os.fsencode(inside) + b"\0" + bytes.fromhex(content))
