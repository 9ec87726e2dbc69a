"""The jobs of a study: what each artifact is made from, and whether it is out of date."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lcutils.artifacts import MANIFEST, DigestMemory, content_digest, remove, remove_leftovers
from lcutils.corpus import source_digest, text_digest, tokenizer_digest
from lcutils.errors import UserError
from lcutils.manifests import read_manifest
from lcutils.pipeline.carried import KEPT, as_kept, values_behind
from lcutils.pipeline.clash import refuse_clash
from lcutils.pipeline.job import Job
from lcutils.pipeline.paths import Workspace
from lcutils.runs import PretrainedRun, Run, TrainedRun
from lcutils.settings import Section

INPUTS = ".inputs"  # in a study's folder: digests of text, tokenizers, models and tables, by size and time of the files


def data_job(work: Workspace, model: str | None = None) -> Job:
    """The job that prepares a model's corpus; that of the models trained here if none is named."""
    text = _if_there(work, model, source_digest)
    digests = {
        part: _if_there(work, model, of) for part, of in (("text", text_digest), ("tokenizer", tokenizer_digest))
    }
    parameters = work.settings_of(model).model_dump(mode="json")
    for key, usual in (
        ("layout", "stream"),
        ("beginning_of_text", False),
        ("chat_template", False),
        ("max_tokens", None),
    ):
        if parameters[key] == usual:  # results from before there was such a key are up to date
            del parameters[key]
    folder = work.data_of(model)
    hint = "01_data" + (f" with model {model}" if folder != work.data else "")
    return Job(folder, hint, parameters, {"text": text}, digests=digests)


def _if_there(work: Workspace, model: str | None, digest: Callable[..., str | None]) -> str | None:
    """A digest of a corpus; None where the text is gone. The stage that has to read it reports that."""
    try:
        return digest(work.corpus_of(model), _remembered(work))
    except UserError:
        return None


def check_corpora(work: Workspace) -> dict[str, UserError]:
    """Look at text and tokenizers before any long work: why a corpus cannot be prepared, by its folder's name.

    One that concerns only some pretrained models does not stop the others.

    Raises:
        UserError: no corpus can be prepared, or that of the models trained here cannot.
    """
    problems, unneeded = {}, spared(work)
    for name, owner in work.corpora.items():
        if name not in unneeded and not data_job(work, owner).current:
            try:
                source_digest(work.corpus_of(owner))
            except UserError as error:
                problems[name] = error
    if problems and (len(problems) == len(work.corpora) or (work.study.grid and "data" in problems)):
        raise next(iter(problems.values()))
    return problems


def train_job(work: Workspace, model: str, data: Job | None = None) -> Job:
    """The job that trains a run; `data` is the data job, if it is known already."""
    run, data = work.study.trained_run(model), data or data_job(work)
    recipe = asdict(run.recipe) | {key: list(getattr(run.recipe, key)) for key in ("betas", "checkpoints")}
    shape = {key: getattr(run, key) for key in ("depth", "width", "heads", "positions", "window")}
    parameters = recipe | shape | {"threads": work.study.threads}
    folder, inputs = work.run_folder(model), {"data": _content(data)}
    extracted = [k for k in run.checkpoints if (work.statistics(model, k) / MANIFEST).is_file()]
    trained = Job(folder, f"02_train with model {model}", parameters, inputs, (data,), spare=_weights_of(extracted))
    if not (folder / MANIFEST).is_file():
        return trained
    kept = [k for k in run.checkpoints if k not in extracted and _is_kept(work, model, k, trained)]
    return replace(trained, spare=_weights_of([*extracted, *kept]))


def _weights_of(checkpoints: Iterable[int]) -> tuple[str, ...]:
    return tuple(f"checkpoint-{k}/model.safetensors" for k in checkpoints)


