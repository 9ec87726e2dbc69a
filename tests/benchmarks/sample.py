"""Studies on a small text, for benchmarks of whole jobs; their data are prepared where the text is, and carried along.

    python tests/benchmarks/sample.py TEXT_FOLDER TOKENIZER PREPARED    # PREPARED/64blocks and PREPARED/sample

TEXT_FOLDER has train.txt and valid.txt, TOKENIZER is a folder or a name. Elsewhere `place` puts the prepared data where
a study finds them, current without its text.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

SIZES = {"sample": {}, "64blocks": {"max_stories": 690, "max_validation_stories": 640}}
CORPUS = {"source": "no-text/train.txt", "validation": "no-text/valid.txt", "tokenizer": "no-text/tokenizer"}


def study(size: str, grid: list[dict[str, Any]], **others: Any) -> dict[str, Any]:
    """A study of the text at a size, with the paper's batch sizes and a learning rate for little text."""
    corpus = CORPUS | {"block_size": 2048, "packing": "lossless"} | SIZES[size]
    training = {"learning_rate": 1e-3, "batch_size": "paper", "decay": {"d": 5e-4, "L": 0.1, "n": 0.0}}
    return {"corpus": corpus, "training": training, "grid": grid, "analysis": {"permutations": 1000}} | others


def place(path: Path, content: dict[str, Any], prepared: Path) -> None:
    """Write a study's YAML, and the prepared data of its size into the outputs folder beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    size = "64blocks" if content["corpus"].get("max_stories") else "sample"
    shutil.copytree(prepared / size, path.parent / path.stem / "data")


def main() -> None:
    """Prepare the data of both sizes."""
    from lcutils.parameters import ROOT
    from lcutils.stages import open_study, prepare_data

    text, tokenizer, prepared = map(Path, sys.argv[1:])
    stand_in = ROOT / "no-text"  # the studies' own paths, which exist only now
    stand_in.mkdir()
    try:
        for name, target in (("train.txt", text), ("valid.txt", text)):
            (stand_in / name).symlink_to((target / name).resolve())
        (stand_in / "tokenizer").symlink_to(tokenizer.resolve())
        for size in SIZES:
            yaml_path = prepared / f"{size}.yaml"
            prepared.mkdir(parents=True, exist_ok=True)
            yaml_path.write_text(
                yaml.safe_dump(study(size, [{"depth": 1, "width": 64, "epochs": 1, "decay": "d", "checkpoints": 0}]))
            )
            data = prepare_data(open_study(yaml_path, prepared / "work"))
            print(size, data.summary)
            shutil.copytree(prepared / "work" / size / "data", prepared / size)
            yaml_path.unlink()
        shutil.rmtree(prepared / "work")
    finally:
        shutil.rmtree(stand_in)


if __name__ == "__main__":
    main()
