"""Studies: YAML files in `parameters/`, validated before any work starts."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from lcutils import paper
from lcutils.errors import UserError
from lcutils.runs import Architecture, PretrainedRun, Recipe, Run, RunName, TrainedRun

ROOT = Path(__file__).resolve().parent.parent  # relative paths in a study start here


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CorpusSettings(_Section):
    """Where the text comes from and how it becomes blocks of tokens."""

    source: str = "built-in"  # "built-in", a file or folder, or the name of a hub dataset
    validation: str | None = None  # path of the validation text, if the source has no split of that name
    validation_share: float = Field(0.05, gt=0, lt=1)  # otherwise: share of stories taken from the end
    text_column: str = "text"
    max_stories: int | None = Field(None, gt=0)
    max_validation_stories: int | None = Field(None, gt=0)
    tokenizer: str = "bpe:4096"  # "bpe:SIZE" trained on the text, a folder with vocab.json and merges.txt, a hub name
    block_size: int = Field(2048, ge=2)
    packing: Literal["paper", "lossless"] = "paper"
    end_of_text: bool = False  # put the end-of-text token after each story
    ood: str | None = None  # out-of-distribution text for NC5: a file, folder or hub dataset
    seed: int = Field(0, ge=0)  # of the built-in generator


class ArchitectureSettings(_Section):
    """What all models of a study share."""

    heads: int = Field(Architecture.heads, gt=0)
    window: int = Field(Architecture.window, gt=0)  # keys that a local layer's query sees, its own included
    positions: int = Field(Architecture.positions, gt=0)


Beta = Annotated[float, Field(ge=0, lt=1)]


class TrainingSettings(_Section):
    """The recipe; the defaults are those of `Recipe`, the paper's."""

    learning_rate: float = Field(Recipe.learning_rate, gt=0)
    batch_size: Literal["paper"] | Annotated[int, Field(gt=0)] = "paper"  # sequences; "paper": by architecture
    decay: dict[str, Annotated[float, Field(ge=0)]] = paper.DECAY  # weight decay by the letter of a run's name
    betas: tuple[Beta, Beta] = Recipe.betas  # of AdamW
    eps: float = Field(Recipe.eps, gt=0)  # of AdamW
    clip_norm: float = Field(Recipe.clip_norm, gt=0)
    init_seed: int = Field(Recipe.init_seed, ge=0)  # of the initial weights; a run's own seed shuffles the data
    autocast: Literal["bf16", "fp32"] = "bf16"  # of matrix products on a GPU; the CPU always trains in fp32
    deterministic: bool = False  # on a GPU: the same bits every time, killed or not; costs 1 to 8 % of the speed


class ExtractionSettings(_Section):
    """How features become class statistics."""

    precision: Literal["fp32", "tf32", "fp16", "bf16"] = "fp16"  # of matrix products on a GPU; the CPU always uses fp32
    blocks_per_batch: int = Field(16, gt=0)
    covariance: bool = True  # the pooled within-class covariance, which nc1_pinv needs


class MeasurementSettings(_Section):
    """What is measured, over which classes."""

    min_count: int = Field(1, ge=1)  # classes with fewer training samples are left out
    riesz_s: float = Field(1.0, gt=0)  # exponent of the Riesz kernel
    sensitivity: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2, 10, 100)  # min_counts of sensitivity.csv
    neighbours: int = Field(5, ge=1)  # nearest class means listed in the per-token table


class AnalysisSettings(_Section):
    """What the analysis needs besides the rows."""

    permutations: int = Field(10_000, ge=1)
    published: tuple[str, ...] = ()  # published tables (CSV) to compare with ours
    names: tuple[str, ...] = paper.FIRST_NAMES  # Table 5


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


_Value = TypeVar("_Value")
OneOrMore = Annotated[tuple[_Value, ...], Field(min_length=1), BeforeValidator(_as_tuple)]


class GridEntry(_Section):
    """A product of values; each field takes one value or a list."""

    depth: OneOrMore[Annotated[int, Field(gt=0)]]
    width: OneOrMore[Annotated[int, Field(gt=0)]]
    epochs: OneOrMore[Annotated[int, Field(gt=0)]]
    decay: OneOrMore[str] = ("d",)
    seed: OneOrMore[Annotated[int, Field(ge=0)] | None] = (None,)
    checkpoints: OneOrMore[Annotated[int, Field(ge=0)]]

    def run_names(self) -> Iterator[RunName]:
        """The names of the product, in order."""
        for values in product(self.depth, self.width, self.epochs, self.decay, self.seed):
            yield RunName(*values)


def _source_alone(value: Any) -> Any:
    return {"source": value} if isinstance(value, str) else value


class _PretrainedFields(_Section):
    source: str  # a checkpoint folder, or a name on the hub
    revision: str | None = None  # branch, tag or commit on the hub


PretrainedModel = Annotated[_PretrainedFields, BeforeValidator(_source_alone)]  # a plain string is its source


