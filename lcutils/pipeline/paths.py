"""Where a study's artifacts lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcutils.errors import UserError
from lcutils.parameters import ROOT, CorpusSettings, Study, is_there, resolve_path
from lcutils.plain import brief, text_of
from lcutils.runs import PretrainedRun
from lcutils.text import one_line

FAILED = ".failed"  # ending of the file in `logs/` that says why a job failed
STAMPS = ".current"  # folder of empty files: an artifact with a stamp needs no work
REQUEST = ".request.json"  # in the study's folder: what the present sweep is asked for


@dataclass(frozen=True)
class Workspace:
    """A study, and the folder that its stages write.

    ```
    data/                       token blocks, tokenizer, token counts
    runs/<run>/checkpoint-<k>/  Hugging Face checkpoints, training log
    statistics/<run>@<k>/       class statistics, head, agreement counts, a record of the point
    measurements/<run>@<k>/     row.json, tokens.parquet, sensitivity.csv
    results.csv  analysis/      table of all rows; figures, tables, report
    notebooks/  logs/           executed notebooks; progress
    ```

    Attributes:
        study: the validated study.
        folder: `<outputs>/<study>`.
        overrides: values that replaced the YAML's, by dotted key.
    """

    study: Study
    folder: Path
    overrides: Mapping[str, Any]

    @property
    def data(self) -> Path:
        """The prepared corpus."""
        return self.folder / "data"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer that the blocks were made with."""
        return self.data / "tokenizer"

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

    def point(self, model: str, checkpoint: int) -> tuple[str, int]:
        """The point, if the study measures it; otherwise a `UserError` that names those it does."""
        run = self.study.run(model)
        # As text, so that True and 1.0 are not taken for 1.
        if str(checkpoint) not in map(str, run.checkpoints):
            kept = one_line(", ".join(map(str, run.checkpoints)))
            raise UserError(
                f"checkpoint: {one_line(run.name)} keeps {kept}, not {brief(checkpoint)}; add it in the study's grid"
            )
        return run.name, int(checkpoint)

    @property
    def corpus(self) -> CorpusSettings:
        """The corpus settings, with local paths made absolute."""
        settings = self.study.corpus
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


def _local(key: str, name: str) -> str:
    """The path that a name leads to, if there is a file or folder; otherwise the name, which may be the hub's.

    Libraries look for a name in the current folder too; what would be found only there is refused.
    """
    path = resolve_path(name)
    if is_there(path) or name.startswith("~"):
        return str(path)
    if is_there(Path(name)):
        raise UserError(
            f"{key}: there is no {one_line(name)} at the repository's root, where relative paths start; write "
            f"{one_line(Path(name).absolute(), 200)}"
        )
    return name
