"""PEFT adapters: the base model that one was trained on is found, and the adapter merged into it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lcutils.errors import UserError, first_line

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True)
class Adapter:
    """A PEFT adapter, and where its base lies.

    Attributes:
        source: the adapter's folder, or its name on the hub.
        revision: of the adapter on the hub.
        base: the base model's folder, or its name on the hub.
        base_revision: of the base on the hub, as the adapter says.
    """

    source: str
    revision: str | None
    base: str
    base_revision: str | None


def adapter_in_folder(name: str) -> Adapter | None:
    """The adapter in the folder `name`; None where it holds none.

    Raises:
        UserError: it says nothing of its base, that is no folder here, its weights are missing, or `peft` is.
    """
    path = Path(name) / CONFIG
    if not path.is_file():
        return None
    if not any((path.parent / file).is_file() for file in WEIGHTS):
        raise UserError(f"{name}: an adapter without {WEIGHTS[0]}; copy it too, or delete {CONFIG}")
    return _read(name, None, path)


def adapter_on_hub(name: str, revision: str | None, *, cached_only: bool) -> Adapter | None:
    """The adapter of that name on the hub, or in its cache; None where there is none.

    Raises:
        UserError: it says nothing of its base, that is no folder here, or `peft` is missing.
    """
    from transformers.utils.hub import cached_file

    try:
        path = cached_file(name, CONFIG, revision=revision, local_files_only=cached_only)
    except OSError:
        return None
    return _read(name, revision, Path(path)) if path else None


def _read(name: str, revision: str | None, path: Path) -> Adapter:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        base, base_revision = settings.get("base_model_name_or_path"), settings.get("revision")
    except (OSError, ValueError, RecursionError, AttributeError) as error:
        raise UserError(f"{name}: {CONFIG} cannot be read ({first_line(error)}); save the adapter again") from None
    if not isinstance(base, str) or not base:
        raise UserError(f"{name}: {CONFIG} does not name the adapter's base; set its base_model_name_or_path")
    if find_spec("peft") is None:
        raise UserError(f"{name}: is a PEFT adapter, and peft, which merges it, is not installed; pip install peft")
    return Adapter(name, revision, _find_base(name, path.parent, base), base_revision)


def _find_base(name: str, folder: Path, base: str) -> str:
    """The base's folder, if it is one; a path starts at the adapter's folder. Otherwise its name on the hub."""
    candidate = folder / Path(base).expanduser()
    if candidate.is_dir():
        if (candidate / CONFIG).exists():
            raise UserError(f"{name}: its base, {base}, holds an adapter too; give that a folder of its own")
        return str(candidate)
    if Path(base).is_dir():  # a library would take it, and a sweep's jobs, which start elsewhere, would not find it
        raise UserError(
            f"{name}: its base, {base}, lies in the current folder and not beside the adapter; set "
            f"base_model_name_or_path in {CONFIG} to {Path(base).absolute()}, or start elsewhere if the hub's is meant"
        )
    if base.startswith((".", "/", "~")) or base.count("/") > 1:  # a name on the hub has one slash at most
        raise UserError(
            f"{name}: its base, {base}, is no folder here; set base_model_name_or_path in {CONFIG} to where it is"
        )
    return base


def merge_adapter(model: Any, adapter: Adapter) -> Any:
    """The base model with the adapter's changes in its own weights, so that it has a base model's layout.

    Raises:
        UserError: it does not fit its base, or is of a kind that cannot be merged, such as prompt tuning.
    """
    from peft import PeftModel

    try:
        _add_rows(model, adapter)
        with_adapter: Any = PeftModel.from_pretrained(model, adapter.source, revision=adapter.revision)
        if not hasattr(with_adapter.base_model, "merge_and_unload"):
            kind = with_adapter.peft_config["default"].peft_type.value
            raise ValueError(f"adapters of kind {kind} have nothing that can be merged into weights")
        return with_adapter.merge_and_unload()
    except Exception as error:  # shapes, names, kinds: it fails in any way
        raise UserError(
            f"{adapter.source}: cannot be merged into its base, {adapter.base} ({first_line(error)}); "
            "give a folder of the merged model"
        ) from error


def _add_rows(model: Any, adapter: Adapter) -> None:
    """Give the base the rows of tokens that were added before the adapter was trained; it holds their embeddings."""
    from safetensors import safe_open
    from transformers.utils.hub import cached_file

    try:
        path = cached_file(adapter.source, WEIGHTS[0], revision=adapter.revision)
    except OSError:  # an adapter_model.bin; if its shapes differ, merging says so
        return
    embedding = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is embedding)
    with safe_open(path, framework="numpy") as tensors:
        keys = [key for key in tensors.keys() if key.endswith(f"{name}.weight")]  # noqa: SIM118 - no mapping
        rows = [tensors.get_slice(key).get_shape()[0] for key in keys]
    if rows and rows[0] != len(embedding.weight):
        model.resize_token_embeddings(rows[0])
