"""All of a model's training state in a few flat tensors, and AdamW with gradient clipping over them.

One tensor holds every parameter, one the gradients, two AdamW's moments: the update, the gradient norm, an
all-reduce and a save are then one operation each, whatever the depth. The model's parameters become views.

Shapes: V vocabulary, P padded vocabulary, D width, F all elements of the flat tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from lcutils.gptneo.loss import padded_vocabulary
from lcutils.gptneo.model import GPTNeo
from lcutils.gptneo.trunk import PARAMETER_NAMES, BlockWeights, TrunkWeights, compiled


class FlatParameters:
    """A model's parameters, gradients and moments, each one flat fp32 tensor on the device.

    Order: what AdamW decays (token embedding padded to P rows, position embedding, matrices in Hugging Face's order,
    so that key, value and query projections lie side by side), then biases and LayerNorms, which it does not.

    Attributes:
        values, grads, first, second: (F,) fp32: parameters, gradients, AdamW's two moments.
        compute: (F,) the parameters in the dtype of matrix products; `values` itself for fp32.
        decayed: how many leading elements weight decay applies to.
    """

    def __init__(self, model: GPTNeo, device: torch.device, dtype: torch.dtype) -> None:
        model.to(device)
        self.model, self.vocab_size = model, model.architecture.vocab_size
        named = sorted(model.named_parameters(), key=lambda item: item[1].ndim < 2)  # stable: Hugging Face's order
        spans: dict[str, slice] = {}
        end = self.decayed = 0
        for name, parameter in named:
            size = parameter.numel()
            if name == "transformer.wte.weight":
                size = padded_vocabulary(self.vocab_size) * model.architecture.width
            spans[name] = slice(end, end + size)
            end += size
            if parameter.ndim == 2:
                self.decayed = end
        self.spans, self.shapes = spans, {name: parameter.shape for name, parameter in named}
        self.values = torch.zeros(end, device=device)
        self.grads, self.first, self.second = (torch.zeros_like(self.values) for _ in range(3))
        for name, parameter in named:
            view = self.values[spans[name]][: parameter.numel()].view_as(parameter)
            view.copy_(parameter.detach())
            parameter.data = view
        self.compute = self.values if dtype == torch.float32 else self.values.to(dtype)

    def view(self, flat: Tensor, name: str) -> Tensor:
        """A parameter's part of one of the flat tensors; the token embedding has P rows."""
        return flat[self.spans[name]].view(-1, *self.shapes[name][1:])

    def head(self, flat: Tensor) -> Tensor:
        """(P, D): the token embedding's part of one of the flat tensors."""
        return self.view(flat, "transformer.wte.weight")

    def positions(self, flat: Tensor) -> Tensor:
        """(positions, D): the position embedding's part of one of the flat tensors."""
        return self.view(flat, "transformer.wpe.weight")

    def trunk_leaves(self) -> tuple[TrunkWeights, list[Tensor], list[Tensor]]:
        """The trunk's weights as leaves of autograd, the leaves as a list, and the views that their gradients go to.

        LayerNorm weights are views of `values`, all others of `compute`.
        """
        leaves: list[Tensor] = []
        targets: list[Tensor] = []

        def leaf(*names: str) -> Tensor:
            """One tensor over parameters that lie side by side."""
            flat = self.values if ".ln_" in names[0] else self.compute
            span = slice(self.spans[names[0]].start, self.spans[names[-1]].stop)
            shape = self.shapes[names[0]]
            leaves.append(flat[span].view(-1, *shape[1:]).detach().requires_grad_())
            targets.append(self.grads[span].view(-1, *shape[1:]))
            return leaves[-1]

        layers = (f"transformer.h.{layer}." for layer in range(self.model.architecture.depth))
        blocks = [
            BlockWeights(**{field: leaf(*(layer + name for name in names)) for field, names in PARAMETER_NAMES.items()})
            for layer in layers
        ]
        weights = TrunkWeights(blocks, leaf("transformer.ln_f.weight"), leaf("transformer.ln_f.bias"))
        return weights, leaves, targets


