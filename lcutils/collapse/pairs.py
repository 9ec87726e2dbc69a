"""Sums over all K(K-1)/2 pairs of classes, streamed tile by tile: no K x K matrix ever exists.

One product of centred means gives everything. With g = c·c', n = ||c|| and e = ||mu|| - ||mu_bar||:

    d² = ||mu - mu'||²      = n² + n'² - 2 g
    1 - cos(c, c')          = (d² - (n - n')²) / (2 n n')
    1 - cos(mu, mu')        = (d² - (e - e')²) / (2 ||mu|| ||mu'||)

and a log kernel is log(1/||u - u'||) = -(log 2 + log(1 - cos)) / 2. Where one of these differences is small
compared with what it is taken from, digits are gone: such doubtful pairs (few, unless means nearly coincide) are left
out of the tile and computed again from the difference of the two means.

The library multiplies a tile, which is then reduced at once: by one Triton kernel on a GPU, in cache-sized pieces by
PyTorch elsewhere. Memory beyond the means is one strip of tile x K numbers on a GPU, a megabyte or so on a CPU.

What is summed: `lcutils.collapse.terms`. "Raw" means "not centred" throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lcutils.collapse.classes import ROUNDING, KeptClasses, PairInputs
from lcutils.collapse.terms import TERMS, term_sums

# A difference is trusted down to this share of what it is taken from: 1e-6 leaves about nine digits of float64.
TRUSTED = 1e-6
CPU_ROWS, CPU_COLUMNS = 64, 1024  # half a megabyte per matrix: about six live ones stay in the second-level cache
CUDA_ROWS = 1024
PAIR_NUMBERS = 1 << 22  # numbers gathered at a time for doubtful pairs: pairs x D


@dataclass
class PairSums:
    """Sums over pairs c < c', and how many pairs each is over."""

    total: int  # K(K-1)/2
    zero_variances: int  # pairs of classes without variance
    numbers: dict[str, int]  # how many pairs are "apart", "spread", …: the values of `TERMS`
    sums: dict[str, float] = field(default_factory=dict)  # by term

    @property
    def coincident(self) -> int:
        """Pairs of equal means."""
        return self.total - self.numbers["apart"]

    def mean(self, term: str) -> float:
        """Mean over the pairs that the term is defined for."""
        number = self.numbers[TERMS[term]]
        return self.sums[term] / number if number else math.nan

    def affine_mean_std(self, term: str, intercept: float, slope: float) -> tuple[float, float]:
        """Mean and std (n - 1) of intercept + slope x, from the sums of x and x²."""
        number, mean = self.numbers[TERMS[term]], self.mean(term)
        squares = self.sums[f"{term}_squares"] - number * mean**2
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
        self.class_numbers = torch.stack(
            [(classes.variances == 0).sum(), (~classes.central).sum(), (classes.raw_norms > 0).sum()]
        )
        self.started = None
        if classes.means.is_cuda:
            from lcutils.collapse.kernels import CudaPairSums

            with torch.cuda.device(classes.means.device):  # Triton launches on the current GPU
                self.started = CudaPairSums(PairInputs.of(classes), riesz_s, tile or CUDA_ROWS, TRUSTED)

    def finish(self) -> PairSums:
        """The sums, doubtful pairs included."""
        zero, directed, raw_directed = (math.comb(number, 2) for number in self.class_numbers.tolist())
        total = math.comb(self.classes.number, 2)
        # Before the doubtful pairs are looked at: those that turn out to be equal are subtracted.
        numbers = {"apart": total, "spread": total - zero, "directed": directed}
        numbers |= {"distinct": directed, "raw_distinct": raw_directed}
        result = PairSums(total, zero, numbers)
        doubtful = DoubtfulPairs(self.classes, numbers, self.riesz_s)
        sums = None
        if self.started is not None:
            sums = self.started.finish(doubtful.sum)
        if sums is None:  # no GPU, or more doubtful pairs than its list holds
            sums = sum_tiles(PairInputs.of(self.classes), self.riesz_s, self.tile or CPU_ROWS, doubtful)
        result.sums = dict(zip(TERMS, sums.tolist(), strict=True))
        return result


def sum_tiles(x: PairInputs, riesz_s: float, rows: int, doubtful: DoubtfulPairs) -> Tensor:
    """The sums in plain PyTorch: (T,) in the order of `TERMS`."""
    number = len(x.norms)
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
            doubts = undirected or bool(torch.minimum(directed.amin(), raw.amin()) <= limit)
            one_minus_cos = directed.mul_(x.inverse[i, None]).mul_(x.inverse[j])
            raw_one_minus_cos = raw.mul_(x.raw_inverse[i, None]).mul_(x.raw_inverse[j])
            if diagonal or doubts:
                chosen = index[i, None] < index[j]
                if doubts:
                    size = TRUSTED * (x.squares[i, None] + x.squares[j])
                    doubted = chosen & (
                        (d2 - (x.norms[i, None] - x.norms[j]).square_() <= size)
                        | (d2 - (x.offsets[i, None] - x.offsets[j]).square_() <= size)
                        | (torch.minimum(one_minus_cos, raw_one_minus_cos) <= 0)
                    )
                    a, b = doubted.nonzero(as_tuple=True)
                    sums += doubtful.sum(a + top, b + left)
                    chosen &= ~doubted
                d2, variance = d2[chosen], variance[chosen]
                one_minus_cos, raw_one_minus_cos = one_minus_cos[chosen], raw_one_minus_cos[chosen]
            sums += term_sums(d2, variance, one_minus_cos, one_minus_cos, raw_one_minus_cos, riesz_s, number)
    return sums


