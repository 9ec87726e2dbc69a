"""Peak memory and time of `analyze_study` over a made-up study as large as the paper's.

    python tests/benchmarks/analyze_memory.py [--tokens 29233] [--points 230]

Its rows are drawn at random, its token tables are copies of one. It is written into a temporary folder by another
process, so that the peak is the analysis's alone.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))
from analysis_samples import made_tokens

from lcutils.analysis import MEASUREMENTS
from lcutils.analysis.rows import POINT_COLUMNS, Measured
from lcutils.pipeline.job import making
from lcutils.pipeline.jobs import measure_job
from lcutils.pipeline.overrides import open_study
from lcutils.pipeline.paths import Workspace


def opened(outputs: Path) -> Workspace:
    return open_study("paper", outputs, {"device": "cpu"})


def make_study(outputs: Path, points: int, tokens: int) -> None:
    """Write the measurements of the first `points` points of the paper's study, `tokens` rows of tokens in each."""
    work, random = opened(outputs), np.random.default_rng(0)
    template = outputs / "tokens.parquet"
    made_tokens(tokens).to_parquet(template, index=False)
    for model, checkpoint in work.study.points[:points]:
        run = work.study.trained_run(model)
        loss = 3.5 - 0.2 * np.log2(run.width / 64 * run.depth) + random.normal(0, 0.1)
        row = dict.fromkeys(POINT_COLUMNS) | {
            "model": model, "depth": run.depth, "width": run.width, "epochs": run.recipe.epochs,
            "weight_decay": run.recipe.weight_decay, "seed": run.recipe.seed, "checkpoint": checkpoint,
            "steps": 1000 * (checkpoint + 1), "tokens_seen": 10**6 * (checkpoint + 1),
            "n_params": 12 * run.depth * run.width**2,
            "val_loss": loss, "val_accuracy": 0.5, "perplexity": np.exp(loss), "n_classes": tokens,
        }  # fmt: skip
        row |= {key: float(np.exp(loss - 4 + random.normal(0, 0.2))) for key in MEASUREMENTS}
        names = {key: row[key] for key in ("model", "checkpoint", "n_classes", *MEASUREMENTS)}
        sensitivity = pd.DataFrame([names | {"min_count": count} for count in (1, 2, 10, 100)])
        with making(measure_job(work, model, checkpoint), {}) as folder:
            Measured(row, pd.DataFrame(), sensitivity).save(folder)
            shutil.copyfile(template, folder / "tokens.parquet")


def analyse(outputs: Path) -> dict[str, float]:
    """Analyse the study; returns seconds and the peak of this process's memory."""
    from lcutils.stages import analyze_study

    start, began = os.times(), time.monotonic()
    analysis = analyze_study(opened(outputs))
    end = os.times()
    return {
        "points": len(analysis.results),
        "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "CPU seconds": round(end.user + end.system - start.user - start.system, 1),
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=29_233)
    parser.add_argument("--points", type=int, default=230)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        maker = multiprocessing.get_context("spawn").Process(
            target=make_study, args=(Path(name), options.points, options.tokens)
        )
        maker.start()
        maker.join()
        assert maker.exitcode == 0
        print(json.dumps(analyse(Path(name))))


if __name__ == "__main__":
    main()
