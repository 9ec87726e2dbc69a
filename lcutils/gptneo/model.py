"""GPT-Neo as the paper trains it, with Hugging Face's parameter names, computing at the speed of the device.

Layers alternate global and local attention, scores are not scaled, the head is the token embedding, and there is no
dropout (Wu & Papyan 2024, section 3). `lcutils.gptneo.trunk` holds and computes the layers.

Shapes: V tokens of the vocabulary, D width, B sequences, S positions.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from lcutils.devices import tf32
from lcutils.errors import UserError
from lcutils.gptneo.trunk import LAYER_NORM_EPS, Transformer, TrunkWeights, Watch, run_trunk
from lcutils.runs import Architecture

INITIAL_STD = 0.02
PRECISIONS = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class GPTNeo(nn.Module):
    """GPT-Neo for causal language modelling; `state_dict` has Hugging Face's names, without the tied `lm_head`.

    Args:
        architecture: depth, width and the rest.
        init_seed: seed of the initial weights. Matrices and embeddings are normal with standard deviation 0.02, biases
            0, LayerNorms 1, as Hugging Face initialises GPT-Neo. None leaves them undefined, to be loaded.
    """

    def __init__(self, architecture: Architecture, init_seed: int | None = None) -> None:
        super().__init__()
        self.architecture = a = architecture
        self.transformer = Transformer(a)
        if init_seed is not None:
            self._initialise(torch.Generator().manual_seed(init_seed))
        self._cast: dict[str, tuple[Any, TrunkWeights]] = {}

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, INITIAL_STD, generator=generator)
            else:
                parameter.fill_(1.0 if ".ln_" in name and name.endswith("weight") else 0.0)

    @property
    def head(self) -> Tensor:
        """(V, D): the classifier, which is the token embedding."""
        return self.transformer.wte.weight

    def _trunk_weights(self, precision: str) -> TrunkWeights:
        """All layers' weights in the dtype of `precision`; those of a frozen model are cast once and kept."""
        if any(p.requires_grad for p in self.transformer.h.parameters()):
            return self.transformer.weights(PRECISIONS[precision])
        state = [(p.data_ptr(), p._version) for p in self.transformer.h.parameters()]
        if precision not in self._cast or self._cast[precision][0] != state:
            self._cast = {precision: (state, self.transformer.weights(PRECISIONS[precision]))}
        return self._cast[precision][1]

    def features(
        self,
        tokens: Tensor,
        precision: str = "fp32",
        compile_blocks: bool = False,
        watch: Watch | None = None,
        watched: Collection[int] = (),
    ) -> Tensor:
        """Output of the final LayerNorm: what the head multiplies.

        Args:
            tokens: (B, S) integers.
            precision: of the matrix products: "fp32", "tf32" (fp32 on the CPU), "fp16" or "bf16". The residual
                stream, the LayerNorms and the result are fp32 whatever it is.
            compile_blocks: by torch.compile, on CUDA only; for long work.
            watch, watched: what is given the residual stream, and at which layers, as of `run_trunk`.

        Returns:
            (B, S, D) float32.

        Raises:
            UserError: an unknown precision, or more positions than the model has.
        """
        a, S = self.architecture, tokens.shape[1]
        if precision not in PRECISIONS:
            raise UserError(f"precision: {precision!r} is unknown; choose one of {', '.join(PRECISIONS)}")
        if a.positions < S:
            raise UserError(f"block_size: {S} tokens exceed the model's {a.positions} positions; use shorter blocks")
        x = nn.functional.embedding(tokens, self.head) + self.transformer.wpe.weight[:S]
        with tf32(precision == "tf32"):
            weights = self._trunk_weights(precision)
            return run_trunk(x, weights, a.heads, a.window, compile_blocks=compile_blocks, watch=watch, watched=watched)

    def final_norm(self, x: Tensor) -> Tensor:
        """The final LayerNorm of residual streams, (..., D) -> (..., D) fp32."""
        norm = self.transformer.ln_f
        return nn.functional.layer_norm(x.float(), x.shape[-1:], norm.weight, norm.bias, LAYER_NORM_EPS)
