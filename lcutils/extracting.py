"""Stage 3 in parts: one model, loaded once, goes through the text and the validation text, and leaves a point's files.

`lcutils.stages.extract_point` decides whether there is anything to do, and where the files go.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from lcutils import ranks
from lcutils.collapse.agreement import AgreementCounter
from lcutils.corpus import Data
from lcutils.corpus.tokenization import token_labels
from lcutils.documents import Blocks
from lcutils.errors import UserError
from lcutils.features.evaluation import evaluate_model
from lcutils.features.extracted import BY_PART, PARTS, save_layers, save_rest, save_sums
from lcutils.features.extraction import explain_overflow, extract_agreement, extract_mean, extract_statistics
from lcutils.features.fit import check_fit
from lcutils.features.hub import is_cached
from lcutils.features.layers import LayerAgreement, LayerStatistics, find_inner_layers
from lcutils.features.models import FeatureModel, load_feature_model, load_trained
from lcutils.features.point import describe_pretrained
from lcutils.features.sections import gather_sections, in_parts
from lcutils.features.statistics import ClassStatistics
from lcutils.features.validation_parts import ByPart
from lcutils.pipeline.job import Job
from lcutils.pipeline.jobs import precision_of
from lcutils.pipeline.paths import Workspace
from lcutils.runs import PretrainedRun, Run, TrainedRun
from lcutils.settings import ExtractionSettings


def check_weights(work: Workspace, run: Run, checkpoint: int) -> None:
    """Raise a `UserError` if a trained checkpoint's weights were deleted."""
    if isinstance(run, TrainedRun) and not (work.checkpoint(run.name, checkpoint) / "model.safetensors").is_file():
        raise UserError(
            f"{work.display(work.checkpoint(run.name, checkpoint))}: its weights were deleted once it was measured "
            f"(drop_checkpoints); delete {work.display(work.run_folder(run.name))} and run 02_train with model "
            f"{run.name} again"
        )


@dataclass(frozen=True)
class PointExtraction:
    """The extraction of one point, in one process.

    Attributes:
        work, run, checkpoint: the point.
        data: its blocks.
        job: what decides the result.
        resume: folder that a killed extraction is continued from.
        device: where the work is done.
        folder: that the files go into, which exists; None in a process that is not the first of torchrun's.
    """

    work: Workspace
    run: Run
    checkpoint: int
    data: Data
    job: Job
    resume: Path
    device: torch.device
    folder: Path | None

    def extract(self, facts: dict[str, Any]) -> None:
        """Extract the point; `facts` for its manifest are added."""
        work, run, data, device, folder = self.work, self.run, self.data, self.device, self.folder
        settings = work.study.extraction
        model = self._load_model(facts)
        tokenizer = Tokenizer.from_file(str(data.folder / "tokenizer" / "tokenizer.json"))
        splits = ("train", "validation", "ood") if work.study.corpus.ood else ("train", "validation")
        blocks = [data.blocks(split) for split in splits]
        vocabulary = data.summary["vocab_size"]
        check_fit(model, run.name, blocks, vocabulary, lambda token: token_labels(tokenizer, [token])[0])
        train_text, edges = in_parts(data.train, halve_first=True) if settings.parts else (data.train, None)
        text, validation_edges = in_parts(data.validation) if settings.parts else (data.validation, None)
        common: dict[str, Any] = {"batch_size": settings.blocks_per_batch, "device": device, "log": self._log}
        rows: dict[str, Any] = {
            "classes": torch.from_numpy(data.counts[0]).nonzero()[:, 0],
            "narrow": isinstance(run, PretrainedRun),  # models trained here are small, and keep their bits
        }
        layers = _inner_layers(settings, run, model, {"device": device, **rows})
        with explain_overflow(run.name, model.precision):
            statistics = extract_statistics(
                model,
                train_text,
                covariance=settings.covariance,
                **rows,
                layers=layers,
                resume=self.resume,
                job=self.job.identity,
                rank=ranks.rank(),
                world=ranks.number(),
                edges=edges,
                **common,
            )
            if folder and edges is not None:
                gather_sections(self.resume, train_text, edges, ranks.number(), folder / PARTS)
            if folder:
                save_sums(folder, statistics, model.classifier)
                if layers:
                    save_layers(folder, layers)
                texts = token_labels(tokenizer, statistics.counts.nonzero()[:, 0].tolist())
            counter, lens = self._counter(model, statistics, settings.decisions), layers.lens if layers else {}
            if layers:
                layers.named.clear()  # the memory of the others, for counters
            of_layers = {layer: self._counter(model, lens.pop(layer)) for layer in list(lens)}
            agreement, by_part = _count_agreement(model, text, validation_edges, counter, layers, of_layers, common)
            if not folder:
                return
            if by_part:
                np.savez(folder / BY_PART, **by_part)  # type: ignore[arg-type]  # numpy's stub mistakes the names
            if work.study.corpus.ood:
                agreement["ood_mean"] = extract_mean(model, data.blocks("ood"), **common).cpu().numpy()
        record = {"model": run.name, "checkpoint": self.checkpoint} | self._describe(model)
        save_rest(folder, agreement, texts, record)

    def extract_untrained(self) -> None:
        """Extract the same network with untrained weights beside the point."""
        from lcutils.nulls import build_untrained_model, extract_untrained  # and pandas, which others do not need here

        work, run, data, device = self.work, self.run, self.data, self.device
        model = build_untrained_model(work, run, self.checkpoint, data, self._precision, device)
        narrow = isinstance(run, PretrainedRun)
        extract_untrained(work, model, data, device, self.folder, self.resume, self.job.identity, self._log, narrow)

    @property
    def _log(self) -> Path | None:
        return self.work.log(f"{self.run.name}@{self.checkpoint}") if self.folder else None

    @property
    def _precision(self) -> str:
        precision = precision_of(self.run, self.work.study.extraction.precision)
        return precision if self.device.type == "cuda" or precision == "auto" else "fp32"

    def _load_model(self, facts: dict[str, Any]) -> FeatureModel:
        run, source, tokens = (
            self.run,
            self.work.checkpoint_source(self.run.name, self.checkpoint),
            self.data.train.size,
        )
        if isinstance(run, TrainedRun):
            return load_trained(Path(source), precision=self._precision, device=self.device, tokens=tokens)
        revision = run.revisions[self.checkpoint]
        downloaded = _is_downloaded(source, revision, downloads_note(self.resume))
        model = load_feature_model(
            source,
            precision=self._precision,
            device=self.device,
            revision=revision,
            tokens=tokens,
            trust_remote_code=run.trust_remote_code,
        )
        if model.commit is not None:
            facts |= {"model_commit": model.commit, "downloaded": downloaded}
        return model

    def _counter(self, model: FeatureModel, statistics: ClassStatistics, decisions: bool = False) -> AgreementCounter:
        """A counter of the kept classes' means, those of the first process; the sums' memory is given up."""
        kept = list(statistics.turn_into_means(self.work.study.measurement.min_count))
        if not ranks.is_first():
            kept.clear()
        ids, means = ranks.from_first(*kept, device=self.device)
        about = self.device, self.data.validation.size, model.bias, model.scale, decisions
        return AgreementCounter(model.classifier, means, ids, *about)

    def _describe(self, model: FeatureModel) -> dict[str, Any]:
        """What the point's model is and how well it predicts, as columns of `results.csv`."""
        work, run, data = self.work, self.run, self.data
        record = {"depth": model.depth, "width": model.classifier.shape[1], "n_params": model.n_params}
        if isinstance(run, TrainedRun):
            scores = json.loads((work.checkpoint(run.name, self.checkpoint) / "evaluation.json").read_text())
            columns = ("steps", "tokens_seen", "val_loss", "val_accuracy", "perplexity", "train_loss")
            record |= {key: getattr(run.recipe, key) for key in ("epochs", "weight_decay", "seed")}
            return record | {column: scores[column] for column in columns if column in scores}
        # Nobody has evaluated it on this text.
        batch_size = work.study.extraction.blocks_per_batch
        scores = evaluate_model(model, data.validation, batch_size=batch_size, device=self.device, log=self._log)
        facts = describe_pretrained(run, self.checkpoint, model.family, data.summary, scores)
        if facts["note"]:
            print(f"{run.name}@{self.checkpoint}: {facts['note']}", file=sys.stderr, flush=True)
        return record | facts


