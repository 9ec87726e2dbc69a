"""Extraction beside transformers' own forward pass: tokens/s and memory, for random weights of public shapes.

    python tests/benchmarks/any_model.py [--shapes neox-410m llama-1.1b llama-8b] [--out any-model.jsonl]
    python tests/benchmarks/any_model.py --gpus 1 2 4 [--shapes llama-1.1b] [--blocks 4096]

The rival is the trunk of the model alone, as transformers runs it: bf16, SDPA, batches of 8 x 2048, no head and no
statistics. Both sides take turns over the same tokens, drawn by Zipf's law, in one process; medians of `--rounds`
rounds. Peak memory is what each side held beyond what was there before it, its weights included. With `--gpus` the
same extraction runs over so many processes (torchrun), the state that is saved and the merging included; statistics
must then be those of one process to 1e-12. `--device cpu --shapes tiny` is a try.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from lcutils.features.extraction import extract_statistics
from lcutils.features.models import load_feature_model
from lcutils.features.statistics import ClassStatistics
from lcutils.ranks import process_group

BATCH, BLOCK = 8, 2048
LLAMA = {"model_type": "llama", "max_position_embeddings": BLOCK, "tie_word_embeddings": False}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": LLAMA
    | {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 500,
    },
    "neox-410m": {
        "model_type": "gpt_neox",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "vocab_size": 50_304,
        "max_position_embeddings": BLOCK,
    },
    "llama-1.1b": LLAMA
    | {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "vocab_size": 32_000,
    },
    "llama-8b": LLAMA
    | {
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
    },
}


def configuration(shape: str) -> PretrainedConfig:
    """The configuration of a shape."""
    values = dict(SHAPES[shape])
    return AutoConfig.for_model(values.pop("model_type"), **values)


def zipf(blocks: int, vocabulary: int) -> np.ndarray:
    """(blocks, BLOCK) uint32 tokens, whose frequencies fall as 1 / rank."""
    shares = 1 / np.arange(1, vocabulary + 1)
    drawn = np.random.default_rng(0).choice(vocabulary, blocks * BLOCK, p=shares / shares.sum())
    return drawn.astype(np.uint32).reshape(blocks, BLOCK)


def classes_of(blocks: np.ndarray) -> torch.Tensor:
    """(R,) ids of the tokens that are labels."""
    return torch.from_numpy(np.unique(blocks[:, 1:]).astype(np.int64))


def save_random(shape: str, folder: Path, device: str) -> PreTrainedModel:
    """Write a checkpoint of random weights in bf16, and give the model back."""
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(configuration(shape), dtype=torch.bfloat16)
    model.eval().requires_grad_(False).save_pretrained(folder)
    found: PreTrainedModel = model
    return found


class Clock:
    """Seconds and peak memory on a device."""

    def __init__(self, device: str) -> None:
        self.gpu = device != "cpu"

    def wait(self) -> float:
        """The time, once the device is done."""
        if self.gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    def held(self) -> int:
        """Bytes held now; the peak starts again from here."""
        if not self.gpu:
            return 0
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()

    def peak(self, before: int) -> float:
        """GiB held at most since then, beyond what was held before."""
        return (torch.cuda.max_memory_allocated() - before) / 2**30 if self.gpu else 0.0


def compare(shape: str, blocks: np.ndarray, options: argparse.Namespace) -> dict[str, Any]:
    """Tokens/s and peak memory of the trunk alone and of our extraction."""
    clock, classes = Clock(options.device), classes_of(blocks)
    with tempfile.TemporaryDirectory() as name:
        before = clock.held()
        whole = save_random(shape, Path(name), options.device)
        trunk = whole.base_model
        tokens = torch.from_numpy(blocks.astype(np.int64)).to(options.device)
        peaks = {"text": clock.peak(before)}

        @torch.no_grad()
        def plain() -> None:
            for start in range(0, len(tokens), BATCH):
                trunk(input_ids=tokens[start : start + BATCH], use_cache=False)

        inside = clock.held()
        plain()
        weights = sum(p.numel() * p.element_size() for p in whole.parameters()) / 2**30
        peaks["plain"] = clock.peak(inside) + weights
        before = clock.held()
        began = clock.wait()
        model = load_feature_model(name, device=options.device, tokens=blocks.size)
        loading, loaded = clock.wait() - began, clock.peak(before)

        def ours(covariance: bool) -> None:
            words: dict[str, Any] = {"batch_size": BATCH, "device": options.device, "narrow": True}
            extract_statistics(model, blocks, covariance=covariance, classes=classes, **words)

        ours(False)
        peaks["ours"] = max(loaded, clock.peak(before))
        between = clock.held()
        ours(True)
        peaks["ours, covariance"] = clock.peak(between) + between / 2**30 - before / 2**30
        sides = {"plain": plain, "ours": lambda: ours(False), "ours, covariance": lambda: ours(True)}
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(options.rounds):
            for side, run in sides.items():
                began = clock.wait()
                run()
                seconds[side].append(clock.wait() - began)
    dim, rows = model.classifier.shape[1], len(classes)
    return {
        "part": "compare",
        "shape": shape,
        "blocks": len(blocks),
        "classes": rows,
        "precision": model.precision,
        "tokens_per_second": {side: round(blocks.size / statistics.median(times)) for side, times in seconds.items()},
        "seconds": {side: [round(value, 4) for value in times] for side, times in seconds.items()},
        "peak_gib": {side: round(value, 2) for side, value in peaks.items()},
        "statistics_gib": {"sums": round(10 * rows * dim / 2**30, 2), "scatter": round(8 * dim * dim / 2**30, 2)},
        "load_seconds": round(loading, 1),
    }


def share_worker(folder: Path, blocks_number: int, device: str) -> None:
    """One process of torchrun: extract its share; the first one writes seconds and statistics."""
    first = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if device != "cpu" else torch.device("cpu")
    with process_group(first) as (rank, world, place):
        model = load_feature_model(folder, device=place)
        blocks = np.load(folder / "blocks.npy", mmap_mode="r")
        words: dict[str, Any] = {"batch_size": BATCH, "device": place, "covariance": False, "narrow": True}
        extract_statistics(model, blocks[: 4 * BATCH], classes=classes_of(blocks), **words)
        if world > 1:
            torch.distributed.barrier()
        clock = Clock(device)
        began = clock.wait()
        stats = extract_statistics(
            model,
            blocks[:blocks_number],
            classes=classes_of(blocks),
            resume=folder / f"state-{world}",
            rank=rank,
            world=world,
            **words,
        )
        seconds = clock.wait() - began
        if rank == 0:
            stats.save(folder / f"{world}.safetensors")
            (folder / f"{world}.json").write_text(json.dumps(seconds))


def spread(shape: str, blocks: np.ndarray, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The same extraction over several processes, each with a GPU."""
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_random(shape, folder, options.device)
        if options.device != "cpu":
            torch.cuda.empty_cache()
        np.save(folder / "blocks.npy", blocks)
        for world in options.gpus:
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
            command += [__file__, "--worker", name, "--blocks", str(len(blocks)), "--device", options.device]
            subprocess.run(command, check=True)
            seconds = json.loads((folder / f"{world}.json").read_text())
            line = {
                "part": "spread",
                "shape": shape,
                "gpus": world,
                "blocks": len(blocks),
                "seconds": round(seconds, 2),
            }
            line["tokens_per_second"] = round(blocks.size / seconds)
            one = found[0] if found else line
            line["efficiency"] = round(one["seconds"] * one["gpus"] / (line["seconds"] * world), 3)
            line["apart"] = apart(*(ClassStatistics.load(folder / f"{n}.safetensors") for n in (one["gpus"], world)))
            found.append(line)
    return found