def _is_kept(work: Workspace, model: str, checkpoint: int, trained: Job) -> bool:
    """True if a point's row came from elsewhere and is current, so that nothing needs its weights."""
    if not (read_manifest(work.measurements(model, checkpoint)) or {}).get(KEPT):
        return False
    extracted = extract_job(work, model, checkpoint, trained.upstream[0], trained)
    return measure_job(work, model, checkpoint, extracted).kept


def extract_job(
    work: Workspace, model: str, checkpoint: int, data: Job | None = None, trained: Job | None = None
) -> Job:
    """The job that extracts a point's class statistics; `data` and `trained` are its inputs' jobs, if known already."""
    run, data, study = work.study.run(model), data or data_job(work, model), work.study
    # Agreement is decided over the kept classes, so extraction reads min_count too.
    parameters = _asked(study.extraction, "decisions", "random_network", "parts") | {
        "min_count": study.measurement.min_count,
        "threads": study.threads,
    }
    if not study.extraction.layers:  # results from before there were such keys are up to date
        for key in ("layers", "layers_norm", "layers_law"):
            del parameters[key]
    weights: str | None
    digests: dict[str, str | None] = {}
    if isinstance(run, PretrainedRun):
        parameters |= {"source": run.source, "revision": run.revisions[checkpoint]}
        parameters |= {"trust_remote_code": True} if run.trust_remote_code else {}
        source = work.checkpoint_source(model, checkpoint)
        digests["model"] = content_digest(Path(source), _remembered(work)) if Path(source).is_dir() else None
        weights = digests["model"] or source
        upstream = (data,)
    else:
        parameters["precision"] = precision_of(run, study.extraction.precision)
        trained = trained or train_job(work, model, data)
        weights = (read_manifest(trained.folder) or {}).get("checkpoints", {}).get(str(checkpoint))
        upstream = (trained,)
    folder = work.statistics(*work.point(model, checkpoint))
    inputs = {"data": _content(data), "checkpoint": weights}
    return Job(folder, f"03_extract with model {model}", parameters, inputs, upstream, digests=digests)


def _asked(section: Section, *later: str) -> dict[str, Any]:
    """The values of a section. Of the `later` keys only those that are on: results from before them are up to date."""
    values = section.model_dump(mode="json")
    return {key: value for key, value in values.items() if value or key not in later}


def precision_of(run: Run, asked: str) -> str:
    """The precision of a run's products: "auto" is fp16 for models trained here, and else the checkpoint's own."""
    return "fp16" if asked == "auto" and isinstance(run, TrainedRun) else asked


def resume_folder(extraction: Job) -> Path:
    """Where an extraction keeps what it can be continued from, until it is complete."""
    return extraction.folder.with_name(f".{extraction.folder.name}.resume")


def measure_job(work: Workspace, model: str, checkpoint: int, extracted: Job | None = None) -> Job:
    """The job that measures a point; `extracted` is its input's job, if it is known already."""
    extracted = extracted or extract_job(work, model, checkpoint)
    parameters = _asked(work.study.measurement, "corrected", "spectrum", "nulls") | {"threads": work.study.threads}
    for key in ("settle", "tolerance"):  # how much text is enough decides which is measured, not what is measured on it
        del parameters[key]
    folder, hint = work.measurements(model, checkpoint), f"04_measure with model {model}"
    return as_kept(Job(folder, hint, parameters, {"statistics": _content(extracted)}, (extracted,)))


def analyze_job(work: Workspace, published: Iterable[str] | None = None, jobs: Mapping[str, Job] | None = None) -> Job:
    """The job that analyses all points, beside published tables (by default the study's); `jobs` are all others."""
    settings, jobs = work.study.analysis, jobs or all_jobs(work)
    tables = settings.published if published is None else published
    points = {f"{model}@{k}": jobs[f"measure/{model}@{k}"] for model, k in work.study.points}
    # A row that is out of date is left out now; once it is current, the analysis is made again.
    inputs = {name: _content(job) if job.current else None for name, job in points.items()}
    inputs |= {f"published table {path}": _remembered(work)(work.published_table(path)) for path in tables}
    parameters = settings.model_dump(mode="json")
    if settings.pictures:  # results from before there was such a key are up to date
        del parameters["pictures"]
    return Job(work.analysis, "05_analyze", parameters, inputs, tuple(points.values()), (work.results,))


