"""CUDA path of `ClassStatistics.update`: sort by label, then sum runs of equal labels, without atomics.

Token labels follow Zipf's law, so atomic additions would queue up on the hottest classes, and their order, hence
the last bits, would change from run to run. Here the sorted features are cut into chunks of ROWS. A chunk owns every
run of equal labels that lies wholly in it and adds that run's sums to the class at once. A run that crosses chunk
borders leaves partial sums, one "tail" in the chunk where it begins and one "head" in each chunk that it goes on in;
a second kernel adds those up. Every sum is made in a fixed order.

Labels are first turned into rows of the sums, which only the classes that may occur have.

Shapes: N features, D dimensions, C classes, R rows, P chunks.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

FAN = 16  # partial sums read at a time when runs are joined
COLUMNS = 128  # columns a program joins
TRIANGLE = 256  # columns of one product where only the upper triangle of the scatter is made


@triton.jit
def _find_rows(labels, rows, found, largest, N, C, SOME: tl.constexpr, BLOCK: tl.constexpr):
    """Rows of labels as int32 with -1 for those to skip, and the largest label met that has no row."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    label = tl.load(labels + i, mask=i < N, other=-1).to(tl.int64)
    inside = (label >= 0) & (label < C)
    if SOME:  # noqa: SIM108 - decided when the kernel is compiled
        row = tl.load(rows + label, mask=inside, other=-1)
    else:
        row = tl.where(inside, label, -1).to(tl.int32)
    tl.atomic_max(largest, tl.max(tl.where(row < 0, label, -1), 0), sem="relaxed")
    tl.store(found + i, row, mask=i < N)


@triton.jit
def _set_pivots(features, order, labels, counts, pivots, D, most, NARROW: tl.constexpr, BLOCK: tl.constexpr):
    """A class without features so far takes the first one of its run as its pivot."""
    i = tl.program_id(0)
    label = tl.load(labels + i).to(tl.int64)
    before = tl.load(labels + i - 1, mask=i > 0, other=-1)
    if label != before and label >= 0:  # noqa: SIM102 - Triton's `and` would evaluate the load below too
        if tl.load(counts + label) == 0:
            column = tl.arange(0, BLOCK)
            row = tl.load(order + i)
            feature = tl.load(features + row * D + column, mask=column < D, other=0.0)
            if NARROW:
                near = tl.where(tl.abs(feature.to(tl.float64)) < most, feature, 0.0).to(tl.float32)
                tl.store(pivots + label * D + column, near.to(tl.bfloat16), mask=column < D)
            else:
                tl.store(pivots + label * D + column, feature.to(tl.float64), mask=column < D)


@triton.jit
def _add_to_class(counts, totals, squares, label, column, inside, total, square, count, D):
    here = totals + label * D + column
    tl.store(here, tl.load(here, mask=inside, other=0.0) + total, mask=inside)
    tl.store(squares + label, tl.load(squares + label) + square)
    tl.store(counts + label, tl.load(counts + label) + count)


@triton.jit
def _keep_part(part_total, part_square, part_count, part, column, inside, total, square, count, D):
    tl.store(part_total + part * D + column, total, mask=inside)
    tl.store(part_square + part, square)
    tl.store(part_count + part, count)


@triton.jit
def _sum_runs(
    features, order, labels, counts, pivots, totals, squares, centred, part_total, part_square, part_count,
    N, D, P, ROWS: tl.constexpr, BLOCK: tl.constexpr, CENTRED: tl.constexpr,
):  # fmt: skip
    """Sums of the runs in one chunk: to the class, or to part `chunk` (a head) or part `P + chunk` (a tail)."""
    chunk = tl.program_id(0).to(tl.int64)
    start = chunk * ROWS
    column = tl.arange(0, BLOCK)
    inside = column < D
    current = tl.load(labels + start).to(tl.int64)
    goes_on = (tl.load(labels + start - 1, mask=start > 0, other=-2) == current).to(tl.int32)
    pivot = tl.load(pivots + current * D + column, mask=inside & (current >= 0), other=0.0).to(tl.float64)
    total = tl.zeros([BLOCK], tl.float64)
    square = tl.zeros([BLOCK], tl.float64)
    count = tl.zeros([], tl.int64)
    for step in range(ROWS):
        i = start + step
        if i < N:
            label = tl.load(labels + i).to(tl.int64)
            row = tl.load(order + i)
            feature = tl.load(features + row * D + column, mask=inside, other=0.0).to(tl.float64)
            if label != current:
                if goes_on > 0:
                    _keep_part(
                        part_total, part_square, part_count, chunk, column, inside, total, tl.sum(square, 0), count, D
                    )
                elif current >= 0:
                    _add_to_class(counts, totals, squares, current, column, inside, total, tl.sum(square, 0), count, D)
                goes_on = tl.zeros([], tl.int32)
                current = label
                pivot = tl.load(pivots + current * D + column, mask=inside & (current >= 0), other=0.0).to(tl.float64)
                total = tl.zeros([BLOCK], tl.float64)
                square = tl.zeros([BLOCK], tl.float64)
                count = tl.zeros([], tl.int64)
            deviation = tl.where(inside & (current >= 0), feature - pivot, 0.0)
            total += deviation
            square += deviation * deviation
            count += 1
            if CENTRED:
                tl.store(centred + i * D + column, deviation, mask=inside)
    after = tl.load(labels + start + ROWS, mask=start + ROWS < N, other=-2)
    if goes_on > 0:
        _keep_part(part_total, part_square, part_count, chunk, column, inside, total, tl.sum(square, 0), count, D)
    elif after == current:
        _keep_part(part_total, part_square, part_count, P + chunk, column, inside, total, tl.sum(square, 0), count, D)
    elif current >= 0:
        _add_to_class(counts, totals, squares, current, column, inside, total, tl.sum(square, 0), count, D)


