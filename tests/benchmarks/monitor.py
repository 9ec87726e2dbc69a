"""What `CollapseCallback` costs a `transformers.Trainer` that evaluates every 200 steps.

    python tests/benchmarks/monitor.py [--model gptneo|llama] [--steps 200] [--rounds 3] [--out FILE]   (for a CPU)
    python tests/benchmarks/monitor.py --model llama --depth 16 --width 1024 --vocabulary 32000 --block 1024 \\
        --batch 16 --texts 256 --bf16 --steps 400                                                  (for a GPU)

Trainings with and without the callback take turns in this one process, from the same weights and over the same text,
whose tokens are drawn from Zipf's law; a short one of each comes first and is not counted. The time of the evaluation
itself counts to the training. Seconds are the process's own on a CPU, which other work on the machine disturbs less,
and those of the clock on a GPU. `cost` is the ratio of the medians, less one; `of the callback` is what the callback
says that it took (`collapse/seconds`) over the rest of the training it was part of. Prints a table and one JSON line,
which `--out` appends to a file.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)
from transformers.utils import logging

from lcutils import CollapseCallback

AIM = 0.05
SIDES = ("without", "with")


def new_model(options: argparse.Namespace) -> PreTrainedModel:
    """A model with random weights, the same ones each time."""
    torch.manual_seed(0)
    common = {"vocab_size": options.vocabulary, "hidden_size": options.width, "bos_token_id": 0, "eos_token_id": 0}
    common |= {"max_position_embeddings": options.block}
    heads = max(options.width // 64, 2)
    if options.model == "llama":
        sizes = {"num_hidden_layers": options.depth, "num_attention_heads": heads}
        return LlamaForCausalLM(LlamaConfig(**common, **sizes, intermediate_size=8 * options.width // 3))
    layers = [[["global", "local"][layer % 2]] for layer in range(options.depth)]
    sizes = {"num_layers": options.depth, "num_heads": heads, "attention_types": [[kind, 1] for kind in layers]}
    return GPTNeoForCausalLM(GPTNeoConfig(**common, **sizes))


def texts(number: int, seed: int, options: argparse.Namespace) -> list[dict[str, torch.Tensor]]:
    """Rows of tokens as a dataset."""
    weights = 1 / (np.arange(options.vocabulary) + 2.7)
    drawn = np.random.default_rng(seed).choice(options.vocabulary, (number, options.block), p=weights / weights.sum())
    return [{"input_ids": row, "labels": row} for row in torch.from_numpy(drawn)]


def train(side: str, steps: int, options: argparse.Namespace, data: dict[str, Any]) -> tuple[float, dict[str, float]]:
    """Seconds of one training; the callback's share of it, as the callback says, and how many classes it measured."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=steps,
            eval_strategy="steps",
            eval_steps=min(options.every, steps),
            per_device_train_batch_size=options.batch,
            per_device_eval_batch_size=options.batch,
            bf16=options.bf16,
            use_cpu=options.device == "cpu",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        callbacks = [CollapseCallback(tokens=options.tokens)] if side == "with" else []
        trainer = Trainer(new_model(options), arguments, **data, callbacks=callbacks)
        trainer.remove_callback(PrinterCallback)
        began, worked = time.perf_counter(), time.process_time()
        trainer.train()
        if options.device == "cuda":
            torch.cuda.synchronize()
        wall, worked = time.perf_counter() - began, time.process_time() - worked
    lines = [line for line in trainer.state.log_history if "collapse/seconds" in line]
    found = {"share": 0.0, "classes": 0.0}
    if lines:
        own = sum(line["collapse/seconds"] for line in lines)
        found = {"share": own / (wall - own), "classes": lines[-1]["collapse/n_classes"]}
    return (worked if options.device == "cpu" else wall), found


def main() -> None:
    """Train in turns, print what the callback cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["gptneo", "llama"], default="gptneo")
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--block", type=int, default=128, help="tokens a text")
    parser.add_argument("--batch", type=int, default=8, help="texts a step")
    parser.add_argument("--texts", type=int, default=64, help="texts to evaluate on")
    parser.add_argument("--tokens", type=int, default=100_000, help="tokens that the callback counts, at most")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=200, help="steps from one evaluation to the next")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    logging.set_verbosity_error()
    data = {"train_dataset": texts(512, 1, options), "eval_dataset": texts(options.texts, 2, options)}
    for side in SIDES:
        train(side, 3, options, data)
    load = os.getloadavg()[0]
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    own, classes = [], 0
    for turn in range(options.rounds):
        for side in SIDES if turn % 2 == 0 else SIDES[::-1]:
            took, values = train(side, options.steps, options, data)
            seconds[side].append(took)
            if side == "with":
                own.append(values["share"])
                classes = int(values["classes"])
            print(f"round {turn + 1}, {side} the callback: {took:.1f} s", file=sys.stderr, flush=True)
    medians = {side: statistics.median(times) for side, times in seconds.items()}
    cost, share = medians["with"] / medians["without"] - 1, statistics.median(own)
    counted = min(options.tokens, options.texts * (options.block - 1))
    shape = f"{options.model} {options.depth}x{options.width}, {options.batch} x {options.block} tokens a step"
    print(f"{shape}, {options.steps} steps, an evaluation every {options.every};")
    print(f"the callback counts {counted:,} tokens of {classes:,} classes\n")
    verdict = "reached" if max(cost, share) < AIM else "missed"
    print("| median of | training, s | with the callback, s | cost | of the callback | aim |")
    print("|---|---|---|---|---|---|")
    figures = f"{medians['without']:.2f} | {medians['with']:.2f} | {cost:.2%} | {share:.2%}"
    print(f"| {options.rounds} | {figures} | under {AIM:.0%}: {verdict} |\n")
    device = torch.cuda.get_device_name() if options.device == "cuda" else f"cpu, {os.cpu_count()} cores"
    line = {key: value for key, value in vars(options).items() if key != "out"} | {
        "on": device,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "load_before": round(load, 1),
        "classes": classes,
        "seconds": {side: [round(value, 3) for value in times] for side, times in seconds.items()},
        "cost": round(cost, 4),
        "of_the_callback": round(share, 4),
    }
    print(json.dumps(line))
    if options.out:
        with options.out.open("a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
