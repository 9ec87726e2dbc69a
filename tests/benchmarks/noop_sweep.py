"""Time of a sweep that finds nothing to do: the paper's 230 points, as files that are small but whole.

    python tests/benchmarks/noop_sweep.py [--rounds 5]
    PYTHONPATH=OTHER/CHECKOUT python tests/benchmarks/noop_sweep.py      # the same of another checkout

Prints one JSON line: seconds of `lcutils sweep`, of the check of all artifacts alone, and of the first check, which
reads every file because nothing is remembered yet.
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

from lcutils.artifacts import content_digest
from lcutils.parameters import ROOT
from lcutils.pipeline.job import making
from lcutils.pipeline.jobs import all_jobs, analyze_job, data_job, extract_job, measure_job, train_job
from lcutils.pipeline.overrides import open_study
from lcutils.pipeline.paths import Workspace
from lcutils.runs import TrainedRun

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
FILES = {
    "data": ["train.bin", "validation.bin", "counts.npy", "corpus.json", *(f"tokenizer/{name}" for name in TOKENIZER)],
    "checkpoint": ["model.safetensors", "config.json", "evaluation.json", *TOKENIZER],
    "statistics": ["statistics.safetensors", "head.safetensors", "agreement.npz", "texts.json", "point.json"],
    "measurements": ["row.json", "tokens.parquet", "sensitivity.csv"],
    "analysis": [
        *(f"figures/{number}.svg" for number in range(120)),
        *(f"tables/{number}.csv" for number in range(20)),
    ],
}


def write_files(folder: Path, kind: str, size: int = 20_000) -> None:
    """Files with names of a kind of artifact, `size` bytes each."""
    for name in FILES[kind]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{folder} {name}".encode() * (size // 50))


def make_study(work: Workspace) -> None:
    """Write every artifact of the study."""
    with making(data_job(work), {}) as folder:
        write_files(folder, "data")
    for run in work.study.runs.values():
        assert isinstance(run, TrainedRun)
        facts: dict[str, object] = {}
        with making(train_job(work, run.name), facts) as folder:
            (folder / "log.jsonl").write_text("{}\n")
            for k in run.checkpoints:
                write_files(folder / f"checkpoint-{k}", "checkpoint")
            facts["checkpoints"] = {str(k): content_digest(folder / f"checkpoint-{k}") for k in run.checkpoints}
    for model, k in work.study.points:
        for job, kind in ((extract_job, "statistics"), (measure_job, "measurements")):
            with making(job(work, model, k), {}) as folder:
                write_files(folder, kind)
    work.results.write_text("model\n")
    with making(analyze_job(work), {}) as folder:
        write_files(folder, "analysis")


def check_all(work: Workspace) -> float:
    """Seconds that it takes to find all artifacts current."""
    began = time.perf_counter()
    assert all(job.current for job in [*all_jobs(work).values(), analyze_job(work)])
    return time.perf_counter() - began


def main() -> None:
    """Make the study, sweep it, print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        work = open_study("paper", folder, {"source": "built-in", "tokenizer": "bpe:300", "device": "cpu"})
        words = ["source=built-in", "tokenizer=bpe:300", "device=cpu"]
        make_study(work)
        for memory in work.folder.rglob(".verified"):  # digests that are remembered
            memory.unlink()
        first = check_all(work)
        checks = [check_all(work) for _ in range(options.rounds)]
        sweeps = []
        command = [sys.executable, "-m", "lcutils", "sweep", "paper", "--outputs", str(folder), "--set", *words]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        for _ in range(options.rounds + 1):
            began = time.perf_counter()
            outcome = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
            sweeps.append(time.perf_counter() - began)
            assert "Nothing to be done" in outcome.stdout + outcome.stderr, outcome.stderr
    line = {
        "commit": subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True).strip(),
        "points": len(work.study.points),
        "files": sum(len(FILES[kind]) for kind in ("data", "analysis"))
        + sum((1 + 6 * len(run.checkpoints)) for run in work.study.runs.values())
        + len(work.study.points) * (len(FILES["statistics"]) + len(FILES["measurements"])),
        "sweep_s": round(statistics.median(sweeps[1:]), 2),
        "check_s": round(statistics.median(checks), 2),
        "first_check_s": round(first, 2),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
