"""The five stages, one function each: what a notebook calls, and what a sweep runs as a job.

Each does nothing if its artifact is complete and up to date, and returns what a reader wants to look at.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch

from lcutils import ranks
from lcutils.artifacts import MANIFEST, atomic_path, content_digest, explain_full_disk, remove
from lcutils.collapse.disjoint import compare_parts
from lcutils.collapse.entries import Extra
from lcutils.collapse.layers import measure_layer, prediction_residual
from lcutils.collapse.measure import measure_by_count
from lcutils.collapse.replicates import MeasuredSections
from lcutils.collapse.tokens import measure_tokens
from lcutils.corpus import Data, open_data, prepare_corpus, source_digest
from lcutils.corpus import load_tokenizer as load_tokenizer_of
from lcutils.errors import UserError
from lcutils.extracting import PointExtraction, check_weights, downloads_note
from lcutils.features.extracted import Extracted
from lcutils.features.hub import forget
from lcutils.features.statistics import ClassStatistics
from lcutils.manifests import read_manifest, write_manifest
from lcutils.pipeline.carried import MADE_FROM, made_from
from lcutils.pipeline.clash import refuse_clash
from lcutils.pipeline.job import Job, alone, making
from lcutils.pipeline.jobs import analyze_job, data_job, extract_job, measure_job, needs_work, resume_folder, train_job
from lcutils.pipeline.outcome import failed_points, run_times
from lcutils.pipeline.overrides import open_study
from lcutils.pipeline.paths import Workspace
from lcutils.runs import Architecture, PretrainedRun, Run, TrainedRun
from lcutils.text import csv_text
from lcutils.training.loop import Trained, train
from lcutils.training.resume import is_spent

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerFast

    from lcutils.analysis import Missing
    from lcutils.analysis.rows import Measured
    from lcutils.charts import Figure

__all__ = [
    "analyze_study", "extract_point", "load_tokenizer", "measure_point", "open_study", "prepare_data", "train_run",
]  # fmt: skip

WHOLE = "whole"  # in the manifest of a checkpoint whose weights are dropped: its digest with them


# ---------------------------------------------------------------------------------------------------------- 1 data


def prepare_data(work: Workspace, model: str | None = None) -> Data:
    """Stage 1: text to token blocks, tokenizer and token counts, under `data/`.

    A pretrained model whose tokenizer or layout is another has blocks of its own, under `data-<model>/`.
    """
    job, settings = data_job(work, model), work.corpus_of(model)
    if needs_work(work, job):
        source_digest(settings)  # fail early if the text is missing
        with making(job, {"seed": settings.seed}) as folder:
            prepare_corpus(settings, folder, log=work.log(job.folder.name))
    return open_data(job.folder)


def _lacks_upstream(work: Workspace, job: Job) -> bool:
    """True if what comes before a job is to be made first: of a notebook's changed values, nobody else has made it."""
    if work.changed_from is None or (first := job.blocked_by) is None:
        return False
    if any(first is upstream for upstream in job.upstream):  # else the stage before this one says it
        print(f"{work.display(first.folder)} {first.out_of_date or 'does not exist yet'}; it is made first.")
    return True


def load_tokenizer(work: Workspace, model: str | None = None) -> PreTrainedTokenizerFast:
    """The tokenizer that a model's blocks were made with."""
    return load_tokenizer_of(str(work.data_of(model) / "tokenizer"))


# --------------------------------------------------------------------------------------------------------- 2 train


def train_run(work: Workspace, model: str) -> Trained:
    """Stage 2: train one run and keep its checkpoints under `runs/<run>/`; a killed one continues.

    Under torchrun all processes share each batch, and the first one writes.
    """
    run = work.study.trained_run(model)
    if _lacks_upstream(work, train_job(work, model)):
        prepare_data(work)
    job = train_job(work, model)
    missing, began = needs_work(work, job), time.monotonic()
    data = open_data(work.data)
    architecture = run.architecture(data.summary["vocab_size"])
    if missing:
        with alone(job) if ranks.is_first() else nullcontext():
            _train(work, run, job, architecture, data, began)
    return Trained(job.folder, architecture, run.checkpoints)


