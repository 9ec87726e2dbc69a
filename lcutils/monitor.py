"""Neural collapse while a language model is trained, in a training loop of one's own; `callback` is for the Trainer.

Shapes: B sequences in a batch, S tokens per sequence, D features, V classes.
"""

from __future__ import annotations

import inspect
import math
import random
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from lcutils.collapse.catalogue import KEYS
from lcutils.collapse.measure import measure_collapse
from lcutils.errors import NotFiniteError, UserError
from lcutils.features.batches import next_tokens
from lcutils.features.head import input_of
from lcutils.features.statistics import ClassStatistics

TOKENS = 100_000


class CollapseMonitor:
    """Measures a causal language model in the middle of its training, and leaves everything as it was.

    The feature of a token is what the head multiplies; its class is the next token. The classes that occur among the
    tokens counted are measured, and only they take memory. The model runs as it does when the loop calls it, in its own
    precision or that of the autocast around `measure`; class sums and measurements are in float64. With few tokens many
    classes are seen once or twice: compare measurements of equally many tokens of one text only.

    Under torch.distributed each rank passes its own share of the text, and all ranks get the values of the whole.

    Args:
        model: any causal language model of transformers, or a module with `get_output_embeddings()` and a forward
            pass that takes `input_ids`; DistributedDataParallel, accelerate's wrappers and torch.compile's are taken
            off. Weights split over ranks (FSDP, ZeRO-3, tensor parallelism) are refused.
        batches: (B, S) tensors of input_ids, or dicts that hold them; gone through from its start at each
            measurement, so a list or a DataLoader. What else a dict holds is passed to the model, except the labels.
            As in transformers' loss, the class of position t is `labels[:, t + 1]` if there are labels, otherwise
            `input_ids[:, t + 1]`; labels of -100 and positions with attention mask 0 are left out.
        tokens: features to count, of all ranks together; fewer where the batches end before.
        min_count: features that a class needs to be measured.

    Raises:
        UserError: a model without an output embedding, or whose head is split or wrapped by an adapter; batches that
            can be gone through only once.

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_positions=32, n_embd=16, n_layer=1, n_head=2))
        >>> monitor = CollapseMonitor(model, [torch.randint(40, (8, 32))], tokens=200)
        >>> values = monitor.measure()
        >>> [key for key in values if "nc3" in key or "seconds" in key]
        ['collapse/nc3_cosine_mean', 'collapse/nc3_duality_error', 'collapse/unc3_cosine_cov', 'collapse/seconds']
    """

    def __init__(self, model: nn.Module, batches: Iterable[Any], *, tokens: int = TOKENS, min_count: int = 1) -> None:
        if isinstance(batches, Iterator):
            raise UserError("batches: a generator ends after one measurement; give a list or a DataLoader")
        self.model, self.batches = _unwrapped(model), batches
        self.tokens, self.min_count = tokens, min_count
        _head_of(self.model)

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """`measure_collapse` of the model as it is now.

        Returns:
            `collapse/<key>` for every key of the catalogue that needs no other text, and `collapse/seconds`, what
            the measurement took. All are nan, with one warning, where features are not finite.

        Raises:
            UserError: no token was counted, a batch without input_ids, or a model that does not call its head.
            ValueError: fewer than two classes have `min_count` features.
        """
        began = time.perf_counter()
        head = _head_of(self.model)
        with _undisturbed(self.model, head.weight.device):
            batches = list(self._share())
            classes = _classes_of([labels for _, labels in batches])
            if len(classes) == 0:
                raise UserError("batches: they hold no token with a next one; give text, or fewer ignored labels")
            if int(classes[-1]) >= len(head.weight):
                raise UserError(f"batches: token {int(classes[-1])} is none of the model's {len(head.weight)}")
            rows = head.weight[classes.to(head.weight.device)]  # (K, D)
            # Apple's mps has no float64.
            stats = ClassStatistics(len(classes), rows.shape[1], device=rows.device if rows.is_cuda else "cpu")
            for inputs, labels in batches:
                self._count(inputs, torch.where(labels < 0, -1, torch.searchsorted(classes, labels)), head, stats)
            with torch.autocast(stats.device.type, enabled=False):
                stats.all_reduce()
                values = self._values(stats, rows)
        values["seconds"] = time.perf_counter() - began
        return {f"collapse/{key}": value for key, value in values.items()}

    def _share(self) -> Iterator[tuple[dict[str, Any], Tensor]]:
        """This rank's batches: inputs, and classes (B, S) int64, negative where none is counted.

        They are read before the first is passed through: only the classes that occur then take memory.
        """
        rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        left = self.tokens // ranks + (rank < self.tokens % ranks)
        batches: Any = self.batches
        # accelerate may let one rank read for all: each of them must then take every batch, counted or not.
        together = type(batches).__name__ == "DataLoaderDispatcher"
        try:
            for batch in batches:
                inputs, labels = _labelled(batch)
                labels[_rows_of_its_own(batches, len(labels), rank) :] = -1
                counted = (labels >= 0).flatten()
                labels.view(-1)[counted.cumsum(0) > left] = -1
                rows = (labels >= 0).any(1)
                if number := int((labels >= 0).sum()):
                    left -= number
                    yield {key: _some(value, rows) for key, value in inputs.items()}, labels[rows].cpu()
                if left == 0 and not together:
                    break
        finally:
            if hasattr(batches, "gradient_state"):  # accelerate takes a loader left open for that of the training,
                batches.end()  # whose end says when gradients are applied

    def _count(self, inputs: dict[str, Any], labels: Tensor, head: Any, stats: ClassStatistics) -> None:
        """One batch: the forward pass up to the head, and its features into the statistics."""
        device = head.weight.device
        inputs = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in inputs.items()}
        features = input_of(head, lambda: self.model(**_keywords(self.model, inputs)))
        if features is None:
            name = type(self.model).__name__
            raise UserError(f"model: {name} does not call its output embedding; features cannot be taken")
        with torch.autocast(stats.device.type, enabled=False):
            stats.update(features.reshape(-1, stats.dim), labels.flatten())

    def _values(self, stats: ClassStatistics, rows: Tensor) -> dict[str, float]:
        """The measurements; nan where the training has left the finite numbers, which must not end it here."""
        try:
            stats.check_finite()
            finite = bool(rows.isfinite().all())
        except NotFiniteError:
            finite = False
        if finite:
            return measure_collapse(stats, rows, min_count=self.min_count)
        warnings.warn("collapse: features or head are not finite; all measurements are nan", RuntimeWarning, 3)
        return dict.fromkeys(KEYS, math.nan)


