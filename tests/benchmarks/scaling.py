"""How a sweep, the training of one model and the extraction of one model scale over the GPUs of a host.

    python tests/benchmarks/scaling.py --prepared PREPARED [--gpus 1 2 4 8] [--out scaling.jsonl]
    python tests/benchmarks/scaling.py --table scaling.jsonl [...]

PREPARED is from `sample.py`. The sweep trains, extracts and measures every architecture of the paper's grid once, for
one epoch, from empty caches; the others are `train.py --ranks` of 12x1024 and `any_model.py --gpus` of a Llama of
1.1 B parameters. Sweeps of several counts that fit on the host beside each other run at once, each on GPUs of its own.
The table says how much of n GPUs a part used (its time on one GPU, over n times its time on n), what share of the time
the GPUs of a sweep were idle, and whether every count found the same: sweeps are deterministic, and their rows compared
by digest, extractions by their largest difference. `--device cpu` is a try of the sweep and the extraction.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def rounds(counts: list[int], there: int) -> list[list[tuple[int, int]]]:
    """The counts in rounds that fit beside each other on a host: (count, its first GPU)."""
    found: list[list[tuple[int, int]]] = []
    used = there
    for count in sorted(counts):
        if used + count > there:
            found.append([])
            used = 0
        found[-1].append((count, used))
        used += count
    return found


def sweeps(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """The same sweep on each count of GPUs."""
    lines: list[dict[str, Any]] = []
    there = max(options.gpus) if options.device != "cpu" else 1
    for together in rounds(options.gpus, there):
        processes = []
        for count, first in together:
            out = folder / f"sweep-{count}.jsonl"
            command = [sys.executable, str(HERE / "sweep.py"), "once", "--prepared", str(options.prepared)]
            command += ["--gpus", str(count), "--jobs", str(options.jobs), "--deterministic", "--out", str(out)]
            command += ["--device", options.device]
            environment = dict(os.environ)
            if options.device != "cpu":
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(first, first + count)))
            processes.append((out, subprocess.Popen(command, env=environment)))
        for out, process in processes:
            process.wait()
            if out.exists():
                lines += [{"part": "sweep"} | json.loads(line) for line in out.read_text().splitlines()]
    if failed := [line["gpus"] for line in lines if line["status"]]:
        sys.exit(f"the sweep on {failed[0]} GPUs failed; {folder} holds its log")
    for line in lines:
        line.pop("finished")
    return lines


def trainings(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """12x1024 trained on each count of GPUs that share its batch of four."""
    out = folder / "train.jsonl"
    for count in [count for count in options.gpus if count <= 4]:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        command += [str(HERE / "train.py"), "--ranks", "--only", "12x1024", "--out", str(out)]
        subprocess.run(command, check=True)
    return [line for line in map(json.loads, out.read_text().splitlines()) if line["part"] == "ranks"]


def extractions(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A model of 1.1 B parameters extracted on each count of GPUs that share the text."""
    out, shape = folder / "extract.jsonl", "tiny" if options.device == "cpu" else "llama-1.1b"
    command = [sys.executable, str(HERE / "any_model.py"), "--shapes", shape, "--device", options.device]
    command += ["--blocks", str(options.blocks), "--out", str(out), "--gpus", *map(str, options.gpus)]
    subprocess.run(command, check=True)
    return [json.loads(line) for line in out.read_text().splitlines()]


def table(lines: list[dict[str, Any]]) -> str:
    """The lines as a table in Markdown, an aim missed said so."""
    rows = [
        "| part | GPUs | seconds | tokens/s | efficiency | GPUs idle | same results |",
        "|---|---|---|---|---|---|---|",
    ]
    for part, title in (("sweep", "sweep"), ("ranks", "training 12x1024"), ("spread", "extraction")):
        mine = sorted((line for line in lines if line["part"] == part), key=lambda line: int(line["gpus"]))
        for line in mine:
            one, gpus = mine[0], line["gpus"] / mine[0]["gpus"]
            cells = {"seconds": "", "tokens": "", "idle": "", "same": ""}
            if part == "sweep":
                share = one["seconds"] / line["seconds"] / gpus
                busy = re.search(r"GPUs busy (\d+) %", " ".join(line["told"]))
                cells |= {"seconds": f"{line['seconds']:.0f}", "idle": f"{100 - int(busy[1])} %" if busy else ""}
                cells["same"] = "yes" if line["digest"] == one["digest"] else "NO"
            else:
                share = line["tokens_per_second"] / one["tokens_per_second"] / gpus
                cells["tokens"] = f"{line['tokens_per_second']:,}"
            if part == "spread":
                cells |= {"seconds": f"{line['seconds']:.1f}", "same": f"to {line['apart']:.0e}"}
            aim = {"sweep": 0.95 if line["gpus"] <= 2 else 0.90}.get(part, 0.0)
            words = f"{share:.2f}" + ("" if share >= aim else f" ({aim:.2f}: **missed**)")
            rows.append(
                f"| {title} | {line['gpus']} | {cells['seconds']} | {cells['tokens']} | {words} | {cells['idle']} "
                f"| {cells['same']} |"
            )
    return "\n".join(rows)


def main() -> None:
    """Run each part on each count, append a line for each to a file, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path)
    parser.add_argument("--gpus", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--parts", nargs="+", default=["sweep", "ranks", "spread"])
    parser.add_argument("--jobs", type=int, default=4, help="at a time on a GPU")
    parser.add_argument("--blocks", type=int, default=4096, help="of text for the extraction")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("scaling.jsonl"))
    parser.add_argument("--table", type=Path, nargs="+", help="print the table of kept lines")
    options = parser.parse_args()
    if options.table:
        print(table([json.loads(line) for file in options.table for line in file.open()]))
        return
    if options.prepared is None and "sweep" in options.parts:
        parser.error("--prepared: the sweep's data are needed (see sample.py)")
    parts = {"sweep": sweeps, "ranks": trainings, "spread": extractions}
    for part in options.parts:
        folder = options.out.parent / f"{options.out.stem}-{part}"
        folder.mkdir(parents=True, exist_ok=True)
        for line in parts[part](options, folder):
            with options.out.open("a") as file:
                print(json.dumps(line), file=file)
    print(table([json.loads(line) for line in options.out.open()]))


if __name__ == "__main__":
    main()
