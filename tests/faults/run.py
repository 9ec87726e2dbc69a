"""What disks, people and schedulers do to a study, and how it ends: `python tests/faults/run.py damages --count 300`.

    damages          one file of a complete or unfinished study is damaged, then all is swept again
    kills            SIGKILL at random moments of all stages, then all is swept to the end
    full-disk        the disk fills, or a limit of the size of files is met; then there is space again
    swept-damages    as damages, through the real command; this and the next two take minutes per trial
    two-sweeps       a second sweep begins while the first one works
    killed-snakemake Snakemake alone is killed while a kernel works, and a second sweep begins at once

With `--write` the counts are appended to results.jsonl, so that several sittings add up; `--start` sets the number of
the first trial, `--only NUMBER` repeats one. README.md tells what was tried, how often, and how it ended.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import sweeps
import trials

KINDS = {
    "damages": trials.one_damage,
    "full-disk": trials.full_disk,
    "swept-damages": sweeps.one_swept_damage,
    "two-sweeps": sweeps.two_sweeps,
    "killed-snakemake": sweeps.killed_snakemake,
}


def main() -> int:
    """Run trials of one kind; exit status 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=[*KINDS, "kills"])
    parser.add_argument("--count", type=int, default=20, help="of trials; of kills, at least")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=int, default=0, help="number of the first trial")
    parser.add_argument("--only", type=int, help="number of the one trial to repeat")
    parser.add_argument("--write", action="store_true", help="append the counts to results.jsonl")
    options = parser.parse_args()
    began, ends, done = time.monotonic(), Counter[str](), 0
    number = options.start if options.only is None else options.only
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        templates = trials.Templates.make(Path(name))
        first = number
        while done < options.count:
            end, worth = trial(options.kind, templates, Path(name), options.seed, number)
            done += worth
            if end.startswith("FAILED"):
                print(f"{options.kind} {options.seed} {number}: {end}\n", flush=True)
                end = "FAILED"
            ends[end] += worth
            number += 1
            if options.only is not None:
                break
    line = {"kind": options.kind, "seed": options.seed, "trials": [first, number - 1], "ends": dict(ends.most_common())}
    print(json.dumps(line), f"{time.monotonic() - began:.0f} s")
    if options.write:
        with (HERE / "results.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
    return int("FAILED" in ends)


def trial(kind: str, templates: trials.Templates, folder: Path, seed: int, number: int) -> tuple[str, int]:
    """How one trial ends, and for how many it counts: a trial of kills for the number of its kills."""
    random, place = Random(f"{kind} {seed} {number}"), folder / f"trial-{number}"
    place.mkdir()
    try:
        if kind == "kills":
            return trials.kills(templates, place, random, number)
        return KINDS[kind](templates, place, random, number), 1
    except Exception:  # a trial that raises is a failure like others, and the next one goes on
        return f"FAILED: {traceback.format_exc()[-2500:]}", 1
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
