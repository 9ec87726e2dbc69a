"""Class statistics of features in one pass: counts, means, variances, pooled within-class covariance.

Shapes: N features in a batch, D their dimension, C classes.
"""

from __future__ import annotations

import operator
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from lcutils.artifacts import atomic_path
from lcutils.devices import choose_device
from lcutils.errors import NotFiniteError, UserError
from lcutils.tensors import save_tensors

CPU_ROWS = 2048  # features centred at a time on the CPU: their float64 copy then stays in the cache
SPLIT = 8192  # classes at a time where a temporary copy of their rows is needed
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


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
    batches in the same order give the same bits, on the CPU and on a GPU.

    Memory is 16 C D + 8 D² bytes. Nothing waits for a GPU in `update`; labels out of range are found on the
    device and raised when a result is read.

    Args:
        num_classes: C, seen or not.
        dim: D.
        covariance: keep the D x D scatter too.
        device: "cpu" or "cuda"; it must have float64.

    Raises:
        ValueError: num_classes or dim is no whole number or below 1, or the device cannot be used.

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

    def __init__(self, num_classes: int, dim: int, covariance: bool = True, device: str | torch.device = "cpu") -> None:
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

        self._counts = zeros(num_classes, dtype=torch.int64)  # (C,)
        self._pivots = zeros(num_classes, dim)  # (C, D)
        self._totals = zeros(num_classes, dim)  # (C, D) sum of h - pivot
        self._squares = zeros(num_classes)  # (C,) sum of ||h - pivot||²
        self._scatter = zeros(dim, dim) if covariance else None  # (D, D) sum of (h - pivot)(h - pivot)ᵀ
        self._largest = zeros(dtype=torch.int64)  # largest label met, checked when results are read

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            features: (N, D) float64, float32, float16 or bfloat16, on any device.
            labels: (N,) integers. A negative label means "skip this feature" (as PyTorch's ignore_index).

        Raises:
            ValueError: wrong shapes or types; at the next reading of a result, a label >= C.
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
                add_batch(features, labels, self._largest, *sums)
            return
        labels = labels.long()
        torch.maximum(self._largest, labels.max(), out=self._largest)
        chosen = (labels >= 0) & (labels < self.num_classes)
        if not bool(chosen.all()):
            features, labels = features[chosen], labels[chosen]
        for rows, classes in zip(features.split(CPU_ROWS), labels.split(CPU_ROWS), strict=True):
            self._add_rows(rows, classes)

    def _add_rows(self, rows: Tensor, classes: Tensor) -> None:
        """CPU: index_add_ was the fastest scatter measured there (tests/benchmarks), and it adds in order."""
        new = (self._counts[classes] == 0).nonzero()[:, 0]
        if len(new):
            names, which = classes[new].unique(return_inverse=True)
            first = torch.full_like(names, len(rows)).scatter_reduce_(0, which, new, "amin")
            self._pivots[names] = rows[first].double()
        centred = rows.double() - self._pivots.index_select(0, classes)  # (n, D)
        self._counts.index_add_(0, classes, torch.ones_like(classes))
        self._totals.index_add_(0, classes, centred)
        self._squares.index_add_(0, classes, torch.linalg.vecdot(centred, centred))
        if self._scatter is not None:
            self._scatter.addmm_(centred.T, centred)

    def merge(self, other: ClassStatistics) -> None:
        """Add what `other` has counted (a worker's part): equal to one pass over both, to float64 rounding.

        Raises:
            ValueError: another number of classes, another dimension, or only one of the two has a covariance.
        """
        if (self.num_classes, self.dim) != (other.num_classes, other.dim):
            raise ValueError(
                f"cannot merge {other.num_classes} classes of dimension {other.dim} "
                f"into {self.num_classes} of dimension {self.dim}"
            )
        if (self._scatter is None) != (other._scatter is None):
            raise ValueError("cannot merge: only one of the two keeps the covariance")
        counts = other._counts.to(self.device)  # (C,)
        totals = other._totals.to(self.device)  # (C, D)
        pivots = other._pivots.to(self.device)  # (C, D)
        new = self._counts == 0  # (C,)
        self._pivots = torch.where(new[:, None], pivots, self._pivots)
        shift = pivots - self._pivots  # (C, D), zero where this object had not met the class
        shift[counts == 0] = 0
        number = counts.double()
        # sum (d + s) = t + n s;  sum ||d + s||² = q + 2 s·t + n ||s||²;  sum (d + s)(d + s)ᵀ = S + s tᵀ + t sᵀ + n s sᵀ
        moved = totals + number[:, None] * shift
        self._squares += other._squares.to(self.device) + torch.linalg.vecdot(shift, totals + moved)
        if self._scatter is not None and other._scatter is not None:
            cross = shift.T @ totals
            self._scatter += other._scatter.to(self.device) + cross + cross.T + (shift * number[:, None]).T @ shift
        self._totals += moved
        self._counts += counts
        torch.maximum(self._largest, other._largest.to(self.device), out=self._largest)

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
            dist.all_gather_object(every, (self.num_classes, self.dim, self._scatter is not None))
            if len(set(every)) > 1:
                raise ValueError(f"cannot merge: (classes, dimension, covariance) differ between ranks: {every}")
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

    def check_finite(self) -> None:
        """Raise `NotFiniteError` where a feature was not finite: the sum of squares of its class is then not either."""
        broken = (~self._squares.isfinite()).nonzero()[:, 0]
        if len(broken):
            raise NotFiniteError(f"the features of {len(broken)} classes are not finite, class {int(broken[0])} first")

    @property
    def counts(self) -> Tensor:
        """Number of features of each class: (C,) int64."""
        self._check()
        return self._counts.clone()

    @property
    def means(self) -> Tensor:
        """Class means: (C, D) float64, zero for a class never seen."""
        return self.means_of(torch.arange(self.num_classes, device=self.device))

    def means_of(self, classes: Tensor) -> Tensor:
        """Means of the chosen classes only: (K,) ids -> (K, D) float64."""
        self._check()
        number = self._counts[classes].clamp(min=1).double()
        means = self._totals.index_select(0, classes).div_(number[:, None])
        return means.add_(self._pivots.index_select(0, classes))

    @property
    def variances(self) -> Tensor:
        """sigma_c² = (1/N_c) sum ||h - mu_c||²: (C,) float64. Exactly 0 where the count is 0 or 1."""
        self._check()
        number = self._counts.clamp(min=1).double()
        offset = torch.linalg.vector_norm(self._totals, dim=1) / number  # ||mu_c - pivot||
        variances = (self._squares / number - offset.square()).clamp(min=0)
        return variances.masked_fill(self._counts < 2, 0.0)

    @property
    def covariance(self) -> Tensor | None:
        """Within-class covariance pooled over all N samples, (1/N) sum (h - mu_c)(h - mu_c)ᵀ: (D, D) float64.

        None with covariance=False.
        """
        self._check()
        if self._scatter is None:
            return None
        scatter = self._scatter.triu() + self._scatter.triu(1).T  # the lower triangle is not always written
        for totals, counts in zip(self._totals.split(SPLIT), self._counts.split(SPLIT), strict=True):
            scatter.addmm_(totals.T, totals / counts.clamp(min=1)[:, None], alpha=-1)
        return scatter / self._counts.sum().clamp(min=1)

    def save(self, path: str | Path) -> None:
        """Write everything to a safetensors file (classes never seen take no room); atomic."""
        self._check()
        classes = self._counts.nonzero()[:, 0]
        pivots = self._pivots[classes]
        narrow = pivots.float()
        tensors = {
            "shape": torch.tensor([self.num_classes, self.dim]),
            "classes": classes,
            "counts": self._counts[classes],
            "pivots": narrow if torch.equal(narrow.double(), pivots) else pivots,  # features are float32 as a rule
            "totals": self._totals[classes],
            "squares": self._squares[classes],
        }
        if self._scatter is not None:
            tensors["scatter"] = self._scatter
        with atomic_path(Path(path)) as aside:
            save_tensors({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, aside)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> ClassStatistics:
        """Read what `save` wrote, bit for bit: updates go on as if the statistics had stayed in memory.

        Raises:
            UserError: the file is missing or holds no class statistics.
        """
        try:
            tensors = load_file(path)
            num_classes, dim = tensors["shape"].tolist()
        except Exception as error:
            raise UserError(f"{path}: no class statistics can be read from it ({error}); extract them again") from error
        stats = cls(num_classes, dim, covariance="scatter" in tensors, device=device)
        classes = tensors["classes"].to(stats.device)
        for name in ("counts", "pivots", "totals", "squares"):
            target = getattr(stats, f"_{name}")
            target[classes] = tensors[name].to(stats.device, target.dtype)
        if stats._scatter is not None:
            stats._scatter.copy_(tensors["scatter"])
        return stats
