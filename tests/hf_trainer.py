"""transformers.Trainer on Hugging Face's eager GPT-Neo, driven with our batches: what training is compared to.

Shapes: n blocks of S tokens.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments, default_data_collator
from transformers.utils import logging

from lcutils.gptneo.checkpoint import write_checkpoint
from lcutils.gptneo.model import GPTNeo
from lcutils.runs import Recipe
from lcutils.training.step import epoch_order

logging.set_verbosity_error()
logging.disable_progress_bar()


class Blocks(torch.utils.data.Dataset):
    """(n, S) token blocks as the Trainer takes them."""

    def __init__(self, blocks: np.ndarray) -> None:
        self.blocks = blocks

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = torch.from_numpy(self.blocks[index].astype(np.int64))
        return {"input_ids": tokens, "labels": tokens}


class OurOrder(torch.utils.data.Sampler):
    """Visits the blocks in the order of `epoch_order`, an epoch at a time."""

    def __init__(self, seed: int, blocks: int) -> None:
        self.seed, self.blocks, self.epoch = seed, blocks, 0

    def __len__(self) -> int:
        return self.blocks

    def __iter__(self) -> Iterator[int]:
        order = epoch_order(self.seed, self.epoch, self.blocks)
        self.epoch += 1
        return iter(order.tolist())


class OurTrainer(Trainer):
    """The Trainer with our order of the data; `losses` keeps each step's loss on the device."""

    def __init__(self, seed: int, **arguments) -> None:
        self.our_seed, self.losses = seed, []
        super().__init__(**arguments)
        self.model_accepts_loss_kwargs = False  # the plain mean over predictions; some versions count one label more

    def _get_train_sampler(self, train_dataset=None) -> OurOrder:
        return OurOrder(self.our_seed, len(self.train_dataset))

    def training_step(self, *args, **kwargs) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self.losses.append(loss.detach())
        return loss


class AfterStep(TrainerCallback):
    """Calls a function after every step."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.function()


def hugging_face(model: GPTNeo) -> torch.nn.Module:
    """The same weights in Hugging Face's eager GPT-Neo, fp32."""
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(model, Path(folder))
        return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)


def trainer(
    model: torch.nn.Module, recipe: Recipe, blocks: np.ndarray, folder: Path, *, cpu: bool, after_step=None, steps=-1
) -> OurTrainer:
    """A Trainer that follows `recipe` over `blocks`: the paper's settings, else the Trainer's defaults."""
    settings = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=recipe.epochs,
        max_steps=steps,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        adam_beta1=recipe.betas[0],
        adam_beta2=recipe.betas[1],
        adam_epsilon=recipe.eps,
        max_grad_norm=recipe.clip_norm,
        lr_scheduler_type="linear",
        bf16=recipe.autocast == "bf16",
        seed=recipe.seed,
        use_cpu=cpu,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    if settings.n_gpu > 1:
        settings._n_gpu = 1  # it would spread the batch over all GPUs that it sees
    return OurTrainer(
        recipe.seed,
        model=model,
        args=settings,
        train_dataset=Blocks(blocks),
        data_collator=default_data_collator,
        callbacks=[AfterStep(after_step)] if after_step else None,
    )
