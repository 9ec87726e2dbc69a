"""The five stages, one function each: what a notebook calls, and what a sweep runs as a job.

Every function does nothing where its artifact is complete and current, and returns what a reader wants to look at.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lcutils.artifacts import Job, atomic_folder, atomic_path, content_digest, write_json, write_manifest
from lcutils.collapse import measure_collapse, measure_tokens, ood_deviation
from lcutils.corpus import open_blocks, prepare_corpus, source_digest
from lcutils.devices import reserved_device
from lcutils.errors import UserError
from lcutils.features.extraction import (
    check_fit,
    evaluate_model,
    extract_agreement,
    extract_mean,
    extract_statistics,
    load_feature_model,
    overflow_told,
)
from lcutils.features.statistics import ClassStatistics
from lcutils.gptneo.model import Architecture, count_parameters
from lcutils.parameters import Run, Study
from lcutils.pipeline.paths import Workspace, open_study
from lcutils.training.loop import train
from lcutils.training.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "analyze_study", "extract_point", "load_tokenizer", "measure_point", "open_study", "prepare_data", "train_run",
]  # fmt: skip

RESULT_COLUMNS = [
    "model", "depth", "width", "epochs", "weight_decay", "seed", "checkpoint", "steps", "tokens_seen", "n_params",
    "val_loss", "val_accuracy", "perplexity", "n_classes",
]  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- 1 data


@dataclass(frozen=True)
class Data:
    """Prepared text: blocks of token ids, and how often each token is a label."""

    folder: Path
    summary: dict[str, Any]
    train: np.ndarray  # (blocks, block size)
    validation: np.ndarray  # (blocks, block size)
    counts: np.ndarray  # (2, V): labels in train, in validation


def prepare_data(work: Workspace) -> Data:
    """Stage 1: text to token blocks, tokenizer and token counts, under `data/`."""
    settings, folder = work.corpus, work.data
    job = work.data_job()
    if work.needs_work(job):
        source_digest(settings)  # a text that is not there is told here
        began = time.monotonic()
        with atomic_folder(folder) as aside:
            prepare_corpus(settings, aside, log=work.log("data"))
            write_manifest(aside, job, began, {"seed": settings.seed})
    return open_data(work)


def open_data(work: Workspace) -> Data:
    """What stage 1 has prepared."""
    folder = work.data
    summary = json.loads((folder / "corpus.json").read_text())
    counts = np.load(folder / "counts.npy")
    return Data(folder, summary, open_blocks(folder, "train"), open_blocks(folder, "validation"), counts)


def load_tokenizer(work: Workspace) -> PreTrainedTokenizerBase:
    """The tokenizer that the study's blocks were made with."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(work.data / "tokenizer")


# --------------------------------------------------------------------------------------------------------- 2 train


@dataclass(frozen=True)
class TrainedRun:
    """A trained run: its folder and one record a kept checkpoint."""

    folder: Path
    architecture: Architecture
    checkpoints: list[dict[str, Any]]

    def log(self) -> pd.DataFrame:
        """The training log, a row every few steps."""
        import pandas as pd

        return pd.read_json(self.folder / "log.jsonl", lines=True)


def architecture_of(study: Study, run: Run, vocab_size: int) -> Architecture:
    """The GPT-Neo that a run trains."""
    assert run.depth is not None
    assert run.width is not None
    shared = study.architecture
    return Architecture(
        depth=run.depth,
        width=run.width,
        vocab_size=vocab_size,
        heads=shared.heads,
        positions=shared.positions,
        window=shared.window,
    )


def recipe_of(study: Study, run: Run, device: torch.device) -> Recipe:
    """The training recipe of a run; autocast is for GPUs, the CPU trains in fp32."""
    settings = study.training
    assert run.epochs is not None
    assert run.batch_size is not None
    assert run.weight_decay is not None
    assert run.seed is not None
    return Recipe(
        epochs=run.epochs,
        batch_size=run.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=run.weight_decay,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        clip_norm=settings.clip_norm,
        seed=run.seed,
        init_seed=settings.init_seed,
        precision=settings.autocast if device.type == "cuda" else "fp32",
        deterministic=settings.deterministic,
        keep=run.checkpoints,
    )