@triton.jit
def _join_runs(
    labels, counts, totals, squares, part_total, part_square, part_count,
    N, D, P, ROWS: tl.constexpr, BLOCK: tl.constexpr, FAN: tl.constexpr,
):  # fmt: skip
    """Add up the tail of the chunk in which a run begins and the heads of those in which it goes on."""
    chunk = tl.program_id(0).to(tl.int64)
    start = chunk * ROWS
    end = start + ROWS
    if end >= N:
        return
    current = tl.load(labels + end - 1).to(tl.int64)
    if current < 0 or tl.load(labels + end) != current:
        return
    # The whole chunk lies in a run that began earlier: the chunk where it began joins it. `and` does not stop at
    # its first side, hence the mask.
    if tl.load(labels + start) == current and tl.load(labels + start - 1, mask=start > 0, other=-2) == current:
        return
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < D
    total = tl.load(part_total + (P + chunk) * D + column, mask=inside, other=0.0)
    square = tl.load(part_square + P + chunk)
    count = tl.load(part_count + P + chunk)
    first = chunk + 1
    more = 1
    while more > 0:
        part = first + tl.arange(0, FAN)
        ours = tl.load(labels + part * ROWS, mask=part * ROWS < N, other=-2) == current
        heads = tl.load(
            part_total + part[:, None] * D + column[None, :], mask=ours[:, None] & inside[None, :], other=0.0
        )
        total += tl.sum(heads, 0)
        square += tl.sum(tl.load(part_square + part, mask=ours, other=0.0), 0)
        count += tl.sum(tl.load(part_count + part, mask=ours, other=0), 0)
        first += FAN
        more = tl.min(ours.to(tl.int32), 0)
    here = totals + current * D + column
    tl.store(here, tl.load(here, mask=inside, other=0.0) + total, mask=inside)
    if tl.program_id(1) == 0:
        tl.store(squares + current, tl.load(squares + current) + square)
        tl.store(counts + current, tl.load(counts + current) + count)


def add_batch(
    features: Tensor,
    labels: Tensor,
    rows: Tensor | None,
    largest: Tensor,
    counts: Tensor,
    pivots: Tensor,
    totals: Tensor,
    squares: Tensor,
    scatter: Tensor | None,
) -> None:
    """Add a batch to the sums of `ClassStatistics`, in place, without waiting for the GPU.

    Args:
        features: (N, D), any float type.
        labels: (N,) integers; those without a row are skipped.
        rows: (C,) int32 row of each class, -1 for those without; None where all C have one.
        largest: () int64, raised to the largest label that has no row.
        counts, pivots, totals, squares: (R,) int64, (R, D) float64 or bfloat16, (R, D) and (R,) float64.
        scatter: (D, D) float64, of which the upper triangle is made, or None.
    """
    N, D = features.shape
    features, labels = features.contiguous(), labels.contiguous()
    device = features.device
    found = torch.empty(N, dtype=torch.int32, device=device)
    known = counts if rows is None else rows
    some = rows is not None
    _find_rows[(triton.cdiv(N, 1024),)](labels, known, found, largest, N, len(known), some, 1024, num_warps=4)
    found, order = torch.sort(found, stable=True)
    size = 32 if N < 1 << 17 else 64
    chunks = triton.cdiv(N, size)
    block = triton.next_power_of_2(D)
    warps = 8 if block >= 2048 else 4 if block >= 512 else 2 if block >= 128 else 1
    centred = torch.empty(N, D, dtype=torch.float64, device=device) if scatter is not None else totals
    part_total = torch.empty(2 * chunks, D, dtype=torch.float64, device=device)
    part_square = torch.empty(2 * chunks, dtype=torch.float64, device=device)
    part_count = torch.empty(2 * chunks, dtype=torch.int64, device=device)
    parts = part_total, part_square, part_count
    narrow = pivots.dtype == torch.bfloat16
    most = torch.finfo(torch.bfloat16).max
    _set_pivots[(N,)](features, order, found, counts, pivots, D, most, narrow, block, num_warps=1)
    _sum_runs[(chunks,)](
        features, order, found, counts, pivots, totals, squares, centred, *parts,
        N, D, chunks, size, block, scatter is not None, num_warps=warps,
    )  # fmt: skip
    columns = min(COLUMNS, block)
    _join_runs[(chunks, triton.cdiv(D, columns))](
        found, counts, totals, squares, *parts, N, D, chunks, size, columns, FAN, num_warps=4
    )
    if scatter is not None:
        for left in range(0, D, TRIANGLE):
            strip = centred[:, left : left + TRIANGLE]
            scatter[left : left + TRIANGLE, left:].addmm_(strip.T, centred[:, left:])
