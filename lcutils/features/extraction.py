"""From token blocks and a model to class statistics (one pass over train) and agreement counts (one over validation).

Shapes: B blocks in a batch, S tokens a block, D features, V classes. The feature of a token is what the head
multiplies; its class is the next token, so a block gives S - 1 labelled features.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from lcutils.collapse import AgreementCounter
from lcutils.errors import NotFiniteError, UserError
from lcutils.features.statistics import ClassStatistics
from lcutils.gptneo.model import PRECISIONS, OtherLayoutError, count_parameters, load_model, tf32
from lcutils.progress import Progress
from lcutils.training.loop import evaluate
from lcutils.training.step import next_tokens

SECONDS_BETWEEN_STATES = 120.0
LOGITS_BYTES = 2**31  # of a batch in float32; transformers holds a few copies of them
STATE = "statistics"


@dataclass
class FeatureModel:
    """A language model cut in two: features up to the head's input, and the head's weights.

    Attributes:
        features: (B, S) integer tokens -> (B, S, D) float32, on the model's device.
        classifier: (V, D) rows w_c of the head. A head's bias, which some models have, is not in it: cosines and
            decisions are then those of the weights alone.
        identity: what was loaded and how, so that a resumed extraction is not continued with another model.
        n_params: of the whole model, tied weights counted once; 0 if unknown.
        logits: (B, S) integer tokens -> (B, S, V) float32, the model's own scores, which a bias, a scale or a soft cap
            may set apart from the head's products; None where they are `features` @ `classifier`ᵀ.
        positions: tokens that a block may have; None where the model has no such limit.
    """

    features: Callable[[Tensor], Tensor]
    classifier: Tensor
    identity: str = ""
    n_params: int = 0
    logits: Callable[[Tensor], Tensor] | None = None
    positions: int | None = None


def load_feature_model(
    name_or_folder: str | Path, *, precision: str = "fp32", device: str | torch.device = "cpu"
) -> FeatureModel:
    """Load a checkpoint for extraction: GPT-Neo by `lcutils.gptneo.model`, any other causal model by transformers.

    Args:
        name_or_folder: a Hugging Face checkpoint folder, or a name on the hub.
        precision: of the trunk's matrix products: "fp32", "tf32" (as fp32 on a CPU), "fp16" or "bf16". Features
            are float32 whatever it is.
        device: "cpu" or "cuda".

    Raises:
        UserError: no such folder, no checkpoint in it, an unknown precision, or a model without an output embedding.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision: {precision!r} is unknown; choose one of {', '.join(PRECISIONS)}")
    name, device = str(name_or_folder), torch.device(device)
    identity = f"{name} {precision}"
    if _model_type(name) == "gpt_neo":
        try:
            model = load_model(name, device)
        except OtherLayoutError as error:
            warnings.warn(f"transformers computes this model, without fast attention ({error})", stacklevel=2)
            return _load_any(name, precision, device, identity)
        return FeatureModel(
            lambda tokens: model.features(tokens, precision),
            model.head.detach(),
            identity,
            count_parameters(model.architecture),
            positions=model.architecture.positions,
        )
    return _load_any(name, precision, device, identity)


def _model_type(name: str) -> str:
    from transformers import AutoConfig

    if name.startswith((".", "/", "~")) and not Path(name).is_dir():
        raise UserError(f"{name}: there is no such folder; train the model first, or give a name on the hub")
    try:
        return str(AutoConfig.from_pretrained(name).model_type)
    except (OSError, ValueError, KeyError) as error:
        raise _no_checkpoint(name, error) from error


def _no_checkpoint(name: str, error: Exception) -> UserError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UserError(f"{name}: no checkpoint can be loaded from it ({reason}); give a folder of save_pretrained")


class _HeadReachedError(Exception):
    """Stops a forward pass in front of the head, whose V logits a token would cost more than most trunks."""

    def __init__(self, features: Tensor) -> None:
        self.features = features


