"""What two processes of torchrun do for test_monitor.py; each writes what it got into the folder that is named."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from monitor_samples import VOCABULARY, llama, rows, texts
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer, TrainingArguments

from lcutils import ClassStatistics, CollapseCallback, CollapseMonitor

CLASSES, DIM = 9, 3


def share(rank, case):
    """The statistics that a rank begins with."""
    random = torch.Generator().manual_seed(rank)
    features = torch.randn(50, DIM, dtype=torch.float64, generator=random) + 100
    labels = torch.randint(5, (50,), generator=random) + 3 * rank  # classes of one rank, of the other, of both
    stats = ClassStatistics(CLASSES, DIM, covariance=case != "no covariance")
    if case == "float32":
        features = features.float()
    if case == "label out of range" and rank == 1:
        labels[7] = CLASSES + 2
    if not (case == "first has none" and rank == 0) and not (case == "second has none" and rank == 1):
        stats.update(features, labels)
    return stats


def tensors(stats):
    """All that statistics hold, by name."""
    return {name: value for name, value in vars(stats).items() if isinstance(value, torch.Tensor)}


CASES = ("float64", "float32", "no covariance", "first has none", "second has none", "label out of range")


class Stream(IterableDataset):
    """Texts without a length: accelerate lets the first rank read them for all."""

    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


def main(folder):
    """Reduce, measure, train."""
    accelerator = Accelerator(cpu=True)
    rank, said = dist.get_rank(), {}
    for case in CASES:
        stats = share(rank, case)
        stats.all_reduce()
        torch.save(tensors(stats), folder / f"{case}-{rank}.pt")
    try:
        ClassStatistics(CLASSES + rank, DIM).all_reduce()
    except ValueError as error:
        said["other shapes"] = str(error)

    tokens = texts(13)
    wrapped = DistributedDataParallel(llama())
    said["own shares"] = CollapseMonitor(wrapped, list(tokens[rank::2].split(3))).measure()
    said["limited"] = CollapseMonitor(wrapped, list(tokens[rank::2].split(3)), tokens=51).measure()
    prepared = accelerator.prepare(DataLoader(tokens, batch_size=2))
    said["prepared loader"] = CollapseMonitor(wrapped, prepared).measure()
    CollapseMonitor(wrapped, prepared, tokens=10).measure()  # leaves the loader early
    stream = accelerator.prepare(DataLoader(Stream(list(tokens)), batch_size=2))
    said["stream"] = CollapseMonitor(wrapped, stream).measure()
    said["start of the stream"] = CollapseMonitor(wrapped, stream, tokens=70).measure()
    said["loaders in use"] = len(accelerator.gradient_state.dataloader_references) - 1

    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"), max_steps=4, eval_strategy="steps", eval_steps=2, save_strategy="no",
        per_device_train_batch_size=2, per_device_eval_batch_size=2, report_to=[], use_cpu=True, disable_tqdm=True,
        ddp_backend="gloo",
    )  # fmt: skip
    data = {"train_dataset": rows(texts(40, seed=2)), "eval_dataset": rows(tokens)}
    trainer = Trainer(llama(attention_dropout=0.1), arguments, **data, callbacks=[CollapseCallback()])
    trainer.train()
    said["trainer"] = [line for line in trainer.state.log_history if "collapse/nc1_cdnv" in line]
    torch.save(trainer.model.state_dict(), folder / f"trained-{rank}.pt")
    assert trainer.model.config.vocab_size == VOCABULARY
    (folder / f"said-{rank}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
