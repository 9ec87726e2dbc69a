"""Give a reader random inputs, and count how each ends: `python tests/fuzz/run.py texts --count 2000 --seed 1`.

A kind is a module beside this file with `attempt(random, folder) -> str`: make one input from `random` in the empty
`folder`, give it to the reader, and return how it ended in a word or two ("read", "one line"). An exception, a partial
file (`attempt` checks what is left), a crash or more than 10 seconds (`--seconds`) is a failure, reported with the
input's number: `--only NUMBER` repeats it alone. With `--write` the counts are appended to results.jsonl.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

HERE = Path(__file__).resolve().parent
KINDS = sorted(path.stem for path in HERE.glob("*.py") if path.stem != "run")


def one(kind: str, seed: int, number: int) -> str:
    """How one input ends; "FAILED: …" with the end of the traceback if it raises."""
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{kind}-"))
    try:
        return str(importlib.import_module(kind).attempt(Random(f"{kind} {seed} {number}"), folder))
    except Exception:
        return "FAILED: " + traceback.format_exc()[-1500:]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _work(kind: str, seed: int, numbers: range, pipe: Connection) -> None:
    for number in numbers:
        pipe.send((number, one(kind, seed, number)))


def run(kind: str, seed: int, count: int, start: int = 0, seconds: float = 10.0) -> dict[int, str]:
    """How each of `count` inputs ends, by number. They run in another process, which a crash or a hang may end."""
    sys.path.insert(0, str(HERE))
    importlib.import_module(kind)  # once, before the processes are forked
    context, ends, stop = multiprocessing.get_context("fork"), dict[int, str](), start + count
    while start < stop:
        ours, theirs = context.Pipe(duplex=False)
        worker = context.Process(target=_work, args=(kind, seed, range(start, stop), theirs))
        worker.start()
        theirs.close()
        while start < stop:
            try:
                if not ours.poll(seconds):
                    ends[start] = f"FAILED: took more than {seconds:.0f} s"
                    break
                number, ends[start] = ours.recv()
                start = number + 1
            except EOFError:
                worker.join()
                ends[start] = f"FAILED: the process ended with status {worker.exitcode}"
                break
        worker.kill()
        worker.join()
        start += start < stop
    return ends


def main() -> int:
    """Run one kind; exit status 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="number of the one input to repeat")
    parser.add_argument("--seconds", type=float, default=10.0, help="that one input may take")
    parser.add_argument("--write", action="store_true", help="append the counts to results.jsonl")
    options = parser.parse_args()
    began = time.monotonic()
    start, count = (0, options.count) if options.only is None else (options.only, 1)
    ends = run(options.kind, options.seed, count, start, options.seconds)
    failed = {number: end for number, end in ends.items() if end.startswith("FAILED")}
    for number, end in failed.items():
        print(f"{options.kind} {options.seed} {number}: {end}\n")
    counts = Counter("failed" if number in failed else end for number, end in ends.items())
    line = {"kind": options.kind, "seed": options.seed, "inputs": len(ends), "ends": dict(counts.most_common())}
    print(json.dumps(line), f"{time.monotonic() - began:.0f} s")
    if options.write:
        with (HERE / "results.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
