"""Studies: YAML files in `parameters/`, validated before any work starts."""

from __future__ import annotations

import difflib
import os
import re
import shlex
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError, model_validator

from lcutils import paper
from lcutils.errors import UserError
from lcutils.plain import MOST_BYTES, NULLS, PlainError, brief, join_problems, plain, read_yaml, text_of
from lcutils.runs import PretrainedRun, Recipe, Run, RunName, TrainedRun, expand_revisions
from lcutils.settings import (
    FEWEST_DRAWS,
    AnalysisSettings,
    ArchitectureSettings,
    CorpusSettings,
    ExtractionSettings,
    GridEntry,
    MeasurementSettings,
    PretrainedFields,
    PretrainedModel,
    Section,
    TrainingSettings,
)
from lcutils.text import one_line

__all__ = [
    "ROOT",
    "ROOT_NAME",
    "SHIPPED",
    "CorpusSettings",
    "Study",
    "is_there",
    "leaf_keys",
    "load_study",
    "parse_overrides",
    "resolve_path",
    "study_path",
]

# Studies, notebooks and the Snakefile: in a checkout they lie beside the package, in a wheel inside it (setup.py).
SHIPPED = Path(__file__).resolve().parent / "shipped"
if SHIPPED.is_dir():
    # The processes of a sweep start in folders of their own, and must find what its user meant.
    ROOT = Path(os.environ.setdefault("LCUTILS_ROOT", str(Path.cwd())))
    ROOT_NAME = "the working directory"
else:
    ROOT = SHIPPED = Path(__file__).resolve().parent.parent
    ROOT_NAME = "the repository's root"
MOST_RUNS = 100_000  # of a study
MOST_NAME_BYTES = 150  # of a study or model: file names have 255, and ours put words around the name


