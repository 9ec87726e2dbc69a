"""Class sums of contiguous sections of a text, in the same pass as those of the whole text.

There are eight parts, as equal as possible, and the first is kept in two halves: nine sections, whose merged sums are
those of 1/16, 1/8, 1/4, 1/2 and all of the text, and of all the text but one part. Blocks stand in the order of the
text; documents stand in it section by section, by length within each.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lcutils.artifacts import find_sealed, remove, write_sealed
from lcutils.documents import Blocks, Documents, share
from lcutils.errors import UserError
from lcutils.features.statistics import ClassStatistics
from lcutils.manifests import note_digest

PARTS = 8
SECTIONS = PARTS + 1  # section 0 and 1 are the halves of the first part
FILES = "section*.safetensors"
CHUNK = 4096  # blocks whose tokens are looked through together


def part_edges(blocks: Blocks, halve_first: bool = False) -> list[int]:
    """Where the eight parts begin and end, in blocks or rows: (9,) numbers from 0 on, or (10,) with the halves.

    Raises:
        UserError: a part would be empty.
    """
    sixteenths = [0, *([1] if halve_first else []), *range(2, 17, 2)]
    if isinstance(blocks, Documents):
        before = np.cumsum(blocks.lengths)  # (n,) tokens up to each row's end, in the order of the text
        inner = [int(np.searchsorted(before, blocks.size * part / 16, side="left")) + 1 for part in sixteenths[1:-1]]
        edges = [0, *inner, len(blocks)]
    else:
        edges = [len(blocks) * part // 16 for part in sixteenths]
    if any(end <= begin for begin, end in pairwise(edges)):
        need = 16 if halve_first else PARTS
        raise UserError(
            f"extraction.parts: {'train' if halve_first else 'validation'} text of {len(blocks)} "
            f"{'rows' if isinstance(blocks, Documents) else 'blocks'} cannot be cut into {need} parts; take more text "
            "or a smaller block_size, or set extraction.parts: false"
        )
    return edges


def in_parts(blocks: Blocks, halve_first: bool = False) -> tuple[Blocks, list[int]]:
    """The text with documents in the order of the parts, and where the parts begin and end (`part_edges`)."""
    edges = part_edges(blocks, halve_first)
    return (replace(blocks, sections=tuple(edges[1:-1])) if isinstance(blocks, Documents) else blocks), edges


def cut(edges: Sequence[int], first: int, number: int, width: int) -> Iterator[tuple[int, slice]]:
    """Yield (section, its slice of a batch's flattened tokens) for a batch of `number` blocks from `first` on."""
    for section, (begin, end) in enumerate(pairwise(edges)):
        low, high = max(begin, first), min(end, first + number)
        if low < high:
            yield section, slice((low - first) * width, (high - first) * width)


def tokens_of(blocks: Blocks, begin: int, end: int) -> Tensor:
    """(R,) ascending ids of the tokens that occur in these blocks: those that may be labels there."""
    seen = np.zeros(0, dtype=np.int64)  # (R,) how often each id occurs so far
    for start in range(begin, end, CHUNK):
        tokens = blocks[start : min(start + CHUNK, end)].ravel()
        more = np.bincount(tokens[tokens >= 0], minlength=len(seen))  # behind a row's end stands -1
        more[: len(seen)] += seen
        seen = more
    return torch.from_numpy(seen.nonzero()[0])


@dataclass
class SectionSums:
    """The sums of each section, within one process's share of the blocks. At most one section's lie in memory.

    A finished section lies in a sealed file in `folder`; one that is not finished is saved with the state of the whole.
    The file's name says up to which block its sums go, so that a state of the whole finds those of its own moment.

    Args:
        folder: of the extraction's state.
        blocks: all of the text.
        edges: where sections begin and end.
        begin, end: this process's share of the blocks.
        make: gives empty statistics with rows for the classes (R,) that it is given; None to read what is there.
        rank, world: which of how many processes this is.
    """

    folder: Path
    blocks: Blocks
    edges: Sequence[int]
    begin: int
    end: int
    make: Callable[[Tensor], ClassStatistics] | None = None
    rank: int = 0
    world: int = 1
    _now: tuple[int, ClassStatistics] | None = field(default=None, init=False)

    def _spans(self) -> Iterator[tuple[int, int, int]]:
        """(section, first, end) of those sections that lie in the share, cut to it."""
        for section, (first, end) in enumerate(pairwise(self.edges)):
            first, end = max(first, self.begin), min(end, self.end)
            if first < end:
                yield section, first, end

    def _classes(self, section: int) -> Tensor:
        return tokens_of(self.blocks, *self.edges[section : section + 2])

    def update(self, features: Tensor, labels: Tensor, first: int, number: int, width: int) -> None:
        """Add a batch to the sums of the sections that it touches.

        Args:
            features: (N, D) of `number` blocks of `width` tokens each, and maybe of some behind these.
            labels: (N,) integers, negative for none.
            first: the batch's first block.
            number, width: blocks, and tokens per block.
        """
        for section, chosen in cut(self.edges, first, number, width):
            if self._now is None:
                assert self.make is not None
                self._now = section, self.make(self._classes(section))
            sums = self._now[1]
            sums.update(features[chosen], labels[chosen])
            if first + number >= (end := min(self.edges[section + 1], self.end)):
                self._write(section, end, sums)
                self._now = None

    def _name(self, section: int, done: int) -> str:
        of = "section" if self.world == 1 else f"section-rank{self.rank}of{self.world}"
        return f"{of}-{section:02d}-{done:012d}"

    def _write(self, section: int, done: int, sums: ClassStatistics) -> None:
        name, job = self._name(section, done), note_digest(self.folder)
        write_sealed(self.folder, f"{name}.safetensors", sums.save, job=job, replaces=f"{name}-*.safetensors")

    def save(self, done: int) -> None:
        """Write the sums of the section that is not finished; before the state of the whole is written."""
        if self._now is not None:
            self._write(self._now[0], done, self._now[1])

    def tidy(self, done: int) -> None:
        """Remove what the state of the whole at `done`, which is on the disk now, does not need."""
        for section, _, end in self._spans():
            stem = self._name(section, 0).rpartition("-")[0]
            for path in self.folder.glob(f"{stem}-*.safetensors"):
                if int(path.stem.split("-")[-2]) < min(end, done):
                    remove(path)

    def file(self, section: int, done: int) -> Path | None:
        """The file of a section's sums up to a block; None where it is missing or damaged (which is reported)."""
        found, damaged = find_sealed(
            self.folder, f"{self._name(section, done)}-*.safetensors", job=note_digest(self.folder)
        )
        for path in damaged:
            print(f"{path}: is damaged, and removed; the work it held is done again", file=sys.stderr, flush=True)
            remove(path)
        return found

    def go_on(self, done: int, device: torch.device) -> bool:
        """Take up the sums as they were at block `done`; False where a file that this takes is missing."""
        for section, first, end in self._spans():
            if first >= done:
                break
            if (file := self.file(section, min(end, done))) is None:
                return False
            if done < end:
                self._now = section, ClassStatistics.load(file, device, self._classes(section))
        self.tidy(done)
        return True


def gather_sections(resume: Path, blocks: Blocks, edges: Sequence[int], world: int, target: Path) -> None:
    """Write the sums of each section, of all processes, into the folder `target`, which is made: `part-00…08`.

    Args:
        resume: where each process has left the sums of its share.
        blocks: all of the text.
        edges: where sections begin and end.
        world: number of processes.
        target: folder of the files.

    Raises:
        UserError: a file of a process was lost.
    """
    target.mkdir()
    found: list[list[Path]] = [[] for _ in edges[1:]]
    for rank in range(world):
        left = SectionSums(resume, blocks, edges, *share(blocks, rank, world), None, rank, world)
        for section, _, end in left._spans():
            file = left.file(section, end)
            if file is None:
                raise UserError(f"{resume}: the sums of part {section} are missing; extract again to make them")
            found[section].append(file)
    for section, files in enumerate(found):
        path = target / f"part-{section:02d}.safetensors"
        if len(files) == 1:
            shutil.copyfile(files[0], path)
            continue
        loaded = [ClassStatistics.load(file, "cpu", "seen") for file in files]
        every = torch.cat([sums.classes for sums in loaded]).unique()
        merged = loaded[0].empty(every)
        for sums in loaded:
            merged.merge(sums)
        merged.save(path)
