"""A sweep from its command to its report, caches empty: six points, or parts of the paper's grid, on a small text.

    python tests/benchmarks/sweep.py six --prepared PREPARED [--before OTHER] [--jobs 3] [--out sweep.jsonl]
    python tests/benchmarks/sweep.py third --half 0 --prepared PREPARED [--gpus 2] [--seconds 570]
    python tests/benchmarks/sweep.py paper --prepared PREPARED [--seconds 500]
    python tests/benchmarks/sweep.py once --prepared PREPARED [--gpus 4]

PREPARED is from `sample.py`. `third` is about a third of the paper's grid, every architecture in it; its two halves
have fifteen each. `once` is every architecture for one epoch. `CUDA_VISIBLE_DEVICES` says which GPUs; `--gpus` must be
their number. With `--seconds` the sweep is ended after so long, and a forecast is made from what it has finished: the
rest of the grid takes as long, by the plan's measure, as what is done took. `digest` is of all rows: sweeps with equal
digests found the same numbers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import sample
import yaml

SIX = [
    {"depth": 2, "width": [64, 256], "epochs": 1, "decay": "d", "checkpoints": 0},
    {"depth": 2, "width": [64, 256], "epochs": 3, "decay": "d", "checkpoints": 2},
    {"depth": 2, "width": 768, "epochs": 1, "decay": "d", "checkpoints": 0, "seed": [0, 1]},
]


def third_of(grid: list[dict[str, Any]], half: int) -> list[dict[str, Any]]:
    """Every second architecture of the paper's grid, with two of its five runs: short and long ones in turn."""
    pairs = {
        (depth, width) for entry in grid for depth, width in product(as_list(entry["depth"]), as_list(entry["width"]))
    }
    short = [{"epochs": 1, "decay": "L", "checkpoints": 0}, {"epochs": 3, "decay": "d", "checkpoints": 2}]
    long = [{"epochs": 1, "decay": "d", "checkpoints": 0}, {"epochs": 10, "decay": "d", "checkpoints": [5, 9]}]
    chosen = []
    for number, (depth, width) in enumerate(sorted(pairs, key=lambda pair: (pair[0] * pair[1] ** 2, pair))):
        if number // 2 % 2 == half:
            chosen += [{"depth": depth, "width": width} | entry for entry in (long if number % 2 else short)]
    return chosen


def as_list(value: Any) -> list[Any]:
    """A list as it is, anything else as a list of one."""
    return value if isinstance(value, list) else [value]


def run(checkout: Path, grid: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """Run a sweep in a checkout; what it made, and how long it took."""
    gpu = options.device != "cpu"
    content = sample.study(
        "sample" if gpu else "64blocks", grid, device=options.device, jobs_per_gpu=options.jobs, drop_checkpoints=True
    )
    content["training"]["deterministic"] = options.deterministic
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sample.place(folder / "bench.yaml", content, options.prepared)
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        environment |= {
            "PYTHONPATH": os.pathsep.join([str(checkout), os.environ.get("PYTHONPATH", "")]),
            "PYTHONPYCACHEPREFIX": os.environ.get("PYTHONPYCACHEPREFIX", str(folder / "bytecode")),
            "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
            "TRITON_CACHE_DIR": str(folder / "triton"),
        }
        words = ["sweep", str(folder / "bench.yaml"), "--outputs", name, "--cores", str(options.jobs * options.gpus)]
        log = options.out.with_suffix(".log").open("a")
        began, written = time.monotonic(), log.tell()
        command = [sys.executable, "-m", "lcutils", *words]
        process = subprocess.Popen(
            command, cwd=checkout, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            status = process.wait(options.seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            status = -1
        seconds = time.monotonic() - began
        study = folder / "bench"
        done = {path.parent.name for path in study.glob("runs/*/manifest.json")}
        records = [json.loads(path.read_text()) for path in study.glob("runs/*/checkpoint-*/evaluation.json")]
        last = {
            path.parent.parent.name: json.loads(path.read_text())
            for path in sorted(study.glob("runs/*/checkpoint-*/evaluation.json"))
        }
        rows = sorted(study.glob("measurements/*/row.json"))
        digest = hashlib.sha256(b"".join(row.parent.name.encode() + row.read_bytes() for row in rows))
        lines = options.out.with_suffix(".log").read_bytes()[written:].decode(errors="replace").splitlines()
        told = [line for line in lines if line.startswith("time ")]
        return {
            "status": status,
            "seconds": round(seconds, 1),
            "runs": len(done),
            "points": len(rows),
            "training_seconds": round(sum(record["seconds"] for record in last.values()), 1),
            "compile_seconds": round(sum(record.get("compile_seconds", 0.0) for record in last.values()), 1),
            "val_loss": sum(record["val_loss"] for record in records) / max(len(records), 1),
            "digest": digest.hexdigest()[:16],
            "told": told,
            "finished": sorted(done),
        }


def forecast(found: dict[str, Any], grid: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds for the whole grid, if all of it takes as long for the plan's measure as the finished runs took."""
    from lcutils.parameters import load_study
    from lcutils.pipeline.costs import seconds_per_token
    from lcutils.runs import TrainedRun

    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "study.yaml"
        path.write_text(yaml.safe_dump(sample.study("sample", grid)))
        runs = load_study(path).runs
    work = {name: sum(seconds_per_token(run)) for name, run in runs.items() if isinstance(run, TrainedRun)}
    share = sum(work[name] for name in found["finished"]) / sum(work.values())
    return {
        "share_of_work": share,
        "share_of_runs": len(found["finished"]) / len(runs),
        "forecast": found["seconds"] / share,
    }


def main() -> None:
    """Run the sweep on one side or both, print a line for each, and append it to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", choices=["six", "third", "paper", "once"])
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--sides", nargs="*", default=["after", "before"], choices=["after", "before"])
    parser.add_argument("--jobs", type=int, default=3, help="at a time on a GPU")
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--half", type=int, choices=[0, 1], default=0)
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("sweep.jsonl"))
    options = parser.parse_args()
    here = Path(__file__).resolve().parents[2]
    paper = yaml.safe_load((here / "parameters/paper.yaml").read_text())["grid"]
    once = [
        {
            "depth": [1, 2, 4, 8, 12],
            "width": [64, 128, 256, 512, 768, 1024],
            "epochs": 1,
            "decay": "d",
            "checkpoints": 0,
        }
    ]
    if options.device == "cpu":  # a try
        once[0] |= {"depth": 1, "width": [64, 128]}
    grid = {"six": SIX, "third": third_of(paper, options.half), "paper": paper, "once": once}[options.grid]
    checkouts = {"after": here, "before": options.before and options.before.resolve()}
    for side in options.sides:
        checkout = checkouts[side]
        if checkout is None:
            continue
        found = {"grid": options.grid, "side": side, "jobs": options.jobs, "gpus": options.gpus, "half": options.half}
        found |= run(checkout, grid, options)
        if options.grid != "six" and found["finished"]:
            found |= forecast(found, paper)
        print({key: value for key, value in found.items() if key != "finished"}, flush=True)
        with options.out.open("a") as file:
            print(json.dumps(found), file=file)


if __name__ == "__main__":
    main()
