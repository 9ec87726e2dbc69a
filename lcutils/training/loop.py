"""Train one GPT-Neo by the paper's recipe, evaluate it, and survive being killed.

`recipe` says what is done, `step` does one step of it. Under `torchrun` the ranks share each batch.

Shapes: B sequences a batch, S tokens a block, D width, V vocabulary.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from lcutils.artifacts import atomic_folder, write_json
from lcutils.errors import UserError
from lcutils.gptneo.loss import prediction_loss
from lcutils.gptneo.model import PRECISIONS, Architecture, GPTNeo, write_model
from lcutils.progress import Progress
from lcutils.training.determinism import deterministic
from lcutils.training.optimizer import ClippedAdamW, FlatParameters
from lcutils.training.recipe import Recipe, epoch_order
from lcutils.training.resume import claim_folder, cut_log, load_state, run_identity, save_state
from lcutils.training.step import TrainingStep, next_tokens, resident, widen

SECONDS_BETWEEN_SAVES = 180.0
SAVE_SHARE = 0.01  # of the time at most
COUNTED = ("done", "seconds", "epoch_seconds", "epoch_loss")  # what the host counts, saved with the state
LOG_EVERY_AT_LEAST = {"cpu": 8, "cuda": 32}  # steps between lines: each makes the host wait for the device
LOG_LINES = 1000  # of a run, about; each is the mean of the steps since the last


def train(
    architecture: Architecture,
    recipe: Recipe,
    train_blocks: np.ndarray,
    validation_blocks: np.ndarray,
    folder: Path,
    *,
    device: torch.device | str,
    log: Path | None = None,
    seconds_between_saves: float = SECONDS_BETWEEN_SAVES,
) -> list[dict[str, Any]]:
    """Train one model; killed anywhere and called again it continues from its last save.

    Writes `folder/checkpoint-{k}/` after each epoch k of `recipe.keep` (a Hugging Face checkpoint with
    `evaluation.json` in it) and `folder/log.jsonl`; `folder/resume/` holds the state until the end.

    Args:
        architecture, recipe: what is trained, and how.
        train_blocks, validation_blocks: (n, S) uint16 or uint32 tokens; read-only memory maps will do.
        folder: of this run alone.
        device: "cpu" or "cuda".
        log: file for lines of progress.
        seconds_between_saves: of the state to resume from; longer where a save takes over 1 % of that.

    Returns:
        One dict for each kept checkpoint: checkpoint, steps, tokens_seen, val_loss (nats), val_accuracy, perplexity,
        train_loss (mean over the steps of its epoch), seconds (of training so far), tokens_per_second.

    Raises:
        UserError: `folder` holds another run, or what is asked for cannot be trained.
    """
    if not len(train_blocks):
        raise UserError("train: no blocks to train on; give more text or a smaller block_size")
    if train_blocks.shape[1] > architecture.positions:
        raise UserError(
            f"block_size: {train_blocks.shape[1]} tokens exceed the model's {architecture.positions} positions; "
            "use shorter blocks"
        )
    exactly = deterministic(recipe.deterministic and torch.device(device).type == "cuda")
    with exactly, _ranks(recipe, torch.device(device)) as (rank, world, on):
        if rank == 0:
            claim_folder(folder, run_identity(architecture, recipe, train_blocks))
        _together()
        if not (finished := _finished(folder, recipe)):
            run = _Run(architecture, recipe, train_blocks, validation_blocks, folder, on, rank, world)
            run.finish(log, seconds_between_saves)
            finished = _finished(folder, recipe)
        assert finished is not None
        return finished


def evaluate(
    features: Callable[[Tensor], Tensor],
    head: Tensor | None,
    blocks: np.ndarray,
    *,
    batch_size: int,
    device: torch.device | str,
) -> dict[str, float]:
    """Validation loss (mean over all predictions, in nats), accuracy and perplexity.

    The paper's losses were computed from fp32 weights without autocast: give features of that precision.

    Args:
        features: (B, S) tokens -> (B, S, D) float32, what the head multiplies, or (B, S, V) logits; on `device`.
        head: (V, D); None where `features` gives logits.
        blocks: (n, S) tokens; a block gives S - 1 predictions.
        batch_size: blocks at a time.
        device: where both are.
    """
    if not len(blocks):
        raise UserError("validation: no blocks to evaluate on; give more validation text or a smaller block_size")
    on = torch.device(device)
    loss = torch.zeros((), dtype=torch.float64, device=on)
    right = torch.zeros((), dtype=torch.float64, device=on)
    with torch.no_grad():
        for begin in range(0, len(blocks), batch_size):
            tokens = widen(resident(np.ascontiguousarray(blocks[begin : begin + batch_size]), on))
            labels = next_tokens(tokens)
            missing = batch_size - len(tokens)
            if missing and on.type == "cuda":  # another shape would be compiled anew
                tokens = torch.nn.functional.pad(tokens, (0, 0, 0, missing))
                labels = torch.nn.functional.pad(labels, (0, 0, 0, missing), value=-1)
            sums = prediction_loss(features(tokens).flatten(0, 1), head, labels.flatten())
            loss += sums[0]
            right += sums[1]
    predictions = len(blocks) * (blocks.shape[1] - 1)
    mean = float(loss) / predictions
    perplexity = math.exp(mean) if mean < 700 else math.inf
    return {"val_loss": mean, "val_accuracy": float(right) / predictions, "perplexity": perplexity}


class _Run:
    """A run in this process: the model, its step, and what the host counts."""

    def __init__(
        self,
        architecture: Architecture,
        recipe: Recipe,
        train_blocks: np.ndarray,
        validation_blocks: np.ndarray,
        folder: Path,
        device: torch.device,
        rank: int,
        world: int,
    ) -> None:
        self.recipe, self.validation_blocks, self.folder = recipe, validation_blocks, folder
        self.device, self.rank = device, rank
        self.blocks, self.block_size = train_blocks.shape
        self.steps_per_epoch = -(-self.blocks // recipe.batch_size)
        self.total_steps = recipe.epochs * self.steps_per_epoch  # of the schedule
        self.last_epoch = max(recipe.keep)  # what follows would be trained for nothing
        self.log_every = max(LOG_EVERY_AT_LEAST[device.type], self.total_steps // LOG_LINES)
        self.model = GPTNeo(architecture, recipe.init_seed)
        self.parameters = FlatParameters(self.model, device, PRECISIONS[recipe.precision])
        self.step = TrainingStep(
            self.parameters,
            ClippedAdamW(self.parameters, recipe.betas, recipe.eps, recipe.weight_decay, recipe.clip_norm),
            resident(train_blocks, device),
            batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            total_steps=self.total_steps,
            history=self.log_every,
            rank=rank,
            world=world,
        )
        self.state = folder / "resume" / "state.safetensors"
        self.done = 0  # steps
        self.seconds = self.epoch_seconds = 0.0  # of training, saves and evaluations left out
        self.epoch_loss = 0.0  # sum over the epoch's steps so far

    def finish(self, log: Path | None, seconds_between_saves: float) -> None:
        """Train from the last save, or from the start, to the end."""
        if self.state.exists():
            self._load()
        if self.rank == 0:
            cut_log(self.folder / "log.jsonl", self.done)
        last_step = (self.last_epoch + 1) * self.steps_per_epoch
        total, wait = (self.last_epoch + 1) * self.blocks * self.block_size, seconds_between_saves
        with Progress(self.folder.name, total, log=log, start=self._tokens()) as progress:
            saved = time.monotonic()
            while self.done < last_step:
                epoch, position = divmod(self.done, self.steps_per_epoch)
                order = epoch_order(self.recipe.seed, epoch, self.blocks)
                self.step.start_epoch(order, self.recipe.batch_size, position)
                self.began = time.monotonic()
                while self.done < (epoch + 1) * self.steps_per_epoch:
                    self.step.run()
                    self.done += 1
                    if self.done % self.log_every == 0 or self.done % self.steps_per_epoch == 0:
                        self._record(epoch, progress)
                        if time.monotonic() - saved > wait and self.done % self.steps_per_epoch:
                            wait = max(seconds_between_saves, self._save() / SAVE_SHARE)
                            saved = self.began = time.monotonic()
                if epoch in self.recipe.keep and self.rank == 0:
                    self._keep(epoch)
                self.epoch_loss = self.epoch_seconds = 0.0
                if self.done < last_step:
                    self._save()
                    saved = time.monotonic()
        _together()
        if self.rank == 0:
            shutil.rmtree(self.state.parent, ignore_errors=True)
        _together()

    def _tokens(self) -> int:
        """Tokens seen so far: every epoch sees every block once, whatever the batches."""
        epoch, position = divmod(self.done, self.steps_per_epoch)
        return (epoch * self.blocks + min(position * self.recipe.batch_size, self.blocks)) * self.block_size

    def _record(self, epoch: int, progress: Progress) -> None:
        """Fetch the losses since the last line, and write a line of their mean."""
        values = self.step.fetch()  # (k, 2); waits for the device, so the clock is right
        elapsed = time.monotonic() - self.began
        self.began += elapsed
        self.seconds += elapsed
        self.epoch_seconds += elapsed
        self.epoch_loss += float(values[:, 0].sum())
        if not np.isfinite(values).all():
            raise UserError(
                f"learning_rate: the loss is no number after step {self.done}; lower {self.recipe.learning_rate}"
            )
        seen = self._tokens()
        line = {
            "step": self.done,
            "epoch": epoch,
            "loss": float(values[:, 0].mean()),
            "lr": self.recipe.learning_rate * (1 - (self.done - 1) / self.total_steps),
            "grad_norm": float(values[-1, 1]),
            "tokens_per_second": (seen - progress.done) / elapsed,
        }
        if self.rank == 0:
            with (self.folder / "log.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
        progress.update(seen - progress.done, loss=line["loss"])

    def _save(self) -> float:
        """Save the state to resume from; returns the seconds it took."""
        if self.rank:
            return 0.0
        facts = {name: getattr(self, name) for name in COUNTED}
        return save_state(self.state, self.parameters, facts)

    def _load(self) -> None:
        for name, value in load_state(self.state, self.parameters).items():
            setattr(self, name, value)
        self.step.start_at(self.done)

    def _keep(self, epoch: int) -> None:
        """Evaluate, and write the epoch's checkpoint with the evaluation in it."""
        batch = max(1, min(self.recipe.batch_size, len(self.validation_blocks)))
        model = self.model  # in fp32, without autocast
        scores = evaluate(model.features, model.head, self.validation_blocks, batch_size=batch, device=self.device)
        record = {
            "checkpoint": epoch,
            "steps": self.done,
            "tokens_seen": self._tokens(),
            **scores,
            "train_loss": self.epoch_loss / self.steps_per_epoch,
            "seconds": self.seconds,
            "tokens_per_second": self.blocks * self.block_size / self.epoch_seconds,
        }
        with atomic_folder(self.folder / f"checkpoint-{epoch}") as aside:
            write_model(self.model, aside)
            write_json(aside / "evaluation.json", record)


def _finished(folder: Path, recipe: Recipe) -> list[dict[str, Any]] | None:
    """The evaluations of all kept checkpoints, or None while the run is unfinished."""
    files = [folder / f"checkpoint-{k}" / "evaluation.json" for k in recipe.keep]
    if (folder / "resume").exists() or not all(file.is_file() for file in files):
        return None
    return [json.loads(file.read_text()) for file in files]


@contextmanager
def _ranks(recipe: Recipe, device: torch.device) -> Iterator[tuple[int, int, torch.device]]:
    """(rank, number of ranks, this rank's device): those of torchrun, or one process alone."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > recipe.batch_size:
        raise UserError(
            f"torchrun: {world} processes cannot share batches of {recipe.batch_size} sequences; start fewer"
        )
    if world == 1:
        yield 0, 1, device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    started_here = not dist.is_initialized()
    if started_here:
        # A rank waits while the first one evaluates, which takes minutes for the largest models.
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=2))
    try:
        yield dist.get_rank(), dist.get_world_size(), device
    finally:
        if started_here:
            dist.destroy_process_group()


def _together() -> None:
    """Wait until all ranks are here."""
    if dist.is_initialized():
        dist.barrier()
