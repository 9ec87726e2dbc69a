"""What sums and agreement take of memory at the sizes of large vocabularies, each measured for itself.

    python tests/memory.py sums|state|agreement DEVICE C R D

prints the peak above what was there before, in multiples of 8 R D bytes. Samples are few and made on the spot, so that
what is measured are the sums, the means and what is held beside them. The pieces that large tensors are worked on in
have the proportions that they have at R = 262,144 and D = 4,096, so that fewer rows tell the same. On a CPU set
MALLOC_MMAP_THRESHOLD_=65536: glibc then returns small pieces when they are freed, as it always does large ones.
"""

import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from lcutils import tensors
from lcutils.collapse import agreement as decisions
from lcutils.collapse import scores
from lcutils.collapse.agreement import AgreementCounter
from lcutils.features.statistics import ClassStatistics

BATCH = 512
LARGE = 262_144 * 4_096


def peak(device: torch.device) -> int:
    """Bytes that this process has held at most, or a GPU's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Not `getrusage`, in which a process keeps the peak of the one that started it.
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def batch(ids: Tensor, number: int, dim: int) -> tuple[Tensor, Tensor]:
    """A batch in which every class occurs in its turn: (n, D) float32 and (n,)."""
    labels = ids[torch.arange(number * BATCH, (number + 1) * BATCH, device=ids.device) % len(ids)]
    return torch.randn(BATCH, dim, device=ids.device), labels


def sums(device: torch.device, num_classes: int, number: int, dim: int) -> int:
    """Peak of the sums of `number` classes: updates, what is read of them, a state's file, the means at the end."""
    ids = spread(device, num_classes, number)
    before = peak(device)
    stats = ClassStatistics(num_classes, dim, True, device, ids, narrow=True)
    for i in range(-(-number // BATCH) - 1):  # some classes stay without samples, as in the middle of a text
        stats.update(*batch(ids, i, dim))
    stats.check_finite()
    with tempfile.TemporaryDirectory() as folder:
        stats.save(Path(folder) / "state")
    assert float(stats.variances.sum()) == 0
    _, means = stats.turn_into_means()
    assert bool(means[:5].isfinite().all())
    return peak(device) - before


def state(device: torch.device, num_classes: int, number: int, dim: int) -> int:
    """Peak of reading a state's file and going on. On a CPU the file counts too, which is mapped into memory."""
    ids = spread(device, num_classes, number)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state"
        zeros = torch.zeros(1, dim, dtype=torch.float64).expand(number, dim)
        parts = {"pivots": zeros.bfloat16(), "totals": zeros, "squares": zeros[:, 0]}
        chosen = {name: tensors.ChosenRows(part) for name, part in parts.items()}
        chosen |= {name: tensors.ChosenRows(ids.cpu()) for name in ("classes", "counts")}
        tensors.save_rows(chosen | {"shape": tensors.ChosenRows(torch.tensor([num_classes, dim]))}, path)
        del parts, chosen, zeros
        before = peak(device)
        stats = ClassStatistics.load(path, device, ids)
        stats.update(*batch(ids, 0, dim))
        assert stats.narrow
    return peak(device) - before


def spread(device: torch.device, num_classes: int, number: int) -> Tensor:
    """(number,) ids anywhere among the classes."""
    return (torch.arange(number, device=device, dtype=torch.float64) * (num_classes / number)).long()


def agreement(device: torch.device, num_classes: int, number: int, dim: int) -> int:
    """Peak of the agreement over `number` classes, beyond the head (C, D) in bfloat16; a bias included."""
    ids = spread(device, num_classes, number)
    head = torch.randn(num_classes, dim, device=device, dtype=torch.bfloat16)
    bias = torch.randn(num_classes, device=device)
    before = peak(device)
    means = torch.empty(number, dim, dtype=torch.float64, device=device).normal_()
    counter = AgreementCounter(head, means, ids, device, 1e12, bias)
    for i in range(2):
        counter.update(*batch(ids, i, dim))
    assert int(counter.result()[1].sum()) == 2 * BATCH
    return peak(device) - before


PARTS = {"sums": sums, "state": state, "agreement": agreement}


def measure(part: str, device: torch.device, num_classes: int, number: int, dim: int) -> float:
    """Peak of one part in multiples of 8 bytes a number of the rows."""
    torch.set_num_threads(1)
    share = number * dim / LARGE
    tensors.NUMBERS, scores.FAST_NUMBERS = (max(int(n * share), 1) for n in (tensors.NUMBERS, scores.FAST_NUMBERS))
    decisions.CPU_SCORES = 1 << 18
    PARTS[part](device, 3 * BATCH, 2 * BATCH, dim)  # so that libraries and batches are in memory
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    return PARTS[part](device, num_classes, number, dim) / (8 * number * dim)


if __name__ == "__main__":
    name, on, *sizes = sys.argv[1:]
    print(measure(name, torch.device(on), *map(int, sizes)))