def _train(work: Workspace, run: TrainedRun, job: Job, architecture: Architecture, data: Data, began: float) -> None:
    if ranks.is_first():
        for path in (job.folder / name for name in {MANIFEST, *job.damaged}):
            # Training makes again what is missing, and nothing else. A checkpoint may have lost its weights only.
            remove(path.parent if path.name == "model.safetensors" else path)
    with explain_full_disk(job.folder), _device(work) as device:
        recipe, log, blocks = run.recipe_on(device.type), work.log(run.name), data.stream()
        records = train(architecture, recipe, *blocks, job.folder, device=device, log=log, job=job.identity)
        if ranks.is_first():
            facts = {key: records[-1].get(key) for key in ("tokens_per_second", "compile_seconds")}
            facts["device"] = str(device)
            _finish_run(work, run, job, began, facts)


def _finish_run(work: Workspace, run: TrainedRun, job: Job, began: float, facts: dict[str, Any]) -> None:
    """Put the tokenizer beside each checkpoint's weights, and declare the run complete."""
    checkpoints = {str(k): work.checkpoint(run.name, k) for k in run.checkpoints}
    for folder in checkpoints.values():
        shutil.copytree(work.data / "tokenizer", folder, dirs_exist_ok=True)
    facts |= {"seed": run.recipe.seed, "checkpoints": {k: _whole(folder) for k, folder in checkpoints.items()}}
    write_manifest(job.folder, job.parameters, job.inputs, began, facts)


def _whole(checkpoint: Path) -> str:
    """The digest of a checkpoint with its weights; of one that has lost them since, as it was."""
    kept = (read_manifest(checkpoint) or {}).get(WHOLE) if is_spent(checkpoint) else None
    return kept or content_digest(checkpoint)


@contextmanager
def _device(work: Workspace) -> Iterator[torch.device]:
    """A device for one job of the study, and its share of CPU threads."""
    torch.set_num_threads(work.study.threads)
    with ranks.reserved_device(work.study.device, work.study.jobs_per_gpu) as device:
        yield device


# ------------------------------------------------------------------------------------------------------- 3 extract


def extract_point(work: Workspace, model: str, checkpoint: int) -> Extracted:
    """Stage 3: class statistics over train, agreement counts over validation, under `statistics/<run>@<k>/`.

    Under torchrun each process extracts its share of the text, and the first one writes.
    """
    run = work.study.run(model)
    if _lacks_upstream(work, extract_job(work, model, checkpoint)):
        (prepare_data if isinstance(run, PretrainedRun) else train_run)(work, model)
    job = extract_job(work, model, checkpoint)
    if needs_work(work, job):
        check_weights(work, run, checkpoint)
        data, facts = open_data(work.data_of(model)), dict[str, Any]()
        data.check_min_count(work.study.measurement.min_count)
        resume = resume_folder(job)
        resumed, began = resume.exists(), time.monotonic()
        with _device(work) as reserved, ranks.process_group(reserved) as (rank, _, device):
            with making(job, facts) if rank == 0 else nullcontext() as folder:
                point = PointExtraction(work, run, checkpoint, data, job, resume, device, folder)
                point.extract(facts)
                if work.study.extraction.random_network:
                    point.extract_untrained()
                facts["device"] = str(device)
                if not resumed:  # otherwise an earlier process took part of the time
                    facts["tokens_per_second"] = data.train.size / (time.monotonic() - began)
            ranks.barrier()  # the first one has written all
    if ranks.is_first():
        for left in (resume_folder(job), downloads_note(resume_folder(job))):
            remove(left)
    return Extracted.load(job.folder)


# ------------------------------------------------------------------------------------------------------- 4 measure


def measure_point(work: Workspace, model: str, checkpoint: int) -> Measured:
    """Stage 4: all measurements of one checkpoint, under `measurements/<run>@<k>/`. Reads only what stage 3 left."""
    from lcutils.analysis.rows import Measured

    if _lacks_upstream(work, measure_job(work, model, checkpoint)):
        extract_point(work, model, checkpoint)
    job, study = measure_job(work, model, checkpoint), work.study
    if needs_work(work, job):
        facts: dict[str, Any] = {MADE_FROM: made_from(job)}
        with _device(work) as device, making(job, facts) as folder:
            facts["device"] = str(device)
            extracted = Extracted.load(work.statistics(model, checkpoint), device)
            measured = _measure(work, extracted)
            if study.measurement.nulls:
                measured = _with_nulls(work, measured, extracted, device)
            measured.save(folder)
        if study.drop_checkpoints:
            _drop_weights(work, study.run(model), checkpoint)
    return Measured.load(job.folder)


