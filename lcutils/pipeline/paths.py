"""Where a study's artifacts lie, which of them are current, and how a notebook opens a study."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcutils.artifacts import Job, content_digest, file_digest, read_manifest
from lcutils.corpus import source_digest
from lcutils.errors import UserError
from lcutils.parameters import ROOT, CorpusSettings, Study, load_study, parse_overrides

NOTEBOOK_PARAMETERS = ("study", "model", "checkpoint", "outputs", "overrides", "published")


@dataclass(frozen=True)
class Workspace:
    """A study and the folder that its runs write.

    ```
    data/                       token blocks, tokenizer, token counts
    runs/<run>/checkpoint-<k>/  Hugging Face checkpoints, training log
    statistics/<run>@<k>/       class statistics, agreement counts
    measurements/<run>@<k>/     row.json, tokens.parquet, sensitivity.csv
    results.csv  analysis/      table of all rows; figures, tables, report
    notebooks/  logs/           executed notebooks; progress
    ```
    """

    study: Study
    folder: Path
    overridden: Mapping[str, Any]

    @property
    def data(self) -> Path:
        """The prepared corpus."""
        return self.folder / "data"

    @property
    def analysis(self) -> Path:
        """Figures, tables and report."""
        return self.folder / "analysis"

    @property
    def results(self) -> Path:
        """The table of all rows."""
        return self.folder / "results.csv"

    def run_folder(self, model: str) -> Path:
        """Folder of a trained run."""
        return self.folder / "runs" / model

    def checkpoint_source(self, model: str, checkpoint: int) -> str:
        """Where a point's weights are: a folder, or a hub name for a pretrained model."""
        pretrained = self.study.run(model).pretrained
        if pretrained is None:
            return str(self.run_folder(model) / f"checkpoint-{checkpoint}")
        local = ROOT / Path(pretrained).expanduser()
        return str(local) if local.exists() else pretrained

    def statistics(self, model: str, checkpoint: int) -> Path:
        """Folder of a point's class statistics."""
        return self.folder / "statistics" / f"{model}@{checkpoint}"

    def measurements(self, model: str, checkpoint: int) -> Path:
        """Folder of a point's measurements."""
        return self.folder / "measurements" / f"{model}@{checkpoint}"

    def log(self, job: str) -> Path:
        """Log file of a job."""
        folder = self.folder / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{job}.log"

    def point(self, model: str, checkpoint: int) -> tuple[str, int]:
        """The point, if the study measures it; else a `UserError` that names those it has."""
        kept = self.study.run(model).checkpoints
        if checkpoint not in kept:
            raise UserError(
                f"checkpoint: {model} keeps {', '.join(map(str, kept))}, not {checkpoint}; add it in the study's grid"
            )
        return model, checkpoint

    @property
    def corpus(self) -> CorpusSettings:
        """The corpus settings with local paths, which start at the repository's root, made absolute."""
        settings = self.study.corpus
        found = {
            key: str(ROOT / value)
            for key in ("source", "validation", "tokenizer", "ood")
            if (value := getattr(settings, key)) and value != "built-in" and (ROOT / value).exists()
        }
        return settings.model_copy(update=found)

    def data_job(self) -> Job:
        """What prepares the corpus."""
        try:
            text = source_digest(self.corpus)
        except UserError:  # the text is gone; told by whoever has to read it
            text = None
        return Job(self.data, "01_data", self.study.stage_parameters("data"), {"text": text})

    def train_job(self, model: str) -> Job:
        """What trains a run."""
        data, parameters = self.data_job(), self.study.stage_parameters("train", self.study.run(model))
        made_by, inputs = f"02_train with model {model}", {"data": _content(data)}
        return Job(self.run_folder(model), made_by, parameters, inputs, (data,))

    def extract_job(self, model: str, checkpoint: int) -> Job:
        """What extracts a point's class statistics."""
        data, run = self.data_job(), self.study.run(model)
        weights: str | None
        if run.pretrained:
            source = Path(self.checkpoint_source(model, checkpoint))
            weights, before = content_digest(source) if source.is_dir() else str(source), (data,)
        else:
            train = self.train_job(model)
            weights = (read_manifest(train.folder) or {}).get("checkpoints", {}).get(str(checkpoint))
            before = (train,)
        return Job(
            self.statistics(*self.point(model, checkpoint)),
            f"03_extract with model {model}",
            self.study.stage_parameters("extract", run),
            {"data": _content(data), "checkpoint": weights},
            before,
        )

    def measure_job(self, model: str, checkpoint: int) -> Job:
        """What measures a point."""
        extract = self.extract_job(model, checkpoint)
        return Job(
            self.measurements(model, checkpoint),
            f"04_measure with model {model}",
            self.study.stage_parameters("measure"),
            {"statistics": _content(extract)},
            (extract,),
        )

    def analyze_job(self, published: Iterable[str] | None = None) -> Job:
        """What analyses all points, beside published tables (by default the study's)."""
        tables = self.study.analysis.published if published is None else published
        points = {f"{model}@{k}": self.measure_job(model, k) for model, k in self.study.points}
        inputs = {name: _content(job) for name, job in points.items()}
        inputs |= {f"published table {path}": file_digest(self.published_table(path)) for path in tables}
        parameters = self.study.stage_parameters("analyze")
        return Job(self.analysis, "05_analyze", parameters, inputs, tuple(points.values()), (self.results,))

    def published_table(self, path: str) -> Path:
        """The file of a published table; a relative path starts at the repository's root, or else here."""
        found = ROOT / path if (ROOT / path).is_file() else Path(path)
        if not found.is_file():
            raise UserError(f"published: there is no file {path}; correct the path")
        return found

    def jobs(self, model: str | None = None) -> dict[str, Job]:
        """All jobs but the analysis, or one model's, by the names that a sweep gives them."""
        runs = [self.study.run(model)] if model else list(self.study.runs.values())
        points = [(run.name, checkpoint) for run in runs for checkpoint in run.checkpoints]
        named = {"data": self.data_job()}
        named |= {f"train/{run.name}": self.train_job(run.name) for run in runs if run.pretrained is None}
        named |= {f"extract/{name}@{k}": self.extract_job(name, k) for name, k in points}
        return named | {f"measure/{name}@{k}": self.measure_job(name, k) for name, k in points}

    def shown(self, path: Path) -> str:
        """A path as messages show it: from the repository's root where it lies below."""
        return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)

    def needs_work(self, job: Job) -> bool:
        """True if the artifact is missing or stale.

        Raises:
            UserError: what it is made from is missing or stale itself; or it was made without the override that is
                asked for now. What is computed is not thrown away for a one-off value: that goes to a folder of its
                own.
        """
        if job.current:
            return False
        if first := job.blocked_by:
            why, mend = first.stale or "is not there yet", f"run {first.made_by} first"
            mend += ", or give the overrides that it was made with" if first.stale else ""
            raise UserError(f"{self.shown(first.folder)}: {why}; {mend}")
        self.refuse_clash(job)
        return True

    def refuse_clash(self, job: Job) -> None:
        """Raise a `UserError` if an overridden key differs from what the artifact's manifest says."""
        folder, parameters = job.folder, job.parameters
        made_with = (read_manifest(folder) or {}).get("parameters", {})
        leaves = {key.rpartition(".")[2] for key in self.overridden}
        for key in sorted(leaves | ({"weight_decay"} if "decay" in leaves else set())):
            if key in made_with and made_with[key] != parameters.get(key):
                raise UserError(
                    f"{self.shown(folder)}: was made with {key} = {made_with[key]}, the override says "
                    f"{parameters.get(key)}; name another outputs folder or study for it"
                )

    def check_overrides(self, model: str | None = None) -> None:
        """Refuse overrides that clash with anything computed in this folder, or for one model of it.

        The analysis is left out: it is made again in seconds.
        """
        if self.overridden:
            for job in self.jobs(model).values():
                self.refuse_clash(job)

    def check_pretrained(self) -> None:
        """Refuse a pretrained model's path at which no model can be; a hub name is taken to exist."""
        for name, given in self.study.pretrained.items():
            source = Path(self.checkpoint_source(name, 0))
            looks_local = given.startswith((".", "/", "~")) or given.count("/") > 1
            if (looks_local or source.exists()) and not (source / "config.json").is_file():
                raise UserError(
                    f"pretrained.{name}: {given} is no folder with a config.json; give a folder that save_pretrained "
                    "wrote, or a hub name"
                )


