"""The data stage: from stories to blocks of tokens and counts of labels.

S = block_size (tokens per block), V = vocabulary size. A block gives S-1 predictions: the token at each position
but the first is the label of the feature before it. `layout` says how tokens become blocks.
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
from lcutils.corpus.files import say
from lcutils.corpus.folders import local_files
from lcutils.corpus.layout import Layout, SplitFigures
from lcutils.corpus.paths import reason
from lcutils.corpus.sources import BUILT_IN, check_sources, open_stories, origin
from lcutils.corpus.stories import fingerprint
from lcutils.corpus.tokenization import (
    around,
    as_message,
    bpe_size,
    check_tokenizer_name,
    load_tokenizer,
    train_bpe,
    vocabulary_size,
)
from lcutils.corpus.tokenizer_files import tokenizer_files
from lcutils.documents import Blocks, Documents
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


def prepare_corpus(settings: CorpusSettings, folder: Path, *, log: Path | None = None) -> dict[str, Any]:
    """Read the stories, tokenize, lay out and count them, into `folder` (present and empty).

    Files: `train.bin`, `validation.bin` and, with out-of-distribution text, `ood.bin` (raw little-endian blocks, or
    rows of documents with their `….lengths.npy`; uint16, or uint32 for a vocabulary above 65,535); `counts.npy` int64
    (2, V), how often each token is a label in train and in validation; `tokenizer/`; `corpus.json`, the summary.

    Out-of-distribution text is always packed without loss, since it is never trained on.

    Returns:
        The summary: packing, block_size, vocab_size, dtype, end_of_text, layout; `beginning` and `ending`, ids that
        stand around the text; for each split its stories, characters, tokens, blocks, predictions and dropped_tokens;
        `label_types`, the number of token types among the train labels; `unigram_entropy` in nats, the entropy of the
        validation labels, which is the lowest validation loss that a model without context can reach.

    Raises:
        UserError: a source or the tokenizer is wrong, or there is too little text.
    """
    size = bpe_size(settings.tokenizer)
    # A wrong tokenizer is reported before any slow work.
    tokenizer = load_tokenizer(settings.tokenizer) if size is None else None
    if tokenizer is not None:
        around(tokenizer, settings)
    with open_stories(settings, folder, log) as splits:
        if tokenizer is None:
            assert size is not None
            train = splits["train"]
            with Progress("train tokenizer", len(train), unit="stories", log=log) as progress:
                texts = _texts(train, plain_batches(len(train)), progress)
                tokenizer = train_bpe((part for batch in texts for part in cut_long(batch)), size)
        vocab_size = vocabulary_size(tokenizer)
        dtype = np.dtype("<u2" if vocab_size <= 65_535 else "<u4")
        beginning, ending = around(tokenizer, settings)
        figures = {split: SplitFigures(np.zeros(vocab_size, dtype=np.int64)) for split in splits}
        with Progress("tokenize", sum(map(len, splits.values())), unit="stories", log=log) as progress:
            encoder = LongEncoder(tokenizer, ending, progress)
            for split, dataset in splits.items():
                packing = None if settings.layout == "documents" else settings.packing
                packing = "lossless" if packing and split == "ood" else packing
                most = settings.max_tokens if split == "train" else None
                layout = Layout(settings.block_size, beginning, packing, most)
                batches = (paper_batches if packing == "paper" else plain_batches)(len(dataset))
                texts = _texts(dataset, batches, progress)
                counted = _counted(texts, figures[split])
                shown = (as_message(tokenizer, text) for text in counted) if settings.chat_template else counted
                layout.write(map(encoder.each, shown), folder / f"{split}.bin", dtype, figures[split])
                _check_enough(settings, split, figures[split])
                if cut := figures[split].cut:
                    say(
                        f"{split}: {cut:,} of {figures[split].stories:,} stories have more than {settings.block_size} "
                        "tokens; they are cut into rows",
                        log,
                    )

    tokenizer.save_pretrained(str(folder / "tokenizer"))
    counts = figures["train"].counts, figures["validation"].counts
    np.save(folder / "counts.npy", np.stack(counts))
    summary: dict[str, Any] = {
        "packing": settings.packing,
        "block_size": settings.block_size,
        "vocab_size": vocab_size,
        "dtype": dtype.name,
        "end_of_text": settings.end_of_text,
        "layout": settings.layout,
        "beginning": list(beginning),
        "ending": list(ending),
        **{split: counted.summary() for split, counted in figures.items()},
        "label_types": int(np.count_nonzero(counts[0])),
        "unigram_entropy": entropy(counts[1]),
    }
    write_json(folder / SUMMARY, summary)
    return summary


def _counted(batches: Iterable[list[str]], figures: SplitFigures) -> Iterator[list[str]]:
    """The batches, whose stories and characters are counted on their way."""
    for batch in batches:
        figures.stories += len(batch)
        figures.characters += sum(map(len, batch))
        yield batch


def _check_enough(settings: CorpusSettings, split: str, figures: SplitFigures) -> None:
    """Raise a `UserError` if a split has no block."""
    if not figures.blocks:
        fix = "" if settings.layout == "documents" or settings.packing == "lossless" else ", packing: lossless or"
        fix = f"use more text{fix or ' or'} a smaller block_size"
        what = f"({figures.stories:,} stories, {figures.tokens:,} tokens) fills no block of {settings.block_size}"
        raise UserError(f"{origin(settings, split)}: the {split} split {what}; {fix}")


def entropy(counts: np.ndarray) -> float:
    """Entropy in nats of the distribution that `counts` (V,) are proportional to: -sum p ln p."""
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


def _texts(dataset: Dataset, batches: Iterable[range], progress: Progress) -> Iterator[list[str]]:
    """Yield the stories batch by batch; a missing text (a null in the table) becomes an empty one."""
    for batch in batches:
        yield [text or "" for text in dataset[batch.start : batch.stop]["text"]]
        progress.update(len(batch))


def open_blocks(folder: Path, split: str) -> Blocks:
    """Map the blocks of a split ("train", "validation", "ood") of a prepared corpus: (n_blocks, S), read-only.

    Raises:
        UserError: the folder holds no corpus, or the corpus no such split.
    """
    check_artifact(folder)
    path = folder / f"{split}.bin"
    if not path.is_file() or not (folder / SUMMARY).is_file():
        raise UserError(f"{path}: is missing; prepare the corpus first (make sweep, or notebook 01)")
    summary = json.loads((folder / SUMMARY).read_text())
    tokens = np.memmap(path, dtype=np.dtype(summary["dtype"]).newbyteorder("<"), mode="r")
    size, beginning = summary["block_size"], len(summary.get("beginning", []))
    if (lengths := path.with_suffix(".lengths.npy")).is_file():
        return Documents(tokens, np.load(lengths), beginning, size)
    if beginning > 1:  # more than one token to leave out of the labels
        return Documents(tokens, np.full(len(tokens) // size, size, dtype=np.int32), beginning, size)
    return tokens.reshape(-1, size)


@dataclass(frozen=True)
class Data:
    """A prepared corpus: blocks of token ids, and how often each token is a label.

    Attributes:
        summary: what `prepare_corpus` returns.
        train, validation: (n_blocks, S) memory maps, or rows of documents.
        counts: (2, V) how often each token is a label in train and in validation.
    """

    folder: Path
    summary: dict[str, Any]
    train: Blocks
    validation: Blocks
    counts: np.ndarray

    def blocks(self, split: str) -> Blocks:
        """The blocks (n_blocks, S) of a split: "train", "validation" or "ood"."""
        return open_blocks(self.folder, split)

    def stream(self) -> tuple[np.ndarray, np.ndarray]:
        """Train and validation blocks to train on; a `UserError` where they are rows of documents."""
        if isinstance(self.train, Documents) or isinstance(self.validation, Documents):
            raise UserError(
                "corpus.beginning_of_text: the tokenizer puts several tokens in front, models are trained with one at "
                "most; leave it at auto, or name another tokenizer"
            )
        return self.train, self.validation

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
    digest = _text_hash(settings, digest_file)
    files = [(file.name, file) for file in tokenizer_files(settings.tokenizer)]
    _add(digest, settings.tokenizer, files, digest_file)
    return digest.hexdigest()


def text_digest(settings: CorpusSettings, digest_file: Callable[[Path], str] = file_digest) -> str:
    """The same of the text alone, whatever the tokenizer."""
    return _text_hash(settings, digest_file).hexdigest()


def tokenizer_digest(settings: CorpusSettings, digest_file: Callable[[Path], str] = file_digest) -> str | None:
    """The same of the tokenizer's files; None if there is only a name: of one on the hub, or to be trained."""
    check_tokenizer_name(settings.tokenizer)
    files = [(file.name, file) for file in tokenizer_files(settings.tokenizer)]
    digest = hashlib.sha256()
    _add(digest, settings.tokenizer, files, digest_file)
    return digest.hexdigest() if files else None


def _text_hash(settings: CorpusSettings, digest_file: Callable[[Path], str]) -> Any:
    """The hash object of the text, which more may be added to."""
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
    return digest


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
