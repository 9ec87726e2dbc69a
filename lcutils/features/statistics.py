"""Class statistics of features in one pass: counts, means, variances, pooled within-class covariance.

Shapes: N features in a batch, D their dimension, C classes, R of them with rows: those that may occur.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from lcutils.devices import choose_device
from lcutils.errors import NotFiniteError
from lcutils.features.statistics_file import open_sums, rows_of_sums, write_sums
from lcutils.tensors import SPLIT, pieces

CPU_ROWS = 2048  # features centred at a time on the CPU: their float64 copy then stays in the cache
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
SUMS = ("counts", "pivots", "totals", "squares")  # one row per class


def check_tensors(**values: object) -> None:
    """Raise a ValueError that names the first of the arguments that is no tensor."""
    for name, value in values.items():
        if not isinstance(value, Tensor):
            fix = "give its weight" if isinstance(value, torch.nn.Module) else "use torch.as_tensor"
            raise ValueError(f"{name} must be a torch tensor, not {type(value).__name__}; {fix}")


class ClassStatistics:
    """Counts, means, variances and within-class covariance of features by class, in one pass.

    Every class has a pivot, the first of its features. Three sums in float64 are kept, of d = h - pivot, of ||d||²
    and of d dᵀ. The pivot is a sample of the class, so ||d|| is about as large as the class is wide, and
    ``sum ||d||² / n - ||sum d / n||²`` loses no digits however far the class lies from the origin or from the
    others. Batches may have any size and order: the results differ only by float64 rounding, and the same
    batches in the same order give the same bits, on the CPU and on a GPU, whether all classes have rows or some.

    Memory is 16 R D + 8 D² bytes, and 10 R D + 8 D² with narrow pivots. These are rounded to bfloat16, and lie within
    2^-9 ||h|| of the first feature h instead of on it: a variance then loses digits only for a class narrower than
    that, and has an error of about (1e-3 ||mu_c|| / sigma_c)² roundings of float64. One that is not larger than its own
    rounding is set to 0, so that equal samples have variance exactly 0. Nothing waits for a GPU in `update`; labels
    without a row are found on the device and raised when a result is read.

    Args:
        num_classes: C, seen or not.
        dim: D.
        covariance: keep the D x D scatter too.
        device: "cpu" or "cuda"; it must have float64.
        classes: (R,) ascending ids of the classes that may occur; only these take memory. None for all.
        narrow: keep narrow pivots.

    Attributes:
        classes: (R,) int64 ids of the classes that have rows.

    Raises:
        ValueError: num_classes or dim is no whole number or below 1, classes are no ascending ids, or the device
            cannot be used.

    Example:
        >>> import torch
        >>> stats = ClassStatistics(num_classes=3, dim=2)
        >>> stats.update(torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 5.0]]), torch.tensor([0, 0, 2]))
        >>> stats.counts.tolist()
        [2, 0, 1]
        >>> stats.means.tolist()
        [[2.0, 0.0], [0.0, 0.0], [5.0, 5.0]]
        >>> stats.variances.tolist()
        [1.0, 0.0, 0.0]
        >>> stats.covariance.tolist()
        [[0.6666666666666666, 0.0], [0.0, 0.0]]
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        covariance: bool = True,
        device: str | torch.device = "cpu",
        classes: Tensor | None = None,
        narrow: bool = False,
    ) -> None:
        try:
            num_classes, dim = operator.index(num_classes), operator.index(dim)
        except TypeError:
            raise ValueError(f"num_classes and dim must be whole numbers, not {num_classes!r} and {dim!r}") from None
        if num_classes < 1 or dim < 1:
            raise ValueError(f"num_classes and dim must be at least 1, not {num_classes} and {dim}")
        self.num_classes, self.dim = num_classes, dim
        self.device = choose_device(str(device))

        def zeros(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=self.device)

        self._rows: Tensor | None = None  # (C,) int32 row of each class, -1 for those without; None where all have one
        if classes is not None:
            check_ids(classes, num_classes)
            self.classes = classes.to(self.device, torch.int64)  # (R,)
            rows = torch.arange(len(classes), dtype=torch.int32, device=self.device)
            self._rows = zeros(num_classes, dtype=torch.int32).sub_(1).index_copy_(0, self.classes, rows)
        else:
            self.classes = torch.arange(num_classes, device=self.device)
        number = len(self.classes)
        self._counts = zeros(number, dtype=torch.int64)  # (R,)
        self._pivots = zeros(number, dim, dtype=torch.bfloat16 if narrow else torch.float64)  # (R, D)
        self._totals = zeros(number, dim)  # (R, D) sum of h - pivot
        self._squares = zeros(number)  # (R,) sum of ||h - pivot||²
        self._scatter = zeros(dim, dim) if covariance else None  # (D, D) sum of (h - pivot)(h - pivot)ᵀ
        self._largest = zeros(dtype=torch.int64).sub_(1)  # largest label met that has no row, reported when read

    @classmethod
    def from_moments(
        cls,
        num_classes: int,
        classes: Tensor,
        counts: Tensor,
        means: Tensor,
        variances: Tensor,
        covariance: Tensor | None = None,
    ) -> ClassStatistics:
        """Statistics with these moments, of no features: (R,) ids and counts, (R, D) means, (R,) variances, (D, D).

        The means are not copied. They are on the device that the statistics will be on, in float64.
        """
        stats = cls(num_classes, means.shape[1], False, means.device, classes)
        stats._counts.copy_(counts)
        stats._pivots = means
        stats._squares.copy_(counts * variances)
        stats._scatter = None if covariance is None else covariance * counts.sum()
        return stats

    @property
    def narrow(self) -> bool:
        """True with narrow pivots."""
        return self._pivots.dtype == torch.bfloat16

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            features: (N, D) float64, float32, float16 or bfloat16, on any device.
            labels: (N,) integers. A negative label means "skip this feature" (as PyTorch's ignore_index).

        Raises:
            ValueError: wrong shapes or types; at the next reading of a result, a label >= C or of a class without row.
        """
        check_tensors(features=features, labels=labels)
        if features.ndim != 2 or features.shape[1] != self.dim or labels.shape != features.shape[:1]:
            raise ValueError(
                f"features must be (N, {self.dim}) and labels (N,), "
                f"not {tuple(features.shape)} and {tuple(labels.shape)}"
            )
        if features.dtype not in DTYPES or labels.is_floating_point() or labels.dtype == torch.bool:
            raise ValueError(f"features must be floats and labels integers, not {features.dtype} and {labels.dtype}")
        if len(labels) == 0:
            return
        features = features.detach().to(self.device)
        labels = labels.detach().to(self.device)
        if self.device.type == "cuda":
            from lcutils.features.statistics_kernels import add_batch

            sums = self._counts, self._pivots, self._totals, self._squares, self._scatter
            with torch.cuda.device(self.device):  # Triton launches on the current GPU
                add_batch(features, labels, self._rows, self._largest, *sums)
            return
        labels = labels.long()
        rows = self._rows_of(labels)
        chosen = rows >= 0
        if not bool(chosen.all()):
            torch.maximum(self._largest, labels[~chosen].max(), out=self._largest)
            features, rows = features[chosen], rows[chosen]
        for some, of in zip(features.split(CPU_ROWS), rows.split(CPU_ROWS), strict=True):
            self._add_rows(some, of)

    def _rows_of(self, labels: Tensor) -> Tensor:
        """Rows of classes, -1 for those without: any shape, int64."""
        inside = (labels >= 0) & (labels < self.num_classes)
        rows = torch.where(inside, labels, 0)
        if self._rows is not None:
            rows = self._rows[rows].long()
        return torch.where(inside, rows, -1)

    def _add_rows(self, features: Tensor, rows: Tensor) -> None:
        """CPU: index_add_ was the fastest scatter measured there (tests/benchmarks), and it adds in order."""
        new = (self._counts[rows] == 0).nonzero()[:, 0]
        if len(new):
            names, which = rows[new].unique(return_inverse=True)
            first = features[torch.full_like(names, len(features)).scatter_reduce_(0, which, new, "amin")]
            if self.narrow:  # what bfloat16 cannot hold has its pivot at 0
                first = torch.where(first.abs() < torch.finfo(torch.bfloat16).max, first, 0.0)
            self._pivots[names] = first.to(self._pivots.dtype)
        centred = features.double() - self._pivots.index_select(0, rows)  # (n, D)
        self._counts.index_add_(0, rows, torch.ones_like(rows))
        self._totals.index_add_(0, rows, centred)
        self._squares.index_add_(0, rows, torch.linalg.vecdot(centred, centred))
        if self._scatter is not None:
            self._scatter.addmm_(centred.T, centred)

    def merge(self, other: ClassStatistics) -> None:
        """Add what `other` has counted (a worker's part): equal to one pass over both, to float64 rounding.

        Raises:
            ValueError: another number of classes, another dimension, only one of the two has a covariance, or `other`
                has met a class that has no row here.
        """
        if (self.num_classes, self.dim) != (other.num_classes, other.dim):
            raise ValueError(
                f"cannot merge {other.num_classes} classes of dimension {other.dim} "
                f"into {self.num_classes} of dimension {self.dim}"
            )
        if (self._scatter is None) != (other._scatter is None):
            raise ValueError("cannot merge: only one of the two keeps the covariance")
        met = other._counts.nonzero()[:, 0]  # (m,) rows of the other
        rows = self._rows_of(other.classes[met].to(self.device))  # (m,) rows here
        if bool((rows < 0).any()):
            stranger = int(other.classes[met][(rows < 0).to(met.device)][0])
            raise ValueError(f"cannot merge: class {stranger} of the other is not among the {len(self.classes)} here")
        if self._scatter is not None and other._scatter is not None:
            self._scatter += other._scatter.to(self.device)
        for piece in pieces(len(met), self.dim):
            self._merge_rows(other, met[piece], rows[piece])
        torch.maximum(self._largest, other._largest.to(self.device), out=self._largest)

    def empty(self, classes: Tensor | None = None) -> ClassStatistics:
        """Statistics of the same kind, on the same device, that have met nothing: of these classes, or of the same."""
        covariance, classes = self._scatter is not None, self.classes if classes is None else classes
        return ClassStatistics(self.num_classes, self.dim, covariance, self.device, classes, self.narrow)

    def _merge_rows(self, other: ClassStatistics, theirs: Tensor, ours: Tensor) -> None:
        """Merge some classes: (p,) their rows in `other` and here."""
        counts, squares, totals, pivots = (
            sums[theirs].to(self.device) for sums in (other._counts, other._squares, other._totals, other._pivots)
        )
        new = self._counts[ours] == 0  # (p,)
        self._pivots[ours] = torch.where(new[:, None], pivots.to(self._pivots.dtype), self._pivots[ours])
        shift = pivots.double() - self._pivots[ours]  # (p, D), zero where this object had not met the class
        number = counts.double()
        # sum (d + s) = t + n s;  sum ||d + s||² = q + 2 s·t + n ||s||²;  sum (d + s)(d + s)ᵀ = S + s tᵀ + t sᵀ + n s sᵀ
        moved = totals + number[:, None] * shift
        self._squares[ours] += squares + torch.linalg.vecdot(shift, totals + moved)
        if self._scatter is not None:
            cross = shift.T @ totals
            self._scatter += cross + cross.T + (shift * number[:, None]).T @ shift
        self._totals[ours] += moved
        self._counts[ours] += counts

    def all_reduce(self) -> None:
        """Give every rank of torch.distributed's default group the statistics of all ranks, merged.

        Rank 1's are merged into rank 0's, then rank 2's, and so on: the result has the same bits on all ranks. One rank
        at a time sends, so that none holds more than its own, the sum and one other's. Without a group, or with one
        rank, nothing is done.

        Raises:
            ValueError: another number of classes, another dimension or only some with a covariance; on all ranks.
        """
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return
        every: list[Any] = [None] * dist.get_world_size()
        # NCCL uses the current GPU.
        with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
            rows = tuple(self.classes.tolist())
            dist.all_gather_object(every, (self.num_classes, self.dim, self._scatter is not None, self.narrow, rows))
            if len(set(every)) > 1:
                shapes = [(*shape, len(rows)) for *shape, rows in every]
                raise ValueError(
                    f"cannot merge: (classes, dimension, covariance, narrow, rows) differ between ranks: {shapes}"
                )
            merged: ClassStatistics | None = None
            for rank in range(len(every)):
                part = self if rank == dist.get_rank() else deepcopy(self)
                part._broadcast(rank)
                if merged is None:
                    merged = part
                else:
                    merged.merge(part)
        self.__dict__.update(vars(merged))

    def _broadcast(self, rank: int) -> None:
        """Take over what that rank holds, bit for bit: all tensors, each as its bytes."""
        for tensor in (self._counts, self._pivots, self._totals, self._squares, self._scatter, self._largest):
            if tensor is not None:
                sent = tensor.cuda() if dist.get_backend() == "nccl" else tensor  # NCCL sends from GPUs only
                dist.broadcast(sent.view(-1).view(torch.uint8), rank)
                tensor.copy_(sent)

    def _check(self) -> None:
        largest = int(self._largest)
        if largest >= self.num_classes:
            raise ValueError(f"label {largest} is out of range: there are {self.num_classes} classes")
        if largest >= 0:
            raise ValueError(f"label {largest} is not among the {len(self.classes)} classes of these statistics")

    def check_finite(self) -> None:
        """Raise `NotFiniteError` where a feature was not finite: the sum of squares of its class is then not either."""
        broken = self.classes[~self._squares.isfinite()]
        if len(broken):
            raise NotFiniteError(f"the features of {len(broken)} classes are not finite, class {int(broken[0])} first")

    def _by_class(self, values: Tensor) -> Tensor:
        """(R,) -> (C,), zero for classes without row."""
        return values.new_zeros(self.num_classes).index_copy_(0, self.classes, values)

    @property
    def counts(self) -> Tensor:
        """Number of features of each class: (C,) int64."""
        self._check()
        return self._by_class(self._counts)

    @property
    def means(self) -> Tensor:
        """Class means: (C, D) float64, zero for a class never seen. Built for all C classes; see `means_of`."""
        return self.means_of(torch.arange(self.num_classes, device=self.device))

    def means_of(self, classes: Tensor) -> Tensor:
        """Means of the chosen classes only: (K,) ids -> (K, D) float64."""
        self._check()
        rows = self._rows_of(classes.to(self.device))
        means = self._totals.new_zeros(len(rows), self.dim)
        known = (rows >= 0).nonzero()[:, 0]  # positions of the classes that have rows
        for piece in pieces(len(known), self.dim):
            means[known[piece]] = self._means_of_rows(rows[known[piece]])
        return means

    def _means_of_rows(self, rows: Tensor) -> Tensor:
        """(p,) rows -> (p, D)."""
        number = self._counts[rows].clamp(min=1).double()
        means = self._totals.index_select(0, rows).div_(number[:, None])
        return means.add_(self._pivots.index_select(0, rows))

    def turn_into_means(self, min_count: int = 1) -> tuple[Tensor, Tensor]:
        """Ids (K,) of the classes with at least `min_count` samples, and their means (K, D), as `means_of` gives them.

        The means take the place of the sums in memory. These statistics are then of no class.
        """
        self._check()
        chosen = (self._counts >= min_count).nonzero()[:, 0]  # (K,) rows
        for piece in pieces(len(chosen), self.dim):  # a row moves up, or stays: none is overwritten before it is read
            self._totals[piece] = self._means_of_rows(chosen[piece])
        ids, means = self.classes[chosen], self._totals[: len(chosen)]
        self.__init__(self.num_classes, self.dim, False, self.device, self.classes[:0], self.narrow)  # type: ignore[misc]
        return ids, means

    @property
    def variances(self) -> Tensor:
        """sigma_c² = (1/N_c) sum ||h - mu_c||²: (C,) float64. Exactly 0 where the count is 0 or 1."""
        self._check()
        number = self._counts.clamp(min=1).double()
        offset = torch.linalg.vector_norm(self._totals, dim=1) / number  # ||mu_c - pivot||
        squares = self._squares / number
        variances = (squares - offset.square()).clamp(min=0)
        if self.narrow:
            # Equal samples have sums that differ by rounding only: of at most n + D additions, and the rest.
            rounding = 2 * torch.finfo(torch.float64).eps * (number + self.dim + 8) * squares
            variances = variances.masked_fill(variances <= rounding, 0.0)
        return self._by_class(variances.masked_fill(self._counts < 2, 0.0))

    @property
    def covariance(self) -> Tensor | None:
        """Within-class covariance pooled over all N samples, (1/N) sum (h - mu_c)(h - mu_c)ᵀ: (D, D) float64.

        None with covariance=False.
        """
        self._check()
        if self._scatter is None:
            return None
        scatter = self._scatter.triu() + self._scatter.triu(1).T  # the lower triangle is not always written
        for totals, counts in self._all_classes():
            scatter.addmm_(totals.T, totals / counts.clamp(min=1)[:, None], alpha=-1)
        return scatter / self._counts.sum().clamp(min=1)

    def _all_classes(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Totals and counts of SPLIT classes after the other: sums over them have the same bits, whoever has rows."""
        if self._rows is None:
            yield from zip(self._totals.split(SPLIT), self._counts.split(SPLIT), strict=True)
            return
        edges = torch.arange(0, self.num_classes + SPLIT, SPLIT, device=self.device).clamp(max=self.num_classes)
        places = torch.searchsorted(self.classes, edges).tolist()
        for start, (first, last) in zip(edges.tolist(), pairwise(places), strict=False):
            number, inside = min(SPLIT, self.num_classes - start), self.classes[first:last] - start
            totals = self._totals.new_zeros(number, self.dim).index_copy_(0, inside, self._totals[first:last])
            yield totals, self._counts.new_zeros(number).index_copy_(0, inside, self._counts[first:last])

    def save(self, path: str | Path) -> None:
        """Write everything to a safetensors file (classes never seen take no room); atomic, without a second copy."""
        save_together({"": self}, path)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str | torch.device = "cpu",
        classes: Tensor | Literal["all", "seen"] = "all",
        name: str = "",
    ) -> ClassStatistics:
        """Read what `save` wrote, bit for bit: updates go on as if the statistics had stayed in memory.

        Args:
            path: of the file.
            device: where the sums will lie.
            classes: which have rows: all, those that the file has seen, or (R,) ids, those seen among them.
            name: which statistics, of a file that `save_together` wrote.

        Raises:
            UserError: the file is missing or holds no class statistics.
            ValueError: the file has seen a class that is not among `classes`.
        """
        file = open_sums(path, name)
        ids = classes if isinstance(classes, Tensor) else file.classes if classes == "seen" else None
        stats = cls(file.num_classes, file.dim, file.covariance, device, ids, file.narrow)
        rows = stats._rows_of(file.classes.to(stats.device))
        if bool((rows < 0).any()):
            stranger = int(file.classes[(rows < 0).cpu()][0])
            raise ValueError(f"{path}: class {stranger} has samples, and is not one of the {len(stats.classes)} given")
        for key in SUMS:
            file.copy(key, getattr(stats, f"_{key}"), rows)
        if stats._scatter is not None:
            stats._scatter.copy_(file.scatter())
        return stats


def save_together(named: Mapping[str, ClassStatistics], path: str | Path) -> None:
    """Write several statistics into one file, each under its name; one may have the name "". Atomic."""
    tensors = {}
    for name, stats in named.items():
        stats._check()
        sums = {key: getattr(stats, f"_{key}") for key in SUMS}
        tensors[name] = rows_of_sums(stats.num_classes, stats.classes, sums, stats._scatter)
    write_sums(Path(path), tensors)


def check_ids(classes: Tensor, num_classes: int) -> None:
    """Raise a ValueError unless these are ascending ids of classes."""
    check_tensors(classes=classes)
    if classes.ndim != 1 or classes.is_floating_point() or classes.dtype == torch.bool:
        raise ValueError(f"classes must be (R,) integer ids, not {tuple(classes.shape)} {classes.dtype}")
    steps = classes[1:] - classes[:-1]
    if len(classes) and (bool((steps <= 0).any()) or int(classes[0]) < 0 or int(classes[-1]) >= num_classes):
        raise ValueError(f"classes must ascend from 0 or more to at most {num_classes - 1}, each id once")