def _stop(_head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    raise _HeadReachedError(inputs[0])


def _load_any(name: str, precision: str, device: torch.device, identity: str) -> FeatureModel:
    from transformers import AutoModelForCausalLM

    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise _no_checkpoint(name, error) from error
    model, info = loaded
    if absent := sorted(set(info["missing_keys"]) & {parameter for parameter, _ in model.named_parameters()}):
        raise UserError(
            f"{name}: the checkpoint lacks {absent[0]}, which would be drawn at random; give a whole causal language "
            "model, its head included"
        )
    head = model.get_output_embeddings()
    if head is None:
        raise UserError(f"{name}: {type(model).__name__} has no output embedding; use a causal language model")
    if getattr(head, "bias", None) is not None:
        warnings.warn(f"{name}: the head has a bias; measurements use its weights alone", UserWarning, stacklevel=3)
    model.to(device).eval()
    half = precision in ("fp16", "bf16")

    def logits(tokens: Tensor) -> Tensor:
        with torch.autocast(device.type, PRECISIONS[precision], enabled=half), tf32(precision == "tf32"):
            return model(input_ids=tokens.long(), use_cache=False).logits.float()

    def features(tokens: Tensor) -> Tensor:
        hook = head.register_forward_pre_hook(_stop)
        try:
            logits(tokens)
        except _HeadReachedError as reached:
            return reached.features.float()
        finally:
            hook.remove()
        raise UserError(f"{name}: {type(model).__name__} does not call its output embedding; features cannot be taken")

    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return FeatureModel(features, head.weight.detach(), identity, model.num_parameters(), logits, positions)


def check_fit(model: FeatureModel, name: str, block_size: int, vocab_size: int) -> None:
    """Raise a `UserError` where the text has more positions or token ids than the model called `name` was made for.

    And where a feature depends on the tokens after it: it would see the class that it is a sample of.
    """
    if model.positions is not None and 0 < model.positions < block_size:  # XLNet says -1 for no limit
        raise UserError(
            f"corpus.block_size: {block_size} tokens exceed the {model.positions} positions of {name}; "
            f"use at most {model.positions}"
        )
    if vocab_size > len(model.classifier):
        raise UserError(
            f"corpus.tokenizer: its {vocab_size} tokens exceed the vocabulary of {name}, {len(model.classifier)}; "
            "use the model's own tokenizer"
        )
    if model.logits is not None:  # our own GPT-Neo is causal
        tokens = torch.zeros(2, min(block_size, 8), dtype=torch.int32, device=model.classifier.device)
        half = tokens.shape[1] // 2
        tokens[1, half:] = 1  # two texts that differ in their second half
        with torch.no_grad():
            one, other = model.features(tokens)[:, :half]
        if (one - other).norm() > 0.01 * one.norm():
            raise UserError(f"{name}: its features see the tokens that follow; use a causal language model")


def evaluate_model(
    model: FeatureModel, blocks: np.ndarray, *, batch_size: int, device: torch.device | str
) -> dict[str, float]:
    """Validation loss, accuracy and perplexity by the model's own logits, as `evaluate` gives them.

    Args:
        model: loaded with precision "fp32".
        blocks: (n, S) tokens.
        batch_size: blocks at a time; fewer where all their logits are held at once and would take too much room.
        device: where the model is.
    """
    if model.logits is None:
        return evaluate(model.features, model.classifier, blocks, batch_size=batch_size, device=device)
    fitting = max(1, LOGITS_BYTES // (4 * blocks.shape[1] * len(model.classifier)))
    return evaluate(model.logits, None, blocks, batch_size=min(batch_size, fitting), device=device)


def _batches(
    blocks: np.ndarray, batch_size: int, device: torch.device, start: int = 0
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield (blocks in it, tokens (B, S) int32, labels (B S,) int32); a label of -1 has no next token.

    On a GPU the last batch is filled up with blocks without labels: another shape would compile the model anew.
    """
    for begin in range(start, len(blocks), batch_size):
        tokens = torch.from_numpy(blocks[begin : begin + batch_size].astype(np.int32))
        if device.type == "cuda":  # pinned, so that the host does not wait for the copy
            tokens = tokens.pin_memory().to(device, non_blocking=True)
        labels, number = next_tokens(tokens), len(tokens)
        if device.type == "cuda" and number < batch_size < len(blocks):
            tokens = nn.functional.pad(tokens, (0, 0, 0, batch_size - number))
            labels = nn.functional.pad(labels, (0, 0, 0, batch_size - number), value=-1)
        yield number, tokens, labels.flatten()


@contextmanager
def overflow_told(name: str, precision: str) -> Iterator[None]:
    """Turn a `NotFiniteError` of the extraction within into a `UserError` that names the model and the mend."""
    try:
        yield
    except NotFiniteError as error:
        mend = "use bf16 or fp32" if precision == "fp16" else "its weights are broken; give another checkpoint"
        raise UserError(f"extraction.precision: features of {name} are not finite in {precision}; {mend}") from error


@torch.no_grad()
def extract_statistics(
    model: FeatureModel,
    blocks: np.ndarray,
    *,
    batch_size: int,
    device: str | torch.device = "cpu",
    covariance: bool = True,
    resume: Path | None = None,
    log: Path | None = None,
) -> ClassStatistics:
    """Statistics of all features of all blocks, in one pass.

    Killed and called again with the same `resume` folder it goes on where it last saved, every two minutes; the
    result has the same bits with the same batch size, and differs by rounding with another.

    Args:
        model: features and head.
        blocks: (n, S) token ids, a memory map for instance.
        batch_size: blocks a batch.
        device: where features are made and counted.
        covariance: keep the pooled within-class covariance too (for `nc1_pinv`).
        resume: folder for the state; it may be absent. It is left in place, complete, for the caller to remove.
        log: file for lines of progress.

    Raises:
        NotFiniteError: features overflowed; told by the next save of the state, or at the end.
    """
    device = torch.device(device)
    classes, dim = model.classifier.shape
    stats = ClassStatistics(classes, dim, covariance=covariance, device=device)
    done, state = 0, None
    if resume is not None:
        state = _State(resume, model, blocks, covariance)
        done, saved = state.load(device)
        stats = saved or stats
    saved_at = time.monotonic()
    size = blocks.shape[1]
    with Progress("extract", len(blocks) * size, log=log, start=done * size) as progress:
        for number, tokens, labels in _batches(blocks, batch_size, device, done):
            stats.update(model.features(tokens).reshape(-1, dim), labels)
            done += number
            progress.update(number * size)
            if state is not None and time.monotonic() - saved_at >= SECONDS_BETWEEN_STATES:
                stats.check_finite()
                state.save(stats, done)
                saved_at = time.monotonic()
    stats.check_finite()
    if state is not None:
        state.save(stats, done)
    return stats


class _State:
    """The statistics so far in one file, whose name says of what they are and how many blocks are in them."""

    def __init__(self, folder: Path, model: FeatureModel, blocks: np.ndarray, covariance: bool) -> None:
        self.folder = folder
        digest = hashlib.sha256(f"{model.identity} {blocks.shape} {covariance}".encode())
        digest.update(model.classifier.detach().float().cpu().numpy().tobytes())
        for block in (blocks[0], blocks[-1]) if len(blocks) else ():
            digest.update(np.ascontiguousarray(block).tobytes())
        self.name = f"{STATE}-{digest.hexdigest()[:16]}"

    def _saved(self) -> list[Path]:
        return sorted(self.folder.glob(f"{self.name}-*.safetensors"))

    def load(self, device: torch.device) -> tuple[int, ClassStatistics | None]:
        """Blocks done and their statistics; (0, None) where nothing of this extraction was saved."""
        for leftover in self.folder.glob(f".{STATE}-*.part.safetensors"):  # of a process killed while it saved
            leftover.unlink()
        saved = self._saved()
        if not saved:
            return 0, None
        return int(saved[-1].stem.rsplit("-", 1)[1]), ClassStatistics.load(saved[-1], device)

    def save(self, stats: ClassStatistics, done: int) -> None:
        """Write the new state, then remove the older ones."""
        target = self.folder / f"{self.name}-{done:012d}.safetensors"
        if not target.exists():
            stats.save(target)
        for older in self._saved():
            if older != target:
                older.unlink()


@torch.no_grad()
def extract_agreement(
    model: FeatureModel,
    blocks: np.ndarray,
    means: Tensor,
    keep: Tensor,
    *,
    batch_size: int,
    device: str | torch.device = "cpu",
    log: Path | None = None,
) -> tuple[Tensor, Tensor]:
    """NC4 over the blocks: per-class hits and totals, (V,) int64 each, as `classifier_agreement` defines them.

    Args:
        model: features and head.
        blocks: (n, S) token ids of text that the model was not trained on.
        means: (V, D) class means of the train text.
        keep: (V,) bool, the kept classes.
        batch_size: blocks a batch.
        device: where the work is done.
        log: file for lines of progress.

    Raises:
        NotFiniteError: features overflowed; told at the end.
    """
    device = torch.device(device)
    counter = AgreementCounter(model.classifier, means, keep, device)
    with Progress("agreement", blocks.size, log=log) as progress:
        for number, tokens, labels in _batches(blocks, batch_size, device):
            counter.update(model.features(tokens).flatten(0, 1), labels)
            progress.update(number * blocks.shape[1])
    return counter.result()


@torch.no_grad()
def extract_mean(
    model: FeatureModel,
    blocks: np.ndarray,
    *,
    batch_size: int,
    device: str | torch.device = "cpu",
    log: Path | None = None,
) -> Tensor:
    """Mean feature over all S positions of all blocks: (D,) float64, for `ood_deviation`.

    Raises:
        ValueError: there is no block, or (`NotFiniteError`) features overflowed.
    """
    if len(blocks) == 0:
        raise ValueError("there is no text to take the mean feature of")
    device = torch.device(device)
    total = torch.zeros(model.classifier.shape[1], dtype=torch.float64, device=device)
    with Progress("mean feature", blocks.size, log=log) as progress:
        for number, tokens, _ in _batches(blocks, batch_size, device):
            total += model.features(tokens)[:number].sum((0, 1), dtype=torch.float64)
            progress.update(number * blocks.shape[1])
    if not total.isfinite().all():
        raise NotFiniteError("the mean feature is not finite")
    return total / blocks.size
