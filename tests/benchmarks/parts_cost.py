"""What the sums of parts cost: time of an update of the class sums without them, with them, and across a border.

    python tests/benchmarks/parts_cost.py [DIM] [CLASSES]

On a GPU if there is one. Compare it with the time that a model takes for as many features: the sums are a small part.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch

from lcutils.features.sections import cut
from lcutils.features.statistics import ClassStatistics

BLOCKS, LENGTH, EDGES = 16, 2048, [0, 7, 16]  # of a batch; sections that a batch across a border touches


def batch_of(random: np.random.Generator, dim: int, classes: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and labels by Zipf's law of one batch."""
    share = 1 / (np.arange(classes) + 2.7)
    labels = random.permutation(classes)[random.choice(classes, BLOCKS * LENGTH, p=share / share.sum())]
    return torch.randn(BLOCKS * LENGTH, dim, device=device), torch.from_numpy(labels.astype(np.int32)).to(device)


def measure(dim: int, classes: int, device: str) -> None:
    """Print the times of an update, in ms, and how far merged parts are from the whole."""
    batches = [batch_of(np.random.default_rng(seed), dim, classes, device) for seed in range(3)]

    def seconds(parts: bool, border: bool) -> float:
        whole, part = (ClassStatistics(classes, dim, device=device) for _ in range(2))

        def run(times: int) -> None:
            for turn in range(times):
                features, labels = batches[turn % len(batches)]
                whole.update(features, labels)
                if parts:
                    for _, chosen in cut(EDGES if border else [0, BLOCKS], 0, BLOCKS, LENGTH):
                        part.update(features[chosen], labels[chosen])
            if device == "cuda":
                torch.cuda.synchronize()

        run(3)
        began, times = time.perf_counter(), 30 if device == "cuda" else 5
        run(times)
        return (time.perf_counter() - began) / times

    alone, both, border = seconds(False, False), seconds(True, False), seconds(True, True)
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    print(f"{name}: {BLOCKS * LENGTH} features of {dim} dimensions, {classes} classes")
    print(f"  the whole alone {alone * 1e3:.2f} ms ({BLOCKS * LENGTH / alone:,.0f} features/s)")
    print(f"  with a part     {both * 1e3:.2f} ms (x {both / alone:.2f})")
    print(f"  across a border {border * 1e3:.2f} ms (x {border / alone:.2f})")
    one, *two = (ClassStatistics(classes, dim, device=device) for _ in range(3))
    features, labels = batches[0]
    one.update(features, labels)
    for section, chosen in cut(EDGES, 0, BLOCKS, LENGTH):
        two[section].update(features[chosen], labels[chosen])
    two[0].merge(two[1])
    assert one.counts.equal(two[0].counts)
    print(f"  merged parts differ by at most {float((one.means - two[0].means).abs().max()):.1e} in the means")


if __name__ == "__main__":
    dim, classes = (int(word) for word in (sys.argv[1:] + ["1024", "29233"][len(sys.argv) - 1 :]))
    measure(dim, classes, "cuda" if torch.cuda.is_available() else "cpu")
