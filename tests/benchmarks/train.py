"""Speed of training beside `transformers.Trainer`, loss curves of both, models sharing a GPU, GPUs sharing a model.

    python tests/benchmarks/train.py [--only 1x64,2x768] [--sides ours,trainer] [--tokens npy] --out FILE [--have FILE]
    python tests/benchmarks/train.py --curves | --share | --cpu                 (each with --out FILE)
    torchrun --nproc-per-node 2 tests/benchmarks/train.py --ranks --out FILE
    python tests/benchmarks/train.py --cost FILE [FILE ...]                     (a table of GPU-hours from kept results)

The first form measures tokens/s, model-FLOP utilisation and peak memory of each architecture in bf16, blocks of 2048,
the paper's batch sizes, ours and the Trainer's (Hugging Face's eager GPT-Neo) in this one process; medians over steps,
ours after the GPU has been busy for four seconds (`at_first`: before that). With `--sides ours,deterministic` ours is
set beside itself in PyTorch's deterministic mode.
Results are appended to `--out` as JSON lines, one as soon as it is known; what `--have` holds is not measured again, so
that it may take several commands. `--tokens` is an .npy file, an (n, 2048) array of GPT-2 token ids; without it
tokens are drawn from Zipf's law. Ours is timed through `TrainingStep`, as `lcutils.training.loop.train` uses it.
"""

import argparse
import gc
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from lcutils.features.batches import blocks_on_device
from lcutils.gptneo.determinism import deterministic
from lcutils.gptneo.model import PRECISIONS, GPTNeo
from lcutils.runs import Architecture, Recipe
from lcutils.training.optimizer import ClippedAdamW, FlatParameters
from lcutils.training.step import TrainingStep, epoch_order

sys.path.insert(0, str(Path(__file__).parents[1]))
from study_cost import cost_table

VOCABULARY, BLOCK = 50257, 2048
PEAK = 790e12  # bf16 operations a second that a matrix product reaches on an H200
# Sequences a batch, by depth and by width (paper, Table 3).
WIDTHS = (64, 128, 256, 512, 768, 1024)
BATCHES = {1: (16,) * 6, 2: (16,) * 5 + (8,), 4: (8,) * 6, 8: (8, 8, 8, 4, 4, 4), 12: (4,) * 6}
# The rows that have an aim first.
MODELS = (
    "1x64", "1x128", "4x256", "2x768", "12x1024",
    "1x256", "1x768", "1x1024", "4x64", "4x768", "4x1024", "12x64", "12x256", "12x768",
)  # fmt: skip
CURVES = ("1x64", "4x256", "2x768")
BUSY_SECONDS = 4.0


class Report:
    """Appends each result to a file at once."""

    def __init__(self, path: Path, have: list[Path]) -> None:
        self.path = path
        self.lines = [json.loads(line) for file in (path, *have) if file.exists() for line in file.open()]

    def add(self, part: str, **values: object) -> None:
        """One result."""
        line = {"part": part, **values}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.lines.append(line)
        print({k: v for k, v in line.items() if not isinstance(v, list)}, flush=True)

    def has(self, part: str, **values: object) -> bool:
        """Whether a result with these values is known."""
        wanted = {"part": part, **values}
        return any(wanted.items() <= line.items() for line in self.lines)


def architecture(name: str) -> tuple[Architecture, int]:
    """(architecture, sequences a batch in the paper) of a name such as 2x768."""
    depth, width = map(int, name.split("x"))
    return Architecture(depth, width, VOCABULARY), BATCHES[depth][WIDTHS.index(width)]


def training_flops_per_token(a: Architecture, block_size: int) -> float:
    """Floating-point operations that one token's forward and backward pass must do, recomputation not counted.

    Three times the forward pass: 2 operations for every weight of a matrix product, the head included, and 4 D for
    every key that a query sees: (S + 1)/2 of them on average in a global layer, fewer in a local one.
    """
    S, D, W = block_size, a.width, min(a.window, block_size)
    keys_local = (W * (W + 1) / 2 + (S - W) * W) / S
    keys = (a.depth + 1) // 2 * (S + 1) / 2 + a.depth // 2 * keys_local
    return 3 * (2 * (12 * D * D * a.depth + a.vocab_size * D) + 4 * D * keys)


