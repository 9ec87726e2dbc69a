"""Load any causal language model, cut in two: features up to the head's input, and the head's weights.

Shapes: B blocks in a batch, S tokens per block, D features, V classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lcutils.errors import UserError
from lcutils.features.blocks import InnerLayers
from lcutils.features.head import CutModel
from lcutils.features.loading import build_untrained, load_whole, read_stored, stored_precision
from lcutils.features.preflight import read_configuration
from lcutils.gptneo.checkpoint import OtherLayoutError, from_transformers, read_checkpoint
from lcutils.gptneo.model import PRECISIONS, GPTNeo
from lcutils.gptneo.trunk import Watch, worth_compiling
from lcutils.runs import Architecture

OURS = "gpt_neo"  # the family that is computed here where its layout is the paper's


@dataclass
class FeatureModel:
    """A language model cut in two: features up to the head's input, and the head's weights.

    It decides for the class c with the largest `scale` * (<w_c, h> + b_c). These scores are its logits, but for a soft
    cap, which keeps their order: logits = `soft_cap` * tanh(scores / `soft_cap`).

    Attributes:
        features: (B, S) integer tokens -> (B, S, D) float32, on the model's device.
        classifier: (V, D) rows w_c of the head, in the dtype of the weights; the model's own memory.
        identity: what was loaded and how, so that a resumed extraction is not continued with another model.
        n_params: parameters of the whole model, tied weights counted once; 0 if unknown.
        logits: (B, S) integer tokens -> (B, S, V) float32, the model's own, for `check_fit` to compare; None where
            they are `features` @ `classifier`ᵀ by construction (our own GPT-Neo).
        positions: tokens that a block may have; None where the model has no such limit.
        depth: layers; 0 if unknown.
        bias: (V,) float32 b_c, on the model's device; None if all are 0.
        scale: of the scores; not 0, and it may be negative.
        soft_cap: of the logits, positive; None if there is none.
        family: `model_type` of the configuration, such as "llama"; "gpt_neo" for models trained here.
        commit: of a model on the hub; None for a folder.
        precision: in which the trunk is computed: "fp32", "tf32", "fp16" or "bf16".
        inner_layers: finds the layers before the head's input; a `UserError` says why they cannot be found. None where
            nobody has said what they are.
    """

    features: Callable[[Tensor], Tensor]
    classifier: Tensor
    identity: str = ""
    n_params: int = 0
    logits: Callable[[Tensor], Tensor] | None = None
    positions: int | None = None
    depth: int = 0
    bias: Tensor | None = None
    scale: float = 1.0
    soft_cap: float | None = None
    family: str = OURS
    commit: str | None = None
    precision: str = "fp32"
    inner_layers: Callable[[], InnerLayers] | None = None


def load_feature_model(
    name_or_folder: str | Path,
    *,
    precision: str = "auto",
    device: str | torch.device = "cpu",
    revision: str | None = None,
    tokens: int = 0,
    trust_remote_code: bool = False,
    untrained: int | None = None,
) -> FeatureModel:
    """Load a causal language model as transformers does; a GPT-Neo like the paper's is then computed by `GPTNeo`.

    The weights are held once, in the dtype of `precision`, and computed in it. Features are float32 whatever it is:
    where the head is given the output of a norm, that norm is computed in float32. A `GPTNeo` keeps float32 weights,
    residuals and norms, and `precision` is that of its matrix products.

    Args:
        name_or_folder: a Hugging Face checkpoint folder, the folder of a PEFT adapter (merged into its base), or a
            name on the hub.
        precision: "auto", the dtype that most of the checkpoint's tensors have (a `GPTNeo` on a CPU: float32);
            "fp32", "tf32" (as fp32 on a CPU), "fp16" or "bf16".
        device: "cpu" or "cuda". A model that exceeds one GPU is spread over all, its features given on `device`.
        revision: branch, tag or commit of a model on the hub.
        tokens: that will be passed through the model; for many, a `GPTNeo` on a GPU is compiled.
        trust_remote_code: run code that the checkpoint brings; without, such a checkpoint is refused.
        untrained: a seed; the weights are then drawn as before training, and those of the checkpoint not read.

    Raises:
        UserError: no such folder, no whole checkpoint in it, a revision of a folder, an unknown precision, or a model
            whose logits are not a scaled, biased or capped product of features and head.
    """
    if precision not in (known := ("auto", *PRECISIONS)):
        raise UserError(f"precision: {precision!r} is unknown; choose one of {', '.join(known)}")
    name, device = str(name_or_folder), torch.device(device)
    config, facts = read_configuration(name, revision, trust_remote_code)
    stored = read_stored(name, revision, facts)
    neo = facts.family == OURS
    if precision == "auto":  # a GPTNeo's weights are float32 in any case, which a CPU multiplies fastest
        precision = "fp32" if neo and device.type == "cpu" else stored_precision(stored, config)
    dtype = torch.float32 if neo else PRECISIONS[precision]
    place = torch.device("cpu") if neo else device
    identity = f"{name} {revision} {precision}"
    if untrained is None:
        theirs = load_whole(name, revision, config, facts, stored, dtype, place, trust_remote_code)
    else:
        theirs = build_untrained(name, config, untrained, dtype, place, trust_remote_code)
        identity += f" untrained {untrained}"
    if facts.adapter:
        identity += f" on {facts.adapter.base} {facts.adapter.base_revision}"
    if neo:
        try:
            model = _of_gptneo(from_transformers(theirs).to(device), identity, precision, tokens)
        except OtherLayoutError as error:
            warnings.warn(f"{name}: transformers computes this GPT-Neo, more slowly ({error})", stacklevel=2)
            theirs.to(device, PRECISIONS[precision])
        else:
            model.commit = facts.commit
            return model
    cut = CutModel(theirs, name, precision == "tf32", device)
    return FeatureModel(
        cut.features,
        cut.classifier,
        identity,
        n_params=theirs.num_parameters(),
        logits=cut.logits,
        positions=facts.positions,
        depth=facts.depth,
        bias=None if cut.rule.bias is None else cut.rule.bias.to(device),
        scale=cut.rule.scale,
        soft_cap=cut.rule.soft_cap,
        family=facts.family,
        commit=facts.commit,
        precision=precision,
        inner_layers=partial(cut.inner_layers, facts.depth),
    )


def load_trained(folder: Path, *, precision: str, device: torch.device, tokens: int) -> FeatureModel:
    """The same as `load_feature_model`, of a checkpoint that training here has written, in less time."""
    return _of_gptneo(read_checkpoint(folder).to(device), f"{folder} None {precision}", precision, tokens)


def build_initial(
    architecture: Architecture, init_seed: int, *, precision: str, device: torch.device, tokens: int
) -> FeatureModel:
    """A model as training here begins with it: the weights that `init_seed` draws, before the first step."""
    model = GPTNeo(architecture, init_seed).requires_grad_(False).to(device)
    return _of_gptneo(model, f"initial {architecture} {init_seed} {precision}", precision, tokens)


def _of_gptneo(ours: GPTNeo, identity: str, precision: str, tokens: int) -> FeatureModel:
    a = ours.architecture
    compiled = ours.head.is_cuda and worth_compiling(a.depth, tokens)

    def watched_features(tokens: Tensor, watch: Watch, watched: Collection[int]) -> Tensor:
        return ours.features(tokens, precision, compile_blocks=compiled, watch=watch, watched=watched)

    return FeatureModel(
        lambda tokens: ours.features(tokens, precision, compile_blocks=compiled),
        ours.head.detach(),
        identity,
        n_params=sum(parameter.numel() for parameter in ours.parameters()),
        positions=a.positions,
        depth=a.depth,
        precision=precision,
        inner_layers=lambda: InnerLayers(watched_features, (a.width,) * (a.depth + 1), ours.final_norm),
    )