def downloads_note(resume: Path) -> Path:
    """The file that says, beside the folder an extraction is continued from, that it has downloaded the weights."""
    return resume.with_suffix(".downloaded")


def _is_downloaded(source: str, revision: str | None, note: Path) -> bool:
    """Whether this extraction, or a killed one that it continues, has to download the weights of a model on the hub."""
    if not Path(source).exists() and not is_cached(source, revision):
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()
    return note.exists()


def _inner_layers(
    settings: ExtractionSettings, run: Run, model: FeatureModel, rows: Mapping[str, Any]
) -> LayerStatistics | None:
    """Empty statistics of the inner layers that were asked for; None where none were, or a line says why not.

    Raises:
        UserError: the model has no such layer.
    """
    if not settings.layers:
        return None
    try:
        inner = find_inner_layers(model, run.name)
    except UserError as error:
        if ranks.is_first():
            print(error, file=sys.stderr, flush=True)
        return None
    layers = range(inner.depth + 1) if settings.layers == "all" else settings.layers
    kinds: dict[str, Any] = {"norm": settings.layers_norm, "covariance": settings.layers_law}
    return LayerStatistics(inner, layers, len(model.classifier), **rows, **kinds, name=run.name)


def _count_agreement(
    model: FeatureModel,
    text: Blocks,
    edges: list[int] | None,
    counter: AgreementCounter,
    layers: LayerStatistics | None,
    of_layers: Mapping[int, AgreementCounter],
    common: Mapping[str, Any],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Hits and totals of each class over validation, of all processes; hits of the weights alone if they may differ.

    Those of inner layers, by the logit lens, are `hits_layer0` …; their totals are the same. And what `ByPart` has
    summed over each part, where `edges` say where they begin and end.
    """
    tally = None if edges is None else ByPart(counter, model, edges)
    inner = LayerAgreement(layers.inner, of_layers) if layers and of_layers else None
    hits, totals = extract_agreement(
        model, text, counter, layers=inner, rank=ranks.rank(), world=ranks.number(), tally=tally, **common
    )
    counts = {"hits": hits, "totals": totals}
    if counter.hits_weights is not hits:
        counts["hits_weights"] = counter.hits_weights
    counts |= {f"decisions_{side}": number for side, number in counter.decisions.items()}
    for layer, of_layer in of_layers.items():
        counts[f"hits_layer{layer}"] = of_layer.result()[0]
        if of_layer.hits_weights is not of_layer.hits:
            counts[f"hits_weights_layer{layer}"] = of_layer.hits_weights
    by_part = tally.sums if tally else {}
    for count in (*counts.values(), *by_part.values()):
        ranks.sum_over_ranks(count)
    as_arrays = ({name: count.cpu().numpy() for name, count in some.items()} for some in (counts, by_part))
    return next(as_arrays), next(as_arrays)
