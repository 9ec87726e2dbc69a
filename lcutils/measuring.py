"""One command for models of one's own: from models and a text to their measurements and a page.

`lcutils measure` and `measure_model` write a study of pretrained models, `<outputs>/<name>/<name>.yaml`, and take it
through the stages in this process. Notebooks and `lcutils sweep` open the same study; what is done is not done again.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from lcutils import enough_text
from lcutils.artifacts import MANIFEST, atomic_path
from lcutils.corpus.tokenizer_files import holds_tokenizer
from lcutils.errors import UserError, first_line
from lcutils.features.blocks import check_layers
from lcutils.features.preflight import ModelFacts, check_model
from lcutils.parameters import Study, is_there, load_study, put_overrides, resolve_path, validated_study
from lcutils.pipeline.changed import file_of_its_own
from lcutils.pipeline.jobs import check_corpora
from lcutils.pipeline.outcome import forget_failures, note_failure
from lcutils.pipeline.overrides import by_a_person, expect_no_widgets, injected_parameters, open_study
from lcutils.pipeline.paths import Workspace
from lcutils.plain import text_of
from lcutils.runs import UNITS
from lcutils.stages import Analysis, analyze_study, extract_point, measure_point, prepare_data
from lcutils.text import one_line

if TYPE_CHECKING:
    from lcutils.analysis.rows import Measured

BLOCK_SIZE = 2048  # where the models have room for it
MOST_THREADS = 16
NOTEBOOK_PARAMETERS = ("models", "text", "validation", "outputs", "name", "overrides")  # of 06_your_model


@dataclass(frozen=True)
class Outcome:
    """What came of a request: the study, its table and figures, and why some points are not in them."""

    work: Workspace
    analysis: Analysis
    failures: Mapping[str, str]  # "model@checkpoint" -> one line

    @property
    def page(self) -> Path:
        """The report."""
        return self.work.analysis / "report.html"


def measure_models(
    models: str | Path | Sequence[str | Path],
    text: str | Path,
    *,
    validation: str | Path | None = None,
    revisions: Sequence[str] = (),
    tokens: str | int | None = None,
    layers: Literal["all"] | Sequence[int] = (),
    trust_remote_code: bool = False,
    outputs: str | Path = "outputs",
    name: str | None = None,
    overrides: Mapping[str, Any] | str | Iterable[str] | None = None,
    namespace: Mapping[str, Any] | None = None,
) -> Outcome:
    """Measure language models on a text, and write `<outputs>/<name>/results.csv` and a report.

    Configurations and tokenizers of all models are read before any long work. A model that fails leaves one line, and
    the others are measured.

    Args:
        models: names on the hub, folders of checkpoints or of PEFT adapters, or a .txt file with one of these per line.
        text: a file or folder of text, the name of a hub dataset, or "built-in".
        validation: text that loss and agreement are taken on; by default a part of `text`.
        revisions: of the models, which are then on the hub: step1000, or "step{1000..5000..1000}" for five.
        tokens: of the text that statistics are taken of, such as "10M"; all of it by default. "auto" takes 1M and
            doubles them until the measurements of `measurement.settle` have settled (`lcutils.enough_text`).
        layers: inside the models that are measured too: "all", or their numbers; 0 is the embeddings.
        trust_remote_code: run code that the models bring; without, such a model is refused.
        outputs: folder below which the study's folder lies.
        name: of the study; by default that of the model, or "models".
        overrides: values by the keys of a study, such as `layout=documents`.
        namespace: a notebook's `globals()`, so that what papermill adds to its parameters counts too. In a notebook
            that a person works in, changed values get a folder of their own.

    Raises:
        UserError: no model can be measured, or a mistake in what was asked for.
    """
    if namespace is not None:
        expect_no_widgets()
    sources = list(_sources([models] if isinstance(models, str | Path) else models))
    chosen = named(sources)
    common: dict[str, Any] = {"revisions": list(revisions)} if revisions else {}
    common |= {"trust_remote_code": True} if trust_remote_code else {}
    pretrained = {model: {"source": source} | common for model, source in chosen.items()}
    study: dict[str, Any] = {"corpus": _corpus(text, validation, tokens), "pretrained": pretrained}
    if layers:
        study["extraction"] = {"layers": layers if layers == "all" else list(layers)}
    put_overrides(study, overrides, "overrides")
    put_overrides(study, injected_parameters(namespace or {}, NOTEBOOK_PARAMETERS), "parameters")
    name = (next(iter(chosen)) if len(chosen) == 1 else "models") if name is None else text_of("name", name)
    if Path(name).name != name:
        raise UserError(f"name: {one_line(name)} becomes a folder in outputs; leave out what makes it a path")
    path = resolve_path(text_of("outputs", outputs)) / name / f"{name}.yaml"
    places = [place for source in sources if is_there(place := resolve_path(source))]
    if is_there(path.parent) and any(path.parent.samefile(place) for place in places):
        raise UserError(f"name: {one_line(path.parent)} is the folder of a model; give another name, or other outputs")
    if auto := enough_text.is_auto(tokens):
        enough_text.begin(study, path)
    unfit, depths = _preflight(study)
    if namespace is not None and by_a_person(namespace):
        path = file_of_its_own(validated_study(study, path), path)
    _take_over(study, path)
    checked = validated_study(study, path)
    unfit |= _without_layers(checked, depths)
    if len(unfit) == len(study["pretrained"]):
        raise UserError(next(iter(unfit.values())))
    check_corpora(Workspace(checked, path.parent, {}))
    while True:
        with atomic_path(path) as aside:
            aside.write_text(yaml.safe_dump(study, sort_keys=False, allow_unicode=True), encoding="utf-8")
        work = open_study(path, path.parent.parent)
        failures = _measure(work, unfit)
        if len(failures) == len(work.study.points):
            raise UserError(f"{next(iter(failures.values()))}; no model was measured")
        if not auto or (more := enough_text.more_tokens(work, failures)) is None:
            if sys.stderr.isatty():  # a notebook shows what runs
                print(f"analysing {len(work.study.points) - len(failures)} points", file=sys.stderr, flush=True)
            return Outcome(work, analyze_study(work), failures)
        study["corpus"]["max_tokens"] = more


def measure_model(model: str | Path, text: str | Path, **options: Any) -> Measured:
    """Measure one language model on a text: `measure_models` of one, and its row, tokens and sensitivity.

    Example:
        >>> measured = measure_model("path/to/model", "path/to/text.txt", tokens="1M")  # doctest: +SKIP
        >>> measured.row["nc1_cdnv"]  # doctest: +SKIP
    """
    work = measure_models([model], text, **options).work
    return measure_point(work, *work.study.points[0])


def _measure(work: Workspace, failures: Mapping[str, str]) -> dict[str, str]:
    """Take every point through the stages; why each failed that did, by "model@checkpoint"."""
    failed = {}
    forget_failures(work)
    for model, checkpoint in work.study.points:
        point = f"{model}@{checkpoint}"
        try:
            if model in failures:
                raise UserError(failures[model])
            prepare_data(work, model)
            extract_point(work, model, checkpoint)
            measure_point(work, model, checkpoint)
        except UserError as error:
            failed[point] = str(error)
            note_failure(work, f"03_extract_{point}", failed[point])
        except Exception as error:  # out of memory, or whatever goes wrong in a model's own code
            failed[point] = f"{type(error).__name__}: {first_line(error)}"
            note_failure(work, f"03_extract_{point}", f"{traceback.format_exc()}\n{failed[point]}")
        if point in failed:
            print(f"{point} is left out: {failed[point]}", file=sys.stderr, flush=True)
    return failed


def _sources(models: Sequence[str | Path]) -> Iterator[str]:
    """The models that were named, those in lists too."""
    for model in (text_of("models", model) for model in models):
        path = resolve_path(model)
        if not (is_there(path) and path.is_file()):
            yield model
            continue
        if path.suffix != ".txt":
            raise UserError(f"{one_line(model)}: is a file; give the folder of a checkpoint, or a .txt list of models")
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise UserError(f"{one_line(model)}: cannot be read as a list of models ({one_line(error)})") from None
        yield from (line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))


def named(sources: Sequence[str]) -> dict[str, str]:
    """A short name for each model: the last part of its source, with a number where two are alike."""
    if not sources:
        raise UserError("models: none is named; give a folder or a name on the hub")
    names: dict[str, str] = {}
    for source in dict.fromkeys(sources):
        path = resolve_path(source)
        place = path.resolve() if is_there(path) else Path(source)
        # Of a trainer's folder, its own name alone says nothing.
        last = f"{place.parent.name}-{place.name}" if re.fullmatch(r"checkpoint-\d+", place.name) else place.name
        short = re.sub(r"[^\w.-]+", "-", last).strip("-._")[:100] or "model"
        taken = {name.casefold() for name in names}
        possible = [short, *(f"{short}-{number}" for number in range(2, len(sources) + 1))]
        names[next(name for name in possible if name.casefold() not in taken)] = source
    return names


def _corpus(text: str | Path, validation: str | Path | None, tokens: str | int | None) -> dict[str, Any]:
    corpus: dict[str, Any] = {"source": text_of("text", text), "packing": "lossless"}
    if validation is not None:
        corpus["validation"] = text_of("validation", validation)
    if tokens is not None and not enough_text.is_auto(tokens):
        corpus["max_tokens"] = read_number(tokens)
    return corpus


def read_number(text: str | int) -> int:
    """A number of tokens such as 300000, 10M or 1.5B; a `UserError` if it is none."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMBGT]?)", str(text).strip().upper().replace("_", ""))
    number = round(float(match[1]) * UNITS.get(match[2], 1)) if match else 0
    if number < 1:
        raise UserError(f"tokens: {one_line(text)} is no number of tokens; write for instance 10M, or auto")
    return number


