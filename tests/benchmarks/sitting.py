"""One sitting of a study: what is kept comes in, the sweep runs for so long, and all finished points go out again.

    python tests/benchmarks/sitting.py STUDY --kept FOLDER_OR_ARCHIVE --seconds 500 --out OUT [--data DATA]

DATA is the study's prepared `data` folder, for a machine that has no text. Points go to OUT/points.tar.xz every two
minutes, so that a machine that is taken away costs two minutes at most; what each run took goes to OUT/runs.csv. The
sweep is ended by SIGINT; unfinished trainings are lost with the machine. OUT may be the next sitting's `--kept`.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from lcutils.errors import UserError
from lcutils.pipeline.kept import export_points, import_points
from lcutils.pipeline.outcome import run_times
from lcutils.pipeline.overrides import open_study
from lcutils.text import csv_text

BETWEEN = 120.0  # seconds from one export to the next
TO_END = 30.0  # seconds that a sweep may take to end


def main() -> None:
    """Bring in, sweep, and bring out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("--kept", type=Path, help="what earlier sittings exported")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seconds", type=float, default=500.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--outputs", default="outputs")
    parser.add_argument("--set", nargs="*", default=[], help="as of `lcutils sweep`")
    options = parser.parse_args()
    began = time.monotonic()
    work = open_study(options.study, options.outputs, options.set)
    if options.data and not work.data.exists():
        shutil.copytree(options.data, work.data)
    if options.kept:
        print(import_points(work, str(options.kept)), flush=True)

    def bring_out() -> None:
        try:
            print(export_points(work, str(options.out)), flush=True)
        except UserError as error:  # nothing is finished yet
            print(error, flush=True)
            return
        (options.out / "runs.csv").write_text(csv_text(run_times(work)))

    command = [sys.executable, "-m", "lcutils", "sweep", options.study, "--outputs", options.outputs]
    sweep = subprocess.Popen([*command, "--set", *options.set])
    while (left := options.seconds - (time.monotonic() - began)) > 0:
        try:
            sweep.wait(min(left, BETWEEN))
            break
        except subprocess.TimeoutExpired:
            bring_out()
    sweep.send_signal(signal.SIGINT)
    try:
        sweep.wait(TO_END)
    except subprocess.TimeoutExpired:
        sweep.kill()
    bring_out()


if __name__ == "__main__":
    main()