def _drop_weights(work: Workspace, run: Run, checkpoint: int) -> None:
    """Delete a checkpoint's weights; its manifest then lists the files that are left.

    Of a model on the hub, what this study has downloaded is deleted from the cache. A run that was trained again for
    this point has the weights of its other points too: where those are finished, or kept from elsewhere, they go.
    """
    if isinstance(run, PretrainedRun):
        extracted = read_manifest(work.statistics(run.name, checkpoint)) or {}
        if extracted.get("downloaded"):
            forget(run.source, extracted["model_commit"])
        return
    for k in run.checkpoints:
        row, folder = measure_job(work, run.name, k), work.checkpoint(run.name, k)
        if not row.current or row.blocked_by or not (folder / "model.safetensors").exists():
            continue
        manifest, trained = read_manifest(folder), read_manifest(work.run_folder(run.name)) or {}
        (folder / "model.safetensors").unlink()
        if manifest is not None:
            facts = {WHOLE: trained.get("checkpoints", {}).get(str(k))}
            write_manifest(folder, manifest["parameters"], {}, time.monotonic() - manifest["seconds"], facts)


def _measure(work: Workspace, extracted: Extracted) -> Measured:
    from lcutils.analysis.layers import layer_table
    from lcutils.analysis.rows import Measured

    settings, statistics, head = work.study.measurement, extracted.statistics, extracted.head
    extras = [extra for extra in get_args(Extra) if getattr(settings, extra)]
    by_count = measure_by_count(
        statistics,
        head,
        min_counts=[settings.min_count, *settings.sensitivity],
        riesz_s=settings.riesz_s,
        extras=extras,
        ood_mean=extracted.agreement.get("ood_mean"),
    )
    if extracted.parts:
        sections = [partial(ClassStatistics.load, path, statistics.device, "seen") for path in extracted.parts]
        foreign = extracted.agreement.get("ood_mean")
        parts = MeasuredSections(statistics, head, sections, settings.min_count, settings.riesz_s, foreign, extras)
        whole = {"share": 1.0, "samples": int(statistics.counts.sum())} | by_count[settings.min_count]
        without, growing = parts.without_each(), [*parts.growing(), whole]
    tokens = measure_tokens(statistics, head, min_count=settings.min_count, neighbours=settings.neighbours)
    texts = dict(zip(extracted.seen.tolist(), extracted.texts, strict=True))
    measured = Measured.of(extracted.record, by_count, settings.min_count, tokens, texts, extracted.agreement)
    if extracted.parts:
        measured = measured.with_parts(without, extracted.by_part, growing)
        if settings.corrected:
            compared = compare_parts([load() for load in sections], settings.min_count)
            crossed = {key: compared[key] for key in ("noise_ratio", "nc1_quotient_crossed")}
            measured = replace(measured, row=measured.row | crossed)
    if (inner := extracted.inner) is not None:
        common: dict[str, Any] = {"min_count": settings.min_count, "riesz_s": settings.riesz_s}
        values = {layer: measure_layer(*inner.read(layer), head, **common) for layer in inner.layers}
        final = prediction_residual(statistics)
        layers = layer_table(measured.row, final, values, inner.depth, extracted.agreement)
        measured = replace(measured, layers=layers)
    return measured


def _with_nulls(work: Workspace, measured: Measured, extracted: Extracted, device: torch.device) -> Measured:
    """A point's measurements with what they would be without structure, in a table and behind its row."""
    from lcutils.analysis.nulls import null_columns
    from lcutils.nulls import Untrained, measure_nulls

    row = measured.row
    untrained = Untrained.load(work.statistics(row["model"], row["checkpoint"]), device)
    nulls = measure_nulls(measured, extracted, untrained, work.study.measurement)
    return replace(measured, row=row | null_columns(nulls), nulls=nulls)


# ------------------------------------------------------------------------------------------------------- 5 analyze


@dataclass(frozen=True)
class Analysis:
    """The table of all measured points, and what was made from it."""

    results: pd.DataFrame
    tokens: Mapping[str, pd.DataFrame]  # "model@checkpoint" -> per-token table, read when it is asked for
    sensitivity: pd.DataFrame | None
    published: pd.DataFrame | None
    figures: dict[str, Figure]  # by name, such as "figure_1", "by_width_nc1_cdnv"
    tables: dict[str, pd.DataFrame | Missing]  # by name, such as "table_1", "partial_correlations"
    paths: dict[str, Path]  # by place, such as "figures/figure_1.svg"