def train_run(work: Workspace, model: str) -> TrainedRun:
    """Stage 2: train one run and keep its checkpoints under `runs/<run>/`; a killed one continues."""
    study, run, folder = work.study, work.study.run(model), work.run_folder(model)
    if run.pretrained:
        raise UserError(f"model: {model} is pretrained: there is nothing to train; go on with 03_extract")
    job = work.train_job(model)
    needs_work = work.needs_work(job)
    data = open_data(work)
    architecture = architecture_of(study, run, data.summary["vocab_size"])
    if needs_work:
        first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started, the one that keeps files
        if first:
            _keep_only_if_same(folder, job)
        torch.set_num_threads(study.threads)
        began = time.monotonic()
        with reserved_device(study.device, study.jobs_per_gpu) as device:
            recipe = recipe_of(study, run, device)
            records = train(
                architecture, recipe, data.train, data.validation, folder, device=device, log=work.log(model)
            )
        if not first:
            return TrainedRun(folder, architecture, records)
        for record in records:
            load_tokenizer(work).save_pretrained(folder / f"checkpoint-{record['checkpoint']}")
        digests = {str(k): content_digest(folder / f"checkpoint-{k}") for k in run.checkpoints}
        facts = {
            "device": str(device),
            "seed": run.seed,
            "tokens_per_second": records[-1]["tokens_per_second"],
        }
        write_manifest(folder, job, began, facts | {"checkpoints": digests})
    return TrainedRun(folder, architecture, [_evaluation(folder / f"checkpoint-{k}") for k in run.checkpoints])


def _keep_only_if_same(folder: Path, job: Job) -> None:
    """Empty a folder of unfinished work that another job began; note which job begins or continues it now."""
    note, known = folder / "job.json", {"parameters": job.parameters, "inputs": job.inputs}
    if folder.exists() and not (note.is_file() and json.loads(note.read_text()) == known):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(note, known)


def _evaluation(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / "evaluation.json").read_text())


# ------------------------------------------------------------------------------------------------------- 3 extract


@dataclass(frozen=True)
class Extracted:
    """What one pass over the text leaves of the features."""

    folder: Path
    statistics: ClassStatistics
    agreement: dict[str, np.ndarray]  # hits (V,), totals (V,) over validation; ood_mean (D,) if the study has such text


def extract_point(work: Workspace, model: str, checkpoint: int) -> Extracted:
    """Stage 3: class statistics over train, agreement counts over validation, under `statistics/<run>@<k>/`."""
    study, run, folder = work.study, work.study.run(model), work.statistics(*work.point(model, checkpoint))
    job = work.extract_job(model, checkpoint)
    if work.needs_work(job):
        source = _weights(work, model, checkpoint)
        data, settings = open_data(work), study.extraction
        least = study.measurement.min_count
        if (kept := int((data.counts[0] >= least).sum())) < 2:
            raise UserError(
                f"measurement.min_count: {kept} token types have at least {least} samples in the train text, "
                f"two are needed; use at most {np.sort(data.counts[0])[-2]}"
            )
        resume = folder.with_name(f".{folder.name}.resume")
        _keep_only_if_same(resume, job)
        resumed = len(list(resume.iterdir())) > 1  # more than the note of the job
        torch.set_num_threads(study.threads)
        began = time.monotonic()
        with reserved_device(study.device, study.jobs_per_gpu) as device, atomic_folder(folder) as aside:
            common: dict[str, Any] = {
                "batch_size": settings.blocks_per_batch,
                "device": device,
                "log": work.log(f"{model}@{checkpoint}"),
            }
            precision = settings.precision if device.type == "cuda" else "fp32"
            feature_model = load_feature_model(source, precision=precision, device=device)
            check_fit(feature_model, model, study.corpus.block_size, data.summary["vocab_size"])
            with overflow_told(model, precision):
                statistics = extract_statistics(
                    feature_model, data.train, covariance=settings.covariance, resume=resume / "state", **common
                )
                keep = statistics.counts >= least
                hits, totals = extract_agreement(feature_model, data.validation, statistics.means, keep, **common)
                arrays = {"hits": hits.cpu().numpy(), "totals": totals.cpu().numpy()}
                if study.corpus.ood:
                    ood = open_blocks(work.data, "ood")
                    arrays["ood_mean"] = extract_mean(feature_model, ood, **common).cpu().numpy()
            statistics.save(aside / "statistics.safetensors")
            np.savez(aside / "agreement.npz", **arrays)  # type: ignore[arg-type]  # numpy's stub mistakes the names
            if run.pretrained:
                exact = load_feature_model(source, precision="fp32", device=device)
                scores = evaluate_model(exact, data.validation, batch_size=settings.blocks_per_batch, device=device)
                known = {"n_params": exact.n_params, "width": exact.classifier.shape[1], "depth": _depth(source)}
                write_json(aside / "evaluation.json", scores | known)
            facts: dict[str, Any] = {"device": str(device)}
            if not resumed:  # else an earlier process took a part of the time
                facts["tokens_per_second"] = data.train.size / (time.monotonic() - began)
            write_manifest(aside, job, began, facts)
        shutil.rmtree(resume)
    with np.load(folder / "agreement.npz") as arrays:
        return Extracted(folder, ClassStatistics.load(folder / "statistics.safetensors"), dict(arrays))


