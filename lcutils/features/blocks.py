"""The blocks of any causal language model of transformers, found by rule, and the residual stream between them.

Layer 0 is what enters the first block, the embeddings with all that a model does to them; layer k is the output of
block k. No names of families or of their modules are read: a model runs on a few tokens, and what its modules are given
and give back tells which of them are its blocks.

Shapes: B texts, S tokens, D features of a layer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lcutils.errors import UserError
from lcutils.gptneo.trunk import Watch

NORM_NUMBERS = 2**25  # features whose norm is computed at a time in float32
PROPORTIONAL = {torch.float32: 1e-5}  # how far rounding may move a multiple, relative to its norm; 1e-2 in 16 bits


@dataclass(frozen=True)
class InnerLayers:
    """What a model computes before its head's input.

    Attributes:
        features: tokens (B, S), a watch and the numbers of layers that it watches -> (B, S, D) float32, the features
            that the head is given, the same bits as without a watch. The watch gets each layer's residual stream
            (B, S, D_k) once, in the trunk's own type, while the pass goes on: nothing is kept.
        widths: D_k of layers 0 to depth.
        norm: (N, D) residual streams, any float type -> (N, D) float32, the model's final norm; None where what the
            head is given is not a norm of the last block's output.
    """

    features: Callable[[Tensor, Watch, Collection[int]], Tensor]
    widths: tuple[int, ...]
    norm: Callable[[Tensor], Tensor] | None

    @property
    def depth(self) -> int:
        """Number of blocks, which is the number of the last layer."""
        return len(self.widths) - 1

    def check(self, layers: Collection[int], name: str) -> None:
        """Raise a `UserError` that names the first of `layers` which the model `name` does not have."""
        check_layers(layers, self.depth, name)


def check_layers(layers: Collection[int], depth: int, name: str) -> None:
    """Raise a `UserError` that names the first of `layers` which a model of that depth does not have."""
    if unknown := sorted(layer for layer in layers if layer > depth):
        raise UserError(
            f"extraction.layers: {name} has {depth} blocks, so layers 0 to {depth}, and no layer {unknown[0]}; "
            "leave it out, or write all"
        )


def find_blocks(
    model: nn.Module, depth: int, name: str, run: Callable[[], object], shape: tuple[int, int]
) -> list[nn.Module]:
    """The blocks of a model: the members of a `ModuleList` as long as the model is deep, each called once, in order.

    Each must be given a residual stream (B, S, D) and give one back. Of several such lists, as within a block, the one
    with the most parameters is taken.

    Args:
        model: any causal language model.
        depth: its number of blocks, as its configuration says; 0 if that is not known.
        name: for messages.
        run: passes a few tokens through the model.
        shape: B and S of these.

    Raises:
        UserError: no list is like that.
    """
    lists = [list(module) for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == depth]
    lists = [blocks for blocks in lists if blocks and len({id(block) for block in blocks}) == depth]
    calls: list[int] = []  # ids of members, in the order in which they were called
    no_streams: set[int] = set()  # ids of members that are given none, or give none back

    def note(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        calls.append(id(block))
        given, made = stream_in((*args, *kwargs.values())), stream_in(output)
        if given is None or made is None or not given.shape[:2] == made.shape[:2] == shape:
            no_streams.add(id(block))

    members = {id(block): block for blocks in lists for block in blocks}
    hooks = [block.register_forward_hook(note, with_kwargs=True) for block in members.values()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    fitting = []
    for blocks in lists:
        own = [id(block) for block in blocks]
        if [call for call in calls if call in set(own)] == own and not no_streams & set(own):
            fitting.append(blocks)
    if not fitting:
        number = f"{depth} blocks" if depth else "blocks, whose number its configuration does not say,"
        raise UserError(
            f"{name}: the {number} of {type(model).__name__} cannot be found, so its inner layers are not measured"
        )
    return max(fitting, key=lambda blocks: sum(p.numel() for block in blocks for p in block.parameters()))


def stream_in(values: Any) -> Tensor | None:
    """The first (B, S, D) tensor of floating numbers among what a block is given or gives back; None without one."""
    for value in values if isinstance(values, Iterable) and not isinstance(values, Tensor) else (values,):
        if isinstance(value, Tensor) and value.ndim == 3 and value.is_floating_point():
            return value
    return None


@contextmanager
def watching(blocks: list[nn.Module], watch: Watch, watched: Collection[int]) -> Iterator[None]:
    """Within, `watch` is given the residual stream at each of the layers `watched` as soon as it is there."""

    def entered(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        watch(0, _stream((*args, *kwargs.values())))

    hooks = [blocks[0].register_forward_pre_hook(entered, with_kwargs=True)] if 0 in watched else []
    for layer in sorted(set(watched) - {0}):

        def left(_block: nn.Module, _inputs: Any, output: Any, layer: int = layer) -> None:
            watch(layer, _stream(output))

        hooks.append(blocks[layer - 1].register_forward_hook(left))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _stream(values: Any) -> Tensor:
    found = stream_in(values)
    assert found is not None  # `find_blocks` has seen it
    return found


def layer_widths(blocks: list[nn.Module], run: Callable[[], object]) -> tuple[int, ...]:
    """D of layers 0 to depth; `run` passes a few tokens through the model."""
    widths: dict[int, int] = {}
    with watching(blocks, lambda layer, stream: widths.update({layer: stream.shape[-1]}), range(len(blocks) + 1)):
        run()
    return tuple(widths[layer] for layer in range(len(blocks) + 1))


def find_final_norm(
    model: nn.Module, last_block: nn.Module, head_input: Callable[[], Tensor]
) -> Callable[[Tensor], Tensor] | None:
    """What makes the head's input of the last block's output: a norm, and perhaps a constant factor after it.

    Args:
        model, last_block: where to look.
        head_input: passes a few tokens through the model; what its head is given.

    Returns:
        (..., D) of any float type -> (..., D) float32. An identity if the head is given the last block's output itself;
        None if it is given something else, as where a projection stands between.
    """
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []
    streams: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if len(inputs) == 1 and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
            calls.append((module, inputs[0], output))

    norms = [module for module in model.modules() if "norm" in type(module).__name__.lower()]
    hooks = [norm.register_forward_hook(note) for norm in norms]
    hooks.append(last_block.register_forward_hook(lambda _, __, output: streams.append(_stream(output))))
    try:
        given = head_input()
    finally:
        for hook in hooks:
            hook.remove()
    if _factor(streams[-1], given) == 1.0:
        return Tensor.float
    for norm, before, after in reversed(calls):
        if _factor(before, streams[-1]) == 1.0 and (factor := _factor(after, given)):
            return partial(norm_in_parts, exact_copy(norm), factor)
    return None


def _factor(one: Tensor, other: Tensor) -> float | None:
    """The number by which `one` is multiplied to give `other`; None if there is none."""
    if one.shape != other.shape:
        return None
    most = PROPORTIONAL.get(other.dtype, 1e-2)
    one, other = one.double(), other.double().to(one.device)
    if torch.equal(one, other):
        return 1.0
    factor = float((one * other).sum() / one.square().sum().clamp_min(1e-300))
    near = bool((factor * one - other).norm() <= most * other.norm())
    return factor if near and factor else None


def exact_copy(norm: nn.Module) -> nn.Module:
    """A float32 copy of a norm, to be called with inputs that lie where its weights do."""
    exact = copy.deepcopy(norm).float()
    if hasattr(exact, "_hf_hook"):  # accelerate's, which brings inputs to the norm's device
        from accelerate.hooks import remove_hook_from_module

        remove_hook_from_module(exact)
    return exact


def norm_in_parts(norm: nn.Module, factor: float, given: Tensor) -> Tensor:
    """The norm of (..., D) numbers, times a factor, as float32, a part of the rows at a time."""
    weight = next(norm.parameters(), None)
    rows = given.reshape(-1, given.shape[-1]).to(given.device if weight is None else weight.device)
    out = torch.empty(rows.shape, dtype=torch.float32, device=rows.device)
    step = max(1, NORM_NUMBERS // rows.shape[1])
    for begin in range(0, len(rows), step):
        out[begin : begin + step] = norm(rows[begin : begin + step].float())
    return (out if factor == 1.0 else out.mul_(factor)).view(given.shape)