class Study(_Section):
    """One study: a YAML file of `parameters/`. `runs` and `points` expand its grid."""

    name: str  # of the YAML file
    source: str = ""  # path of the YAML file
    title: str = ""
    corpus: CorpusSettings = CorpusSettings()
    architecture: ArchitectureSettings = ArchitectureSettings()
    training: TrainingSettings = TrainingSettings()
    extraction: ExtractionSettings = ExtractionSettings()
    measurement: MeasurementSettings = MeasurementSettings()
    analysis: AnalysisSettings = AnalysisSettings()
    grid: tuple[GridEntry, ...] = ()
    pretrained: dict[str, PretrainedModel] = {}  # name -> model to measure as it is
    device: str = "auto"  # "auto" is cuda if available, otherwise cpu; no reason to run anything again
    jobs_per_gpu: int = Field(1, gt=0)  # jobs that share a GPU; short runs leave room for several
    threads: int = Field(1, gt=0)  # CPU threads of a job
    drop_checkpoints: bool = False  # delete a checkpoint's weights once it is measured

    @model_validator(mode="after")
    def _check_grid(self) -> Study:
        if not self.grid and not self.pretrained:
            raise ValueError("grid: is empty; name at least one model to train, or one under pretrained")
        heads = self.architecture.heads
        if self.grid and self.corpus.block_size > self.architecture.positions:
            raise ValueError(
                f"corpus.block_size: {self.corpus.block_size} is more than architecture.positions "
                f"({self.architecture.positions}); shorten the blocks or add positions"
            )
        for number, entry in enumerate(self.grid):
            key = f"grid[{number}]"
            for width in entry.width:
                if width % heads:
                    raise ValueError(
                        f"{key}.width: {width} is not divisible by {heads} heads; use a multiple of {heads}"
                    )
            for letter in entry.decay:
                if letter not in self.training.decay:
                    known = ", ".join(self.training.decay)
                    raise ValueError(f"{key}.decay: {letter!r} is not declared; declare it in training.decay ({known})")
            late = max(entry.checkpoints)
            if late >= min(entry.epochs):
                raise ValueError(
                    f"{key}.checkpoints: {late} is past the last of {min(entry.epochs)} epochs; count from 0"
                )
            if self.training.batch_size == "paper":
                for depth, width in product(entry.depth, entry.width):
                    if (depth, width) not in paper.BATCH_SIZES:
                        raise ValueError(f"training.batch_size: the paper has none for {depth}x{width}; give a number")
        for letter in self.training.decay:
            if not re.fullmatch("[A-Za-z]", letter):
                raise ValueError(
                    f"training.decay.{letter}: is not one letter, as run names such as 02x0064_01d need it"
                )
        trained = {str(name) for entry in self.grid for name in entry.run_names()}
        for name in self.pretrained:
            if not re.fullmatch(r"\w[\w.-]*", name):
                raise ValueError(
                    f"pretrained.{name}: begin with a letter or digit, go on with letters, digits, dots and dashes; "
                    "the name becomes a folder"
                )
            if name in trained:
                raise ValueError(
                    f"pretrained.{name}: is also a run of the grid; give the pretrained model another name"
                )
        if self.pretrained and "tokenizer" not in self.corpus.model_fields_set:
            raise ValueError(
                "corpus.tokenizer: is not given; name the pretrained model's own, its folder or its name on the hub"
            )
        return self

    @cached_property
    def runs(self) -> dict[str, Run]:
        """All runs by name, in the grid's order; entries that name the same run share it."""
        kept: dict[RunName, set[int]] = {}
        for entry in self.grid:
            for name in entry.run_names():
                kept.setdefault(name, set()).update(entry.checkpoints)
        trained = {str(name): self._trained(name, tuple(sorted(checkpoints))) for name, checkpoints in kept.items()}
        return trained | {
            name: PretrainedRun(name, model.source, model.revision) for name, model in self.pretrained.items()
        }

    def _trained(self, name: RunName, checkpoints: tuple[int, ...]) -> TrainedRun:
        recipe = Recipe(
            epochs=name.epochs,
            batch_size=self._batch_size(name.depth, name.width),
            weight_decay=self.training.decay[name.decay],
            seed=paper.SEED if name.seed is None else name.seed,
            checkpoints=checkpoints,
            **self.training.model_dump(exclude={"decay", "batch_size"}),
        )
        return TrainedRun(str(name), name.depth, name.width, **self.architecture.model_dump(), recipe=recipe)

    def _batch_size(self, depth: int, width: int) -> int:
        size = self.training.batch_size
        return paper.BATCH_SIZES[depth, width] if size == "paper" else size

    @property
    def points(self) -> list[tuple[str, int]]:
        """All (run name, checkpoint) that are measured."""
        return [(run.name, checkpoint) for run in self.runs.values() for checkpoint in run.checkpoints]

    def run(self, name: str) -> Run:
        """The run of that name; `UserError` if the grid has none."""
        if name in self.runs:
            return self.runs[name]
        if name not in self.pretrained and "_" in name:
            RunName.parse(name)
        near = difflib.get_close_matches(name, self.runs, n=3, cutoff=0) or list(self.runs)[:3]
        raise UserError(
            f"model: {name} is not in the grid of study {self.name}; add it there, or take {', '.join(near)}"
        )

    def trained_run(self, name: str) -> TrainedRun:
        """The run of that name; `UserError` if the grid has none, or if it is a pretrained model."""
        run = self.run(name)
        if isinstance(run, PretrainedRun):
            raise UserError(f"model: {name} is pretrained: there is nothing to train; go on with 03_extract")
        return run


