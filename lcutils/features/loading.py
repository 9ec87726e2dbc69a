"""A language model as transformers loads it, whole, in the dtype that was asked for, on one device or over several."""

from __future__ import annotations

import copy
import re
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from lcutils.errors import UserError, first_line
from lcutils.features.adapters import merge_adapter
from lcutils.features.preflight import ModelFacts, auto_class, explain, quiet
from lcutils.features.stored_weights import StoredWeights, stored_weights

ROOM = 0.9  # of a GPU's free memory that weights may take; statistics and activations need some too


def stored_precision(stored: StoredWeights | None, config: Any) -> str:
    """The precision that a checkpoint's own dtype is, "fp32", "fp16" or "bf16"; the configuration's if no file says."""
    dtype: Any = stored.dtype if stored else getattr(config, "dtype", None)
    return {torch.float16: "fp16", torch.bfloat16: "bf16"}.get(dtype, "fp32")


def source_of(name: str, revision: str | None, facts: ModelFacts) -> tuple[str, str | None]:
    """Where the weights lie, and the commit that the configuration was read of: the base's, if `name` is an adapter."""
    if facts.adapter:
        name, revision = facts.adapter.base, facts.adapter.base_revision
    return name, facts.commit or revision


def read_stored(name: str, revision: str | None, facts: ModelFacts) -> StoredWeights | None:
    """What the files of weights of a model, or of an adapter's base, hold."""
    return stored_weights(*source_of(name, revision, facts))


def load_whole(
    name: str,
    revision: str | None,
    config: Any,
    facts: ModelFacts,
    stored: StoredWeights | None,
    dtype: torch.dtype,
    device: torch.device,
    trust_remote_code: bool,
) -> Any:
    """The model, all of its weights from the checkpoint, in `dtype`, ready to be computed; adapters are merged.

    It is on `device`, or, if that is a GPU whose memory it exceeds and there are more, over several by accelerate.
    Attention is what transformers takes by default, SDPA where the model has it.

    Raises:
        UserError: it is not whole, its shapes contradict its configuration, or it exceeds the memory there is.
    """
    source, source_revision = source_of(name, revision, facts)
    placement = _placement(name, config, stored, dtype, device)
    model = _from_pretrained(name, source, source_revision, config, dtype, placement, trust_remote_code)
    if facts.adapter:
        model = merge_adapter(model, facts.adapter)
    if placement is None:
        try:
            model.to(device)
        except torch.OutOfMemoryError as error:
            raise UserError(f"{name}: does not fit on {device} ({first_line(error)}); {_FIX}") from error
    elif device.type != "cpu" and any(weight.device.type != device.type for weight in model.parameters()):
        raise UserError(f"{name}: does not fit on the GPUs of this host; {_FIX}")
    return model.eval().requires_grad_(False)


def build_untrained(
    name: str, config: Any, seed: int, dtype: torch.dtype, device: torch.device, trust_remote_code: bool
) -> Any:
    """A model of that configuration whose weights are as its own code draws them before training.

    They are drawn in float32 on the CPU, so that a seed gives the same ones for every device and dtype.

    Raises:
        UserError: no model can be built of the configuration.
    """
    config = copy.deepcopy(config)
    config.quantization_config = None  # of the trained weights
    state = torch.random.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        with quiet(name):
            model: Any = auto_class(config).from_config(
                config, dtype=torch.float32, trust_remote_code=trust_remote_code
            )
    except Exception as error:  # a value of config.json that a model cannot be built with fails in any way
        raise explain(name, error) from error
    finally:
        torch.random.set_rng_state(state)
    return model.to(device, dtype).eval().requires_grad_(False)


_FIX = "use a larger GPU or more of them, a lower precision, or device: cpu"


def _placement(
    name: str, config: Any, stored: StoredWeights | None, dtype: torch.dtype, device: torch.device
) -> str | dict[str, torch.device] | None:
    """The `device_map` of transformers; None where the model is loaded on the CPU and then moved as a whole."""
    if getattr(config, "quantization_config", None):
        return {"": device}  # some kinds cannot be moved later
    if device.type != "cuda" or stored is None or torch.cuda.device_count() < 2:
        return None
    needed = stored.bytes * dtype.itemsize / stored.dtype.itemsize
    if needed <= ROOM * torch.cuda.mem_get_info(device)[0]:
        return None
    if find_spec("accelerate") is None:
        raise UserError(f"{name}: does not fit on one GPU, and accelerate, which uses several, is not installed")
    return "auto"


def _from_pretrained(
    name: str,
    source: str,
    revision: str | None,
    config: Any,
    dtype: torch.dtype,
    placement: str | dict[str, torch.device] | None,
    trust_remote_code: bool,
) -> Any:
    try:
        with quiet(source):
            loaded: Any = auto_class(config).from_pretrained(
                source,
                revision=revision,
                trust_remote_code=trust_remote_code,
                dtype=dtype,
                device_map=placement,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                weights_only=True,
            )
    except Exception as error:  # a value of config.json that a model cannot be built with fails in any way
        raise explain(name, error) from error
    model, info = loaded
    _check_whole(name, model, info)
    return model


def _check_whole(name: str, model: nn.Module, info: dict[str, Any]) -> None:
    """Refuse a checkpoint whose weights are not those that its configuration says."""
    if wrong := sorted(mismatch[0] for mismatch in info["mismatched_keys"]):
        raise UserError(f"{name}: {wrong[0]} has another shape than config.json says; save the checkpoint again")
    own = {parameter for parameter, _ in model.named_parameters()}
    if absent := sorted(set(info["missing_keys"]) & own):
        raise UserError(
            f"{name}: the checkpoint lacks {absent[0]}, which would be drawn at random; give a whole causal language "
            "model, its head included"
        )
    left = sorted(info["unexpected_keys"])
    if any(key.startswith(("encoder.", "model.encoder.")) for key in left):
        raise UserError(f"{name}: has an encoder, which its decoder cannot do without; give a causal language model")
    layers = {_unnumbered(key) for key in own if _unnumbered(key) != key}
    layers |= {key.removeprefix(f"{model.base_model_prefix}.") for key in layers}  # as a model without head has them
    numbered = (key for key in left if _unnumbered(key) != key)
    if more := next((key for key in numbered if not layers or _unnumbered(key) in layers), None):
        raise UserError(f"{name}: config.json says fewer layers than the weights have ({more}); correct it")


def _unnumbered(parameter: str) -> str:
    """A parameter's name without the number of its layer."""
    return re.sub(r"(^|\.)\d+\.", r"\1*.", parameter)