def _unwrapped(model: nn.Module) -> Any:
    """The model under DistributedDataParallel, torch.compile and the like, which keep it under one of two names."""
    while not hasattr(type(model), "get_output_embeddings"):
        inner = getattr(model, "_orig_mod", getattr(model, "module", None))
        if not isinstance(inner, nn.Module):
            break
        model = inner
    return model


def _head_of(model: Any) -> Any:
    """The output embedding; a `UserError` where there is none whose rows are its weight."""
    name, find = type(model).__name__, getattr(model, "get_output_embeddings", None)
    head = find() if find is not None else None
    if head is None:
        raise UserError(f"model: {name} has no output embedding; use a causal language model")
    if hasattr(head, "base_layer"):  # PEFT's: its weight is that of the base alone
        raise UserError(f"model: an adapter changes the head of {name}; leave the head out of target_modules")
    if head.weight.ndim != 2 or type(head.weight.data).__name__ == "DTensor":
        raise UserError(f"model: the head of {name} is split over ranks; train with DistributedDataParallel")
    return head


def _keywords(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """What of the inputs the forward pass takes, and that it makes no cache of a text to be continued."""
    parameters = inspect.signature(model.forward).parameters
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    taken = {key: value for key, value in inputs.items() if anything or key in parameters}
    if "use_cache" in parameters or (anything and hasattr(getattr(model, "config", None), "use_cache")):
        taken["use_cache"] = False
    return taken


def _labelled(batch: object) -> tuple[dict[str, Any], Tensor]:
    """What is passed to the model, and the class of each position: (B, S) int64, negative where none is counted."""
    inputs = {"input_ids": batch} if isinstance(batch, Tensor) else dict(batch) if isinstance(batch, Mapping) else {}
    tokens = inputs.get("input_ids")
    if not isinstance(tokens, Tensor) or tokens.ndim != 2:
        raise UserError("batches: each must be a (B, S) tensor of input_ids, or a dict that holds one")
    targets = inputs.pop("labels", None)
    labels = next_tokens((tokens if targets is None else targets).long())
    mask = inputs.get("attention_mask")
    if isinstance(mask, Tensor) and mask.shape == tokens.shape:
        seen = mask != 0
        labels[~seen] = -1
        labels[:, :-1][~seen[:, 1:]] = -1
    return inputs, labels


def _classes_of(labels: list[Tensor]) -> Tensor:
    """The classes that occur on any rank: (K,) int64, ascending."""
    own = torch.cat([torch.zeros(0, dtype=torch.int64), *[part.flatten() for part in labels]]).unique()
    every = [own]
    if dist.is_initialized():
        every = [own] * dist.get_world_size()
        dist.all_gather_object(every, own)
    occurring = torch.cat(every).unique()
    return occurring[occurring >= 0]


def _some(value: Any, rows: Tensor) -> Any:
    """The chosen rows, (B,) bool, of a tensor with one row per sequence; anything else as it is."""
    return value[rows.to(value.device)] if isinstance(value, Tensor) and value.shape[:1] == rows.shape else value


def _rows_of_its_own(loader: Any, rows: int, rank: int) -> int:
    """How many of this rank's rows are no repeats: accelerate fills up the last batch, so that all ranks have one."""
    remainder = getattr(loader, "remainder", -1)
    if not getattr(loader, "end_of_dataloader", False) or remainder <= 0:
        return rows
    return min(max(remainder - rank * rows, 0), rows)


@contextmanager
def _undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode within; then modes, random states and what autocast remembers are as before."""
    modes = [(module, module.training) for module in model.modules()]
    states, cached = (random.getstate(), np.random.get_state()), torch.is_autocast_cache_enabled()
    # A hook that comes after compilation is not called: the model runs as it was written.
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    gpu = torch.cuda.device(device) if device.type == "cuda" else nullcontext()  # where NCCL sends from
    with eager, gpu, torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            torch.set_autocast_cache_enabled(False)  # it does not notice that weights were trained
            model.eval()
            yield
        finally:
            model.train(modes[0][1])
            for module, training in modes:
                module.training = training
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_autocast_cache_enabled(cached)
