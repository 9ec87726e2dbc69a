"""Load any causal language model, cut in two: features up to the head's input, and the head's weights.

Shapes: B blocks in a batch, S tokens per block, D features, V classes.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lcutils.devices import tf32
from lcutils.errors import UserError
from lcutils.features.model_folder import check_model_folder, no_checkpoint
from lcutils.gptneo.checkpoint import OtherLayoutError, from_transformers, read_checkpoint
from lcutils.gptneo.model import PRECISIONS, GPTNeo
from lcutils.gptneo.trunk import worth_compiling


@dataclass
class FeatureModel:
    """A language model cut in two: features up to the head's input, and the head's weights.

    Attributes:
        features: (B, S) integer tokens -> (B, S, D) float32, on the model's device.
        classifier: (V, D) rows w_c of the head. A head's bias, which some models have, is not in it: cosines and
            decisions are then those of the weights alone.
        identity: what was loaded and how, so that a resumed extraction is not continued with another model.
        n_params: parameters of the whole model, tied weights counted once; 0 if unknown.
        logits: (B, S) integer tokens -> (B, S, V) float32, the model's own scores, which a bias, a scale or a soft cap
            may set apart from the head's products; None where they are `features` @ `classifier`ᵀ (our own GPT-Neo).
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
    tokens: int = 0,
) -> FeatureModel:
    """Load a causal language model as transformers does; a GPT-Neo like the paper's is then computed by `GPTNeo`.

    Args:
        name_or_folder: a Hugging Face checkpoint folder, or a name on the hub.
        precision: of the trunk's matrix products: "fp32", "tf32" (as fp32 on a CPU), "fp16" or "bf16". Features
            are float32 whatever it is.
        device: "cpu" or "cuda".
        revision: branch, tag or commit of a model on the hub.
        tokens: that will be passed through the model; for many, a `GPTNeo` on a GPU is compiled.

    Raises:
        UserError: no such folder, no whole checkpoint in it, a revision of a folder, an unknown precision, or a model
            without an output embedding.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision: {precision!r} is unknown; choose one of {', '.join(PRECISIONS)}")
    name, device = str(name_or_folder), torch.device(device)
    theirs = _load(name, revision)
    identity = f"{name} {revision} {precision}"
    if type(theirs).__name__ == "GPTNeoForCausalLM":
        try:
            return _of_gptneo(from_transformers(theirs).to(device), identity, precision, tokens)
        except OtherLayoutError as error:
            warnings.warn(f"{name}: transformers computes this GPT-Neo, more slowly ({error})", stacklevel=2)
    text = theirs.config.get_text_config(decoder=True)  # models of pictures and text keep the layers there
    facts: dict[str, Any] = {
        "identity": identity,
        "n_params": theirs.num_parameters(),
        "positions": getattr(text, "max_position_embeddings", None),
        "depth": getattr(text, "num_hidden_layers", 0),
    }
    features, classifier, logits = _cut(theirs, name, precision, device)
    return FeatureModel(features, classifier, logits=logits, **facts)


def load_trained(folder: Path, *, precision: str, device: torch.device, tokens: int) -> FeatureModel:
    """The same as `load_feature_model`, of a checkpoint that training here has written, in less time."""
    return _of_gptneo(read_checkpoint(folder).to(device), f"{folder} None {precision}", precision, tokens)


def _of_gptneo(ours: GPTNeo, identity: str, precision: str, tokens: int) -> FeatureModel:
    a = ours.architecture
    compiled = ours.head.is_cuda and worth_compiling(a.depth, tokens)
    return FeatureModel(
        lambda tokens: ours.features(tokens, precision, compile_blocks=compiled),
        ours.head.detach(),
        identity,
        n_params=sum(parameter.numel() for parameter in ours.parameters()),
        positions=a.positions,
        depth=a.depth,
    )


def _load(name: str, revision: str | None) -> Any:
    """The model as transformers loads it, all of its weights from the checkpoint. No code of the checkpoint is run."""
    from transformers import AutoModelForCausalLM

    local = Path(name).exists()
    if name.startswith((".", "/", "~")) and not local:
        raise UserError(f"{name}: there is no such folder; train the model first, or give a name on the hub")
    if local and revision:
        raise UserError(f"{name}: is a folder, which has no revisions; leave {revision} out")
    if local:
        check_model_folder(name)
    try:
        with _no_bar() if local else nullcontext():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                name,
                revision=revision,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                trust_remote_code=False,
                weights_only=True,
            )
    except Exception as error:  # a value of config.json that a model cannot be built with fails in any way
        raise _explained(name, error) from error
    model, info = loaded
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
    return model


def _unnumbered(parameter: str) -> str:
    """A parameter's name without the number of its layer."""
    return re.sub(r"(^|\.)\d+\.", r"\1*.", parameter)


