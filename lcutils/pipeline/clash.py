"""Refusing overrides that clash with what is already computed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lcutils.errors import UserError
from lcutils.manifests import read_manifest
from lcutils.pipeline.paths import Workspace
from lcutils.plain import brief


class ClashError(UserError):
    """An override differs from what an artifact was made with."""


def refuse_clash(
    work: Workspace, folder: Path, parameters: Mapping[str, Any], made_with: Mapping[str, Any] | None = None
) -> None:
    """Raise a `ClashError` if an overridden key differs from what the artifact in `folder` was made with.

    What is computed is not thrown away for a one-off value: that belongs in an outputs folder of its own.

    Args:
        work: the study.
        folder: of the artifact.
        parameters: what it would be made with now.
        made_with: what it was made with, if not what its manifest says.
    """
    if made_with is None:
        made_with = (read_manifest(folder) or {}).get("parameters", {})
    keys = {key.rpartition(".")[2] for key in work.overrides}
    if "decay" in keys:  # a job reads its own letter's value
        keys.add("weight_decay")
    for key in sorted(keys & made_with.keys()):
        if made_with[key] != parameters.get(key):
            raise ClashError(
                f"{work.display(folder)}: was made with {key} = {brief(made_with[key])}, the override says "
                f"{brief(parameters.get(key))}; name another outputs folder or study for it"
            )