def _adamw(
    values: Tensor,
    grads: Tensor,
    first: Tensor,
    second: Tensor,
    compute: Tensor | None,
    divisor: Tensor,
    learning_rate: Tensor,
    count: Tensor,
    decayed: int,
    decay: float,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """AdamW's update as torch.compile fuses it for CUDA: one kernel that reads and writes each tensor once.

    Gradients are divided by `divisor`; `count` is this step's number, from 1; the first `decayed` elements decay;
    `compute` becomes a copy of `values`.
    """
    decays = torch.where(torch.arange(len(values), device=values.device) < decayed, decay, 0.0)
    g = grads / divisor
    m = first.lerp(g, 1.0 - betas[0])
    v = second * betas[1] + (1.0 - betas[1]) * g * g
    size = learning_rate / (1.0 - betas[0] ** count)
    new = values * (1.0 - learning_rate * decays) - size * m / ((v / (1.0 - betas[1] ** count)).sqrt() + eps)
    first.copy_(m)
    second.copy_(v)
    values.copy_(new)
    if compute is not None:
        compute.copy_(new)


class ClippedAdamW:
    """AdamW (Loshchilov & Hutter 2019) whose gradients are scaled down to a norm of at most `clip_norm`.

    Clipping happens inside the update, so that the gradients are read once. On CUDA everything that changes from step
    to step is a tensor on the device: the step can be captured in a graph, and the host never waits for it.

    Args:
        parameters: the flat tensors; gradients are read from them.
        betas, eps, weight_decay, clip_norm: as in the recipe; biases and LayerNorms are not decayed.
    """

    def __init__(
        self, parameters: FlatParameters, betas: tuple[float, float], eps: float, weight_decay: float, clip_norm: float
    ) -> None:
        self.parameters, self.betas, self.eps, self.clip_norm = parameters, betas, eps, clip_norm
        self.weight_decay = weight_decay

    @torch.no_grad()
    def step(self, learning_rate: Tensor, count: Tensor, compile_update: bool = False) -> Tensor:
        """Update the parameters.

        Args:
            learning_rate: scalar fp64 tensor.
            count: scalar tensor, how many steps were made before.
            compile_update: by torch.compile, on CUDA only.

        Returns:
            The gradient norm before clipping, a scalar fp32 tensor.
        """
        norm = torch.linalg.vector_norm(self.parameters.grads)
        # What torch's clip_grad_norm_ multiplies by is 1 / divisor.
        divisor = ((norm + 1e-6) / self.clip_norm).clamp(min=1.0)
        flat = self.parameters
        if compile_update:
            tensors = (flat.values, flat.grads, flat.first, flat.second)
            compute = flat.compute if flat.compute is not flat.values else None
            scalars = (divisor, learning_rate.float(), (count + 1).double())
            compiled(_adamw)(*tensors, compute, *scalars, flat.decayed, self.weight_decay, self.betas, self.eps)
            return norm
        for decay, part in ((self.weight_decay, slice(None, flat.decayed)), (0.0, slice(flat.decayed, None))):
            values, grads, first, second = (t[part] for t in (flat.values, flat.grads, flat.first, flat.second))
            # The fused kernel counts its steps itself, in fp32, and divides the gradients by their scale.
            adamw(
                [values],
                [grads],
                [first],
                [second],
                [],
                [count.float()],
                fused=True,
                grad_scale=divisor,
                found_inf=torch.zeros_like(norm),
                amsgrad=False,
                maximize=False,
                beta1=self.betas[0],
                beta2=self.betas[1],
                eps=self.eps,
                lr=learning_rate.float() if norm.is_cuda else float(learning_rate),
                weight_decay=decay,
            )
            if flat.compute is not flat.values:
                flat.compute[part].copy_(values)
        return norm
