"""Losses of a few runs of a study at several learning rates: what the rate of the whole grid is chosen from.

    python tests/benchmarks/learning_rates.py STUDY --data DATA --rates 5e-4 1e-3 --runs 02x0064_01d --out FILE

DATA is a prepared `data` folder of the study. The runs are trained and evaluated by the project's own second stage, one
after another; each kept checkpoint becomes a line of the CSV file, which grows as they end.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import tempfile
from pathlib import Path

from lcutils.stages import open_study, train_run

COLUMNS = ("run", "checkpoint", "learning_rate", "train_loss", "val_loss", "steps", "device")


def losses(study: str, data: Path, run: str, rate: float) -> list[dict[str, object]]:
    """Train one run at a rate; a line for each checkpoint that it keeps."""
    with tempfile.TemporaryDirectory() as outputs:
        work = open_study(study, outputs, {"learning_rate": rate})
        shutil.copytree(data, work.data)
        train_run(work, run)
        records = [
            json.loads(path.read_text()) for path in sorted(work.run_folder(run).glob("checkpoint-*/evaluation.json"))
        ]
        device = json.loads((work.run_folder(run) / "manifest.json").read_text())["device"]
    lines = zip(work.study.run(run).checkpoints, records, strict=True)
    return [
        {"run": run, "checkpoint": k, "learning_rate": rate, "device": device}
        | {key: record.get(key) for key in ("train_loss", "val_loss", "steps")}
        for k, record in lines
    ]


def main() -> None:
    """Train all runs at all rates, and write a CSV file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rates", type=float, nargs="+", required=True)
    parser.add_argument("--runs", nargs="+", required=True)
    parser.add_argument("--out", type=Path, default=Path("learning_rates.csv"))
    options = parser.parse_args()
    with options.out.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for run in options.runs:
            for rate in options.rates:
                found = losses(options.study, options.data, run, rate)
                table.writerows(found)
                file.flush()
                print(
                    *(f"{line['run']}@{line['checkpoint']} {rate:g}: {line['val_loss']:.4f}" for line in found),
                    flush=True,
                )


if __name__ == "__main__":
    main()