def zipf(blocks: int, length: int, vocabulary: int) -> np.ndarray:
    """(blocks, length) uint16 tokens: ranks by Zipf's law, ids shuffled."""
    rng = np.random.default_rng(0)
    p = 1 / (np.arange(vocabulary) + 2.7)
    return rng.permutation(vocabulary)[rng.choice(vocabulary, size=(blocks, length), p=p / p.sum())].astype(np.uint16)


def our_step(a: Architecture, recipe: Recipe, blocks: np.ndarray, device: str, steps: int) -> TrainingStep:
    """Our training step at the start of the first epoch, as `train` sets it up; under torchrun a rank's."""
    flat = FlatParameters(GPTNeo(a, recipe.init_seed), torch.device(device), PRECISIONS[recipe.autocast])
    step = TrainingStep(
        flat,
        ClippedAdamW(flat, recipe.betas, recipe.eps, recipe.weight_decay, recipe.clip_norm),
        blocks_on_device(blocks, torch.device(device)),
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        total_steps=steps,
        history=steps,
        rank=int(os.environ.get("RANK", "0")),
        world=int(os.environ.get("WORLD_SIZE", "1")),
        compile_step=device != "cpu",
    )
    step.start_epoch(epoch_order(recipe.seed, 0, len(blocks)), recipe.batch_size, 0)
    return step


class Clock:
    """Seconds of each step, by events on the GPU (which never make the host wait) or by the host's clock."""

    def __init__(self, cuda: bool) -> None:
        self.cuda, self.marks = cuda, []

    def mark(self) -> None:
        """A step has ended."""
        if self.cuda:
            self.marks.append(torch.cuda.Event(enable_timing=True))
            self.marks[-1].record()
        else:
            self.marks.append(time.perf_counter())

    def seconds(self, warm: int) -> list[float]:
        """Of the steps after the first `warm`."""
        if self.cuda:
            torch.cuda.synchronize()
        pairs = zip(self.marks[warm - 1 :], self.marks[warm:], strict=False)
        return [a.elapsed_time(b) / 1e3 if self.cuda else b - a for a, b in pairs]


def time_ours(
    a: Architecture, recipe: Recipe, blocks: np.ndarray, device: str, warm: int, timed: int, busy: float = 0.0
) -> list[float]:
    """Seconds of each step of ours after the first `warm`: `timed` of them, and as many again until `busy` seconds."""
    step, clock, began = our_step(a, recipe, blocks, device, 10**6), Clock(device == "cuda"), 0.0
    for done in itertools.count():
        if done >= warm and (done - warm) % timed == 0:
            if clock.cuda:
                torch.cuda.synchronize()
            began = began or time.perf_counter()
            if done > warm and time.perf_counter() - began >= busy:
                break
        if done % len(step.order) == 0:
            step.position.fill_(0)
        step.run()
        clock.mark()
    return clock.seconds(warm)


def time_trainer(
    a: Architecture, recipe: Recipe, blocks: np.ndarray, device: str, warm: int, timed: int
) -> list[float]:
    """Seconds of each timed step of the Trainer."""
    from hf_trainer import hugging_face, trainer

    clock, cpu = Clock(device == "cuda"), device == "cpu"
    with tempfile.TemporaryDirectory() as folder:
        model = hugging_face(GPTNeo(a, recipe.init_seed))
        trainer(model, recipe, blocks, Path(folder), cpu=cpu, after_step=clock.mark, steps=warm + timed).train()
    return clock.seconds(warm)


def measure_rows(report: Report, tokens: np.ndarray, names: list[str], sides: list[str], limit: float) -> None:
    """Tokens/s of each architecture; no new row begins after `limit` seconds."""
    # A chip at its power limit slows down in the first seconds: ours is also timed after some, and that is what counts.
    ours = partial(time_ours, busy=BUSY_SECONDS)
    timers: dict[str, tuple[Callable[..., list[float]], int, int]] = {
        "ours": (ours, 10, 60),
        "deterministic": (ours, 10, 60),
        "trainer": (time_trainer, 8, 12),
    }
    for name, side in itertools.product(names, sides):
        if report.has("rows", model=name, side=side) or time.perf_counter() > limit:
            continue
        a, batch = architecture(name)
        timer, warm, timed = timers[side]
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        with deterministic(side == "deterministic"):
            times = timer(a, Recipe(1, batch), tokens[: batch * (warm + timed)], "cuda", warm, timed)
        first, last = times[:timed], times[-timed:]
        rate = batch * BLOCK / statistics.median(last)
        report.add(
            "rows",
            model=name,
            side=side,
            batch=batch,
            tokens_per_second=round(rate),
            at_first=round(batch * BLOCK / statistics.median(first)),
            step_ms=round(1e3 * statistics.median(last), 3),
            slowest_and_fastest_ms=[round(1e3 * t, 3) for t in (max(last), min(last))],
            mfu=round(rate * training_flops_per_token(a, BLOCK) / PEAK, 4),
            peak_gib=round(torch.cuda.max_memory_allocated() / 2**30, 2),
            seconds_with_compilation=round(time.perf_counter() - began, 1),
        )


