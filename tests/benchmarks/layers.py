"""What inner layers cost: one pass over a text with all layers beside the last one alone, in one process.

    python tests/benchmarks/layers.py [--model 12x1024] [--rounds 5] [--out layers.jsonl]

The weights are random: they decide no speed. Tokens follow Zipf's law, as those of a text do. The ways take turns,
round by round, after a pass of each that compiles; a pass is timed from the first batch to the end of the device's
work. Memory is the device's peak during a pass beyond what lay there before it (on a CPU it is not measured). On a CPU,
for a try: `--device cpu`, a small model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lcutils.features.extraction import extract_statistics
from lcutils.features.layers import LayerStatistics
from lcutils.features.models import FeatureModel, build_initial
from lcutils.runs import Architecture

VOCABULARY, BLOCK = 50_257, 2048
WAYS: dict[str, dict[str, Any] | None] = {
    "the last layer alone": None,
    "all layers": {},
    "all layers through the norm": {"norm": True},
    "three layers": {"some": True},
    "all layers, with covariances": {"covariance": True},
}
AIM = 1.5  # times the last layer alone, all layers


class Passes:
    """A model, a text and its passes."""

    def __init__(self, name: str, device: str, blocks: int, batch_size: int) -> None:
        depth, width = map(int, name.split("x"))
        small = device == "cpu"
        length, vocabulary = (128, 997) if small else (BLOCK, VOCABULARY)
        self.device, self.batch_size, self.depth = torch.device(device), batch_size, depth
        words = np.random.default_rng(0).zipf(1.2, (blocks, length))
        self.blocks = (words % vocabulary).astype(np.uint16)
        tokens = 0 if small else 10**12  # as long a text as makes compiling pay
        options: dict[str, Any] = {"precision": "fp32" if small else "fp16", "device": self.device, "tokens": tokens}
        self.model: FeatureModel = build_initial(Architecture(depth, width, vocabulary), 0, **options)
        self.classes = torch.from_numpy(np.unique(self.blocks[:, 1:]).astype(np.int64))

    def run(self, kinds: dict[str, Any] | None) -> dict[str, float]:
        """Seconds, tokens per second and peak memory of one pass."""
        cuda = self.device.type == "cuda"
        before = 0
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        rows: dict[str, Any] = {"device": self.device, "classes": self.classes}
        layers = None
        if kinds is not None and self.model.inner_layers is not None:
            options = {key: value for key, value in kinds.items() if key != "some"}
            chosen = [0, self.depth // 2, self.depth] if "some" in kinds else range(self.depth + 1)
            layers = LayerStatistics(self.model.inner_layers(), chosen, len(self.model.classifier), **rows, **options)
        began = time.perf_counter()
        extract_statistics(self.model, self.blocks, batch_size=self.batch_size, covariance=False, layers=layers, **rows)
        if cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        values = {"seconds": seconds, "tokens_per_second": self.blocks.size / seconds}
        if cuda:
            values["peak_gib"] = (torch.cuda.max_memory_allocated() - before) / 2**30
        return values


def main() -> None:
    """Time every way, print a table, and append a line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="depth x width (default: 12x1024, on a CPU 4x64)")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--blocks", type=int, help="of 2048 tokens (default: 256; on a CPU 64 of 128)")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="file of JSON lines to append to")
    options = parser.parse_args()
    cpu = options.device == "cpu"
    name = options.model or ("4x64" if cpu else "12x1024")
    passes = Passes(name, options.device, options.blocks or (64 if cpu else 256), options.batch_size)
    rounds: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for turn in range(options.rounds + 1):
        for way, kinds in WAYS.items():
            values = passes.run(kinds)
            if turn:  # the first one compiles
                rounds[way].append(values)
    chip = "CPU" if cpu else torch.cuda.get_device_name()
    print(f"{name}, {passes.blocks.size:,} tokens, {len(passes.classes):,} classes, {chip}, torch {torch.__version__}")
    print(f"{'way':32} {'seconds':>9} {'tokens/s':>12} {'times':>7} {'peak GiB':>9}")
    alone = statistics.median(values["seconds"] for values in rounds["the last layer alone"])
    for way, runs in rounds.items():
        middle = {key: statistics.median(values[key] for values in runs) for key in runs[0]}
        times, peak = middle["seconds"] / alone, middle.get("peak_gib")
        shown = "" if peak is None else f"{peak:9.2f}"
        missed = f"   aim of {AIM} missed" if way == "all layers" and times > AIM else ""
        print(f"{way:32} {middle['seconds']:9.3f} {middle['tokens_per_second']:12,.0f} {times:7.2f} {shown}{missed}")
        if options.out:
            line = {"model": name, "way": way, "chip": chip, "torch": torch.__version__, "tokens": passes.blocks.size}
            line |= {"classes": len(passes.classes), "rounds": len(runs), "times": times, **middle}
            with options.out.open("a") as file:
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