class Study(Section):
    """One study: a YAML file of `parameters/`. `runs` and `points` expand its grid."""

    name: str  # of the YAML file
    source: str = ""  # path of the YAML file
    title: str = ""  # of the report
    corpus: CorpusSettings = CorpusSettings()
    architecture: ArchitectureSettings = ArchitectureSettings()
    training: TrainingSettings = TrainingSettings()
    extraction: ExtractionSettings = ExtractionSettings()
    measurement: MeasurementSettings = MeasurementSettings()
    analysis: AnalysisSettings = AnalysisSettings()
    grid: tuple[GridEntry, ...] = ()  # models to train: a list of entries, each a product of values
    pretrained: dict[str, PretrainedModel] = Field({})  # name -> model to measure as it is
    device: str = "auto"  # "auto" is cuda if available, otherwise cpu; no reason to run anything again
    # Jobs that share a GPU; short runs leave room for several. Where several do, a sweep on this machine runs NVIDIA's
    # MPS, if it is installed, so that jobs run at once; without it they take turns.
    jobs_per_gpu: int = Field(1, gt=0, le=1024)
    threads: int = Field(1, gt=0, le=1024)  # CPU threads of a job
    drop_checkpoints: bool = False  # delete a checkpoint's weights once it is measured

    @model_validator(mode="after")
    def _check_grid(self) -> Study:
        if not self.grid and not self.pretrained:
            raise ValueError("grid: is empty; name at least one model to train, or one under pretrained")
        if sum(entry.size for entry in self.grid) > MOST_RUNS:
            raise ValueError(f"grid: has more than {MOST_RUNS:,} runs; give fewer values")
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
                    known = one_line(", ".join(self.training.decay))
                    raise ValueError(
                        f"{key}.decay: {brief(letter)} is not declared; declare it in training.decay ({known})"
                    )
            for depth in entry.depth:
                layers = self.extraction.layers
                if layers != "all" and layers and layers[-1] > depth:
                    raise ValueError(
                        f"extraction.layers: {layers[-1]} is past the last of {depth} blocks of {key}; leave it out, "
                        "or write all"
                    )
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
                    f"training.decay.{one_line(letter)}: is not one letter, as run names such as 02x0064_01d need it"
                )
        trained = {str(name) for entry in self.grid for name in entry.run_names()}
        alike: dict[str, str] = {}  # some file systems do not tell `A` from `a`
        for name in self.pretrained:
            if not re.fullmatch(r"\w[\w.-]*", name) or len(name.encode()) > MOST_NAME_BYTES:
                raise ValueError(
                    f"pretrained.{one_line(name)}: begin with a letter or digit, go on with letters, digits, dots and "
                    f"dashes, {MOST_NAME_BYTES} bytes at most; the name becomes a folder"
                )
            other = alike.setdefault(unicodedata.normalize("NFKC", name).casefold(), name)
            if other != name:
                raise ValueError(
                    f"pretrained.{one_line(name)}: differs from {one_line(other)} in case or accents' form alone; "
                    "give it another name"
                )
            if name in trained:
                raise ValueError(
                    f"pretrained.{name}: is also a run of the grid; give the pretrained model another name"
                )
            self._check_pretrained(name)
        if self.grid and self.corpus.layout == "documents":
            raise ValueError(
                "corpus.layout: models are trained on a stream; write documents under each model of pretrained instead"
            )
        layouts = {self.fed(name)[0] for name in self.pretrained}
        if self.corpus.chat_template and layouts != {"documents"}:
            raise ValueError("corpus.chat_template: is for documents of pretrained models; add layout: documents")
        return self

    @model_validator(mode="after")
    def _check_nulls(self) -> Study:
        draws = self.measurement.nulls
        if 0 < draws < FEWEST_DRAWS:
            raise ValueError(
                f"measurement.nulls: {draws} draws are too few; give {FEWEST_DRAWS} or more, or 0 for none"
            )
        for key in ("decisions", "random_network"):
            if getattr(self.extraction, key) and not draws:
                raise ValueError(
                    f"extraction.{key}: is for nulls, which are off; add measurement.nulls: {FEWEST_DRAWS}"
                )
        return self

    def _check_pretrained(self, name: str) -> None:
        key, model = f"pretrained.{name}", self.pretrained[name]
        if model.revision and model.revisions:
            raise ValueError(f"{key}: has both revision and revisions; keep one")
        try:
            expand_revisions(model.revisions)
        except ValueError as error:
            raise ValueError(f"{key}.revisions: {error}") from None
        if model.tokens_per_step and not (model.revision or model.revisions):
            raise ValueError(f"{key}.tokens_per_step: is for revisions; name some, or leave it out")
        if model.base is not None and (model.base == name or model.base not in self.pretrained):
            raise ValueError(f"{key}.base: {brief(model.base)} is no other model of pretrained; name one")
        if model.tokenizer is not None and re.match(r"bpe:\d", model.tokenizer):
            raise ValueError(f"{key}.tokenizer: {brief(model.tokenizer)} would be trained anew; name the model's own")

    def fed(self, name: str) -> tuple[str, str | bool]:
        """How a pretrained model is given the text: its layout, and whether a token stands in front."""
        model = self.pretrained[name]
        beginning = self.corpus.beginning_of_text if model.beginning_of_text is None else model.beginning_of_text
        return model.layout or self.corpus.layout, beginning

    @cached_property
    def runs(self) -> dict[str, Run]:
        """All runs by name, in the grid's order; entries that name the same run share it."""
        kept: dict[RunName, set[int]] = {}
        for entry in self.grid:
            for name in entry.run_names():
                kept.setdefault(name, set()).update(entry.checkpoints)
        trained = {str(name): self._trained(name, tuple(sorted(checkpoints))) for name, checkpoints in kept.items()}
        return trained | {name: self._pretrained(name) for name in self.pretrained}

    def _pretrained(self, name: str) -> PretrainedRun:
        model = self.pretrained[name]
        return PretrainedRun(
            name,
            model.source,
            expand_revisions(model.revisions) or (model.revision,),
            several=bool(model.revisions),
            tokens_per_step=model.tokens_per_step,
            trust_remote_code=model.trust_remote_code,
            base=model.base,
        )

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
        name = text_of("model", name)
        if name in self.runs:
            return self.runs[name]
        if len(name) > MOST_NAME_BYTES:
            raise UserError(f"model: {one_line(name)} is too long to be the name of one")
        if name not in self.pretrained and "_" in name:
            RunName.parse(name)
        near = difflib.get_close_matches(name, self.runs, n=3, cutoff=0) or list(self.runs)[:3]
        raise UserError(
            f"model: {one_line(name)} is not in the grid of study {one_line(self.name)}; add it there, or take "
            f"{one_line(', '.join(near), 200)}"
        )

    def trained_run(self, name: str) -> TrainedRun:
        """The run of that name; `UserError` if the grid has none, or if it is a pretrained model."""
        run = self.run(name)
        if isinstance(run, PretrainedRun):
            raise UserError(f"model: {one_line(name)} is pretrained: there is nothing to train; go on with 03_extract")
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


