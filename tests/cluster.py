"""A one-node Slurm cluster of the machine's own, for as long as a test needs it."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# Jobs look here: Snakemake's plugin clears SLURM_CONF, with all of Slurm's variables, inside them.
SYSTEM_CONFIGURATION = Path("/etc/slurm/slurm.conf")
ATTEMPTS = 1500  # to reach a daemon
PATIENCE = 300  # seconds for a daemon to answer, or to end: only so that a test cannot hang
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why no cluster can be started here; empty if one can."""
    absent = [name for name in NEEDED if shutil.which(name) is None]
    if absent:
        return f"Slurm is not installed ({', '.join(absent)})"
    if SYSTEM_CONFIGURATION.exists():
        return f"this machine is part of a cluster already ({SYSTEM_CONFIGURATION})"
    return "" if os.geteuid() == 0 else "starting Slurm's daemons needs root"


@contextmanager
def one_node_slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Start munge, slurmctld and slurmd with all state in `folder`; yield the environment that reaches them."""
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20  # MiB
    text = CONFIGURATION.format(host=socket.gethostname(), folder=folder, cpus=os.cpu_count(), memory=memory)
    (folder / "slurm.conf").write_text(text)
    SYSTEM_CONFIGURATION.parent.mkdir(exist_ok=True)
    SYSTEM_CONFIGURATION.symlink_to(folder / "slurm.conf")
    environment = dict(os.environ)
    munge = folder / "munge"

    def says(words: str, *command: str) -> Callable[[], bool]:
        """Ask whether a command's output has these words."""
        return lambda: words in subprocess.run(command, env=environment, capture_output=True, text=True).stdout

    start_munge = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={munge / 'socket'}"]
    start_munge += [f"--{name}-file={munge / name}" for name in ("pid", "log", "seed")]
    daemons: list[tuple[list[str], Callable[[], bool]]] = [
        (start_munge, (munge / "socket").exists),
        (["slurmctld", "-D"], says("UP", "scontrol", "ping")),
        (["slurmd", "-D"], says("idle", "sinfo", "-h")),
    ]
    running = []
    try:
        for command, is_ready in daemons:
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            running.append(subprocess.Popen(command, env=environment, **quiet))
            for _ in range(ATTEMPTS):
                if is_ready():
                    break
                assert running[-1].poll() is None, f"{command[0]} has ended: see {folder}"
                time.sleep(0.2)
            else:
                raise TimeoutError(f"{command[0]} does not answer: see {folder}")
        yield environment
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(timeout=PATIENCE)
        SYSTEM_CONFIGURATION.unlink()
