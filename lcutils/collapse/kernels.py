"""Triton kernels of the CUDA path: they reduce a tile of products before it leaves the cache.

Shapes: K classes, N features, D dimensions, T sums in the order of `lcutils.collapse.terms.TERMS`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from lcutils.collapse.classes import CLASS_BLOCK, PairInputs
from lcutils.collapse.terms import TERMS

LIST = 1 << 22  # doubtful pairs or candidates that a list holds; with more, the caller takes another way
BLOCK, WARPS = 256, 8
MOST_CLASSES = 1000 * BLOCK  # a lane then multiplies at most 1000 mantissas below 2: no overflow
TERM_NAMES, TERM_NUMBER = tl.constexpr(tuple(TERMS)), tl.constexpr(len(TERMS))


@triton.constexpr_function
def _slot(terms, term):
    """Where a sum is stored: its position in `TERMS`."""
    return terms.index(term)


@triton.jit
def _distances(
    products, column, norms, offsets, squares, inverse, raw_inverse,
    square_i, norm_i, offset_i, inverse_i, raw_inverse_i, K, trusted,
):  # fmt: skip
    """d², 1 - cos and 1 - cos of un-centred means of a row's pairs, and whether no digits of them are lost."""
    inside = column < K
    size = square_i + tl.load(squares + column, mask=inside, other=1.0)
    d2 = size - 2.0 * tl.load(products + column, mask=inside, other=0.0)
    gap = norm_i - tl.load(norms + column, mask=inside, other=0.0)
    raw_gap = offset_i - tl.load(offsets + column, mask=inside, other=0.0)
    chord = d2 - gap * gap
    raw_chord = d2 - raw_gap * raw_gap
    one_minus_cos = chord * inverse_i * tl.load(inverse + column, mask=inside, other=0.0)
    raw_one_minus_cos = raw_chord * raw_inverse_i * tl.load(raw_inverse + column, mask=inside, other=0.0)
    limit = trusted * size
    trusty = (chord > limit) & (raw_chord > limit) & (one_minus_cos > 0.0) & (raw_one_minus_cos > 0.0)
    return d2, one_minus_cos, raw_one_minus_cos, trusty


