"""Speed and bits of this checkout beside another one: training steps and extraction, in alternating rounds.

    python tests/benchmarks/before_after.py --before OTHER/CHECKOUT [--rounds 7] [--out before-after.jsonl]

Each side is one process that stays, so that compilation happens once; the two take turns, round by round. Bits are
compared where both are asked to be deterministic. On a CPU: `--models 1x16 --device cpu`, for a try.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

VOCABULARY, BLOCK = 50_257, 2048
BATCHES = {"1x64": 16, "2x768": 16, "12x1024": 4}


def moved(*places: str) -> Any:
    """The first of these modules that this checkout has: files moved between the two."""
    import lcutils

    for place in places:
        if Path(lcutils.__file__).parent.joinpath(*place.split(".")[1:]).with_suffix(".py").is_file():
            return import_module(place)
    raise ModuleNotFoundError(str(places))


def asked(function: Any, **words: bool) -> dict[str, bool]:
    """Those words that a function takes: earlier checkouts compile without being asked."""
    return {word: value for word, value in words.items() if word in signature(function).parameters}


class Side:
    """One checkout's training step and feature model of one architecture."""

    def __init__(self, name: str, device: str) -> None:
        import numpy as np
        import torch

        depth, width = map(int, name.split("x"))
        self.torch, self.device, small = torch, torch.device(device), device == "cpu"
        self.length, vocabulary = (128, 999) if small else (BLOCK, VOCABULARY)
        self.batch = BATCHES.get(name, 4)
        ranks = np.random.default_rng(0).zipf(1.2, (64 * self.batch, self.length))
        self.blocks = (ranks % vocabulary).astype(np.uint16)
        model = moved("lcutils.gptneo.model", "lcutils.model")
        a = moved("lcutils.runs", "lcutils.model").Architecture(depth, width, vocabulary)
        optimizer, step = (
            moved("lcutils.training.optimizer", "lcutils.optimizer"),
            moved("lcutils.training.step", "lcutils.step"),
        )
        on_device = moved("lcutils.features.batches", "lcutils.step")
        resident = getattr(on_device, "blocks_on_device", None) or on_device.resident
        self.model = model.GPTNeo(a, 0)
        flat = optimizer.FlatParameters(self.model, self.device, torch.float32 if small else torch.bfloat16)
        compiles = {} if small else asked(step.TrainingStep, compile_step=True)
        self.step = step.TrainingStep(
            flat, optimizer.ClippedAdamW(flat, (0.9, 0.999), 1e-8, 5e-4, 1.0), resident(self.blocks, self.device),
            batch_size=self.batch, learning_rate=5e-4, total_steps=10**6, history=1000, **compiles,
        )  # fmt: skip
        self.flat = flat
        self.step.start_epoch(np.arange(len(self.blocks)), self.batch, 0)
        self.extraction = moved("lcutils.features.extraction", "lcutils.extraction")
        self.feature_model = moved("lcutils.features.models", "lcutils.extraction").FeatureModel

    def train(self, steps: int) -> float:
        """Tokens/s of so many steps."""
        began = self._now()
        for _ in range(steps):
            if self.step.done % len(self.step.order) == 0:
                self.step.position.fill_(0)
            self.step.run()
        return steps * self.batch * self.length / (self._now() - began)

    def extract(self, covariance: bool = True) -> float:
        """Tokens/s of one pass over all blocks, statistics included."""
        self.model.requires_grad_(False)
        precision = "fp32" if self.device.type == "cpu" else "fp16"
        compiles = {} if self.device.type == "cpu" else asked(self.model.features, compile_blocks=True)
        features = self.feature_model(
            lambda tokens: self.model.features(tokens, precision, **compiles), self.model.head.detach()
        )
        began = self._now()
        self.stats = self.extraction.extract_statistics(
            features, self.blocks, batch_size=16, device=self.device, covariance=covariance
        )
        return self.blocks.size / (self._now() - began)

    def digest(self) -> str:
        """Of the weights and the statistics that follow from them."""
        self.extract()
        tensors = [self.flat.values, self.stats.means, self.stats.variances, self.stats.covariance]
        parts = [tensor.cpu().contiguous().numpy().tobytes() for tensor in tensors]
        return hashlib.sha256(b"".join(parts)).hexdigest()[:16]

    def _now(self) -> float:
        if self.device.type == "cuda":
            self.torch.cuda.synchronize()
        return time.perf_counter()


def serve(device: str) -> None:
    """Do what each line of standard input asks for, until it ends; answer in one line of JSON."""
    sides: dict[str, Side] = {}
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        name, work, *words = json.loads(line)
        if name not in sides:
            sides[name] = Side(name, device)
        print(json.dumps(getattr(sides[name], work)(*words)), file=answers, flush=True)


class Process:
    """A side in a process of its own."""

    def __init__(self, checkout: Path, device: str, deterministic: bool) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(checkout), os.environ.get("PYTHONPATH", "")])}
        if deterministic:
            environment |= {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import before_after as b, torch; "
        code += f"torch.use_deterministic_algorithms({deterministic}); b.serve({device!r})"
        command = [sys.executable, "-c", code]
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tempfile.gettempdir(),
        )

    def ask(self, *words: object) -> Any:
        """Have something done, and wait for the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(words), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


def main() -> None:
    """Compare, print a table, and append the results to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--models", nargs="*", default=list(BATCHES))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("before-after.jsonl"))
    options = parser.parse_args()
    here, steps = Path(__file__).resolve().parents[2], 3 if options.device == "cpu" else 60
    checkouts = {"before": options.before.resolve(), "after": here}
    exact = {side: Process(path, options.device, True) for side, path in checkouts.items()}
    lines: list[dict[str, Any]] = []
    for name in options.models:
        for process in exact.values():
            process.ask(name, "train", 20)
        digests = {side: process.ask(name, "digest") for side, process in exact.items()}
        lines.append({"part": "bits", "model": name, "same": len(set(digests.values())) == 1, **digests})
        print(lines[-1], flush=True)
    for process in exact.values():
        process.process.communicate("")
    pair = {side: Process(path, options.device, False) for side, path in checkouts.items()}
    for name in options.models:
        for work, words in (("train", [steps]), ("extract", [])):
            for process in pair.values():
                process.ask(name, work, *words)  # compiles
            rates: dict[str, list[float]] = {side: [] for side in pair}
            for number in range(options.rounds):
                for side in list(pair) if number % 2 else list(reversed(pair)):
                    rates[side].append(pair[side].ask(name, work, *words))
            medians = {side: statistics.median(values) for side, values in rates.items()}
            ratio = statistics.median(a / b for a, b in zip(rates["after"], rates["before"], strict=True))
            lines.append(
                {"part": work, "model": name, "after_over_before": round(ratio, 4), **medians, "rounds": rates}
            )
            print({key: value for key, value in lines[-1].items() if key != "rounds"}, flush=True)
    with options.out.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


if __name__ == "__main__":
    main()
