"""Inner layers in the same pass as the head's input: class statistics of each, and decisions by the logit lens.

The logit lens is the head put behind an inner layer: its residual stream goes through the model's final norm, and the
head is given that. A layer's sums are added as soon as its block is done, so no layer's features are kept.

Shapes: N features of a batch, D their dimension, C classes, R of them with rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from lcutils.errors import UserError
from lcutils.features.blocks import InnerLayers
from lcutils.features.models import FeatureModel
from lcutils.features.statistics import ClassStatistics, save_together


class Counter(Protocol):
    """Counts decisions batch by batch; `lcutils.collapse.AgreementCounter` is one."""

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Count (N, D) features with (N,) labels."""

    def result(self) -> tuple[Tensor, Tensor]:
        """Hits and totals of each class, (C,) int64 each."""


class LayerStatistics:
    """Class statistics of inner layers, gathered while the head's input is computed.

    Memory is that of one `ClassStatistics` per layer: 16 R D bytes (10 if narrow). Where they are of the residual
    stream itself, there are 10 R D more per layer, of the same features behind the final norm, for the logit lens.

    Args:
        inner: the model's inner layers.
        layers: which of them.
        num_classes, device, classes, narrow: as of `ClassStatistics`, those of the statistics of the head's input.
        norm: take the features behind the model's final norm, instead of the residual stream.
        covariance: keep each layer's within-class covariance too, 8 D² bytes and the time of a product per batch.
        name: of the model, for messages.

    Attributes:
        named: the statistics by "layer0", …, and, where `norm` is false, "lens0", … of the logit lens, which are absent
            for a model without a final norm.

    Raises:
        UserError: the model has no such layer, or no final norm and `norm` asks for it; or they exceed a GPU's memory.
    """

    def __init__(
        self,
        inner: InnerLayers,
        layers: Collection[int],
        num_classes: int,
        *,
        device: str | torch.device = "cpu",
        classes: Tensor | None = None,
        narrow: bool = False,
        norm: bool = False,
        covariance: bool = False,
        name: str = "the model",
    ) -> None:
        inner.check(layers, name)
        if norm and inner.norm is None:
            raise UserError(
                f"extraction.layers_norm: {name} has no final norm right before its head; leave layers_norm out"
            )
        self.inner, self.layers, self.norm, self.covariance = inner, tuple(sorted(set(layers))), norm, covariance
        self.named: dict[str, ClassStatistics] = {}
        try:
            for layer in self.layers:
                width = inner.widths[layer]
                self.named[f"layer{layer}"] = ClassStatistics(num_classes, width, covariance, device, classes, narrow)
                if inner.norm is not None and not norm:  # its means alone are read, which narrow pivots leave exact
                    self.named[f"lens{layer}"] = ClassStatistics(num_classes, width, False, device, classes, True)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"extraction.layers: the sums of {len(self.layers)} layers of {name} exceed the memory of "
                f"{device}; name fewer layers"
            ) from error

    @property
    def lens(self) -> dict[int, ClassStatistics]:
        """By layer, the statistics behind the final norm; empty for a model without one."""
        kind = "layer" if self.norm else "lens"
        return {layer: self.named[f"{kind}{layer}"] for layer in self.layers if f"{kind}{layer}" in self.named}

    @property
    def identity(self) -> dict[str, Any]:
        """What decides these statistics beside the model and the text, as JSON values."""
        return {"layers": list(self.layers), "norm": self.norm, "covariance": self.covariance}

    def features(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Pass a batch through the model and add its inner layers: (B, S) and (B S,) -> the head's input (B, S, D)."""

        def add(layer: int, stream: Tensor) -> None:
            flat = stream.flatten(0, 1)
            if self.norm and self.inner.norm is not None:
                flat = self.inner.norm(flat)
            self.named[f"layer{layer}"].update(flat, labels)
            if self.inner.norm is not None and f"lens{layer}" in self.named:
                self.named[f"lens{layer}"].update(self.inner.norm(flat), labels)

        return self.inner.features(tokens, add, self.layers)

    def check_finite(self) -> None:
        """Raise `NotFiniteError` where a feature was not finite."""
        for stats in self.named.values():
            stats.check_finite()

    def reset(self) -> None:
        """Forget all features."""
        self.named = {name: stats.empty() for name, stats in self.named.items()}

    def load(self, path: Path) -> None:
        """Take over what a file holds of these layers, bit for bit."""
        for name, stats in self.named.items():
            self.named[name] = ClassStatistics.load(path, stats.device, stats.classes, name)

    def merge(self, path: Path) -> None:
        """Add what another process has gathered of the same layers, read from its file one layer at a time."""
        for name, stats in self.named.items():
            stats.merge(ClassStatistics.load(path, "cpu", "seen", name))

    def save(self, path: Path) -> None:
        """Write all of them into one file."""
        save_together(self.named, path)


class LayerAgreement:
    """Decisions by the logit lens, counted at inner layers while the head's input is computed.

    Args:
        inner: the model's inner layers; it has a final norm.
        counters: by layer, of the class means behind the final norm.
    """

    def __init__(self, inner: InnerLayers, counters: Mapping[int, Counter]) -> None:
        self.inner, self.counters = inner, counters

    def features(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Pass a batch through the model and count its layers: (B, S) and (B S,) -> the head's input (B, S, D)."""

        def count(layer: int, stream: Tensor) -> None:
            assert self.inner.norm is not None
            self.counters[layer].update(self.inner.norm(stream.flatten(0, 1)), labels)

        return self.inner.features(tokens, count, list(self.counters))


def find_inner_layers(model: FeatureModel, name: str) -> InnerLayers:
    """The inner layers of a model; a `UserError` that names it where they cannot be found."""
    if model.inner_layers is None:
        raise UserError(f"{name}: its blocks cannot be found, so its inner layers are not measured")
    return model.inner_layers()
