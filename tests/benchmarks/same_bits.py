"""Whether this checkout gives the same results as another one, bit for bit: a tiny study through all five stages.

    python tests/benchmarks/same_bits.py --before OTHER/CHECKOUT

Compares token blocks, weights and losses of each checkpoint, class statistics, agreement counts, rows, token tables and
`results.csv`. Both sides run on this machine: another processor rounds otherwise, so no digest is kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

STUDY = """
corpus: {source: built-in, max_stories: 120, max_validation_stories: 30, tokenizer: "bpe:400", block_size: 32,
         packing: lossless}
training: {learning_rate: 3.0e-3, batch_size: 8}
extraction: {blocks_per_batch: 32}
analysis: {permutations: 200}
grid:
  - {depth: [1, 3], width: [16, 64], epochs: 2, decay: [d, L], checkpoints: [0, 1]}
device: cpu
threads: 1
"""


def digest(*parts: bytes) -> str:
    """A few digits that stand for these bytes."""
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def run_study(checkout: Path) -> None:
    """Run the study with the lcutils of `checkout`, and print one line per result."""
    import lcutils

    assert Path(lcutils.__file__).is_relative_to(checkout), lcutils.__file__
    from safetensors.torch import load_file

    from lcutils.stages import analyze_study, extract_point, measure_point, open_study, prepare_data, train_run

    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "tiny.yaml"
        path.write_text(STUDY)
        work = open_study(path, name)
        data = prepare_data(work)
        print("data", digest(data.train.tobytes(), data.validation.tobytes(), data.counts.tobytes()))
        for run, checkpoint in work.study.points:
            train_run(work, run)
            folder, point = work.run_folder(run) / f"checkpoint-{checkpoint}", f"{run}@{checkpoint}"
            weights = load_file(folder / "model.safetensors")
            print(point, "weights", digest(*(weights[key].numpy().tobytes() for key in sorted(weights))))
            scores = json.loads((folder / "evaluation.json").read_text())
            print(point, "losses", {key: scores[key] for key in ("val_loss", "val_accuracy", "train_loss")})
            extracted = extract_point(work, run, checkpoint)
            sums = extracted.statistics
            tensors = sums.counts, sums.means, sums.variances, sums.covariance
            print(point, "statistics", digest(*(tensor.numpy().tobytes() for tensor in tensors)))
            print(point, "agreement", digest(*(extracted.agreement[key].tobytes() for key in ("hits", "totals"))))
            measured = measure_point(work, run, checkpoint)
            print(point, "row", json.dumps(measured.row))
            for key in ("tokens", "sensitivity"):
                print(point, key, digest(getattr(measured, key).to_csv(index=False).encode()))
        analyze_study(work)
        print("results.csv", digest(work.results.read_bytes()))


def main() -> int:
    """Run both sides, and print what differs; exit status 1 if anything does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--side", type=Path, help=argparse.SUPPRESS)  # of the process for one checkout
    options = parser.parse_args()
    if options.side:
        run_study(options.side)
        return 0
    lines = []
    for checkout in (options.before.resolve(), Path(__file__).resolve().parents[2]):
        command = [sys.executable, __file__, "--before", str(options.before), "--side", str(checkout)]
        environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
        outcome = subprocess.run(command, env=environment, cwd=checkout, stdout=subprocess.PIPE, text=True, check=True)
        lines.append(outcome.stdout.splitlines())
    before, after = lines
    different = [f"before: {old}\nafter:  {new}" for old, new in zip(before, after, strict=True) if old != new]
    print("\n".join(different) or f"all {len(before)} results are the same, bit for bit")
    return bool(different)


if __name__ == "__main__":
    sys.exit(main())