def _remembered(work: Workspace) -> Callable[[Path], str]:
    """The digest of an input file, from the study's memory of them."""
    memory = DigestMemory(work.folder / INPUTS)

    def digest(path: Path) -> str:
        value = memory.digest(path)
        if work.folder.is_dir():
            memory.save()
        return value

    return digest


def _content(job: Job) -> str | None:
    """Content digest of an artifact, as recorded when it was made; None where it is missing."""
    return (read_manifest(job.folder) or {}).get("content")


def all_jobs(work: Workspace, model: str | None = None) -> dict[str, Job]:
    """All jobs except the analysis, or one model's, by the names that a sweep gives them."""
    runs = [work.study.run(model)] if model else list(work.study.runs.values())
    jobs = {name: data_job(work, owner) for name, owner in work.corpora.items()}
    if model:
        jobs = {name: job for name, job in jobs.items() if name == work.data_of(model).name}
    for run in runs:
        data = jobs[work.data_of(run.name).name]
        trained = train_job(work, run.name, data) if isinstance(run, TrainedRun) else None
        if trained:
            jobs[f"train/{run.name}"] = trained
        for k in run.checkpoints:
            extracted = jobs[f"extract/{run.name}@{k}"] = extract_job(work, run.name, k, data, trained)
            jobs[f"measure/{run.name}@{k}"] = measure_job(work, run.name, k, extracted)
    return jobs


def has_kept(work: Workspace) -> bool:
    """True if a row of the study came from elsewhere."""
    return any((read_manifest(work.measurements(*point)) or {}).get(KEPT) for point in work.study.points)


def spared(work: Workspace) -> frozenset[str]:
    """Names of the jobs that nothing needs: all rows that come from them are kept from elsewhere, and current."""
    if not has_kept(work):
        return frozenset()
    jobs, needed = all_jobs(work), set[str]()
    for model, k in work.study.points:
        if not jobs[f"measure/{model}@{k}"].kept:
            needed |= set(work.jobs_of(model, k))
    return frozenset(name for name, job in jobs.items() if job.stage != "measure" and name not in needed)


def needs_work(work: Workspace, job: Job) -> bool:
    """True if the artifact is missing or out of date.

    Raises:
        UserError: something upstream is missing or out of date; or the artifact was made without the override that is
            asked for now.
    """
    if job.current:
        return False
    if first := job.blocked_by:
        why, fix = first.out_of_date or "does not exist yet", f"run {first.command_hint} first"
        fix += ", or give the overrides that it was made with" if first.out_of_date and not first.damaged else ""
        raise UserError(f"{work.display(first.folder)}: {why}; {fix}")
    refuse_clash(work, job.folder, job.parameters)
    if damaged := job.damaged:
        names = ", ".join(damaged[:3]) + (f" and {len(damaged) - 3} more" if len(damaged) > 3 else "")
        print(f"{work.display(job.folder)}: {names} damaged or missing; made again", file=sys.stderr, flush=True)
    return True


def remove_remains(work: Workspace) -> None:
    """Remove what killed jobs left behind and nothing will continue. No job of the study may be running."""
    remove_leftovers(work.folder)
    for name, job in all_jobs(work).items():
        if name.startswith("extract/") and os.path.lexists(resume_folder(job)) and job.current:
            remove(resume_folder(job))


def check_overrides(work: Workspace, model: str | None = None) -> None:
    """Refuse overrides that clash with anything computed in this folder, or for one model of it.

    The analysis is not checked: it is made again in seconds.
    """
    if work.overrides:
        for job in all_jobs(work, model).values():
            refuse_clash(work, job.folder, job.parameters)
            if job.differs:
                for then, now in values_behind(job):
                    refuse_clash(work, job.folder, now, then)
