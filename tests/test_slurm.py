"""`make sweep PROFILE=slurm` on a one-node cluster: a run is a Slurm job, its notebooks share a kernel."""

import os
import subprocess
import sys

import pytest
from cluster import missing, one_node_slurm

from lcutils.parameters import ROOT


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_a_model_goes_through_the_cluster(tiny):
    folder = tiny.parent / "slurm"
    folder.mkdir()
    starts = folder / "sitecustomize.py"  # Python runs it first; each kernel leaves a line
    starts.write_text(
        "import sys\n"
        "if 'ipykernel_launcher' in sys.orig_argv:\n"
        f"    open({str(folder / 'kernels')!r}, 'a').write('started\\n')\n"
    )
    with one_node_slurm(folder) as environment:
        environment = environment | {"PYTHONPATH": os.pathsep.join([str(folder), environment.get("PYTHONPATH", "")])}
        command = [sys.executable, "-m", "lcutils", "sweep", str(tiny), "--outputs", str(tiny.parent)]
        command += ["--profile", "slurm", "--model", "01x0016_01d"]
        outcome = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=6000)
        assert outcome.returncode == 0, outcome.stderr[-4000:]
        said = [path.read_text() for path in (tiny.parent / "tiny/.snakemake/log").glob("*.log")]
        submitted = "".join(said).count("SLURM jobid")
    assert submitted == 2  # the data; train, extract and measure
    assert (folder / "kernels").read_text() == "started\n" * 2
    assert (tiny.parent / "tiny/measurements/01x0016_01d@0/row.json").is_file()
