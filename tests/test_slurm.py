"""`make sweep PROFILE=slurm` on a one-node cluster: every notebook is a Slurm job."""

import subprocess
import sys

import pytest
from cluster import missing, one_node_slurm

from lcutils.parameters import ROOT


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_a_model_goes_through_the_cluster(tiny):
    folder = tiny.parent / "slurm"
    folder.mkdir()
    with one_node_slurm(folder) as environment:
        command = [sys.executable, "-m", "lcutils", "sweep", str(tiny), "--outputs", str(tiny.parent)]
        command += ["--profile", "slurm", "--model", "01x0016_01d"]
        outcome = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=6000)
        assert outcome.returncode == 0, outcome.stderr[-4000:]
        submitted = outcome.stderr.count("SLURM jobid")
    assert submitted == 4  # data, train, extract, measure
    assert (tiny.parent / "tiny/measurements/01x0016_01d@0/row.json").is_file()
