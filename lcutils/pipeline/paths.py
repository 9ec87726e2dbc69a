"""Where a study's artifacts lie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lcutils.corpus.tokenization import bpe_size
from lcutils.corpus.tokenizer_files import holds_tokenizer
from lcutils.errors import UserError
from lcutils.parameters import ROOT, ROOT_NAME, CorpusSettings, Study, is_there, resolve_path
from lcutils.plain import brief, text_of
from lcutils.runs import PretrainedRun
from lcutils.text import one_line

FAILED = ".failed"  # ending of the file in `logs/` that says why a job failed
ENDED = "error: ended with its sweep; the next one goes on from here"  # said of jobs that did not fail
STAMPS = ".current"  # folder of empty files: an artifact with a stamp needs no work
REQUEST = ".request.json"  # in the study's folder: what the present sweep is asked for


@dataclass(frozen=True)
class Workspace:
    """A study, and the folder that its stages write.

    ```
    data/                       token blocks, tokenizer, token counts; data-<model>/ where its tokenizer is another
    runs/<run>/checkpoint-<k>/  Hugging Face checkpoints, training log
    statistics/<run>@<k>/       class statistics (of inner layers, parts, an untrained network too, if asked for), head,
                                agreement counts, a record of the point
    measurements/<run>@<k>/     row.json, tokens.parquet, sensitivity.csv; nulls.csv, parts.parquet, convergence.csv and
                                layers.parquet, if asked for
    results.csv  analysis/      table of all rows; figures, tables, report
    notebooks/  logs/           executed notebooks; progress
    ```

    Attributes:
        study: the validated study.
        folder: `<outputs>/<study>`.
        overrides: values that replaced the YAML's, by dotted key.
        changed_from: where a notebook's changed values got a folder of their own, the study without them.
    """

    study: Study
    folder: Path
    overrides: Mapping[str, Any]
    changed_from: Workspace | None = None

    @property
    def data(self) -> Path:
        """The prepared corpus of the models trained here, or else of the first pretrained one."""
        return self.folder / "data"

    def data_of(self, model: str | None = None) -> Path:
        """The prepared corpus that a model is given; models share it where nothing in it differs."""
        return self.data if model is None else self.folder / self._owners[self.study.run(model).name]

    @property
    def corpora(self) -> dict[str, str | None]:
        """Name of each folder of prepared text, and the first model that is given it; None for the grid's."""
        found: dict[str, str | None] = {"data": None} if self.study.grid else {}
        for model, folder in self._owners.items():
            found.setdefault(folder, model)
        return found

    @cached_property
    def _owners(self) -> dict[str, str]:
        """The folder of prepared text of each model."""
        folders: dict[str, str] = {}
        if self.study.grid:
            folders[self.settings_of(None).model_dump_json()] = "data"
        owners = {}
        for run in self.study.runs.values():
            if isinstance(run, PretrainedRun):
                given = self.settings_of(run.name).model_dump_json()
                owners[run.name] = folders.setdefault(given, f"data-{run.name}" if folders else "data")
            else:
                owners[run.name] = "data"
        return owners

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
        return self.folder / "runs" / str(model)  # papermill makes a number of a name such as 125

    def checkpoint(self, model: str, checkpoint: int) -> Path:
        """Folder of one checkpoint of a trained run."""
        return self.run_folder(model) / f"checkpoint-{checkpoint}"

    def checkpoint_source(self, model: str, checkpoint: int) -> str:
        """Where a point's weights are: a folder, or a hub name for a pretrained model."""
        run = self.study.run(model)
        if not isinstance(run, PretrainedRun):
            return str(self.checkpoint(model, checkpoint))
        return _local(f"pretrained.{run.name}", run.source)

    def statistics(self, model: str, checkpoint: int) -> Path:
        """Folder of what stage 3 extracts from a point."""
        return self.folder / "statistics" / f"{model}@{checkpoint}"

    def measurements(self, model: str, checkpoint: int) -> Path:
        """Folder of a point's measurements."""
        return self.folder / "measurements" / f"{model}@{checkpoint}"

    def log(self, job: str) -> Path:
        """Log file of a job."""
        folder = self.folder / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{job}.log"

    def point(self, model: str, checkpoint: int | str) -> tuple[str, int]:
        """The point, if the study measures it; otherwise a `UserError` that names those it does."""
        run = self.study.run(model)
        # As text, so that True and 1.0 are not taken for 1.
        if str(checkpoint) not in map(str, run.checkpoints):
            kept = one_line(", ".join(map(str, run.checkpoints)))
            raise UserError(
                f"checkpoint: {one_line(run.name)} keeps {kept}, not {brief(checkpoint)}; add it in the study's grid"
            )
        return run.name, int(checkpoint)

    def points_of(self, names: Iterable[str]) -> list[tuple[str, int]]:
        """The points that names mean: `02x0768_01d@0` is one, `02x0768_01d` all of a run; a `UserError` if none is."""
        found: dict[tuple[str, int], None] = {}
        for name in names:
            model, at, checkpoint = name.rpartition("@")
            if at and name not in self.study.runs:
                found[self.point(model, checkpoint)] = None
            else:
                run = self.study.run(name)
                found |= dict.fromkeys((run.name, k) for k in run.checkpoints)
        return list(found)

    def jobs_of(self, model: str, checkpoint: int) -> tuple[str, str, str, str]:
        """Names of the jobs that a point needs, in their order; a pretrained model has no second one."""
        point = f"{model}@{checkpoint}"
        return self.data_of(model).name, f"train/{model}", f"extract/{point}", f"measure/{point}"

    def settings_of(self, model: str | None = None) -> CorpusSettings:
        """The corpus settings of a model, as the study says them; of the grid, or the first model, if none is named."""
        corpus = self.study.corpus
        if model is None and not self.study.grid:
            model = next(iter(self.study.runs))
        if model is None or not isinstance(run := self.study.run(model), PretrainedRun):
            # Models trained here see the stories alone, as in the paper, if nothing else is asked for.
            return corpus.model_copy(
                update={"beginning_of_text": corpus.beginning_of_text is True, "chat_template": False}
            )
        layout, beginning = self.study.fed(run.name)
        tokenizer = self._tokenizer_of(run)
        if beginning == "auto" and tokenizer == corpus.tokenizer and bpe_size(tokenizer) is not None:
            beginning = False  # one that is trained here adds nothing
        return corpus.model_copy(update={"layout": layout, "beginning_of_text": beginning, "tokenizer": tokenizer})

    def _tokenizer_of(self, run: PretrainedRun) -> str:
        """The name of a pretrained model's tokenizer: the one that the study names for it, or else its own."""
        fields, corpus = self.study.pretrained[run.name], self.study.corpus
        named = "tokenizer" in corpus.model_fields_set
        if fields.tokenizer is not None:
            return fields.tokenizer
        if named and not self.study.grid:
            return corpus.tokenizer
        source = _local(f"pretrained.{run.name}", run.source)
        if named and not holds_tokenizer(source):
            return corpus.tokenizer
        revision = run.revisions[0] if len(run.revisions) == 1 else None
        return f"{run.source}@{revision}" if revision else run.source

    def corpus_of(self, model: str | None = None) -> CorpusSettings:
        """The same, with local paths made absolute."""
        settings = self.settings_of(model)
        given = {key: getattr(settings, key) for key in ("source", "validation", "tokenizer", "ood")}
        found = {key: _local(f"corpus.{key}", name) for key, name in given.items() if name and name != "built-in"}
        return settings.model_copy(update=found)

    def published_table(self, path: str) -> Path:
        """The file of a published table."""
        found = Path(_local("published", text_of("published", path)))
        if not found.is_file():
            raise UserError(f"published: there is no file {one_line(path, 200)}; correct the path")
        return found

    def display(self, path: Path) -> str:
        """A path as messages show it: in one line, relative to the repository's root if it lies below."""
        return one_line(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path, 200)


def notebook_copy(job: str) -> str:
    """The name, without its ending, of the notebook that a sweep's job leaves: `02_train_<run>` of `train/<run>`.

    The Snakefile names them.
    """
    stage, _, name = job.replace("data-", "data/", 1).partition("/") if job.startswith("data") else job.partition("/")
    number = {"data": "01", "train": "02", "extract": "03", "measure": "04", "analyze": "05"}[stage]
    return f"{number}_{stage}_{name}" if name else f"{number}_{stage}"


def _local(key: str, name: str) -> str:
    """The path that a name leads to, if there is a file or folder; otherwise the name, which may be the hub's.

    Libraries look for a name in the current folder too; what would be found only there is refused.
    """
    path = resolve_path(name)
    if is_there(path) or name.startswith("~"):
        return str(path)
    if is_there(Path(name)):
        raise UserError(
            f"{key}: there is no {one_line(name)} at {ROOT_NAME}, where relative paths start; write "
            f"{one_line(Path(name).absolute(), 200)}"
        )
    return name
