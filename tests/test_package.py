"""The package as others import it: quick, and with the names that stay."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter

import lcutils
from lcutils.parameters import ROOT


def modules_after(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_loads_nothing_heavy():
    loaded = modules_after("import lcutils")
    assert not loaded & {"transformers", "altair", "pandas", "datasets", "torch", "scipy"}


def test_measurements_need_neither_tables_nor_charts():
    """They run where only torch, numpy and safetensors are, such as a GPU machine without our environment."""
    loaded = modules_after("from lcutils import ClassStatistics, measure_collapse; import lcutils.training.loop")
    assert "torch" in loaded
    assert not loaded & {"transformers", "altair", "pandas", "datasets", "pydantic", "papermill"}


def test_every_public_name_is_there():
    for name in lcutils.__all__:
        assert callable(getattr(lcutils, name)), name
    assert dir(lcutils) == lcutils.__all__


def test_imports_go_one_way():
    """No file imports, now or when a function runs, one that imports it."""
    graph: dict[str, set[str]] = {}
    for path in (ROOT / "lcutils").rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name == "lcutils":  # the names of the package, imported when they are first used
            continue
        found = graph.setdefault(name, set())
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lcutils"):
                found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    assert len(graph) > 40
    files = {name: {other for other in found if other in graph} for name, found in graph.items()}
    order = list(TopologicalSorter(files).static_order())  # a CycleError names a circle
    assert order.index("lcutils.parameters") < order.index("lcutils.stages") < order.index("lcutils.__main__")
