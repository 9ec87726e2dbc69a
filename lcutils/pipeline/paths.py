"""Where a study's artifacts lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcutils.errors import UserError
from lcutils.parameters import ROOT, CorpusSettings, Study
from lcutils.runs import PretrainedRun
from lcutils.text import one_line


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
        return self.folder / "runs" / model

    def checkpoint(self, model: str, checkpoint: int) -> Path:
        """Folder of one checkpoint of a trained run."""
        return self.run_folder(model) / f"checkpoint-{checkpoint}"

    def checkpoint_source(self, model: str, checkpoint: int) -> str:
        """Where a point's weights are: a folder, or a hub name for a pretrained model."""
        run = self.study.run(model)
        if not isinstance(run, PretrainedRun):
            return str(self.checkpoint(model, checkpoint))
        local = ROOT / Path(run.source).expanduser()
        return str(local) if local.exists() else run.source

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
        kept = self.study.run(model).checkpoints
        if checkpoint not in kept:
            raise UserError(
                f"checkpoint: {model} keeps {', '.join(map(str, kept))}, not {checkpoint}; add it in the study's grid"
            )
        return model, checkpoint

    @property
    def corpus(self) -> CorpusSettings:
        """The corpus settings, with local paths that start at the repository's root made absolute."""
        settings = self.study.corpus
        found = {
            key: str(ROOT / value)
            for key in ("source", "validation", "tokenizer", "ood")
            if (value := getattr(settings, key)) and value != "built-in" and (ROOT / value).exists()
        }
        return settings.model_copy(update=found)

    def published_table(self, path: str) -> Path:
        """The file of a published table; a relative path starts at the repository's root, or else here."""
        found = ROOT / path if (ROOT / path).is_file() else Path(path)
        if not found.is_file():
            raise UserError(f"published: there is no file {path}; correct the path")
        return found

    def display(self, path: Path) -> str:
        """A path as messages show it: relative to the repository's root if it lies below."""
        return one_line(str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path))
