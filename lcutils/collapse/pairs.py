"""Sums over all K(K-1)/2 pairs of classes, streamed tile by tile: no K x K matrix ever exists.

One product of centred means gives everything. With g = c·c', n = ||c|| and e = ||mu|| - ||mu_bar||:

    d² = ||mu - mu'||²      = n² + n'² - 2 g
    1 - cos(c, c')          = (d² - (n - n')²) / (2 n n')
    1 - cos(mu, mu')        = (d² - (e - e')²) / (2 ||mu|| ||mu'||)

and a log kernel is log(1/||u - u'||) = -(log 2 + log(1 - cos)) / 2. Where one of these differences is small
beside what it is taken from, digits are gone: such pairs ("suspects", few unless means nearly coincide) are left
out of the tile and computed again from the difference of the two means.

A tile is multiplied by the library and reduced at once: by one Triton kernel on a GPU, in cache-sized pieces by
PyTorch elsewhere. Memory beyond the means is one strip of tile x K numbers on a GPU, a megabyte or so on a CPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lcutils.collapse.classes import ROUNDING, Ingredients, KeptClasses

# A difference is trusted down to this share of what it is taken from: 1e-6 leaves about nine digits of float64.
TRUSTED = 1e-6
CPU_ROWS, CPU_COLUMNS = 64, 1024  # half a megabyte a matrix: about six live ones stay in the second-level cache
CUDA_ROWS = 1024
PAIR_NUMBERS = 1 << 22  # numbers gathered at a time for suspects: pairs x D

TERMS = ("cdnv", "galanti", "log_cdnv", "log", "log2", "riesz", "riesz2", "coherence", "raw_log", "raw_log2")


@dataclass
class PairSums:
    """Sums over pairs c < c', and how many pairs each is over.

    `log` sums l = log(1 - cos) of centred means and `log2` its square, `raw_log` the same of un-centred means;
    `riesz` sums (1 - cos)^(-s/2) - 1. So deviations from orthogonal means are summed, and squares lose nothing.
    """

    zero_variances: int  # pairs of classes without variance
    numbers: dict[str, int]  # of pairs, by term
    coincident: int = 0  # equal means
    sums: dict[str, float] = field(default_factory=dict)

    def mean(self, term: str) -> float:
        """Mean over the pairs that the term is defined for."""
        return self.sums[term] / self.numbers[term] if self.numbers[term] else math.nan

    def line(self, term: str, intercept: float, slope: float) -> tuple[float, float]:
        """Mean and std (n - 1) of intercept + slope x, from the sums of x and x²."""
        number, mean = self.numbers[term], self.mean(term)
        squares = self.sums[f"{term}2"] - number * mean**2
        std = abs(slope) * math.sqrt(max(squares, 0.0) / (number - 1)) if number > 1 else math.nan
        return intercept + slope * mean, std


class PairSweep:
    """Everything that needs pairs, in one sweep.

    On a GPU the sweep is only started here; `finish` waits for it.

    Args:
        classes: the kept classes, on any device.
        riesz_s: exponent s > 0 of the Riesz kernel ||u - u'||^-s.
        tile: rows multiplied at a time (default 1024 on a GPU, 64 on a CPU).

    Raises:
        ValueError: tile below 1.
    """

    def __init__(self, classes: KeptClasses, riesz_s: float = 1.0, tile: int | None = None) -> None:
        if tile is not None and tile < 1:
            raise ValueError(f"tile must be at least 1, not {tile}: it is the rows multiplied at a time")
        self.classes, self.riesz_s, self.tile = classes, riesz_s, tile
        self.numbers = torch.stack(
            [(classes.variances == 0).sum(), (~classes.central).sum(), (classes.raw_norms > 0).sum()]
        )
        self.strips = None
        if classes.means.is_cuda:
            from lcutils.collapse.kernels import Strips

            with torch.cuda.device(classes.means.device):  # Triton launches on the current GPU
                self.strips = Strips(Ingredients.of(classes), riesz_s, tile or CUDA_ROWS, TRUSTED)

    def finish(self) -> PairSums:
        """The sums, suspects included."""
        zero, directed, raw_directed = (math.comb(number, 2) for number in self.numbers.tolist())
        pairs = math.comb(self.classes.number, 2)
        numbers = {"cdnv": pairs, "galanti": pairs, "log_cdnv": pairs - zero, "coherence": directed}
        numbers |= {"log": directed, "riesz": directed, "raw_log": raw_directed}
        result = PairSums(zero, numbers)
        suspects = _Suspects(self.classes, result, self.riesz_s)
        sums = None
        if self.strips is not None:
            sums = self.strips.finish(suspects.sum)
        if sums is None:  # no GPU, or more suspects than its list holds
            sums = _sum_tiles(Ingredients.of(self.classes), self.riesz_s, self.tile or CPU_ROWS, suspects)
        result.sums = dict(zip(TERMS, sums.tolist(), strict=True))
        return result


def _sum_tiles(x: Ingredients, riesz_s: float, rows: int, suspects: _Suspects) -> Tensor:
    """The sums in plain PyTorch: (10,) in the order of TERMS."""
    number = len(x.norms)
    flat = 1 + 1 / (number - 1)  # |cos + 1/(K-1)| = |flat - (1 - cos)|
    sums = torch.zeros(len(TERMS), dtype=torch.float64, device=x.norms.device)
    index = torch.arange(number, device=x.norms.device)
    undirected = bool((x.inverse == 0).any() | (x.raw_inverse == 0).any())
    for top in range(0, number, rows):
        i = slice(top, min(top + rows, number))
        for left in range(top, number, CPU_COLUMNS):
            j = slice(left, min(left + CPU_COLUMNS, number))
            d2 = torch.addmm(x.squares[j], x.padded[i], x.padded[j].T, alpha=-2)  # (r, c)
            d2 += x.squares[i, None]
            directed = d2 - (x.norms[i, None] - x.norms[j]).square_()
            raw = d2 - (x.offsets[i, None] - x.offsets[j]).square_()
            variance = x.half_variances[i, None] + x.half_variances[j]
            limit = TRUSTED * (x.squares[i].max() + x.squares[j].max())
            diagonal = left < i.stop
            suspicious = undirected or bool(torch.minimum(directed.amin(), raw.amin()) <= limit)
            one_minus_cos = directed.mul_(x.inverse[i, None]).mul_(x.inverse[j])
            raw_one_minus_cos = raw.mul_(x.raw_inverse[i, None]).mul_(x.raw_inverse[j])
            if diagonal or suspicious:
                chosen = index[i, None] < index[j]
                if suspicious:
                    size = TRUSTED * (x.squares[i, None] + x.squares[j])
                    doubtful = chosen & (
                        (d2 - (x.norms[i, None] - x.norms[j]).square_() <= size)
                        | (d2 - (x.offsets[i, None] - x.offsets[j]).square_() <= size)
                        | (torch.minimum(one_minus_cos, raw_one_minus_cos) <= 0)
                    )
                    a, b = doubtful.nonzero(as_tuple=True)
                    sums += suspects.sum(a + top, b + left)
                    chosen &= ~doubtful
                d2, variance = d2[chosen], variance[chosen]
                one_minus_cos, raw_one_minus_cos = one_minus_cos[chosen], raw_one_minus_cos[chosen]
            sums += torch.stack(
                [
                    *_variability_terms(d2, variance),
                    *_kernel_terms(one_minus_cos, riesz_s),
                    (flat - one_minus_cos).abs_().sum(),
                    *_log_terms(raw_one_minus_cos.log_()),
                ]
            )
    return sums


def _variability_terms(d2: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of the CDNV with power 2, with power 1, and of the former's log (0 for a pair without variance)."""
    inverse = d2.reciprocal()
    galanti = variance * inverse
    cdnv = inverse.mul_(galanti)
    total = cdnv.sum()
    return total, galanti.sum(), cdnv.masked_fill_(variance == 0, 1.0).log_().sum()