def compare_curves(report: Report, tokens: np.ndarray, names: list[str], steps: int = 200) -> None:
    """Losses of both from the same weights, batch by batch."""
    from hf_trainer import hugging_face, trainer

    for name in names:
        a, batch = architecture(name)
        recipe, blocks = Recipe(1, batch), tokens[: steps * batch]
        step = our_step(a, recipe, blocks, "cuda", steps)
        theirs = hugging_face(step.parameters.model)
        for _ in range(steps):
            step.run()
        ours = step.fetch()[:, 0]
        with tempfile.TemporaryDirectory() as folder:
            rival = trainer(theirs, recipe, blocks, Path(folder), cpu=False)
            rival.train()
        other = torch.stack(rival.losses).double().cpu().numpy()
        difference = ours - other
        report.add(
            "curves",
            model=name,
            steps=steps,
            first=[round(float(x[0]), 5) for x in (ours, other)],
            last=[round(float(x[-1]), 5) for x in (ours, other)],
            final_difference=float(difference[-1]),
            mean_absolute_difference=float(np.abs(difference).mean()),
            largest_difference=float(np.abs(difference).max()),
            ours=[round(float(x), 5) for x in ours],
            trainer=[round(float(x), 5) for x in other],
        )


def share_a_gpu(report: Report, tokens: np.ndarray, name: str, counts: tuple[int, ...] = (1, 2, 4)) -> None:
    """Summed tokens/s of several models: in processes of their own, and on streams of one process."""
    a, batch = architecture(name)
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--worker", name, "--barrier", folder]
            workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
            while len(list(Path(folder).glob("ready-*"))) < count:
                if any(worker.poll() is not None for worker in workers):
                    raise RuntimeError("a worker ended before all were ready")
                time.sleep(0.05)
            (Path(folder) / "go").touch()
            rates = [float(worker.communicate()[0].split()[-1]) for worker in workers]
        way = "processes under MPS" if "CUDA_MPS_PIPE_DIRECTORY" in os.environ else "processes"
        report.add("share", model=name, way=way, count=count, tokens_per_second=round(sum(rates)))
    models = [our_step(a, Recipe(1, batch), tokens[: 64 * batch], "cuda", 10**6) for _ in range(max(counts))]
    for step in models:
        for _ in range(5):
            step.run()
    streams = [torch.cuda.Stream() for _ in models]
    for count in counts:
        times = []
        for _ in range(5):
            torch.cuda.synchronize()
            began = time.perf_counter()
            for _ in range(100):
                for step, stream in zip(models[:count], streams, strict=False):
                    with torch.cuda.stream(stream):
                        step.position.fill_(0)
                        step.run()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        rate = count * 100 * batch * BLOCK / statistics.median(times)
        report.add("share", model=name, way="streams of one process", count=count, tokens_per_second=round(rate))


def time_ranks(report: Report, tokens: np.ndarray, names: list[str]) -> None:
    """Tokens/s of one model on all GPUs that torchrun gives, the batch shared."""
    rank, gpus = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.cuda.set_device(rank)
    torch.distributed.init_process_group("nccl")
    for name in names:
        a, batch = architecture(name)
        times = time_ours(a, Recipe(1, batch), tokens[: 64 * batch], "cuda", 10, 200)
        rate = batch * BLOCK / statistics.median(times[-100:])
        if rank == 0:
            report.add("ranks", model=name, gpus=gpus, batch=batch, tokens_per_second=round(rate))
    torch.distributed.destroy_process_group()


def work_beside_others(name: str, barrier: Path, seconds: float = 5.0) -> None:
    """Train beside other processes once all are ready; prints tokens/s."""
    a, batch = architecture(name)
    step = our_step(a, Recipe(1, batch), zipf(64 * batch, BLOCK, VOCABULARY), "cuda", 10**6)
    for _ in range(5):
        step.run()
    torch.cuda.synchronize()
    (barrier / f"ready-{os.getpid()}").touch()
    while not (barrier / "go").exists():
        time.sleep(0.001)
    done, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        step.position.fill_(0)
        for _ in range(50):
            step.run()
        torch.cuda.synchronize()
        done += 50
    print(done * batch * BLOCK / elapsed)


