"""A few random inputs of every kind in `fuzz/`; `fuzz/run.py` tries thousands."""

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parent / "fuzz"


@pytest.mark.parametrize("kind", sorted(path.stem for path in FUZZ.glob("*.py") if path.stem != "run"))
def test_random_inputs_are_read_or_refused_in_one_line(kind):
    command = [sys.executable, str(FUZZ / "run.py"), kind, "--count", "40", "--seed", "7", "--seconds", "600"]
    outcome = subprocess.run(command, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
