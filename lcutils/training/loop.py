"""Train one GPT-Neo by the paper's recipe, evaluate it, and survive being killed.

`lcutils.runs.Recipe` says what is done, `step` does one step of it. Under `torchrun` the ranks share each batch.

Shapes: B sequences per batch, S tokens per block, D width, V vocabulary.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lcutils.artifacts import atomic_folder, remove, write_json
from lcutils.errors import UserError
from lcutils.features.batches import blocks_on_device
from lcutils.features.evaluation import evaluate_model
from lcutils.features.models import FeatureModel
from lcutils.gptneo.checkpoint import write_checkpoint
from lcutils.gptneo.determinism import deterministic
from lcutils.gptneo.model import PRECISIONS, GPTNeo
from lcutils.gptneo.trunk import start_compiler, worth_compiling
from lcutils.manifests import claim_folder, read_note, write_manifest
from lcutils.progress import Progress
from lcutils.ranks import barrier, number, process_group
from lcutils.runs import Architecture, Recipe
from lcutils.training.optimizer import ClippedAdamW, FlatParameters
from lcutils.training.resume import (
    LOG,
    OURS,
    check_unfinished,
    is_finished,
    is_spent,
    load_state,
    restore_log,
    run_identity,
    save_state,
)
from lcutils.training.step import TrainingStep, epoch_order

if TYPE_CHECKING:
    import pandas as pd

SECONDS_BETWEEN_SAVES = 180.0
SAVE_SHARE = 0.01  # of the time, at most, goes into saves
# What the host counts, saved with the state.
COUNTED = ("done", "seconds", "compile_seconds", "epoch_seconds", "epoch_tokens", "epoch_loss")
CAPTURE_FROM = 200  # steps: fewer are over sooner than a CUDA graph of one is made
LOG_EVERY_AT_LEAST = {"cpu": 8, "cuda": 32}  # steps between lines: each makes the host wait for the device
LOG_LINES = 1000  # of a run, roughly; each is the mean of the steps since the last


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
    job: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Train one model; if it is killed anywhere and called again, it continues from its last save.

    Writes `folder/checkpoint-{k}/` after each epoch k of `recipe.checkpoints` (a Hugging Face checkpoint with
    `evaluation.json` in it) and `folder/log.jsonl`; `folder/resume/` holds the state until the end.

    Args:
        architecture, recipe: what is trained, and how.
        train_blocks, validation_blocks: (n, S) uint16 or uint32 tokens; also read-only memory maps.
        folder: of this run and nothing else.
        device: "cpu" or "cuda".
        log: file for lines of progress.
        seconds_between_saves: of the state to resume from; longer if a save takes more than 1 % of it.
        job: the values of a study and the inputs' digests, as JSON values, if `folder` is a study's: another job's work
            there is then deleted. The same job's never is, not even if it was begun on another type of device.

    Returns:
        One dict for each kept checkpoint: checkpoint, steps, tokens_seen, val_loss (nats), val_accuracy, perplexity,
        train_loss (mean over the steps of its epoch), seconds (of training so far), compile_seconds (beside them, so
        far) and tokens_per_second (in its epoch, compilation left out; 0 if nothing else was left).

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
    if number() > recipe.batch_size:
        raise UserError(
            f"torchrun: {number()} processes cannot share batches of {recipe.batch_size} sequences; start fewer"
        )
    exactly = deterministic(recipe.deterministic and torch.device(device).type == "cuda")
    with exactly, process_group(torch.device(device)) as (rank, world, on):
        if rank == 0:
            identity = run_identity(architecture, recipe, train_blocks, on) | {"job": job}
            others = job is not None and read_note(folder).get("job") != job
            claim_folder(folder, identity, discard=others, ours=OURS)
            check_unfinished(folder, architecture, recipe, len(train_blocks))
        barrier()
        if not is_finished(folder, recipe):
            trainer = _Trainer(architecture, recipe, train_blocks, validation_blocks, folder, on, rank, world)
            trainer.run(log, seconds_between_saves)
        return Trained(folder, architecture, recipe.checkpoints).checkpoints


class _Trainer:
    """The training of one run in this process: the model, its step, and what the host counts."""

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
        self.last_epoch = max(recipe.checkpoints)  # what follows would be trained for nothing
        self.log_every = max(LOG_EVERY_AT_LEAST[device.type], self.total_steps // LOG_LINES)
        passed = 3 * (self.last_epoch + 1) * train_blocks.size  # tokens; a pass back takes as long as two
        # Without compilation, attention's gradients are sums in any order.
        compiles = recipe.deterministic or worth_compiling(architecture.depth, passed)
        compile_step = device.type == "cuda" and compiles
        # Drawing 200 M weights takes the CPU a second, in which this thread starts the GPU and loads the compiler. The
        # weights come from a generator of their own, so that nothing else can change them.
        with ThreadPoolExecutor(1) as pool:
            drawn = pool.submit(GPTNeo, architecture, recipe.init_seed)
            tokens = blocks_on_device(train_blocks, device)
            if compile_step:
                start_compiler()
            self.model = drawn.result()
        self.parameters = FlatParameters(self.model, device, PRECISIONS[recipe.autocast])
        self.step = TrainingStep(
            self.parameters,
            ClippedAdamW(self.parameters, recipe.betas, recipe.eps, recipe.weight_decay, recipe.clip_norm),
            tokens,
            batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            total_steps=self.total_steps,
            history=self.log_every,
            rank=rank,
            world=world,
            compile_step=compile_step,
            capture=compiles or self.total_steps >= CAPTURE_FROM,
        )
        self.done = 0  # steps
        self.seconds = self.epoch_seconds = 0.0  # of training; compilation, saves and evaluations left out
        self.compile_seconds = 0.0  # of the first steps, in which kernels are compiled and loaded
        self.epoch_tokens = 0  # that went by in epoch_seconds
        self.recorded_tokens = 0  # those that the log's lines tell of
        self.epoch_loss = 0.0  # sum over the epoch's steps so far

    def run(self, log: Path | None, seconds_between_saves: float) -> None:
        """Train from the last save, or from the start, to the end."""
        self._load()
        self.recorded_tokens = self._tokens()
        last_step = (self.last_epoch + 1) * self.steps_per_epoch
        total, wait = (self.last_epoch + 1) * self.blocks * self.block_size, seconds_between_saves
        with Progress("train", total, log=log, start=self._tokens()) as progress:
            saved = time.monotonic()
            if not self.step.is_ready:
                progress.prepare("compiling" if self.step.compile_step else "starting")
            while self.done < last_step:
                epoch, position = divmod(self.done, self.steps_per_epoch)
                order = epoch_order(self.recipe.seed, epoch, self.blocks)
                self.step.start_epoch(order, self.recipe.batch_size, position)
                self.began = time.monotonic()
                while self.done < (epoch + 1) * self.steps_per_epoch:
                    self._step(progress)
                    if self.done % self.log_every == 0 or self.done % self.steps_per_epoch == 0:
                        self._record(epoch, progress)
                        if time.monotonic() - saved > wait and self.done % self.steps_per_epoch:
                            wait = max(seconds_between_saves, self._save() / SAVE_SHARE)
                            saved = self.began = time.monotonic()
                    elif self.device.type == "cpu":  # a step may take half a minute; a GPU lags behind what it is given
                        progress.update(self._tokens() - progress.done)
                kept = epoch in self.recipe.checkpoints and not is_spent(self.folder / f"checkpoint-{epoch}")
                if kept and self.rank == 0:
                    self._write_checkpoint(epoch, log)
                self.epoch_loss = self.epoch_seconds = 0.0
                self.epoch_tokens = 0
                if self.done < last_step:
                    self._save()
                    saved = time.monotonic()
        barrier()
        if self.rank == 0:
            remove(self.folder / "resume")
        barrier()

    def _tokens(self) -> int:
        """Tokens seen so far: every epoch sees every block once, whatever the batches."""
        epoch, position = divmod(self.done, self.steps_per_epoch)
        return (epoch * self.blocks + min(position * self.recipe.batch_size, self.blocks)) * self.block_size

    def _step(self, progress: Progress) -> None:
        """Make a step. The time of the first ones, which compile or load what they run, is counted apart."""
        first = not self.step.is_ready
        self.step.run()
        self.done += 1
        if first:
            torch.cuda.synchronize()
            elapsed = time.monotonic() - self.began
            self.began += elapsed
            self.compile_seconds += elapsed
            progress.begin(self._tokens() - progress.done)
            self.recorded_tokens = self._tokens()

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
        tokens = self._tokens() - self.recorded_tokens
        self.recorded_tokens = self._tokens()
        self.epoch_tokens += tokens
        line = {
            "step": self.done,
            "epoch": epoch,
            "loss": float(values[:, 0].mean()),
            "lr": self.recipe.learning_rate * (1 - (self.done - 1) / self.total_steps),
            "grad_norm": float(values[-1, 1]),
            "tokens_per_second": tokens / elapsed,
        }
        if self.rank == 0:
            with (self.folder / LOG).open("a") as file:
                file.write(json.dumps(line) + "\n")
        progress.update(self._tokens() - progress.done, loss=line["loss"])

    def _save(self) -> float:
        """Save the state to resume from; returns the seconds it took."""
        if self.rank:
            return 0.0
        facts = {name: getattr(self, name) for name in COUNTED}
        return save_state(self.folder, self.parameters, facts)

    def _load(self) -> None:
        facts = load_state(self.folder, self.parameters)
        for name in COUNTED if facts else ():
            setattr(self, name, facts.get(name, 0))  # earlier versions counted less
        if facts:
            self.step.start_at(self.done)
        if self.rank == 0:
            restore_log(self.folder, facts.get("log"))

    def _write_checkpoint(self, epoch: int, log: Path | None) -> None:
        """Evaluate, and write the epoch's checkpoint with the evaluation in it."""
        model = FeatureModel(self.model.features, self.model.head)
        with atomic_folder(self.folder / f"checkpoint-{epoch}") as aside, ThreadPoolExecutor(1) as pool:
            written = pool.submit(write_checkpoint, self.model, aside)  # while the GPU evaluates
            how: dict[str, Any] = {"batch_size": self.recipe.batch_size, "device": self.device, "log": log}
            scores = evaluate_model(model, self.validation_blocks, **how)  # in fp32, without autocast
            written.result()
            record = {
                "checkpoint": epoch,
                "steps": self.done,
                "tokens_seen": self._tokens(),
                **scores,
                "train_loss": self.epoch_loss / self.steps_per_epoch,
                "seconds": self.seconds,
                "compile_seconds": self.compile_seconds,
                "tokens_per_second": self.epoch_tokens / self.epoch_seconds,
            }
            write_json(aside / "evaluation.json", record)
            write_manifest(aside, read_note(self.folder), {}, time.monotonic() - self.seconds, {})


@dataclass(frozen=True)
class Trained:
    """A trained run as files: its checkpoints, their evaluations and its log."""

    folder: Path
    architecture: Architecture
    kept: tuple[int, ...]

    @property
    def checkpoints(self) -> list[dict[str, Any]]:
        """One record per kept checkpoint, as `train` returns them."""
        folders = [self.folder / f"checkpoint-{k}" for k in self.kept]
        return [json.loads((folder / "evaluation.json").read_text()) for folder in folders]

    def log(self) -> pd.DataFrame:
        """The training log, one row every few steps."""
        import pandas as pd

        return pd.read_json(self.folder / LOG, lines=True)