def analyze_study(work: Workspace, published: str | list[str] | None = None) -> Analysis:
    """Stage 5: gather all rows into `results.csv`; make figures, tables and the report, under `analysis/`.

    Args:
        work: the study; points that are not measured yet are left out, and a line on standard error says so. Where
            a notebook's changed values have no points yet, the study is analysed without them, and a line says so.
        published: published tables to set beside ours; without rows of ours, only they are analysed.

    Raises:
        UserError: nothing is measured yet, and no published table is given.
    """
    import pandas as pd

    from lcutils.analysis.origin import ORIGIN, measured_origin
    from lcutils.analysis.published import load_published_tables
    from lcutils.analysis.rows import (
        TokenTables,
        gather_parts,
        load_all_nulls,
        load_layers,
        load_row,
        load_sensitivity,
        results_table,
    )
    from lcutils.report import write_analysis

    given = [published] if isinstance(published, str) else list(published or work.study.analysis.published)
    theirs = load_published_tables([work.published_table(path) for path in given])
    job = analyze_job(work, given)
    folders = {f"{model}@{k}": work.measurements(model, k) for model, k in _measured_points(work, job)}
    if work.changed_from is not None and not folders:
        print(
            f"Nothing is measured with these overrides yet, so here is {work.display(work.changed_from.folder)} as it "
            "was.\nNotebooks 02 to 04 with the same overrides measure one model. For all of them:\n"
            f"{_sweep_command(work)}"
        )
        return analyze_study(work.changed_from, published)
    if folders:
        results = results_table([load_row(folder) for folder in folders.values()])
        sensitivity = pd.concat([load_sensitivity(folder) for folder in folders.values()], ignore_index=True)
        with atomic_path(work.results) as aside:
            aside.write_text(csv_text(results), encoding="utf-8")
        whose = [measured_origin(read_manifest(folder) or {}) for folder in folders.values()]
        shown = results.assign(**{ORIGIN: whose})
    elif theirs is not None:
        results, sensitivity, shown, theirs = theirs, None, theirs, None
    else:
        raise UserError(
            f"{work.display(work.folder)}: nothing is measured yet; run 01 to 04, or make sweep STUDY={work.study.name}"
        )
    tokens = TokenTables.kept(folders)
    layers = [table for folder in folders.values() if (table := load_layers(folder)) is not None]
    with making(job, {}) as folder:
        report = write_analysis(
            shown,
            folder,
            title=work.study.title or work.study.name,
            settings=work.study.model_dump(mode="json", exclude={"source"}),
            tokens=tokens,
            sensitivity=sensitivity,
            published=theirs,
            nulls=load_all_nulls(folders.values()),
            times=run_times(work) if folders else None,
            parts=gather_parts(folders),
            failures={point: line for point, line in failed_points(work).items() if point not in folders},
            layers=pd.concat(layers, ignore_index=True) if layers else None,
            earlier=[before.analysis for before in (work, work.changed_from) if before is not None],
        )
    paths = {place: job.folder / path.relative_to(folder) for place, path in report.paths.items()}
    return Analysis(results, tokens, sensitivity, theirs, report.figures, report.tables, paths)


def _sweep_command(work: Workspace) -> str:
    """What measures all points with the overrides, in the same folder, from a terminal at the repository's root."""
    words = {
        "STUDY": work.display(Path(work.study.source)),
        "OUTPUTS": work.display(work.folder.parent),
        "SET": json.dumps(dict(work.overrides)),
    }
    return f"make sweep {' '.join(f'{name}={shlex.quote(value)}' for name, value in words.items())}"


def _measured_points(work: Workspace, job: Job) -> list[tuple[str, int]]:
    """The points whose measurements are current; a line on standard error counts the others."""
    for upstream in job.upstream:
        refuse_clash(work, upstream.folder, upstream.parameters)
    points = work.study.points
    measured = [point for point, upstream in zip(points, job.upstream, strict=True) if upstream.current]
    if missing := len(points) - len(measured):
        stale = sum(upstream.complete for upstream in job.upstream) - len(measured)
        which = f"not measured yet{f', or out of date ({stale})' if stale else ''}"
        print(f"{missing} of {len(points)} points of study {work.study.name} are {which}", file=sys.stderr)
    return measured