def _content(job: Job) -> str | None:
    """Content digest of an artifact, as recorded when it was made; None where it is absent."""
    return (read_manifest(job.folder) or {}).get("content")


def injected_parameters(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that papermill put into this notebook, from the cell it adds.

    papermill only logs a parameter that the notebook does not know, so unknown ones have to be found here.
    """
    names = [
        target.id
        for source in namespace.get("In", [])
        if source.startswith("# Parameters\n")
        for statement in ast.parse(source).body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    ]
    return {name: namespace[name] for name in names if name not in NOTEBOOK_PARAMETERS}


def open_study(
    study: str | Path,
    outputs: str | Path = "outputs",
    overrides: Mapping[str, Any] | str | Iterable[str] | None = None,
    namespace: Mapping[str, Any] | None = None,
) -> Workspace:
    """Open a study for work.

    Args:
        study: a name in `parameters/`, or the path of a YAML file.
        outputs: folder below which the study's own folder lies; a relative path starts at the repository's root.
        overrides: values that replace the YAML's, as a mapping or as text (`learning_rate=1e-3 max_stories=500`).
        namespace: a notebook's `globals()`; what papermill injected beyond the notebook's own parameters is taken
            as further overrides, so that `papermill … -p learning_rate 1e-3` works and a misspelt name is an error.

    Raises:
        UserError: one line that names the file or key and the mend.
    """
    if namespace is not None:  # transformers' bars look for widgets, which a notebook here does without
        warnings.filterwarnings("ignore", message="IProgress not found")
    pairs = parse_overrides(overrides) | parse_overrides(injected_parameters(namespace or {}))
    loaded = load_study(study, pairs)
    return Workspace(loaded, (ROOT / outputs / loaded.name).resolve(), pairs)
