"""Where a study's artifacts lie, which of them are current, and how a notebook opens a study."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcutils.artifacts import MANIFEST, content_digest, is_current, read_manifest
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
        local = ROOT / pretrained
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
            if (value := getattr(settings, key)) is not None and value != "built-in" and (ROOT / value).exists()
        }
        return settings.model_copy(update=found)

    def content(self, folder: Path, made_by: str) -> str:
        """Content digest of a complete artifact; `UserError` naming the notebook that makes it where it is absent."""
        manifest = read_manifest(folder)
        if manifest is None:
            raise UserError(f"{self.shown(folder)}: is not there yet; run {made_by} first")
        return str(manifest["content"])

    def checkpoint_content(self, model: str, checkpoint: int) -> str:
        """Content digest of a point's weights, as recorded when the run was trained."""
        if self.study.run(model).pretrained:
            source = self.checkpoint_source(model, checkpoint)
            return content_digest(Path(source)) if Path(source).is_dir() else source
        folder = self.run_folder(model)
        self.content(folder, f"02_train with model {model}")
        return str((read_manifest(folder) or {})["checkpoints"][str(checkpoint)])

    def shown(self, path: Path) -> str:
        """A path as messages show it: from the repository's root where it lies below."""
        return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)

    def needs_work(self, folder: Path, parameters: dict[str, Any], inputs: dict[str, str]) -> bool:
        """True if the artifact is missing or stale.

        Raises:
            UserError: it was made without the override that is asked for now. What is computed is not thrown away
                for a one-off value: that goes to a folder of its own.
        """
        if is_current(folder, parameters, inputs):
            return False
        self.refuse_clash(folder, parameters)
        return True

    def refuse_clash(self, folder: Path, parameters: dict[str, Any]) -> None:
        """Raise a `UserError` if an overridden key differs from what the folder's manifest says."""
        made_with = (read_manifest(folder) or {}).get("parameters", {})
        leaves = {key.rpartition(".")[2] for key in self.overridden}
        for key in sorted(leaves | ({"weight_decay"} if "decay" in leaves else set())):
            if key in made_with and made_with[key] != parameters.get(key):
                raise UserError(
                    f"{self.shown(folder)}: was made with {key} = {made_with[key]}, the override says "
                    f"{parameters.get(key)}; name another outputs folder or study for it"
                )

    def check_overrides(self) -> None:
        """Refuse overrides that clash with anything computed in this folder, before any work."""
        if not self.overridden:
            return
        study = self.study
        self.refuse_clash(self.data, study.stage_parameters("data"))
        for run in study.runs.values():
            if run.pretrained is None:
                self.refuse_clash(self.run_folder(run.name), study.stage_parameters("train", run))
            for checkpoint in run.checkpoints:
                self.refuse_clash(self.statistics(run.name, checkpoint), study.stage_parameters("extract", run))
                self.refuse_clash(self.measurements(run.name, checkpoint), study.stage_parameters("measure", run))


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


def fingerprint(parameters: dict[str, Any]) -> str:
    """Parameters as one line of text, equal if and only if they are."""
    return json.dumps(parameters, sort_keys=True)


def is_complete(folder: Path) -> bool:
    """True if the artifact's manifest is there."""
    return (folder / MANIFEST).is_file()
