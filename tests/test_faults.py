"""A few faults of each quick kind; `faults/run.py` tries hundreds, and sweeps with the real command too."""

import subprocess
import sys
from pathlib import Path

RUN = Path(__file__).parent / "faults" / "run.py"


def test_damages_kills_and_full_disks_end_in_the_same_numbers_or_one_line():
    outcome = subprocess.run([sys.executable, str(RUN), "short", "--seed", "7"], capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr[-3000:]
    assert outcome.stdout.count('"ends"') == 3, outcome.stdout
