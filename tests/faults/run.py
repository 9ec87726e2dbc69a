"""What disks, people and schedulers do to a study, and how it ends: `python tests/faults/run.py damages --count 300`.

    damages          one file of a complete or unfinished study is damaged, then all is swept again
    kills            SIGKILL at random moments of all stages, then all is swept to the end
    full-disk        the disk fills, or a limit of the size of files is met; then there is space again
    swept-damages    as damages, through the real command; this and the next two take minutes per trial
    two-sweeps       a second sweep begins while the first one works
    killed-snakemake Snakemake alone is killed while a kernel works, and a second sweep begins at once
    short            a few of the first three, as `make test` does
    table            the sums of results.jsonl, for README.md

With `--write` the counts are appended to results.jsonl, so that several sittings add up; `--start` sets the number of
the first trial, `--only NUMBER` repeats one; a sitting that is stopped counts what it has tried. README.md tells what
was tried, how often, and how it ended.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import sweeps
import trials

RESULTS = Path(__file__).with_name("results.jsonl")
KINDS = {
    "damages": trials.one_damage,
    "full-disk": trials.full_disk,
    "swept-damages": sweeps.one_swept_damage,
    "two-sweeps": sweeps.two_sweeps,
    "killed-snakemake": sweeps.killed_snakemake,
}
SHORT = {"damages": 14, "kills": 10, "full-disk": 4}  # what `make test` runs


def main() -> int:
    """Run trials of one kind; exit status 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=[*KINDS, "kills", "short", "table"])
    parser.add_argument("--count", type=int, default=20, help="of trials; of kills, at least")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=int, default=0, help="number of the first trial")
    parser.add_argument("--only", type=int, help="number of the one trial to repeat")
    parser.add_argument("--write", action="store_true", help="append the counts to results.jsonl")
    options = parser.parse_args()
    if options.kind == "table":
        print(table())
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` and Ctrl-C alike end a sitting, and count it
    failed = False
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        templates = trials.Templates.make(Path(name))
        for kind, count in (SHORT if options.kind == "short" else {options.kind: options.count}).items():
            began = time.monotonic()
            start, count = (options.start, count) if options.only is None else (options.only, 1)
            line = several(kind, templates, Path(name), options.seed, start, count)
            print(json.dumps(line), f"{time.monotonic() - began:.0f} s", flush=True)
            failed = failed or "FAILED" in line["ends"]
            if options.write:
                with RESULTS.open("a") as file:
                    file.write(json.dumps(line) + "\n")
    return int(failed)


def table() -> str:
    """How all recorded trials ended, as a table in Markdown."""
    sums: dict[str, Counter[str]] = {}
    for line in map(json.loads, RESULTS.read_text().splitlines()):
        sums.setdefault(line["kind"], Counter()).update(line["ends"])
    rows = [
        f"| `{kind}` | {ends.total()} | {'; '.join(f'{n} {end}' for end, n in ends.most_common())} |"
        for kind, ends in sums.items()
    ]
    return "\n".join(["| kind | number | how it ended |", "|---|---|---|", *rows])


def several(kind: str, templates: trials.Templates, folder: Path, seed: int, start: int, count: int) -> dict[str, Any]:
    """Run trials of one kind until they count for `count`; print those that fail, and count how all end."""
    ends, number, done = Counter[str](), start, 0
    while done < count:
        try:
            end, worth = trial(kind, templates, folder, seed, number)
        except KeyboardInterrupt:  # what was tried until now counts
            break
        done += worth
        if end.startswith("FAILED"):
            print(f"{kind} {seed} {number}: {end}\n", flush=True)
            end = "FAILED"
        ends[end] += worth
        number += 1
    return {"kind": kind, "seed": seed, "trials": [start, number - 1], "ends": dict(ends.most_common())}


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