def _log_terms(log: Tensor) -> tuple[Tensor, Tensor]:
    return log.sum(), torch.linalg.vecdot(log.flatten(), log.flatten())


def _kernel_terms(one_minus_cos: Tensor, riesz_s: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    log = one_minus_cos.log()
    log_sums = _log_terms(log)
    return *log_sums, *_log_terms(log.mul_(-riesz_s / 2).expm1_())


class _Suspects:
    """Pairs whose differences lost digits, computed again from mu - mu' itself, the undefined ones left out."""

    def __init__(self, classes: KeptClasses, result: PairSums, riesz_s: float) -> None:
        self.classes, self.result, self.riesz_s = classes, result, riesz_s
        self.flat = 1 + 1 / (classes.number - 1)

    def sum(self, i: Tensor, j: Tensor) -> Tensor:
        """Terms of the pairs (i, j), (n,) each, summed: (10,). Pairs left out are taken off `result`'s numbers."""
        sums = torch.zeros(len(TERMS), dtype=torch.float64, device=i.device)
        if len(i) == 0:
            return sums
        step = max(PAIR_NUMBERS // self.classes.means.shape[1], 1)
        for a, b in zip(i.split(step), j.split(step), strict=True):
            sums += self._sum(a, b)
        return sums

    def _sum(self, i: Tensor, j: Tensor) -> Tensor:
        x, result = self.classes, self.result
        difference = x.means[i] - x.means[j]  # (n, D)
        distance = torch.linalg.vector_norm(difference, dim=1)
        size = torch.maximum(x.raw_norms[i], x.raw_norms[j])
        apart = distance > ROUNDING * size
        variance = (x.variances[i] + x.variances[j]) / 2

        directed = ~(x.central[i] | x.central[j])
        chord = _chord(difference, x.centred, x.norms, i, j)  # ||u - u'||
        useful = directed & apart & (chord * x.norms[i] > ROUNDING * (distance + size))
        raw_directed = (x.raw_norms[i] > 0) & (x.raw_norms[j] > 0)
        raw_chord = _chord(difference, x.means, x.raw_norms, i, j)
        raw_useful = raw_directed & apart & (raw_chord * x.raw_norms[i] > ROUNDING * (distance + size))

        out = [~apart, ~apart & (variance > 0), directed & ~useful, raw_directed & ~raw_useful]
        equal, spread, undirected, raw_undirected = torch.stack(out).sum(1).tolist()
        result.coincident += equal
        lost = {"cdnv": equal, "galanti": equal, "log_cdnv": spread}
        lost |= {"log": undirected, "riesz": undirected, "raw_log": raw_undirected}
        for term, number in lost.items():
            result.numbers[term] -= number
        return torch.stack(
            [
                *_variability_terms(distance[apart].square(), variance[apart]),
                *_kernel_terms(chord[useful].square() / 2, self.riesz_s),
                (self.flat - chord[directed].square() / 2).abs().sum(),
                *_log_terms((raw_chord[raw_useful].square() / 2).log()),
            ]
        )


def _chord(difference: Tensor, vectors: Tensor, norms: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """||u - u'|| of u = x / ||x|| from x - x' (n, D), exact however near the two are: (n,).

    u - u' = (x - x' - (||x|| - ||x'||) u') / ||x||, and ||x|| - ||x'|| = (x - x')·(x + x') / (||x|| + ||x'||).
    """
    x, y = vectors[i], vectors[j]
    gap = torch.linalg.vecdot(difference, x + y) / (norms[i] + norms[j])
    step = difference - (gap / norms[j])[:, None] * y
    return torch.linalg.vector_norm(step, dim=1) / norms[i]
