"""Opening a study with overrides, and refusing those that clash with what is already computed."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lcutils.errors import UserError
from lcutils.manifests import read_manifest
from lcutils.parameters import ROOT, load_study, parse_overrides
from lcutils.pipeline.paths import Workspace

NOTEBOOK_PARAMETERS = ("study", "model", "checkpoint", "outputs", "overrides", "published")


def open_study(
    study: str | Path,
    outputs: str | Path = "outputs",
    overrides: Mapping[str, Any] | str | Iterable[str] | None = None,
    namespace: Mapping[str, Any] | None = None,
) -> Workspace:
    """Open a study for work.

    Args:
        study: a name in `parameters/`, or the path of a YAML file.
        outputs: folder below which the study's own folder lies; a relative path starts at the repository's root.
        overrides: values that replace the YAML's, as a mapping or as text (`learning_rate=1e-3 max_stories=500`).
        namespace: a notebook's `globals()`. Parameters that papermill added beyond the notebook's own become further
            overrides, so that `papermill … -p learning_rate 1e-3` works and a misspelt name is an error.

    Raises:
        UserError: one line that names the file or key, and the fix.
    """
    if namespace is not None:  # transformers' progress bars look for widgets, which these notebooks do without
        warnings.filterwarnings("ignore", message="IProgress not found")
    pairs = parse_overrides(overrides) | parse_overrides(injected_parameters(namespace or {}))
    loaded = load_study(study, pairs)
    return Workspace(loaded, (ROOT / outputs / loaded.name).resolve(), pairs)


def injected_parameters(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that papermill put into this notebook, read from the cell that it adds.

    papermill only logs a parameter that the notebook does not have, so unknown ones must be found here.
    """
    names = [
        target.id
        for source in namespace.get("In", [])
        if source.startswith("# Parameters\n")
        for statement in ast.parse(source).body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    ]
    return {name: namespace[name] for name in names if name not in NOTEBOOK_PARAMETERS}


def refuse_clash(work: Workspace, folder: Path, parameters: Mapping[str, Any]) -> None:
    """Raise a `UserError` if an overridden key differs from what the artifact in `folder` was made with.

    What is computed is not thrown away for a one-off value: that belongs in an outputs folder of its own.
    """
    made_with = (read_manifest(folder) or {}).get("parameters", {})
    keys = {key.rpartition(".")[2] for key in work.overrides}
    if "decay" in keys:  # a job reads its own letter's value
        keys.add("weight_decay")
    for key in sorted(keys & made_with.keys()):
        if made_with[key] != parameters.get(key):
            raise UserError(
                f"{work.display(folder)}: was made with {key} = {made_with[key]}, the override says "
                f"{parameters.get(key)}; name another outputs folder or study for it"
            )