def parse_overrides(
    overrides: Mapping[str, Any] | str | Iterable[str] | None, own: Collection[str] = ()
) -> dict[str, Any]:
    """Overrides as dotted keys and values.

    Args:
        overrides: a mapping (as an object or as JSON text), or words such as `learning_rate=1e-3
            corpus.max_stories=500`. A key may be the last part of a dotted name: no two sections share one. Texts are
            read as a study's YAML is.
        own: a notebook's own parameters. They are no overrides, but what a key may be meant for.
    """
    if overrides is None:
        return {}
    if isinstance(overrides, str) and overrides.lstrip().startswith("{"):
        overrides = _read_override("overrides", overrides)
    if isinstance(overrides, Mapping):
        pairs = [(_override_key(key), value) for key, value in overrides.items()]
    else:
        pairs = [(key, _read_override(key, text)) for key, text in map(_split_word, _words(overrides))]
    keys = leaf_keys()
    names = {key.rpartition(".")[2]: key for key in keys}
    dotted: dict[str, Any] = {}
    for key, value in pairs:
        whole = key if key in keys else names.get(key)
        if whole is None:
            if key in own:
                raise UserError(f"{key}: is a parameter of the notebook, no value of a study; set it in its first cell")
            near = difflib.get_close_matches(key[:100], [*own, *names, *keys], n=1)
            raise UserError(f"{one_line(key)}: no such parameter{f'; did you mean {near[0]}?' if near else ''}")
        if whole in dotted:
            raise UserError(f"{whole}: is given twice in the overrides; keep one")
        try:
            dotted[whole] = plain(value)
        except PlainError as error:
            raise UserError(f"{whole}: {error}") from None
    return dotted


def _words(overrides: Any) -> list[str]:
    try:
        words = shlex.split(overrides) if isinstance(overrides, str) else list(overrides)
        if all(isinstance(word, str) for word in words):
            return words
    except TypeError:  # it cannot be iterated
        pass
    except ValueError as error:
        raise UserError(
            f"overrides: {brief(overrides)} cannot be split into words ({error}); close what is open in it"
        ) from None
    raise UserError(f"overrides: should be a mapping, or words such as learning_rate=1e-3, not {brief(overrides)}")


def _split_word(word: str) -> tuple[str, str]:
    key, equals, text = word.partition("=")
    if not equals:
        raise UserError(f"overrides: {brief(word)} is not of the form key=value; write for instance learning_rate=1e-3")
    return key, text


def _override_key(key: Any) -> str:
    return key if isinstance(key, str) else one_line(key)


def _read_override(key: str, text: str) -> Any:
    """A list, mapping or quoted text as YAML reads it; any other text is the value itself, `#` and `: ` in it too."""
    if not text.lstrip().startswith(("[", "{", '"', "'")) and text.strip() not in NULLS:
        return text
    try:
        return read_yaml(text)
    except PlainError as error:
        why = "is neither YAML nor JSON; close or quote what is open in it" if error.syntax else str(error)
        raise UserError(f"{one_line(key)}: {brief(text)} {why}") from None


def resolve_path(path: str | Path) -> Path:
    """Where a path leads that a person gave: the one rule for studies, outputs, texts, models and tables.

    `~` is the home folder, and a relative path starts at the repository's root, wherever a command was started; of an
    installed package, in the working directory.
    """
    try:
        found = ROOT / Path(path).expanduser()
    except RuntimeError:  # ~name of a user who is not known
        raise UserError(f"{one_line(path)}: there is no such home folder; write the path out") from None
    try:
        parts = [os.fsencode(part) for part in found.parts]  # bytes that are not UTF-8 are a name too
    except UnicodeEncodeError:
        raise UserError(f"{one_line(path)}: holds half a character; correct the path") from None
    if len(bytes(found)) > 3800 or any(len(part) > 255 for part in parts):
        raise UserError(f"{one_line(path)}: is longer than a path may be; shorten it")
    return found


def is_there(path: Path) -> bool:
    """True if a file or folder is there; `UserError` if this user may not look."""
    try:
        return path.exists()
    except OSError as error:
        raise UserError(f"{one_line(path, 200)}: cannot be looked at ({error.strerror})") from None