def apart(one: ClassStatistics, other: ClassStatistics) -> float:
    """Largest difference of means and variances, relative to the largest of each."""
    if not torch.equal(one.counts, other.counts):
        return float("inf")
    pairs = ((one.means, other.means), (one.variances, other.variances))
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)


def main() -> None:
    """Run what the command line asks for, print a line for each part, and append it to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", choices=list(SHAPES))
    parser.add_argument("--gpus", nargs="*", type=int, help="spread the extraction over these numbers of processes")
    parser.add_argument("--blocks", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("any-model.jsonl"))
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        share_worker(options.worker, options.blocks, options.device)
        return
    shapes = options.shapes or (["llama-1.1b"] if options.gpus else ["neox-410m", "llama-1.1b", "llama-8b"])
    chip = torch.cuda.get_device_name() if options.device != "cpu" else "cpu"
    for shape in shapes:
        number = options.blocks or (4096 if options.gpus else 24 if shape == "llama-8b" else 192)
        blocks = zipf(number, SHAPES[shape]["vocab_size"])
        lines = spread(shape, blocks, options) if options.gpus else [compare(shape, blocks, options)]
        for line in lines:
            print(line, flush=True)
            with options.out.open("a") as file:
                print(json.dumps(line | {"device": chip, "torch": torch.__version__}), file=file)
        if options.device != "cpu":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
