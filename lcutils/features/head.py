"""A model of transformers cut in two at its head: features that the head multiplies, and what becomes of the product.

Between the head's product and the logits some models put a scale (Cohere, Granite), a soft cap (Gemma) or a cut of the
classes (Inkling), under names that no two of them share. So no names are read: the model runs on a few tokens with
known numbers in place of its head's product, and what comes out tells the rule.

Shapes: B texts, S tokens, D features, P rows of the head, V classes (P, but for a cut).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lcutils.devices import tf32
from lcutils.errors import UserError, first_line
from lcutils.features.blocks import (
    InnerLayers,
    exact_copy,
    find_blocks,
    find_final_norm,
    layer_widths,
    norm_in_parts,
    watching,
)
from lcutils.features.preflight import position_limit
from lcutils.gptneo.trunk import Watch

PROBE_TOKENS = 8
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}  # of what the model itself rounds


class _ReachedError(Exception):
    """Stops a forward pass, before the head at the latest: V logits per token would cost more than most trunks."""

    def __init__(self, features: Tensor) -> None:
        self.features = features


def _stop(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    raise _ReachedError(inputs[0])


def input_of(module: nn.Module, forward: Callable[[], object]) -> Tensor | None:
    """What a module, the head for instance, is given first while `forward` runs the model, which stops there.

    Returns:
        None if the model does not call it.
    """
    hook = module.register_forward_pre_hook(_stop)
    try:
        forward()
    except _ReachedError as reached:
        return reached.features
    finally:
        hook.remove()
    return None


@dataclass(frozen=True)
class LogitsRule:
    """Logits from the head's product W h: scale * (W h + bias), then soft_cap * tanh(that / soft_cap) if there is one.

    Attributes:
        classes: V, the first of the head's rows.
        bias: (V,) on the head's device, or None.
        scale: not 0; it may be negative.
        soft_cap: positive, or None.
    """

    classes: int
    bias: Tensor | None
    scale: float
    soft_cap: float | None


class CutModel:
    """A model that transformers computes, on its device, and its head.

    Args:
        model: loaded, and where it shall be computed.
        name: for messages.
        allow_tf32: in matrix products of fp32 on a GPU.
        device: where features are wanted.

    Raises:
        UserError: the model has no head that can be told from its trunk, does not call it, or fails on a few tokens;
            or its logits come from the head's product in another way than `LogitsRule` says.
    """

    def __init__(self, model: Any, name: str, allow_tf32: bool, device: torch.device) -> None:
        self._model, self._name, self._tf32, self._device = model, name, allow_tf32, device
        head: Any = model.get_output_embeddings()
        weight = getattr(head, "weight", None)
        if head is None:
            raise UserError(f"{name}: {type(model).__name__} has no output embedding; use a causal language model")
        if not isinstance(weight, Tensor) or weight.ndim != 2 or not weight.is_floating_point():
            raise UserError(
                f"{name}: its head, a {type(head).__name__}, has no (classes, features) matrix of plain floating "
                "numbers; give a checkpoint whose head is not quantised"
            )
        self._head = head
        self.dtype: torch.dtype = weight.dtype
        with torch.no_grad(), self._explained():
            tokens = self._probe_tokens()
            self._norm, self._exact_norm = self._find_norm(tokens)
            self.rule = self._find_rule(tokens)
        self.classifier = weight.detach()[: self.rule.classes].to(device)  # (V, D), the model's own memory

    def logits(self, tokens: Tensor) -> Tensor:
        """(B, S) tokens -> (B, S, V) float32, the model's own."""
        return self._run(tokens).float()

    def features(self, tokens: Tensor) -> Tensor:
        """(B, S) tokens -> (B, S, D) float32, what the head multiplies.

        Where that is the output of a norm and the model has 16 bits, the norm is computed here in float32, so that its
        output is not rounded.
        """
        features = self._input_of(self._head if self._norm is None else self._norm, tokens)
        if self._exact_norm is not None:
            features = norm_in_parts(self._exact_norm, 1.0, features)
        return features.float().to(self._device)

    def inner_layers(self, depth: int) -> InnerLayers:
        """The residual stream between the blocks; `depth` is their number, as the configuration says.

        Raises:
            UserError: the blocks cannot be found.
        """
        with torch.no_grad(), self._explained():
            tokens = self._probe_tokens()

            def run() -> Tensor:
                return self._input_of(self._head, tokens)

            blocks = find_blocks(self._model, depth, self._name, run, (len(tokens), tokens.shape[1]))
            widths, norm = layer_widths(blocks, run), find_final_norm(self._model, blocks[-1], run)

        def features(tokens: Tensor, watch: Watch, watched: Collection[int]) -> Tensor:
            with watching(blocks, watch, watched):
                return self.features(tokens)

        return InnerLayers(features, widths, norm)

    def _input_of(self, module: nn.Module, tokens: Tensor) -> Tensor:
        given = input_of(module, lambda: self._run(tokens))
        if given is None:
            raise UserError(f"{self._name}: does not call its output embedding; features cannot be taken")
        return given

    def _run(self, tokens: Tensor) -> Tensor:
        with tf32(self._tf32):
            output = self._model(input_ids=tokens.to(self._model.device).long(), use_cache=False)
        logits: Tensor = output.logits if hasattr(output, "logits") else output[0]
        return logits

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """A failure within a model's own code is reported in one line, before long work."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{self._name}: {type(self._model).__name__} fails on a few tokens of text alone "
                f"({type(error).__name__}: {first_line(error)}); give a causal language model of text, or another "
                "precision"
            ) from error

    def _probe_tokens(self) -> Tensor:
        """(1, S) tokens that stand for nothing but text: none of those that the configuration names."""
        config = self._model.config
        text = config.get_text_config(decoder=True)
        named: set[Any] = set()
        for key, value in [*vars(config).items(), *vars(text).items()]:
            if key.endswith(("token_id", "token_index")):
                named.update(value if isinstance(value, (list, tuple)) else [value])
        ids = [token for token in range(min(len(self._head.weight), 1000)) if token not in named] or [0]
        number = min(PROBE_TOKENS, position_limit(config) or PROBE_TOKENS)
        return torch.tensor([[ids[i % len(ids)] for i in range(number)]])

    # ------------------------------------------------------------------------------------------------ the last norm

    def _find_norm(self, tokens: Tensor) -> tuple[nn.Module | None, nn.Module | None]:
        """The norm whose output the head is given, called once, and a float32 copy of it.

        None where all is float32, or there is none.
        """
        calls: list[tuple[nn.Module, tuple[Any, ...], Any]] = []
        hooks = [
            module.register_forward_hook(lambda module, inputs, output: calls.append((module, inputs, output)))
            for module in self._model.modules()
            if "norm" in type(module).__name__.lower() and module is not self._head
        ]
        try:
            given = self._input_of(self._head, tokens)
        finally:
            for hook in hooks:
                hook.remove()
        if given.dtype == torch.float32:
            return None, None
        times = Counter(norm for norm, _, _ in calls)
        for norm, inputs, output in reversed(calls):
            if times[norm] == 1 and len(inputs) == 1 and isinstance(output, Tensor) and _same_memory(output, given):
                exact = exact_copy(norm)
                if _near(exact(inputs[0].float()), given, TOLERANCE[torch.bfloat16]):
                    return norm, exact
        return None, None

    # ------------------------------------------------------------------------------------- what becomes of the product

    def _find_rule(self, tokens: Tensor) -> LogitsRule:
        own = getattr(self._head, "bias", None)
        zero, _ = self._after_head(tokens, torch.zeros(1))  # (S, V)
        huge, signs = self._after_head(tokens, torch.tensor([1e30, -1e30]))
        powers = 2.0 ** torch.arange(-12, 13)
        some, values = self._after_head(tokens, torch.cat([powers, -powers]))
        cap = _common(huge.abs()) if bool((huge.abs() < 1e20).all()) else None

        def uncapped(logits: Tensor) -> Tensor:
            return logits if cap is None else cap * torch.atanh((logits / cap).clamp(-1, 1))

        offset = uncapped(zero)  # scale * a bias that is added after the head
        plain = torch.ones_like(some, dtype=torch.bool) if cap is None else (some / cap).abs().sub(0.3).abs() < 0.25
        slopes = ((uncapped(some) - offset) / values)[plain]
        if len(slopes):  # of those that the offset does not drown
            slopes = slopes[(values[plain] * slopes.median()).abs() >= 0.5 * offset.abs().max()]
        scale = _without_rounding(float(slopes.double().median())) if len(slopes) else math.nan
        expected = scale * values + offset
        if cap is not None:
            expected = cap * torch.tanh(expected / cap)
        limit = math.inf if cap is None else cap
        wide = (huge.abs() >= min(limit, 1e20) * 0.98) & (huge.sign() == signs.sign() * math.copysign(1, scale))
        close = TOLERANCE[torch.float32] if self.dtype == torch.float32 else TOLERANCE[torch.float16]
        apart = (some - expected).abs() > close * (expected.abs() + abs(scale) * 2.0**-12)
        if not scale or not math.isfinite(scale) or bool(apart.any()) or not bool(wide.all()):
            raise UserError(
                f"{self._name}: its logits are not a scaled product of its features and its head: "
                f"{type(self._model).__name__} changes them in another way than by a bias, a scale or a soft cap; "
                "no measurement of weights and features says how it decides"
            )
        bias = None if own is None else own.detach().float()[: some.shape[1]]
        if bool((offset.abs() > close * abs(scale) * 2.0**-12).any()):
            if not _near(offset, offset[:1].expand_as(offset), close):
                raise UserError(f"{self._name}: adds to its logits what differs from token to token")
            added = (offset[0] / scale).to(self._head.weight.device)
            bias = added if bias is None else bias + added
        if bias is not None and not bool(bias.any()):
            bias = None
        return LogitsRule(some.shape[1], bias, scale, cap)

    def _after_head(self, tokens: Tensor, cycle: Tensor) -> tuple[Tensor, Tensor]:
        """(S, V) logits where the head's product is a cycle of these numbers, and (S, V) those numbers."""
        put: list[Tensor] = []

        def replace(_module: nn.Module, _inputs: Any, product: Tensor) -> Tensor:
            number = torch.arange(product.numel(), device=product.device)
            put.append(cycle.to(product.device)[(7 * number) % len(cycle)].view(product.shape))
            return put[-1]

        hook = self._head.register_forward_hook(replace)
        try:
            logits = self._run(tokens)
        finally:
            hook.remove()
        logits = logits.flatten(0, -2).float()
        values = put[-1].flatten(0, -2).to(logits.device)
        if len(logits) != len(values) or logits.shape[1] > values.shape[1]:
            raise UserError(
                f"{self._name}: gives logits of shape {tuple(logits.shape)} for a product of shape "
                f"{tuple(values.shape)}; use a causal language model"
            )
        return logits, values[:, : logits.shape[1]]


def _common(values: Tensor) -> float | None:
    """The value that all of these have, but for rounding; None if they differ."""
    middle = float(values.double().median())
    return middle if bool(((values - middle).abs() <= 1e-2 * abs(middle)).all()) and middle > 0 else None


def _without_rounding(value: float) -> float:
    """The number of four digits that the value is, but for the rounding of float32; otherwise the value."""
    short = float(f"{value:.4g}")
    return short if abs(short - value) <= 5e-7 * abs(value) else value


def _near(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Whether the norm of their difference is at most that share of the other's."""
    if one.shape != other.shape:
        return False
    one, other = one.double(), other.double().to(one.device)
    return bool((one - other).norm() <= tolerance * other.norm())


def _same_memory(one: Tensor, other: Tensor) -> bool:
    return (one.data_ptr(), one.shape, one.stride(), one.dtype) == (
        other.data_ptr(), other.shape, other.stride(), other.dtype,
    )  # fmt: skip
