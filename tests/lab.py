"""A JupyterLab with the settings of `make lab`, and how tests work in it as a person does."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from browser import PATIENCE, new_page

from lcutils.parameters import ROOT

ATTEMPTS = 600  # to reach the server
LONGEST = 20 * PATIENCE  # seconds for one notebook

# The notebook's code cells in the browser: whether each has run, and what came out.
CELLS = """() => {
  const panel = window.jupyterapp.shell.currentWidget;
  return [...panel.content.model.cells].map((cell, place) => ({
    place, type: cell.type, source: cell.sharedModel.getSource(), count: cell.executionCount ?? null,
    tags: cell.getMetadata("tags") ?? [], outputs: cell.type === "code" ? cell.outputs.toJSON() : [],
  })).filter(cell => cell.type === "code" && cell.source.trim() !== "");
}"""


@contextmanager
def jupyter_lab(folder: Path, notebooks: list[str]) -> Iterator[str]:
    """Start a JupyterLab of this environment over copies of notebooks, without outputs, in `folder`: its address."""
    for name in notebooks:
        notebook = nbformat.read(ROOT / "notebooks" / name, 4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, folder / name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    private = {
        name: str(folder / ".jupyter") for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR")
    }
    private |= {name: str(folder / ".lab") for name in ("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")}
    settings = re.search(r"JUPYTER_CONFIG_PATH=(\S+)", (ROOT / "Makefile").read_text())
    assert settings, "make lab names no settings"
    private |= {"JUPYTER_CONFIG_PATH": settings[1]}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--ip=127.0.0.1"]
    command += [f"--ServerApp.root_dir={folder}", "--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True"]
    command += [f"--MappingKernelManager.kernel_info_timeout={PATIENCE}"]
    log = folder / "lab.log"
    with log.open("w") as file:
        server = subprocess.Popen(command, cwd=ROOT, env=os.environ | private, stdout=file, stderr=file)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(ATTEMPTS):
            try:
                urllib.request.urlopen(f"{address}/api/status", timeout=PATIENCE)
                break
            except (urllib.error.URLError, OSError):
                assert server.poll() is None, log.read_text()[-2000:]
                time.sleep(0.5)
        else:
            raise TimeoutError(log.read_text()[-2000:])
        yield address
    finally:
        server.terminate()
        server.wait(PATIENCE)


@contextmanager
def opened(browser: Any, lab: str, name: str) -> Iterator[Any]:
    """Open a notebook in a new page, with its kernel ready; at the end nothing beyond this machine was asked for."""
    with new_page(browser, offline=False) as (page, _):
        asked: list[str] = []  # addresses beyond this machine
        page.on("request", lambda request: asked.append(request.url) if "//127.0.0.1" not in request.url else None)
        page.goto(f"{lab}/lab/tree/{name}?reset")
        page.wait_for_function(
            "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
        )
        yield page
        assert not [url for url in asked if url.startswith("http")]
        page.evaluate("() => window.jupyterapp.commands.execute('notebook:shutdown-kernel')")


def run_all(page: Any) -> list[dict[str, Any]]:
    """Run all cells; the code cells once the last has run. None may fail."""
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
    until = time.monotonic() + LONGEST
    while time.monotonic() < until:
        cells = page.evaluate(CELLS)
        for cell in cells:
            errors = [output for output in cell["outputs"] if output["output_type"] == "error"]
            assert not errors, (cell["source"], errors[0].get("evalue"))
        if all(cell["count"] for cell in cells):
            return cells
        page.wait_for_timeout(300)
    waiting = [cell["source"] for cell in page.evaluate(CELLS) if not cell["count"]]
    raise AssertionError(f"not done after {LONGEST} s; next cell: {waiting[0]}")


def set_source(page: Any, place: int, source: str) -> None:
    """Write into a cell."""
    page.evaluate(
        "([place, source]) => window.jupyterapp.shell.currentWidget.content.model.cells.get(place)"
        ".sharedModel.setSource(source)",
        [place, source],
    )


def printed(cells: list[dict[str, Any]]) -> str:
    """What cells have printed on standard output."""
    outputs = [output for cell in cells for output in cell["outputs"]]
    return "".join("".join(output["text"]) for output in outputs if output.get("name") == "stdout")