@triton.jit
def _reduce_strip(
    gram, squares, norms, offsets, inverse, raw_inverse, half_variances, constants, out, doubtful, found,
    first, K, stride, S_IS_ONE: tl.constexpr, LIST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Terms of the pairs (i, j), j > i, of one row i of a strip, summed: see `pairs.sum_tiles`.

    `gram` holds c_i·c_j for j >= first. The sum of log CDNVs is the log of a product: mantissas are multiplied and
    exponents added, one logarithm per lane instead of one per pair. Doubtful pairs are listed afterwards, if there
    are any: an atomic addition in the main loop would cost more than all else in it.
    """
    row = first + tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    trusted, flat, half_s = tl.load(constants), tl.load(constants + 1), tl.load(constants + 2)
    square_i, norm_i, offset_i = tl.load(squares + row), tl.load(norms + row), tl.load(offsets + row)
    inverse_i, raw_inverse_i = tl.load(inverse + row), tl.load(raw_inverse + row)
    variance_i = tl.load(half_variances + row)
    products = gram + tl.program_id(0).to(tl.int64) * stride - first
    cdnv = tl.zeros([BLOCK], tl.float64)
    galanti = tl.zeros([BLOCK], tl.float64)
    mantissa = tl.full([BLOCK], 1.0, tl.float64)
    exponent = tl.zeros([BLOCK], tl.int32)
    log = tl.zeros([BLOCK], tl.float64)
    log_squares = tl.zeros([BLOCK], tl.float64)
    riesz = tl.zeros([BLOCK], tl.float64)
    riesz_squares = tl.zeros([BLOCK], tl.float64)
    coherence = tl.zeros([BLOCK], tl.float64)
    raw_log = tl.zeros([BLOCK], tl.float64)
    raw_log_squares = tl.zeros([BLOCK], tl.float64)
    doubts = tl.zeros([BLOCK], tl.int32)
    left = first + (row + 1 - first) // BLOCK * BLOCK  # nothing lies in `gram` for columns before `first`
    start = left
    while start < K:
        column = start + lane
        pair = (column > row) & (column < K)
        d2, one_minus_cos, raw_one_minus_cos, trusty = _distances(
            products, column, norms, offsets, squares, inverse, raw_inverse,
            square_i, norm_i, offset_i, inverse_i, raw_inverse_i, K, trusted,
        )  # fmt: skip
        doubts += (pair & ~trusty).to(tl.int32)
        pair = pair & trusty
        variance = tl.where(pair, variance_i + tl.load(half_variances + column, mask=column < K, other=0.0), 0.0)
        closeness = 1.0 / tl.where(pair, d2, 1.0)
        first_power = variance * closeness
        second_power = first_power * closeness
        cdnv += second_power
        galanti += first_power
        bits = tl.where(variance > 0.0, second_power, 1.0).to(tl.int64, bitcast=True)
        exponent += (bits >> 52).to(tl.int32) - 1023
        mantissa *= ((bits & 0x000FFFFFFFFFFFFF) | 0x3FF0000000000000).to(tl.float64, bitcast=True)
        coherence += tl.where(pair, tl.abs(flat - one_minus_cos), 0.0)
        one_minus_cos = tl.where(pair, one_minus_cos, 1.0)
        value = tl.log(one_minus_cos)
        log += value
        log_squares += value * value
        if S_IS_ONE:  # noqa: SIM108 - decided when the kernel is compiled
            kernel = tl.rsqrt(one_minus_cos) - 1.0
        else:
            kernel = tl.exp(-half_s * value) - 1.0
        riesz += kernel
        riesz_squares += kernel * kernel
        raw_value = tl.log(tl.where(pair, raw_one_minus_cos, 1.0))
        raw_log += raw_value
        raw_log_squares += raw_value * raw_value
        start += BLOCK
    log_cdnv = tl.log(mantissa) + exponent.to(tl.float64) * 0.6931471805599453
    row_sums = out + tl.program_id(0) * TERM_NUMBER
    tl.store(row_sums + _slot(TERM_NAMES, "cdnv"), tl.sum(cdnv, 0))
    tl.store(row_sums + _slot(TERM_NAMES, "galanti"), tl.sum(galanti, 0))
    tl.store(row_sums + _slot(TERM_NAMES, "log_cdnv"), tl.sum(log_cdnv, 0))
    tl.store(row_sums + _slot(TERM_NAMES, "log"), tl.sum(log, 0))
    tl.store(row_sums + _slot(TERM_NAMES, "log_squares"), tl.sum(log_squares, 0))
    tl.store(row_sums + _slot(TERM_NAMES, "riesz"), tl.sum(riesz, 0))
    tl.store(row_sums + _slot(TERM_NAMES, "riesz_squares"), tl.sum(riesz_squares, 0))
    tl.store(row_sums + _slot(TERM_NAMES, "coherence"), tl.sum(coherence, 0))
    tl.store(row_sums + _slot(TERM_NAMES, "raw_log"), tl.sum(raw_log, 0))
    tl.store(row_sums + _slot(TERM_NAMES, "raw_log_squares"), tl.sum(raw_log_squares, 0))
    if tl.sum(doubts, 0) > 0:
        start = left
        while start < K:
            column = start + lane
            _, _, _, trusty = _distances(
                products, column, norms, offsets, squares, inverse, raw_inverse,
                square_i, norm_i, offset_i, inverse_i, raw_inverse_i, K, trusted,
            )  # fmt: skip
            doubted = (column > row) & (column < K) & ~trusty
            place = tl.atomic_add(found + tl.zeros([BLOCK], tl.int32), 1, mask=doubted, sem="relaxed")
            tl.store(doubtful + place, row.to(tl.int64) * K + column, mask=doubted & (place < LIST))
            start += BLOCK


class CudaPairSums:
    """The CUDA twin of `pairs.sum_tiles`, strip by strip of the upper triangle; starts without waiting.

    Args:
        x: one number per class, and the centred means.
        riesz_s: exponent of the Riesz kernel.
        tile: rows of a strip; the strip takes tile x K x 8 bytes.
        trusted: share of its minuend from which a difference is trusted.
    """

    def __init__(self, x: PairInputs, riesz_s: float, tile: int, trusted: float) -> None:
        K, device = len(x.norms), x.norms.device
        self.K, tile, width = K, min(tile, K), len(x.padded)
        self.doubtful = torch.empty(LIST, dtype=torch.int64, device=device)
        self.found = torch.zeros((), dtype=torch.int32, device=device)
        self.out = torch.zeros(triton.cdiv(K, tile), tile, len(TERMS), dtype=torch.float64, device=device)
        if K > MOST_CLASSES:
            return
        strip = torch.empty(tile * width, dtype=torch.float64, device=device)
        constants = torch.tensor([trusted, 1 + 1 / (K - 1), riesz_s / 2], dtype=torch.float64).to(device)
        for number, top in enumerate(range(0, K, tile)):
            rows = min(tile, K - top)
            products = strip[: rows * (width - top)].view(rows, width - top)
            torch.mm(x.padded[top : top + rows], x.padded[top:].T, out=products)
            _reduce_strip[(rows,)](
                products, x.squares, x.norms, x.offsets, x.inverse, x.raw_inverse, x.half_variances, constants,
                self.out[number], self.doubtful, self.found, top, K, width - top,
                riesz_s == 1.0, LIST, BLOCK, num_warps=WARPS,
            )  # fmt: skip

    def finish(self, exactly: Callable[[Tensor, Tensor], Tensor]) -> Tensor | None:
        """(T,) sums, or None where there are too many doubtful pairs or classes.

        Args:
            exactly: sums the terms of given pairs (i, j) by explicit differences.
        """
        number = int(self.found)
        if number > LIST or self.K > MOST_CLASSES:
            return None
        keys = self.doubtful[:number].sort().values  # sorted, so that sums are made in a fixed order
        return self.out.sum((0, 1)) + exactly(keys // self.K, keys % self.K)


@triton.jit
def _score(
    features, rows, bias, row, column, factor, D: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr
):  # fmt: skip
    """A tile of factor * x·a_c + b_c: (BN,) rows of features, (BK,) classes -> (BN, BK) float32."""
    part = tl.arange(0, BD)
    scores = tl.zeros([BN, BK], tl.float32)
    for d in range(0, D, BD):
        x_at = features + row[:, None].to(tl.int64) * D + d + part[None, :]
        a_at = rows + column[None, :].to(tl.int64) * D + d + part[:, None]
        if D % BD == 0:
            scores = tl.dot(tl.load(x_at), tl.load(a_at), scores)
        else:
            x = tl.load(x_at, mask=d + part[None, :] < D, other=0.0)
            scores = tl.dot(x, tl.load(a_at, mask=d + part[:, None] < D, other=0.0), scores)
    return scores * factor + tl.load(bias + column)[None, :]


@triton.jit
def _best_two(
    features, rows, bias, best_out, which_out, second_out, N, K, factor,
    D: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """max_c, argmax_c and the second best score, without writing a score.

    One program holds BN features and runs through the classes in blocks of BK.
    """
    row = tl.minimum(tl.program_id(0) * BN + tl.arange(0, BN), N - 1)  # the last program repeats the last row
    place = tl.arange(0, BK)
    best = tl.full([BN], float("-inf"), tl.float32)
    second = tl.full([BN], float("-inf"), tl.float32)
    which = tl.zeros([BN], tl.int32)
    start = 0
    while start < K:
        scores = _score(features, rows, bias, row, start + place, factor, D, BN, BK, BD)
        values = tl.max(scores, 1)
        hit = tl.min(tl.where(scores == values[:, None], place[None, :], BK), 1)
        rest = tl.max(tl.where(place[None, :] == hit[:, None], float("-inf"), scores), 1)
        second = tl.maximum(tl.maximum(second, rest), tl.minimum(best, values))
        which = tl.where(values > best, start + hit, which)
        best = tl.maximum(best, values)
        start += BK
    tl.store(best_out + row, best)
    tl.store(which_out + row, which)
    tl.store(second_out + row, second)


@triton.jit
def _list_candidates(
    features, rows, bias, cut, found, row_out, class_out, N, K, padded, factor,
    LIST: tl.constexpr, D: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Append every (feature, class) whose score is not below the feature's cut to a list."""
    row = tl.program_id(0) * BN + tl.arange(0, BN)
    near = tl.minimum(row, N - 1)
    least = tl.load(cut + near)[:, None]
    start = 0
    while start < padded:
        column = start + tl.arange(0, BK)
        scores = _score(features, rows, bias, near, column, factor, D, BN, BK, BD)
        candidate = (row[:, None] < N) & (column[None, :] < K) & ~(scores < least)
        place = tl.atomic_add(found + tl.zeros([BN, BK], tl.int32), 1, mask=candidate, sem="relaxed")
        candidate = candidate & (place < LIST)
        tl.store(row_out + place, row[:, None] + tl.zeros([BN, BK], tl.int32), mask=candidate)
        tl.store(class_out + place, column[None, :] + tl.zeros([BN, BK], tl.int32), mask=candidate)
        start += BK


def _blocks(D: int) -> dict[str, int]:
    """Tile and pipeline of the scoring kernels, the fastest measured at D = 1024 and at D = 64."""
    depth = min(64, max(16, triton.next_power_of_2(D)))
    if D > 128:
        return {"BN": 128, "BK": CLASS_BLOCK, "BD": depth, "num_warps": 8, "num_stages": 3}
    return {"BN": 128, "BK": CLASS_BLOCK // 2, "BD": depth, "num_warps": 4, "num_stages": 4}


def best_two(features: Tensor, rows: Tensor, bias: Tensor, factor: float) -> tuple[Tensor, Tensor, Tensor]:
    """Best score, its class and the second best score of factor * x·a_c + b_c.

    Args:
        features: (N, D) float16 x.
        rows: (K', D) float16 a, K' a multiple of CLASS_BLOCK.
        bias: (K',) float32 b, -inf for the padding.
        factor: undoes the scale of `rows`, a power of two.

    Returns:
        (N,) float32, (N,) int32, (N,) float32.
    """
    N, D = features.shape
    best, second = torch.empty(2, N, device=features.device)
    which = torch.empty(N, dtype=torch.int32, device=features.device)
    blocks = _blocks(D)
    _best_two[(triton.cdiv(N, blocks["BN"]),)](
        features, rows, bias, best, which, second, N, len(rows), factor, D, **blocks
    )
    return best, which, second


def list_candidates(
    features: Tensor, rows: Tensor, bias: Tensor, factor: float, cut: Tensor, number: int
) -> tuple[Tensor, Tensor] | None:
    """Every (feature, class) with factor * x·a_c + b_c not below the feature's cut, in any order; None if too many.

    Args:
        features, rows, bias, factor: as for `best_two`.
        cut: (N,) float32.
        number: K, the classes before the padding.
    """
    N, D = features.shape
    found = torch.zeros((), dtype=torch.int32, device=features.device)
    listed = torch.empty(2, LIST, dtype=torch.int32, device=features.device)
    blocks = _blocks(D)
    _list_candidates[(triton.cdiv(N, blocks["BN"]),)](
        features, rows, bias, cut, found, listed[0], listed[1], N, number, len(rows), factor, LIST, D, **blocks
    )
    count = int(found)
    return (listed[0, :count].long(), listed[1, :count].long()) if count <= LIST else None
