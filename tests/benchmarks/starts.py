"""What a new process costs: from its start to a measured row of a short run, beside another checkout.

    python tests/benchmarks/starts.py --prepared PREPARED [--before OTHER] [--models 2x768 12x1024] [--out starts.jsonl]

PREPARED is from `sample.py`. Each side has caches of its own, first empty, then warm. Python keeps bytecode, as it does
for users: in `PYTHONPYCACHEPREFIX` if that is set and filled (`python -m compileall`), otherwise a first process that
is not counted writes it. `--sides before` or `--sides after` runs one of both, for instance on a GPU of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import sample

CHILD = """
import json, sys, time
began, yaml, outputs, model = float(sys.argv[1]), *sys.argv[2:]
marks = {"python": time.time() - began}
def mark(name):
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized():
        sys.modules["torch"].cuda.synchronize()
    marks[name] = time.time() - began - sum(marks.values())
from lcutils.stages import extract_point, measure_point, open_study, train_run
work = open_study(yaml, outputs)
mark("imports")
train_run(work, model)
mark("train")
extract_point(work, model, 0)
mark("extract")
row = measure_point(work, model, 0).row
mark("measure")
print(json.dumps({"seconds": time.time() - began, **marks, "val_loss": row["val_loss"], "nc1_cdnv": row["nc1_cdnv"]}))
"""


def start(checkout: Path, prepared: Path, model: str, caches: Path, device: str) -> dict[str, Any]:
    """Seconds of one new process, by phase, and two of its numbers."""
    depth, width = map(int, model.split("x"))
    grid = [{"depth": depth, "width": width, "epochs": 1, "decay": "d", "checkpoints": 0}]
    with tempfile.TemporaryDirectory() as folder:
        yaml = Path(folder) / "study.yaml"
        sample.place(yaml, sample.study("64blocks", grid, device=device), prepared)
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        environment |= {
            "PYTHONPATH": os.pathsep.join([str(checkout), os.environ.get("PYTHONPATH", "")]),
            "PYTHONPYCACHEPREFIX": os.environ.get("PYTHONPYCACHEPREFIX", str(caches.parent / "bytecode")),
            "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
            "TRITON_CACHE_DIR": str(caches / "triton"),
        }
        words = [str(time.time()), str(yaml), folder, f"{depth:02}x{width:04}_01d"]
        command = [sys.executable, "-c", CHILD, *words]
        outcome = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)
    if outcome.returncode:
        raise RuntimeError(outcome.stderr[-3000:])
    found: dict[str, Any] = json.loads(outcome.stdout.splitlines()[-1])
    return found | {"warnings": sorted({line for line in outcome.stderr.splitlines() if "Warning" in line})}


def main() -> None:
    """Time both sides, print a line for each process, and append the results to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--sides", nargs="*", default=["before", "after"], choices=["before", "after"])
    parser.add_argument("--models", nargs="*", default=["2x768", "12x1024"])
    parser.add_argument("--warm", type=int, default=2, help="processes with warm caches")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("starts.jsonl"))
    options = parser.parse_args()
    checkouts = {"before": options.before and options.before.resolve(), "after": Path(__file__).resolve().parents[2]}
    with tempfile.TemporaryDirectory() as folder, options.out.open("a") as file:
        for side in options.sides:
            checkout = checkouts[side]
            if checkout is None:
                continue
            if "PYTHONPYCACHEPREFIX" not in os.environ:
                start(checkout, options.prepared, "1x64", Path(folder) / "unused", options.device)
            for model in options.models:
                for number in range(1 + options.warm):
                    caches = Path(folder) / f"{side}-{model}"
                    found = start(checkout, options.prepared, model, caches, options.device)
                    found = {"side": side, "model": model, "caches": "warm" if number else "empty"} | found
                    print(
                        json.dumps({k: round(v, 2) if isinstance(v, float) else v for k, v in found.items()}),
                        flush=True,
                    )
                    print(json.dumps(found), file=file, flush=True)


if __name__ == "__main__":
    main()