def study_path(study: str | Path) -> Path:
    """The YAML file of a study: a path, or a name in `parameters/`."""
    study = text_of("study", study)
    given, named = resolve_path(study), resolve_path(f"parameters/{study}.yaml")
    for path in (given, named, SHIPPED / "parameters" / named.name):
        if is_there(path) and path.is_file():
            return path
    known = sorted(path.stem for path in (SHIPPED / "parameters").glob("*.yaml"))
    hint = ""
    if given.is_dir():
        hint = "; that is a folder"
    elif Path(study).is_file():
        hint = f"; relative paths start at {ROOT_NAME}, so write {one_line(Path(study).absolute())}"
    raise UserError(
        f"study: no file {one_line(study)} and no parameters/{one_line(study)}.yaml{hint}; choose one of "
        f"{one_line(', '.join(known))}"
    )


def _check_name(path: Path) -> None:
    """Refuse a study whose name, which is its file's, cannot name a folder."""
    if not path.stem.isprintable() or path.stem.startswith((".", "-", " ")) or path.stem.endswith((".", " ")):
        reason = "should begin with a letter or digit, and hold no control characters"
    elif len(path.stem.encode()) > MOST_NAME_BYTES:
        reason = f"is longer than {MOST_NAME_BYTES} bytes"
    else:
        return
    raise UserError(f"study: the name of {one_line(path.name)} becomes a folder and {reason}; rename the file")


def load_study(study: str | Path, overrides: Mapping[str, Any] | str | Iterable[str] | None = None) -> Study:
    """Read and validate a study; the file's name is the study's name.

    Raises:
        UserError: one line that names the file, the key and the fix.
    """
    path = study_path(study)
    _check_name(path)
    shown = one_line(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
    try:
        with path.open("rb") as file:
            values = read_yaml(file.read(MOST_BYTES + 1)) or {}
    except OSError as error:
        raise UserError(f"{shown}: cannot be read ({error.strerror})") from None
    except PlainError as error:
        raise UserError(f"{shown}: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{shown}: should hold keys such as corpus and grid, not {brief(values)}")
    for key in {"name", "source"} & values.keys():
        raise UserError(f"{shown}: {key}: is taken from the file itself; delete the key")
    given, pairs = dict(values), parse_overrides(overrides)
    put_overrides(values, pairs, shown)
    try:
        return validated_study(values, path)
    except UserError as error:
        if pairs and _is_valid(given, path):  # then the file is not to blame
            text = str(error).removeprefix(f"{shown}: ")
            raise UserError(f"SET (overrides): {text}") from None
        raise


def _is_valid(values: Mapping[str, Any], path: Path) -> bool:
    try:
        validated_study(values, path)
    except UserError:
        return False
    return True


def put_overrides(
    values: dict[str, Any], overrides: Mapping[str, Any] | str | Iterable[str] | None, shown: str
) -> None:
    """Put overrides into the values of a study, which messages call `shown`."""
    for key, value in parse_overrides(overrides).items():
        section, _, leaf = key.rpartition(".")
        place = values
        if section:
            given = values.get(section) or {}
            if not isinstance(given, dict):
                raise UserError(f"{shown}: {section}: should hold keys such as {leaf}, not {brief(given)}")
            place = values[section] = dict(given)
        place[leaf] = value


def validated_study(values: Mapping[str, Any], path: Path) -> Study:
    """The study of these values, which lie in the file `path`, or shall lie there.

    Raises:
        UserError: one line that names the file, the key and the fix.
    """
    _check_name(path)
    try:
        return Study.model_validate({"name": path.stem, "source": str(path.resolve()), **values})
    except ValidationError as error:
        shown = one_line(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
        raise UserError(join_problems(shown, [_explain(problem) for problem in error.errors()])) from None


def _explain(problem: Any) -> str:
    """One validation problem in plain words."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{one_line(part, 40)}" for part in problem["loc"]]
    place = "".join(parts).lstrip(".")
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    if problem["type"] == "extra_forbidden":
        leaf = str(problem["loc"][-1])
        known = {part for key in leaf_keys() for part in key.split(".")}
        known |= GridEntry.model_fields.keys() | PretrainedFields.model_fields.keys()
        near = difflib.get_close_matches(leaf[:100], sorted(known), n=1)
        return f"{place}: no such key{f'; did you mean {near[0]}?' if near else ''}"
    if problem["type"] == "missing":
        return f"{place}: is missing; add it"
    if problem["type"] == "model_type":
        return f"{place}: should hold keys and values, not {brief(problem['input'])}"
    if problem["type"] == "too_short":
        return f"{place}: is empty; give at least one value"
    return f"{place}: {problem['msg'][0].lower()}{problem['msg'][1:]}, not {brief(problem['input'])}"