def _preflight(study: dict[str, Any]) -> tuple[dict[str, str], dict[str, int]]:
    """Read every model's configuration; choose what follows from that.

    Returns:
        By model, why it cannot be loaded; and the depth of the others, 0 where it is not known.
    """
    failures: dict[str, str] = {}
    depths: dict[str, int] = {}
    found: list[ModelFacts] = []
    for name, fields in study["pretrained"].items():
        source, revisions = fields["source"], fields.get("revisions", [])
        local = resolve_path(source)
        try:
            place = str(local) if is_there(local) else source
            revision = None if len(revisions) != 1 or "{" in revisions[0] else revisions[0]
            facts = check_model(place, revision, trust_remote_code=fields.get("trust_remote_code", False))
            if facts.adapter is not None and not holds_tokenizer(place):
                fields["tokenizer"] = facts.adapter.base
            if "tokenizer" not in fields and "tokenizer" not in study["corpus"] and not holds_tokenizer(place):
                raise UserError(f"{source}: holds no tokenizer; name one: --set tokenizer=FOLDER")
        except UserError as error:
            failures[name] = str(error)
        else:
            found.append(facts)
            depths[name] = facts.depth
    if not found:
        raise UserError(next(iter(failures.values())))
    limits = [facts.positions for facts in found if facts.positions]
    study["corpus"].setdefault("block_size", min(BLOCK_SIZE, *limits) if limits else BLOCK_SIZE)
    return failures, depths


def _without_layers(study: Study, depths: Mapping[str, int]) -> dict[str, str]:
    """By model, that it lacks a layer which was asked for."""
    failures, layers = {}, study.extraction.layers
    for name, depth in depths.items():
        try:
            check_layers(() if layers == "all" or not depth else layers, depth, name)
        except UserError as error:
            failures[name] = str(error)
    return failures


def _take_over(study: dict[str, Any], path: Path) -> None:
    """Keep the number of threads of an earlier call of this name, which decides the last bits of what it computed.

    Raises:
        UserError: it has computed something of another text.
    """
    chosen = "threads" in study
    study.setdefault("threads", min(os.cpu_count() or 1, MOST_THREADS))
    if not any(path.parent.glob(f"data*/{MANIFEST}")) or not is_there(path):
        return
    earlier, now = load_study(path), validated_study(study, path)
    for key, then in earlier.corpus.model_dump().items():
        if then != (asked := getattr(now.corpus, key)):
            raise UserError(
                f"{path}: was measured with {key} = {one_line(then)}, not {one_line(asked)}; give another --name"
            )
    if not chosen:
        study["threads"] = earlier.threads
