"""Load any causal language model, cut in two: features up to the head's input, and the head's weights.

Shapes: B blocks in a batch, S tokens a block, D features, V classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from lcutils.errors import UserError
from lcutils.gptneo.model import PRECISIONS, OtherLayoutError, count_parameters, load_model, tf32


@dataclass
class FeatureModel:
    """A language model cut in two: features up to the head's input, and the head's weights.

    Attributes:
        features: (B, S) integer tokens -> (B, S, D) float32, on the model's device.
        classifier: (V, D) rows w_c of the head. A head's bias, which some models have, is not in it: cosines and
            decisions are then those of the weights alone.
        identity: what was loaded and how, so that a resumed extraction is not continued with another model.
        n_params: of the whole model, tied weights counted once; 0 if unknown.
        logits: (B, S) integer tokens -> (B, S, V) float32, the model's own scores, which a bias, a scale or a soft cap
            may set apart from the head's products; None where they are `features` @ `classifier`ᵀ.
        positions: tokens that a block may have; None where the model has no such limit.
        depth: layers; 0 if unknown.
    """

    features: Callable[[Tensor], Tensor]
    classifier: Tensor
    identity: str = ""
    n_params: int = 0
    logits: Callable[[Tensor], Tensor] | None = None
    positions: int | None = None
    depth: int = 0


def load_feature_model(
    name_or_folder: str | Path,
    *,
    precision: str = "fp32",
    device: str | torch.device = "cpu",
    revision: str | None = None,
) -> FeatureModel:
    """Load a checkpoint for extraction: GPT-Neo by `lcutils.gptneo.model`, any other causal model by transformers.

    Args:
        name_or_folder: a Hugging Face checkpoint folder, or a name on the hub.
        precision: of the trunk's matrix products: "fp32", "tf32" (as fp32 on a CPU), "fp16" or "bf16". Features
            are float32 whatever it is.
        device: "cpu" or "cuda".
        revision: branch, tag or commit of a model on the hub.

    Raises:
        UserError: no such folder, no checkpoint in it, an unknown precision, or a model without an output embedding.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision: {precision!r} is unknown; choose one of {', '.join(PRECISIONS)}")
    name, device = str(name_or_folder), torch.device(device)
    identity = f"{name} {revision} {precision}"
    if _model_type(name, revision) == "gpt_neo":
        try:
            model = load_model(name, device, revision)
        except OtherLayoutError as error:
            warnings.warn(f"transformers computes this model, without fast attention ({error})", stacklevel=2)
            return _load_any(name, precision, device, identity, revision)
        return FeatureModel(
            lambda tokens: model.features(tokens, precision),
            model.head.detach(),
            identity,
            count_parameters(model.architecture),
            positions=model.architecture.positions,
            depth=model.architecture.depth,
        )
    return _load_any(name, precision, device, identity, revision)


def _model_type(name: str, revision: str | None) -> str:
    from transformers import AutoConfig

    if name.startswith((".", "/", "~")) and not Path(name).is_dir():
        raise UserError(f"{name}: there is no such folder; train the model first, or give a name on the hub")
    try:
        return str(AutoConfig.from_pretrained(name, revision=revision).model_type)
    except (OSError, ValueError, KeyError) as error:
        raise _no_checkpoint(name, error) from error


def _no_checkpoint(name: str, error: Exception) -> UserError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UserError(f"{name}: no checkpoint can be loaded from it ({reason}); give a folder of save_pretrained")


class _HeadReachedError(Exception):
    """Stops a forward pass in front of the head, whose V logits a token would cost more than most trunks."""

    def __init__(self, features: Tensor) -> None:
        self.features = features


def _stop(_head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    raise _HeadReachedError(inputs[0])


def _load_any(name: str, precision: str, device: torch.device, identity: str, revision: str | None) -> FeatureModel:
    from transformers import AutoModelForCausalLM

    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name, revision=revision, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise _no_checkpoint(name, error) from error
    model, info = loaded
    if absent := sorted(set(info["missing_keys"]) & {parameter for parameter, _ in model.named_parameters()}):
        raise UserError(
            f"{name}: the checkpoint lacks {absent[0]}, which would be drawn at random; give a whole causal language "
            "model, its head included"
        )
    head = model.get_output_embeddings()
    if head is None:
        raise UserError(f"{name}: {type(model).__name__} has no output embedding; use a causal language model")
    if getattr(head, "bias", None) is not None:
        warnings.warn(f"{name}: the head has a bias; measurements use its weights alone", UserWarning, stacklevel=3)
    model.to(device).eval()
    half = precision in ("fp16", "bf16")

    def logits(tokens: Tensor) -> Tensor:
        with torch.autocast(device.type, PRECISIONS[precision], enabled=half), tf32(precision == "tf32"):
            return model(input_ids=tokens.long(), use_cache=False).logits.float()

    def features(tokens: Tensor) -> Tensor:
        hook = head.register_forward_pre_hook(_stop)
        try:
            logits(tokens)
        except _HeadReachedError as reached:
            return reached.features.float()
        finally:
            hook.remove()
        raise UserError(f"{name}: {type(model).__name__} does not call its output embedding; features cannot be taken")

    text = model.config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    return FeatureModel(
        features, head.weight.detach(), identity, model.num_parameters(), logits, positions, text.num_hidden_layers
    )


def check_fit(model: FeatureModel, name: str, block_size: int, vocab_size: int) -> None:
    """Raise a `UserError` where the text has more positions or token ids than the model called `name` was made for.

    And where a feature depends on the tokens after it: it would see the class that it is a sample of.
    """
    if model.positions is not None and 0 < model.positions < block_size:  # XLNet says -1 for no limit
        raise UserError(
            f"corpus.block_size: {block_size} tokens exceed the {model.positions} positions of {name}; "
            f"use at most {model.positions}"
        )
    if vocab_size > len(model.classifier):
        raise UserError(
            f"corpus.tokenizer: its {vocab_size} tokens exceed the vocabulary of {name}, {len(model.classifier)}; "
            "use the model's own tokenizer"
        )
    if model.logits is not None:  # our own GPT-Neo is causal
        tokens = torch.zeros(2, min(block_size, 8), dtype=torch.int32, device=model.classifier.device)
        half = tokens.shape[1] // 2
        tokens[1, half:] = 1  # two texts that differ in their second half
        with torch.no_grad():
            one, other = model.features(tokens)[:, :half]
        if (one - other).norm() > 0.01 * one.norm():
            raise UserError(f"{name}: its features see the tokens that follow; use a causal language model")