def compare_on_cpu(report: Report, rounds: int = 5) -> None:
    """A demo-size model on the CPU: steps of ours and of the Trainer in turn."""
    a, batch, length = Architecture(2, 64, 2048), 16, 128
    warm, timed = 5, 40
    blocks = zipf((warm + timed) * batch, length, a.vocab_size)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        times: dict[str, list[float]] = {"ours": [], "trainer": []}
        for _ in range(rounds):
            for side, timer in (("ours", time_ours), ("trainer", time_trainer)):
                recipe = Recipe(1, batch, autocast="fp32")
                times[side].append(statistics.median(timer(a, recipe, blocks, "cpu", warm, timed)))
        rates = {side: batch * length / statistics.median(values) for side, values in times.items()}
        report.add(
            "cpu",
            model="2x64, vocabulary 2048, blocks of 128, batches of 16",
            threads=threads,
            rounds=rounds,
            ours=round(rates["ours"]),
            trainer=round(rates["trainer"]),
            times=round(rates["ours"] / rates["trainer"], 2),
            step_ms_by_round={side: [round(1e3 * t, 2) for t in values] for side, values in times.items()},
        )


def table(lines: list[dict]) -> str:
    """What the rows say, ours beside the Trainer."""
    rows: dict[str, dict[str, dict]] = {}
    for line in lines:
        if line["part"] == "rows":
            rows.setdefault(line["model"], {})[line["side"]] = line
    text = [
        "| model, batch | Trainer, tokens/s | ours | at first | times | MFU | peak GiB: Trainer, ours |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, both in rows.items():
        ours, other = both.get("ours"), both.get("trainer")
        rates = [f"{x['tokens_per_second'] / 1e3:,.1f} k" if x else "" for x in (other, ours)]
        times = f"{ours['tokens_per_second'] / other['tokens_per_second']:.1f}" if ours and other else ""
        at_first = f"{ours['at_first'] / 1e3:,.1f} k" if ours else ""
        memory = ", ".join(f"{x['peak_gib']:.1f}" if x else "" for x in (other, ours))
        mfu = f"{ours['mfu']:.1%}" if ours else ""
        batch = next(iter(both.values()))["batch"]
        text.append(f"| {name}, {batch} | {rates[0]} | {rates[1]} | {at_first} | {times} | {mfu} | {memory} |")
    return "\n".join(text)


def main() -> None:
    """Run the parts that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("curves", "share", "ranks", "cpu")
    for part in parts:
        parser.add_argument(f"--{part}", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")) / "train.jsonl")
    parser.add_argument("--have", type=Path, nargs="*", default=[])
    parser.add_argument("--tokens", type=Path)
    parser.add_argument("--only", default=None, help="architectures, by commas")
    parser.add_argument("--sides", default="ours,trainer")
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds after which no new row begins")
    parser.add_argument("--cost", type=Path, nargs="+")
    parser.add_argument("--worker")
    parser.add_argument("--barrier", type=Path)
    given = parser.parse_args()
    if given.cost:
        print(cost_table([json.loads(line) for file in given.cost for line in file.open()]))
        return
    if given.worker:
        work_beside_others(given.worker, given.barrier)
        return
    limit = time.perf_counter() + given.limit
    report = Report(given.out, given.have)
    names = given.only.split(",") if given.only else None
    chip = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    if os.environ.get("RANK", "0") == "0":
        report.add("machine", device=chip, torch=torch.__version__, python=platform.python_version())
    tokens = np.load(given.tokens) if given.tokens else zipf(200 * 16, BLOCK, VOCABULARY)
    if given.curves:
        compare_curves(report, tokens, names or list(CURVES))
    if given.share:
        for name in names or ["1x64", "12x64"]:
            share_a_gpu(report, tokens, name)
    if given.ranks:
        time_ranks(report, tokens, names or ["2x768", "12x1024"])
    if given.cpu:
        compare_on_cpu(report)
    if not any(getattr(given, part) for part in parts):
        measure_rows(report, tokens, names or list(MODELS), given.sides.split(","), limit)
        print(table(report.lines))


if __name__ == "__main__":
    main()