def _weights(work: Workspace, model: str, checkpoint: int) -> str:
    """Where a point's weights are, if they are still there."""
    source = work.checkpoint_source(model, checkpoint)
    if work.study.run(model).pretrained is None and not (Path(source) / "model.safetensors").is_file():
        raise UserError(
            f"{work.shown(Path(source))}: its weights were dropped when it was measured (drop_checkpoints); delete "
            f"{work.shown(work.run_folder(model))} and run 02_train with model {model} again"
        )
    return source


def _depth(name: str) -> int:
    """Number of layers of a Hugging Face model, which every configuration names alike."""
    from transformers import AutoConfig

    return int(AutoConfig.from_pretrained(name).num_hidden_layers)


# ------------------------------------------------------------------------------------------------------- 4 measure


@dataclass(frozen=True)
class Measured:
    """The measurements of one checkpoint."""

    folder: Path
    row: dict[str, Any]  # a row of results.csv
    tokens: pd.DataFrame  # a row a kept class
    sensitivity: pd.DataFrame  # a row a min_count

    @classmethod
    def load(cls, folder: Path) -> Measured:
        """Read what `measure_point` wrote."""
        import pandas as pd

        row = json.loads((folder / "row.json").read_text())
        return cls(folder, row, pd.read_parquet(folder / "tokens.parquet"), pd.read_csv(folder / "sensitivity.csv"))


def measure_point(work: Workspace, model: str, checkpoint: int) -> Measured:
    """Stage 4: all measurements of one checkpoint, under `measurements/<run>@<k>/`."""
    study, folder = work.study, work.measurements(*work.point(model, checkpoint))
    job = work.measure_job(model, checkpoint)
    if work.needs_work(job):
        torch.set_num_threads(study.threads)
        began = time.monotonic()
        extracted = extract_point(work, model, checkpoint)
        with reserved_device(study.device, study.jobs_per_gpu) as device, atomic_folder(folder) as aside:
            _measure(work, model, checkpoint, extracted, device, aside)
            write_manifest(aside, job, began, {"device": str(device)})
        if study.drop_checkpoints and not study.run(model).pretrained:
            weights = work.run_folder(model) / f"checkpoint-{checkpoint}" / "model.safetensors"
            weights.unlink(missing_ok=True)
    return Measured.load(folder)


def _measure(
    work: Workspace, model: str, checkpoint: int, extracted: Extracted, device: torch.device, folder: Path
) -> None:
    import pandas as pd

    settings = work.study.measurement
    source = _weights(work, model, checkpoint)
    classifier = load_feature_model(source, precision="fp32", device=device).classifier
    statistics = ClassStatistics.load(extracted.folder / "statistics.safetensors", device=device)
    hits, totals = extracted.agreement["hits"], extracted.agreement["totals"]

    by_count: dict[int, dict[str, Any]] = {}
    for min_count in sorted({settings.min_count, *settings.sensitivity}):
        keep = statistics.counts >= min_count
        if min_count != settings.min_count and int(keep.sum()) < 2:
            continue
        measured = measure_collapse(statistics, classifier, min_count=min_count, riesz_s=settings.riesz_s)
        if "ood_mean" in extracted.agreement:
            ood_mean = torch.from_numpy(extracted.agreement["ood_mean"]).to(device)
            measured["nc5_ood_deviation"] = ood_deviation(statistics.means, keep, ood_mean)
        by_count[min_count] = measured
    names = {"model": model, "checkpoint": checkpoint}
    sensitivity = [names | {"min_count": number} | measured for number, measured in by_count.items()]
    measured = by_count[settings.min_count]
    measured["nc4_agreement"] = float(hits.sum() / totals.sum()) if totals.sum() else float("nan")
    # Counts come as floats from the measurements; in a table they read better as what they are.
    counts = ("n_classes", "nc1_zero_pairs", "coincident_pairs", "central_classes")
    measured |= {key: int(measured[key]) for key in counts}
    write_json(folder / "row.json", _describe_point(work, model, checkpoint) | measured)
    pd.DataFrame(sensitivity).to_csv(folder / "sensitivity.csv", index=False)

    columns = measure_tokens(statistics, classifier, min_count=settings.min_count, neighbours=settings.neighbours)
    ids, nearest = columns["token_id"], columns.pop("nearest")  # (K,), (K, neighbours)
    tokenizer = load_tokenizer(work)
    table = pd.DataFrame(columns)
    table.insert(1, "text", [str(tokenizer.decode([int(i)])) for i in ids])
    table["hits"], table["total"] = hits[ids], totals[ids]
    table["agreement"] = table["hits"] / table["total"].where(table["total"] > 0)
    table["nearest_ids"] = list(nearest)
    table.to_parquet(folder / "tokens.parquet", index=False)


