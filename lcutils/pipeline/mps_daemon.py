"""Hold NVIDIA's MPS daemon until nobody holds the other end of this process's standard input.

`lcutils.pipeline.mps` runs this file as a process of its own: the daemon then ends with the sweep, however that ends.
It uses the standard library alone, to start at once. Its one line of output says whether the daemon serves, or why not.
The daemon's environment is this process's. Without a client to start it for, a daemon that was left is ended.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

PROGRAM = "nvidia-cuda-mps-control"
PIPES = "CUDA_MPS_PIPE_DIRECTORY"
SERVES = "serves"
SECONDS = 60.0  # that any of these programs may take; most take none
SECONDS_TO_LEAVE = 10  # for clients, if any are left as the daemon is to end; and for the daemon itself


def run(*command: str, said: str = "") -> tuple[int, str]:
    """Run a program on some input; returns its exit status, and what it printed.

    The output goes through a file: a daemon may keep it open, and the end of a pipe would never come.
    """
    with TemporaryFile("w+") as source, TemporaryFile("w+", errors="replace") as output:
        source.write(said)
        source.seek(0)
        try:
            status = subprocess.run(
                command, stdin=source, stdout=output, stderr=subprocess.STDOUT, timeout=SECONDS
            ).returncode
        except (OSError, subprocess.TimeoutExpired) as error:
            return 1, str(error)
        output.seek(0)
        return status, output.read().strip()


def servers() -> list[int] | None:
    """The processes that serve the daemon's clients; None if no daemon answers."""
    status, answer = run(PROGRAM, said="get_server_list\n")
    if status or "Cannot find" in answer:  # not every version has an exit status for it
        return None
    return [int(word) for word in answer.split() if word.isdigit()]


def start(client: str) -> str:
    """Start the daemon, and run a Python program as its first client; returns why that fails, or `SERVES`.

    The daemon starts its server only for a client, and a server that cannot start is an error to each of them.
    """
    status, answer = run(PROGRAM, "-d")
    if status:
        return last_line(answer) or f"{PROGRAM} -d ends with status {status}"
    began = time.monotonic()
    while servers() is None:
        if time.monotonic() - began > SECONDS:
            return f"{PROGRAM} does not answer"
        time.sleep(0.1)
    status, answer = run(sys.executable, "-I", "-c", client)
    return (last_line(answer) or f"a first client ends with status {status}") if status else SERVES


def last_line(text: str) -> str:
    """The last line of a text, or nothing."""
    return text.splitlines()[-1].strip() if text else ""


def end(folder: Path) -> None:
    """End the daemon and its servers, by force if they do not, and delete the folder of their pipes."""
    left = servers() or []
    with suppress(OSError, ValueError):
        left.append(int((folder / f"{PROGRAM}.pid").read_text()))
    run(PROGRAM, said=f"quit -t {SECONDS_TO_LEAVE}\n")
    began = time.monotonic()
    while any(map(serves, left)) and time.monotonic() - began < SECONDS_TO_LEAVE:
        time.sleep(0.1)
    for process in filter(serves, left):
        with suppress(OSError):
            os.kill(process, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def serves(process: int) -> bool:
    """True for a daemon or a server that runs; a number may be another process's by now."""
    with suppress(OSError):
        return b"nvidia-cuda-mps" in Path(f"/proc/{process}/cmdline").read_bytes()  # empty once it has ended
    return False


def main(client: str | None = None) -> None:
    """Start the daemon for a client, say so, and wait; then, or at once without a client, end it."""
    try:
        if client is not None:
            print(start(client), flush=True)
            sys.stdin.buffer.read()  # ends as the last process does that holds the other end
    finally:
        end(Path(os.environ[PIPES]))


if __name__ == "__main__":
    main(*sys.argv[1:])
