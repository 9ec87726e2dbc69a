"""Opening a study with overrides."""

from __future__ import annotations

import ast
import os
import warnings
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from lcutils.parameters import load_study, parse_overrides, resolve_path
from lcutils.pipeline.changed import folder_of_its_own
from lcutils.pipeline.locks import TOKEN, join_sweep
from lcutils.pipeline.paths import Workspace
from lcutils.plain import text_of

NOTEBOOK_PARAMETERS = ("study", "model", "checkpoint", "outputs", "overrides", "published", "story", "by_hand")


def open_study(
    study: str | Path,
    outputs: str | Path = "outputs",
    overrides: Mapping[str, Any] | str | Iterable[str] | None = None,
    namespace: Mapping[str, Any] | None = None,
) -> Workspace:
    """Open a study for work.

    Args:
        study: a name in `parameters/`, or the path of a YAML file.
        outputs: folder below which the study's own folder lies.
        overrides: values that replace the YAML's, as a mapping or as text (`learning_rate=1e-3 max_stories=500`).
        namespace: a notebook's `globals()`. Parameters that papermill added beyond the notebook's own become further
            overrides, so that `papermill … -p learning_rate 1e-3` works and a misspelt name is an error. In a notebook
            that a person works in (`by_a_person`), overrides that clash with results get a folder of their own.

    In every path, `~` is the home folder, and a relative one starts at the repository's root (`resolve_path`).

    Raises:
        UserError: one line that names the file or key, and the fix.
    """
    if namespace is not None:
        expect_no_widgets()
    own = () if namespace is None else NOTEBOOK_PARAMETERS
    pairs = parse_overrides(overrides, own) | parse_overrides(injected_parameters(namespace or {}), own)
    loaded = load_study(study, pairs)
    folder = resolve_path(text_of("outputs", outputs)) / loaded.name
    work = Workspace(loaded, Path(os.path.realpath(folder)), pairs)  # Path.resolve raises where links form a circle
    if namespace is not None:  # a notebook: if a sweep runs it, it ends with the sweep
        join_sweep(work.folder)
        if by_a_person(namespace):
            return folder_of_its_own(work, load_study(study)) if pairs else work
    return work


def by_a_person(namespace: Mapping[str, Any]) -> bool:
    """True in a notebook that is open in Jupyter or VS Code, unless papermill gave it its parameters.

    Both say which notebook it is: a Jupyter server in the kernel's environment, VS Code among the notebook's globals.
    What runs without a person, such as a sweep, must not spread results over folders that nobody asked for.
    """
    is_open = "JPY_SESSION_NAME" in os.environ or "__vsc_ipynb_file__" in namespace
    return is_open and TOKEN not in os.environ and not _papermill_cells(namespace)


def expect_no_widgets() -> None:
    """Progress bars of transformers look for widgets, which these notebooks do without; they need not say so."""
    warnings.filterwarnings("ignore", message="IProgress not found")


def injected_parameters(namespace: Mapping[str, Any], own: Collection[str] = NOTEBOOK_PARAMETERS) -> dict[str, Any]:
    """The parameters that papermill put into this notebook beside its `own`, read from the cell that it adds.

    papermill only logs a parameter that the notebook does not have, so unknown ones must be found here.
    """
    names = [
        target.id
        for source in _papermill_cells(namespace)
        for statement in _statements(source)
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    ]
    return {name: namespace[name] for name in names if name not in own}


def _papermill_cells(namespace: Mapping[str, Any]) -> list[str]:
    return [source for source in namespace.get("In", []) if source.startswith("# Parameters\n")]


def _statements(cell: str) -> list[ast.stmt]:
    try:
        return ast.parse(cell).body
    except SyntaxError:  # a person's cell with a magic, under the same first line; papermill writes assignments alone
        return []
