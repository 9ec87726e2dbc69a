"""Every notebook in JupyterLab, in a real browser: it runs from top to bottom, and its charts are really drawn.

Slow (JupyterLab, one kernel per notebook, the demo's results): about a minute and a half in all.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest
from browser import PATIENCE, chromium, needs_chromium, new_page

from lcutils.charts.theme import JUPYTER_MIMETYPE
from lcutils.parameters import ROOT

NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
ATTEMPTS = 600  # to reach the server
LONGEST = 20 * PATIENCE  # seconds for one notebook

# The notebook's code cells in the browser: whether each has run, and what came out.
CELLS = """() => {
  const panel = window.jupyterapp.shell.currentWidget;
  return [...panel.content.model.cells].map((cell, place) => ({
    place, type: cell.type, source: cell.sharedModel.getSource(), count: cell.executionCount ?? null,
    outputs: cell.type === "code" ? cell.outputs.toJSON() : [],
  })).filter(cell => cell.type === "code" && cell.source.trim() !== "");
}"""

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def lab(demo, tmp_path_factory):
    """A JupyterLab of this environment over copies of the notebooks, without outputs: its address."""
    folder = tmp_path_factory.mktemp("lab")
    for name in NOTEBOOKS:
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
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--ip=127.0.0.1"]
    command += [f"--ServerApp.root_dir={folder}", "--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True"]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.news_url=None"]
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


@pytest.fixture(scope="module")
def browser(lab):
    with chromium() as started:
        yield started


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_and_shows_its_charts(browser, lab, name):
    with new_page(browser, offline=False) as (page, _):
        asked: list[str] = []  # addresses beyond this machine
        page.on("request", lambda request: asked.append(request.url) if "//127.0.0.1" not in request.url else None)
        page.goto(f"{lab}/lab/tree/{name}?reset")
        page.wait_for_function(
            "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
        )
        page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
        cells = _wait(page)
        for cell in cells:
            errors = [output for output in cell["outputs"] if output["output_type"] == "error"]
            assert not errors, (cell["source"], errors[0].get("evalue"))
        charts = [
            cell["place"]
            for cell in cells
            if any(JUPYTER_MIMETYPE in output.get("data", {}) for output in cell["outputs"])
        ]
        assert charts, "no cell has a chart"
        for place in charts:
            page.evaluate(
                "async place => { const book = window.jupyterapp.shell.currentWidget.content; "
                "book.activeCellIndex = place; await book.scrollToItem(place, 'start'); }",
                place,
            )
            drawn = page.locator(".jp-Notebook .jp-Cell.jp-mod-active .vega-embed").locator("canvas, svg.marks")
            drawn.first.wait_for(state="attached")
            box = drawn.first.evaluate("node => [node.clientWidth || node.width, node.clientHeight || node.height]")
            assert min(box) > 100, (place, box)
        if shots := os.environ.get("LCUTILS_SCREENSHOTS"):  # for people who want to look at what passed
            _photograph(page, Path(shots), name, charts)
        assert not [url for url in asked if url.startswith("http")]
        page.evaluate("() => window.jupyterapp.commands.execute('notebook:shutdown-kernel')")


def _wait(page) -> list[dict]:
    """The code cells once the last has run or one has failed (later ones then never run)."""
    until = time.monotonic() + LONGEST
    while time.monotonic() < until:
        cells = page.evaluate(CELLS)
        failed = any(output["output_type"] == "error" for cell in cells for output in cell["outputs"])
        if failed or all(cell["count"] for cell in cells):
            return cells
        page.wait_for_timeout(300)
    waiting = [cell["source"] for cell in page.evaluate(CELLS) if not cell["count"]]
    raise AssertionError(f"not done after {LONGEST} s; next cell: {waiting[0]}")


def _photograph(page, folder: Path, name: str, charts: list[int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for place in charts:
        page.evaluate(
            "async place => { const book = window.jupyterapp.shell.currentWidget.content; await "
            "book.scrollToItem(place, 'start'); }",
            place,
        )
        page.wait_for_timeout(800)
        page.screenshot(path=str(folder / f"{Path(name).stem}_{place:02}.png"))