def _explained(name: str, error: Exception) -> UserError:
    """Why transformers could not load a model, and what can be done."""
    message = str(error)
    lines = [line.strip() for line in message.splitlines() if line.strip() and not line.endswith(":")]
    reason, fix = lines[0] if lines else "", "give a folder of save_pretrained"
    if isinstance(error, UnpicklingError):
        reason = "its pytorch_model.bin holds more than tensors, or is damaged, and code in it is not run"
        fix = "save its weights as safetensors"
    elif "trust_remote_code" in message:
        reason = "it comes with code of its own (auto_map in config.json), which is not run"
        fix = "convert it to a model class of transformers, and save that"
    elif "does not recognize this architecture" in message:
        reason, fix = "this version of transformers does not know its model_type", "correct it, or upgrade transformers"
    elif message.startswith("Unrecognized configuration class"):
        reason, fix = "transformers has no causal language model of its model_type", "give a causal language model"
    elif isinstance(error, ImportError):
        fix = "install that, or give a checkpoint that does without"
    elif not isinstance(error, (OSError, ValueError)):
        reason = f"{type(error).__name__} {reason}".strip()
    return no_checkpoint(name, reason, fix)


@contextmanager
def _no_bar() -> Iterator[None]:
    """Without transformers' progress bar, which says nothing where all files are at hand."""
    from transformers.utils import logging

    wanted = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if wanted:
            logging.enable_progress_bar()


class _HeadReachedError(Exception):
    """Stops a forward pass before the head, whose V logits per token would cost more than most trunks."""

    def __init__(self, features: Tensor) -> None:
        self.features = features


def _stop(_head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    raise _HeadReachedError(inputs[0])


def head_input(head: nn.Module, forward: Callable[[], object]) -> Tensor | None:
    """What the head is given while `forward` runs the model: (B, S, D). The forward pass stops there.

    Returns:
        None if the model does not call its head.
    """
    hook = head.register_forward_pre_hook(_stop)
    try:
        forward()
    except _HeadReachedError as reached:
        return reached.features
    finally:
        hook.remove()
    return None


def _cut(
    model: Any, name: str, precision: str, device: torch.device
) -> tuple[Callable[[Tensor], Tensor], Tensor, Callable[[Tensor], Tensor]]:
    """Features, classifier and logits of a model that transformers computes."""
    head = model.get_output_embeddings()
    if head is None:
        raise UserError(f"{name}: {type(model).__name__} has no output embedding; use a causal language model")
    if getattr(head, "bias", None) is not None:
        warnings.warn(f"{name}: the head has a bias; measurements use only its weights", UserWarning, stacklevel=3)
    model.to(device).eval()
    half = precision in ("fp16", "bf16")

    def logits(tokens: Tensor) -> Tensor:
        with torch.autocast(device.type, PRECISIONS[precision], enabled=half), tf32(precision == "tf32"):
            return model(input_ids=tokens.long(), use_cache=False).logits.float()

    def features(tokens: Tensor) -> Tensor:
        taken = head_input(head, lambda: logits(tokens))
        if taken is None:
            raise UserError(
                f"{name}: {type(model).__name__} does not call its output embedding; features cannot be taken"
            )
        return taken.float()

    return features, head.weight.detach(), logits


def check_fit(
    model: FeatureModel, name: str, blocks: Sequence[np.ndarray], vocab_size: int, label: Callable[[int], str]
) -> None:
    """Raise a `UserError` if blocks have more positions or larger token ids than the model was made for.

    Raise one too if a feature depends on the tokens after it; otherwise a feature could see its own label.

    Args:
        name: of the model.
        blocks: (n_blocks, S) token ids of each split.
        vocab_size: the largest id of the tokenizer + 1; one that the model lacks does no harm where it never occurs.
        label: what a message calls a token.
    """
    block_size, rows = blocks[0].shape[1], len(model.classifier)
    if model.positions is not None and 0 < model.positions < block_size:  # XLNet says -1 for no limit
        raise UserError(
            f"corpus.block_size: {block_size} tokens exceed the {model.positions} positions of {name}; "
            f"use at most {model.positions}"
        )
    if vocab_size > rows and (largest := max(int(split.max()) for split in blocks)) >= rows:
        raise UserError(
            f"corpus.tokenizer: {label(largest)[:50]!r}, token {largest}, occurs in the text, but {name} has only "
            f"{rows} tokens; name the tokenizer that it was trained with, take that token out of the text "
            "(end_of_text: false, if it is the end), or give the model more rows (resize_token_embeddings)"
        )
    if model.logits is not None:  # our own GPT-Neo is causal
        tokens = torch.zeros(2, min(block_size, 8), dtype=torch.int32, device=model.classifier.device)
        half = tokens.shape[1] // 2
        tokens[1, half:] = 1  # two texts that differ in their second half
        with torch.no_grad():
            one, other = model.features(tokens)[:, :half]
        if (one - other).norm() > 0.01 * one.norm():
            raise UserError(f"{name}: its features see the tokens that follow; use a causal language model")