def _describe_point(work: Workspace, model: str, checkpoint: int) -> dict[str, Any]:
    """The columns of results.csv that come before the measurements."""
    run = work.study.run(model)
    if run.pretrained:
        evaluation = _evaluation(work.statistics(model, checkpoint))
        known: dict[str, Any] = {}
    else:
        evaluation = _evaluation(work.run_folder(model) / f"checkpoint-{checkpoint}")
        architecture = architecture_of(work.study, run, open_data(work).summary["vocab_size"])
        known = {key: getattr(run, key) for key in ("depth", "width", "epochs", "weight_decay", "seed")}
        known["n_params"] = count_parameters(architecture)
    values = evaluation | known | {"model": model, "checkpoint": checkpoint}
    return {column: values.get(column) for column in RESULT_COLUMNS if column != "n_classes"}


# ------------------------------------------------------------------------------------------------------- 5 analyze


@dataclass(frozen=True)
class Analysis:
    """The table of all measured points, and the files made from it."""

    results: pd.DataFrame
    tokens: dict[str, pd.DataFrame]  # "model@checkpoint" -> per-token table
    sensitivity: pd.DataFrame | None
    published: pd.DataFrame | None
    paths: dict[str, Path]


def analyze_study(work: Workspace, published: str | list[str] | None = None) -> Analysis:
    """Stage 5: gather all rows into `results.csv`; figures, tables and the report under `analysis/`.

    Args:
        work: the study; points not measured yet are left out, and said so.
        published: published tables to set beside ours; without rows of ours they are analysed by themselves.
    """
    import pandas as pd

    from lcutils.analysis import MEASUREMENTS
    from lcutils.analysis.published import load_published
    from lcutils.report import write_analysis

    study, began = work.study, time.monotonic()
    paths = [published] if isinstance(published, str) else list(published or study.analysis.published)
    tables = [load_published(work.published_table(path)) for path in paths]
    job = work.analyze_job(paths)
    for made in job.before:
        work.refuse_clash(made)
    measured = [point for point, made in zip(study.points, job.before, strict=True) if made.current]
    if missing := len(study.points) - len(measured):
        stale = sum(made.complete for made in job.before) - len(measured)
        which = f"not measured yet{f', or stale ({stale})' if stale else ''}"
        print(f"{missing} of {len(study.points)} points of study {study.name} are {which}", file=sys.stderr)
    if not measured and not tables:
        raise UserError(
            f"{work.shown(work.folder)}: nothing is measured yet; run 01 to 04, or make sweep STUDY={study.name}"
        )

    join = ["model", "checkpoint"]
    both: pd.DataFrame | None = None
    for table in (table.set_index(join) for table in tables):
        both = table if both is None else both.combine_first(table)
    both = None if both is None else both.reset_index()
    tokens: dict[str, pd.DataFrame] = {}
    sensitivity = None
    if measured:
        points = [Measured.load(work.measurements(*point)) for point in measured]
        results = pd.DataFrame([point.row for point in points])
        tokens = {point.folder.name: point.tokens for point in points}
        sensitivity = pd.concat([point.sensitivity for point in points], ignore_index=True)
        keys = [key for key in MEASUREMENTS if key in results]
        rest = [key for key in results if key not in {*RESULT_COLUMNS, *keys}]
        results = results[[*RESULT_COLUMNS, *keys, *rest]]
        with atomic_path(work.results) as aside:
            results.to_csv(aside, index=False)
    else:
        assert both is not None
        results, both = both, None
    with atomic_folder(work.analysis) as aside:
        written = write_analysis(
            results,
            aside,
            title=study.title or study.name,
            settings=study.model_dump(mode="json", exclude={"source"}),
            tokens=tokens or None,
            sensitivity=sensitivity,
            published=both,
        )
        write_manifest(aside, job, began, {})
    final = {name: work.analysis / path.relative_to(aside) for name, path in written.items()}
    return Analysis(results, tokens, sensitivity, both, final)
