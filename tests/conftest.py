"""What several test files share: a small study, the demo, and where material outside the repository lies."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lcutils.parameters import ROOT

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # kernels run in Triton's interpreter; read when Triton is first imported

SHARED = ROOT.parent / "shared"  # published tables, text samples, a tokenizer: tests that read them skip without

# Two models of one layer, one epoch, on a few dozen stories: a whole study in seconds of computing.
TINY = """
title: Tiny
corpus:
  {source: built-in, max_stories: 60, max_validation_stories: 20, tokenizer: "bpe:300", block_size: 32,
   packing: lossless}
training: {learning_rate: 3.0e-3, batch_size: 8}
extraction: {blocks_per_batch: 32}
analysis: {permutations: 200}
grid:
  - {depth: 1, width: [16, 32], epochs: 1, decay: d, checkpoints: 0}
device: cpu
threads: 1
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The YAML of a tiny study; its outputs belong into the same folder."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def lcutils_command(*words: str | Path, timeout: float = 3600) -> subprocess.CompletedProcess[str]:
    """Run `python -m lcutils …` as a user would."""
    command = [sys.executable, "-m", "lcutils", *map(str, words)]
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="session")
def demo() -> Path:
    """The demo's outputs, made by the command behind `make demo` (a few minutes once, seconds after)."""
    outcome = lcutils_command("sweep", "demo")
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    return ROOT / "outputs" / "demo"
