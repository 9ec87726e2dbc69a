"""What several test files share: a small study, the demo, and where material outside the repository lies."""

import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

from lcutils.__main__ import main
from lcutils.parameters import ROOT

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # kernels run in Triton's interpreter; read when Triton is first imported

if "PYTEST_XDIST_WORKER" in os.environ:  # `pytest -n`: each worker, and what it starts, has a core of its own
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)

if find_spec("hypothesis"):  # a machine with a GPU may lack it; its tests need none
    import hypothesis

    # A busy machine may take as long as it likes.
    hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
    hypothesis.settings.load_profile("busy")

FIRST = ["test_demo", "test_sweep"]  # begun first, so that no long file is left for the end
SHARED = ROOT.parent / "shared"  # published tables, text samples, a tokenizer: tests that read them skip without

# Two models of one layer, one epoch, on a few dozen stories: a whole study in seconds of computing.
TINY = """
title: Tiny
corpus:
  {source: built-in, max_stories: 60, max_validation_stories: 20, tokenizer: "bpe:300", block_size: 32,
   packing: lossless}
training: {learning_rate: 3.0e-3, batch_size: 8}
extraction: {blocks_per_batch: 32}
analysis: {permutations: 200, pictures: false}
grid:
  - {depth: 1, width: [16, 32], epochs: 1, decay: d, checkpoints: 0}
device: cpu
threads: 1
"""
WITHOUT_PICTURES = ", pictures: false"  # to draw them takes most of an analysis's time, and few tests look at them


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest; those that use the demo come after the one that makes it."""
    items.sort(key=lambda item: FIRST.index(item.path.stem) if item.path.stem in FIRST else len(FIRST))


@pytest.fixture(autouse=True)
def drawn_alike() -> None:
    """Each test draws the same numbers each time, whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The YAML of a tiny study; its outputs belong into the same folder."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def without_waits(said: str) -> str:
    """What was said on standard error, without the lines of `said_if_slow`, which only a slow machine says."""
    return re.sub(r"^(starting|looking at study .*|reading what is done of .*)\n", "", said, flags=re.MULTILINE)


def lcutils_command(*words: str | Path, timeout: float = 3600) -> subprocess.CompletedProcess[str]:
    """Run `python -m lcutils …` as a user would."""
    command = [sys.executable, "-m", "lcutils", *map(str, words)]
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    outcome = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)
    outcome.stderr = without_waits(outcome.stderr)
    return outcome


@pytest.fixture
def lcutils_here(capfd: pytest.CaptureFixture[str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run what `python -m lcutils …` does, in this process: to start another takes seconds."""

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        capfd.readouterr()
        status = main([*map(str, words)])
        said = capfd.readouterr()
        return subprocess.CompletedProcess(words, status, said.out, without_waits(said.err))

    return run


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study of four points; all is made, and exported."""
    from kept_samples import swept_in

    return swept_in(tmp_path_factory.mktemp("swept"))


@pytest.fixture
def away(swept: Path, tmp_path: Path) -> Path:
    """Another machine's folder: the study and the export, neither text nor outputs."""
    from kept_samples import away_from

    return away_from(swept, tmp_path)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports get empty pictures: to draw them takes most of their time, and other tests look at them."""
    monkeypatch.setattr("lcutils.report.pictures.draw_all", lambda specs, *_: dict.fromkeys(specs, ("<svg/>", b"")))


@pytest.fixture(scope="session")
def demo() -> Path:
    """The demo's outputs, made by the command behind `make demo` (a few minutes once, seconds after)."""
    with FileLock(ROOT / "outputs" / ".demo.lock"):
        outcome = lcutils_command("sweep", "demo")
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    return ROOT / "outputs" / "demo"