class DoubtfulPairs:
    """Pairs whose differences lost digits, computed again from mu - mu' itself, without the undefined values.

    Args:
        classes: the kept classes.
        numbers: of pairs, by kind; the pairs that turn out to be undefined are subtracted.
        riesz_s: exponent of the Riesz kernel.
    """

    def __init__(self, classes: KeptClasses, numbers: dict[str, int], riesz_s: float) -> None:
        self.classes, self.numbers, self.riesz_s = classes, numbers, riesz_s

    def sum(self, i: Tensor, j: Tensor) -> Tensor:
        """Terms of the pairs (i, j), (n,) each, summed: (T,)."""
        sums = torch.zeros(len(TERMS), dtype=torch.float64, device=i.device)
        if len(i) == 0:
            return sums
        step = max(PAIR_NUMBERS // self.classes.means.shape[1], 1)
        for a, b in zip(i.split(step), j.split(step), strict=True):
            sums += self._sum(a, b)
        return sums

    def _sum(self, i: Tensor, j: Tensor) -> Tensor:
        x = self.classes
        difference = x.means[i] - x.means[j]  # (n, D)
        distance = torch.linalg.vector_norm(difference, dim=1)
        size = torch.maximum(x.raw_norms[i], x.raw_norms[j])
        apart = distance > ROUNDING * size
        variance = (x.variances[i] + x.variances[j]) / 2

        directed = ~(x.central[i] | x.central[j])
        chord = _chord(difference, x.centred, x.norms, i, j)  # ||u - u'||
        distinct = directed & apart & (chord * x.norms[i] > ROUNDING * (distance + size))
        raw_directed = (x.raw_norms[i] > 0) & (x.raw_norms[j] > 0)
        raw_chord = _chord(difference, x.means, x.raw_norms, i, j)
        raw_distinct = raw_directed & apart & (raw_chord * x.raw_norms[i] > ROUNDING * (distance + size))

        undefined = {
            "apart": ~apart,
            "spread": ~apart & (variance > 0),
            "distinct": directed & ~distinct,
            "raw_distinct": raw_directed & ~raw_distinct,
        }
        for pairs, number in zip(undefined, torch.stack([*undefined.values()]).sum(1).tolist(), strict=True):
            self.numbers[pairs] -= number
        return term_sums(
            distance[apart].square(),
            variance[apart],
            directed=chord[directed].square() / 2,
            distinct=chord[distinct].square() / 2,
            raw_distinct=raw_chord[raw_distinct].square() / 2,
            riesz_s=self.riesz_s,
            number=x.number,
        )


def _chord(difference: Tensor, vectors: Tensor, norms: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """||u - u'|| of u = x / ||x|| from x - x' (n, D), exact however near the two are: (n,).

    u - u' = (x - x' - (||x|| - ||x'||) u') / ||x||, and ||x|| - ||x'|| = (x - x')·(x + x') / (||x|| + ||x'||).
    """
    x, y = vectors[i], vectors[j]
    gap = torch.linalg.vecdot(difference, x + y) / (norms[i] + norms[j])
    step = difference - (gap / norms[j])[:, None] * y
    return torch.linalg.vector_norm(step, dim=1) / norms[i]


def squared_distances(classes: KeptClasses, squares: Tensor, rows: slice, first: int = 0) -> Tensor:
    """||mu_c - mu_c'||² of some rows c with all classes c' from `first` on: (r, K - first), infinite where c' = c.

    Those that would lose digits are taken from the difference of the two means; 0 where these are equal.

    Args:
        squares: (K,) ||mu_c - mu_bar||².
    """
    d2 = torch.addmm(squares[first:], classes.centred[rows], classes.centred[first:].T, alpha=-2)
    d2 += squares[rows, None]
    own = torch.arange(rows.start, rows.stop, device=d2.device)
    d2[own - rows.start, own - first] = torch.inf  # no class is its own partner
    a, b = (d2 <= TRUSTED * (squares[rows, None] + squares[first:])).nonzero(as_tuple=True)
    if len(a):
        i, j = a + rows.start, b + first
        distance = torch.linalg.vector_norm(classes.means[i] - classes.means[j], dim=1)
        size = torch.maximum(classes.raw_norms[i], classes.raw_norms[j])
        d2[a, b] = torch.where(distance > ROUNDING * size, distance.square(), 0.0)
    return d2
