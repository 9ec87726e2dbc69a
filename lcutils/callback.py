"""Neural collapse while `transformers.Trainer` trains a model: a callback that measures at each evaluation."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lcutils.monitor import TOKENS, CollapseMonitor


class CollapseCallback(TrainerCallback):
    """Measures at each evaluation and logs `collapse/nc1_cdnv …` to every logger that the Trainer has.

    The values are those of `CollapseMonitor`, and `collapse/seconds` says what they cost. They are logged by
    `Trainer.log`: TensorBoard, W&B and others receive them, as do the printed lines and `state.log_history`. Loggers of
    transformers put "train/" before names that do not begin with "eval_". Of several evaluation sets each is
    measured, as `collapse/<set>/nc1_cdnv …`; so is a `metric_key_prefix` of one's own.

    Weights, losses and random states of the training are those of a run without the callback.

    Args:
        batches: text to measure, as of `CollapseMonitor`; by default that which the Trainer evaluates on.
        tokens, min_count: as of `CollapseMonitor`.

    Example:
        >>> trainer = Trainer(model, arguments, train_dataset=train, eval_dataset=validation,
        ...                   callbacks=[CollapseCallback(tokens=100_000)])
    """

    def __init__(self, batches: Iterable[Any] | None = None, *, tokens: int = TOKENS, min_count: int = 1) -> None:
        self.batches, self.tokens, self.min_count = batches, tokens, min_count

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measure the model of the Trainer that has just evaluated, and let it log the values."""
        batches = kwargs["eval_dataloader"] if self.batches is None else self.batches
        monitor = CollapseMonitor(kwargs["model"], batches, tokens=self.tokens, min_count=self.min_count)
        values, name = monitor.measure(), _set_name(kwargs["metrics"])
        _calling_trainer().log({key.replace("/", f"/{name}/" if name else "/"): values[key] for key in values})


def _set_name(metrics: dict[str, float]) -> str:
    """The name of the evaluation set: what the Trainer puts before its keys, without "eval"."""
    prefix = next((key.removesuffix("_runtime") for key in metrics if key.endswith("_runtime")), "eval")
    return "" if prefix == "eval" else prefix.removeprefix("eval_")


def _calling_trainer() -> Trainer:
    """The Trainer that called this callback.

    A callback is not told, and loggers, which come before it, have by then seen the evaluation's own values: only
    `Trainer.log` reaches all of them. The Trainer's `evaluate` is always among the callers.
    """
    frame = sys._getframe()
    while not isinstance(trainer := frame.f_locals.get("self"), Trainer):
        if frame.f_back is None:
            raise RuntimeError("CollapseCallback works only in a transformers.Trainer; otherwise use CollapseMonitor")
        frame = frame.f_back
    return trainer
