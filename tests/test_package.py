"""The package as others import it: quick, and with the names that stay."""

import ast
import os
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

import lcutils
from lcutils.parameters import ROOT


def modules_after(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_loads_nothing_heavy():
    loaded = modules_after("import lcutils")
    assert not loaded & {"transformers", "altair", "pandas", "datasets", "torch", "scipy"}


def test_no_process_builds_parsers_that_it_may_never_use():
    """jsonschema's, for addresses in a schema: a second of every job's imports. They come when one is checked."""
    code = "import lcutils.charts, jsonschema, sys, lcutils.stages, lcutils.pipeline.workers; "
    code += "assert 'rfc3987_syntax.syntax_helpers' not in sys.modules; check = jsonschema.FormatChecker(['iri']); "
    code += "print(check.conforms('https://a.b/\u00e9', 'iri'), check.conforms('no address', 'iri')); "
    code += "print('rfc3987_syntax.syntax_helpers' in sys.modules, check.conforms('https://a.b', 'iri'))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["True", "False", "True", "True"]
    code = "import lcutils, rfc3987_syntax.syntax_helpers as parts; "
    code += "from rfc3987_syntax import is_valid_syntax_iri, parse; print(parse is parts.parse, is_valid_syntax_iri('https://a.b'))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["True", "True"]


def test_measurements_need_neither_tables_nor_charts():
    """They run where only torch, numpy and safetensors are, such as a GPU machine without our environment."""
    loaded = modules_after("from lcutils import ClassStatistics, measure_collapse; import lcutils.training.loop")
    assert "torch" in loaded
    assert not loaded & {"transformers", "altair", "pandas", "datasets", "pydantic", "papermill"}


def test_every_public_name_is_there():
    for name in lcutils.__all__:
        assert callable(getattr(lcutils, name)), name
    assert dir(lcutils) == lcutils.__all__


GROUND = {
    "artifacts", "deferred", "devices", "documents", "drawing", "errors", "manifests", "paper", "plain", "progress",
    "ranks", "runs", "settings", "tensors", "text",
}  # fmt: skip
EVERYTHING = {"analysis", "charts", "collapse", "corpus", "features", "gptneo", "parameters", "pipeline", "report"}
# What each room may import beside the ground: a whole room, or one file of it.
MAY_IMPORT = {
    "parameters": set(),
    "corpus": {"parameters"},
    "gptneo": set(),
    "features": {"gptneo"},
    "training": {"gptneo", "features"},
    "collapse": {"features.statistics"},
    "analysis": {"collapse.catalogue"},
    "charts": {"analysis", "collapse.catalogue"},
    "report": {"charts", "analysis", "collapse.catalogue"},
    "pipeline": {"parameters", "corpus", "gptneo", "features.preflight"},
    "nulls": EVERYTHING,
    "extracting": EVERYTHING | {"nulls"},
    "stages": EVERYTHING | {"training", "nulls", "extracting"},
    "enough_text": {"analysis", "corpus", "parameters", "pipeline"},
    "measuring": EVERYTHING | {"stages", "enough_text"},
    "comparing": {"analysis", "parameters", "report"},
    "repeating": {"analysis", "parameters", "pipeline"},
    "__main__": {"stages", "measuring", "comparing", "repeating", "pipeline"},
    "playground": {"analysis", "charts", "parameters", "pipeline", "report"},
    "monitor": {"features", "collapse"},
    "callback": {"monitor"},
    "lessons": {"analysis", "charts", "collapse"},
    "notebook_filter": set(),  # what git runs on a notebook
}


def import_graph() -> dict[str, set[str]]:
    """Which file of lcutils imports which, now or when a function runs; names without `lcutils.`."""
    paths = {path: path.relative_to(ROOT / "lcutils") for path in (ROOT / "lcutils").rglob("*.py")}
    names = {path: ".".join(inside.with_suffix("").parts).removesuffix(".__init__") for path, inside in paths.items()}
    graph: dict[str, set[str]] = {}
    for path, name in names.items():
        if name == "__init__":  # the public names, imported when they are first used
            continue
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "lcutils":
                module = (node.module or "").removeprefix("lcutils").lstrip(".")
                taken = {f"{module}.{alias.name}".lstrip(".") for alias in node.names}
                found |= taken if taken <= set(names.values()) else taken | {module}  # files, or names of one file
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{name}: write imports from lcutils"
        graph[name] = {other for other in found if other in names.values() and other not in ("", "__init__")}
    return graph


def test_no_file_imports_one_that_imports_it():
    graph = import_graph()
    assert len(graph) > 40
    order = list(TopologicalSorter(graph).static_order())  # a CycleError names a circle
    assert order.index("parameters") < order.index("stages") < order.index("__main__")


def test_rooms_import_only_what_lies_below_them():
    wrong = []
    for name, imported in import_graph().items():
        room = name.partition(".")[0]
        allowed = GROUND | {room} | MAY_IMPORT.get(room, set())
        # A package that a file of it may be imported from is named by the import too: its `__init__` runs.
        allowed |= {name.partition(".")[0] for name in allowed if "." in name and name.partition(".")[0] not in allowed}
        for other in imported:
            whole = other.partition(".")[0]
            partly = {item for item in MAY_IMPORT.get(room, set()) if item.startswith(f"{whole}.")}
            if whole not in allowed or (partly and "." in other and other not in partly):
                wrong.append(f"{name} imports {other}")
    assert not wrong
    assert {name.partition(".")[0] for name in import_graph()} == GROUND | set(MAY_IMPORT)


def test_the_api_reference_has_all_public_names(tmp_path):
    """What `make docs` runs; a warning of pdoc ends it."""
    pytest.importorskip("pdoc")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    outcome = subprocess.run(
        [sys.executable, ROOT / "docs.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    page = (tmp_path / ".docs/lcutils.html").read_text()
    assert all(f'id="{name}"' in page for name in lcutils.__all__)