def leaf_keys(model: type[BaseModel] = Study, prefix: str = "") -> list[str]:
    """Dotted names of all values that can be overridden, such as `training.learning_rate`."""
    keys = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys += leaf_keys(inner, f"{prefix}{name}.")
        elif prefix or name not in ("name", "source"):
            keys.append(prefix + name)
    return keys


def parse_overrides(overrides: Mapping[str, Any] | str | Iterable[str] | None) -> dict[str, Any]:
    """Overrides as dotted keys and values.

    Takes a mapping (as an object or as JSON text), or words such as `learning_rate=1e-3 corpus.max_stories=500`. A key
    may be the last part of a dotted name: no two sections share one.
    """
    if not overrides:
        return {}
    if isinstance(overrides, str) and overrides.lstrip().startswith("{"):
        overrides = _read_override("overrides", overrides)
    if isinstance(overrides, Mapping):
        pairs = {str(key): value for key, value in overrides.items()}
    else:
        try:
            words = shlex.split(overrides) if isinstance(overrides, str) else list(overrides)
        except ValueError as error:
            raise UserError(
                f"overrides: {overrides!r} cannot be split into words ({error}); close what is open in it"
            ) from None
        for word in words:
            if "=" not in word:
                raise UserError(
                    f"overrides: {word!r} is not of the form key=value; write for instance learning_rate=1e-3"
                )
        pairs = {key: _read_override(key, value) for key, value in (word.split("=", 1) for word in words)}
    keys = leaf_keys()
    names = {key.rpartition(".")[2]: key for key in keys}
    dotted = {}
    for key, value in pairs.items():
        whole = key if key in keys else names.get(key)
        if whole is None:
            near = difflib.get_close_matches(key, [*names, *keys], n=1)
            raise UserError(f"{key}: no such parameter{f'; did you mean {near[0]}?' if near else ''}")
        dotted[whole] = value
    return dotted


def _read_override(key: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # a ValueError is that of a date such as 2024-13-01
        raise UserError(f"{key}: {text!r} is neither YAML nor JSON; close or quote what is open in it") from None


def study_path(study: str | Path) -> Path:
    """The YAML file of a study: a path, or a name in `parameters/`."""
    for path in (Path(study), ROOT / study, ROOT / "parameters" / f"{study}.yaml"):
        if path.is_file():
            return path
    known = sorted(path.stem for path in (ROOT / "parameters").glob("*.yaml"))
    raise UserError(f"study: no file {study} and no parameters/{study}.yaml; choose one of {', '.join(known)}")


def load_study(study: str | Path, overrides: Mapping[str, Any] | str | Iterable[str] | None = None) -> Study:
    """Read and validate a study; the file's name is the study's name.

    Raises:
        UserError: one line that names the file, the key and the fix.
    """
    path = study_path(study)
    shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    try:
        values = yaml.safe_load(path.read_bytes()) or {}  # given bytes, YAML itself reports what is not UTF-8
    except (yaml.YAMLError, ValueError) as error:  # a ValueError is that of a date such as 2024-13-01
        raise UserError(f"{shown}: is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{shown}: should hold keys such as corpus and grid, not a {type(values).__name__}")
    for key, value in parse_overrides(overrides).items():
        section, _, leaf = key.rpartition(".")
        place = values
        if section:
            given = values.get(section) or {}
            if not isinstance(given, dict):
                raise UserError(f"{shown}: {section}: should hold keys such as {leaf}, not {given!r}")
            place = values[section] = dict(given)
        place[leaf] = value
    for key in {"name", "source"} & values.keys():
        raise UserError(f"{shown}: {key}: is taken from the file itself; delete the key")
    try:
        return Study.model_validate({"name": path.stem, "source": str(path.resolve()), **values})
    except ValidationError as error:
        raise UserError(f"{shown}: {'; '.join(_explain(problem) for problem in error.errors())}") from None


def _explain(problem: Any) -> str:
    """One validation problem in plain words."""
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    if problem["type"] == "extra_forbidden":
        leaf = str(problem["loc"][-1])
        known = {part for key in leaf_keys() for part in key.split(".")}
        known |= GridEntry.model_fields.keys() | _PretrainedFields.model_fields.keys()
        near = difflib.get_close_matches(leaf, sorted(known), n=1)
        return f"{place}: no such key{f'; did you mean {near[0]}?' if near else ''}"
    if problem["type"] == "missing":
        return f"{place}: is missing; add it"
    if problem["type"] == "model_type":
        return f"{place}: should hold keys and values, not {problem['input']!r}"
    if problem["type"] == "too_short":
        return f"{place}: is empty; give at least one value"
    return f"{place}: {problem['msg'][0].lower()}{problem['msg'][1:]}, not {problem['input']!r}"
