"""Every notebook in JupyterLab, in a real browser: it runs as it is, shows its charts, and bears a changed value.

Slow (JupyterLab, two kernels per notebook, the demo's results): a few minutes in all.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import chromium, needs_chromium
from lab import CELLS, jupyter_lab, opened, printed, run_all, set_source

from lcutils.charts.theme import JUPYTER_MIMETYPE
from lcutils.manifests import read_manifest
from lcutils.parameters import ROOT

NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
CHECKED = "nbval-check-output"  # tag of the cells whose outputs are the same in every run
# Lines of the first cell that are changed, and where under `outputs` the notebook must say that results go. Nobody else
# takes such values, so that what is made can be deleted.
CHANGED: dict[str, list[tuple[dict[str, Any], str | None]]] = {
    "00_measurements": [({"overrides": {"scale": 1.97}}, None)],
    "01_data": [({"overrides": {"max_stories": 197}}, "changed/max_stories=197/demo")],
    "02_train": [
        ({"model": "01x0064_01d", "overrides": {"learning_rate": 0.00197}}, "changed/learning_rate=0.00197/demo")
    ],
    "03_extract": [({"overrides": {"min_count": 197}}, "changed/min_count=197/demo")],
    "04_measure": [({"overrides": {"min_count": 196}}, "changed/min_count=196/demo")],  # it has to be extracted first
    "05_analyze": [
        ({"overrides": {"permutations": 197}}, "changed/permutations=197/demo"),
        ({"overrides": {"learning_rate": 0.00196}}, "changed/learning_rate=0.00196/demo"),  # no model has it yet
    ],
    "06_your_model": [
        (
            {"overrides": {"max_stories": 197, "max_validation_stories": 100, "block_size": 128}},
            "changed/max_stories=197/your_model",
        )
    ],
    "playground": [({"stories": 97, "epochs": 1}, "playground/epochs=1,stories=97")],
}

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def lab(demo, tmp_path_factory) -> Iterator[str]:
    with jupyter_lab(tmp_path_factory.mktemp("lab"), NOTEBOOKS) as address:
        yield address


@pytest.fixture(scope="module")
def browser(lab):
    with chromium() as started:
        yield started


@pytest.fixture
def new_folders() -> Iterator[None]:
    """Delete the folders of changed values that a test makes."""

    def there() -> set[Path]:
        return {path for folder in ("changed", "playground") for path in (ROOT / "outputs" / folder).glob("*")}

    before = there()
    yield
    for path in there() - before:
        if path.name != "start":
            shutil.rmtree(path)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_as_it_is_then_with_changed_values_and_with_its_own_again(browser, lab, new_folders, name):
    with opened(browser, lab, name) as page:
        as_it_is = _shown(page, name)
        before, parameters = _results(), page.evaluate(CELLS)[0]
        for values, place in CHANGED[Path(name).stem]:
            source = parameters["source"]
            for key, value in values.items():
                line = re.compile(rf"^{key} = .*$", re.MULTILINE)
                assert line.search(source), f"the first cell has no {key}"
                source = line.sub(f"{key} = {value!r}", source)
            set_source(page, parameters["place"], source)
            said = printed(run_all(page))
            assert place is None or f"outputs/{place}" in said
            assert place is None or "To come back" in said
            assert place is None or (ROOT / "outputs" / place).is_dir()
            assert _results() == before
        set_source(page, parameters["place"], parameters["source"])
        assert _checked(run_all(page)) == as_it_is
    assert _results() == before


def _shown(page: Any, name: str) -> list[str]:
    """Run a notebook as it is and look at its charts: what its checked cells have printed."""
    cells = run_all(page)
    charts = [
        cell["place"] for cell in cells if any(JUPYTER_MIMETYPE in output.get("data", {}) for output in cell["outputs"])
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
    assert not page.locator(".Toastify__toast").count(), "JupyterLab asks something, such as whether to fetch news"
    if shots := os.environ.get("LCUTILS_SCREENSHOTS"):  # for people who want to look at what passed
        _photograph(page, Path(shots), name, charts)
    return _checked(cells)


def _checked(cells: list[dict[str, Any]]) -> list[str]:
    return [printed([cell]) for cell in cells if CHECKED in cell["tags"]]


def _results() -> dict[str, Any]:
    """What the manifests of the results with unchanged values say.

    The analysis is made again by each 05 and 06; its report says of which commit and on which day.
    """
    found: dict[str, Any] = {}
    for study in ("demo", "your_model", "playground/start"):
        for path in (ROOT / "outputs" / study).rglob("manifest.json"):
            manifest = read_manifest(path.parent) or {}
            if path.parent.name == "analysis":
                files = {name: facts for name, facts in manifest["files"].items() if name != "report.html"}
                manifest = {"parameters": manifest["parameters"], "inputs": manifest["inputs"], "files": files}
            found[str(path)] = manifest
    return found


def _photograph(page: Any, folder: Path, name: str, charts: list[int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for place in charts:
        page.evaluate(
            "async place => { const book = window.jupyterapp.shell.currentWidget.content; await "
            "book.scrollToItem(place, 'start'); }",
            place,
        )
        page.wait_for_timeout(800)
        page.screenshot(path=str(folder / f"{Path(name).stem}_{place:02}.png"))
