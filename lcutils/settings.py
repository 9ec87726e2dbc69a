"""The sections of a study: which keys there are, of which type, and what they are if not given."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import product
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lcutils import paper
from lcutils.plain import brief
from lcutils.runs import Architecture, Recipe, RunName


class Section(BaseModel):
    """A part of a study: nothing but the keys named here, with finite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


_Value = TypeVar("_Value")
OneOrMore = Annotated[tuple[_Value, ...], Field(min_length=1), BeforeValidator(_as_tuple)]
Count = Annotated[int, Field(gt=0, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class CorpusSettings(Section):
    """Where the text comes from and how it becomes blocks of tokens."""

    source: str = "built-in"  # "built-in", a file or folder, or the name of a hub dataset
    validation: str | None = None  # path of the validation text, if the source has no split of that name
    validation_share: float = Field(0.05, gt=0, lt=1)  # otherwise: share of stories taken from the end
    text_column: str = "text"  # of tables and hub datasets
    max_stories: Count | None = None  # of the train text; all if not given
    max_validation_stories: Count | None = None  # likewise
    tokenizer: str = "bpe:4096"  # "bpe:SIZE" trained on the text, a folder with vocab.json and merges.txt, a hub name
    block_size: int = Field(2048, ge=2, lt=2**31)  # tokens that a model is given at a time
    # Tokens at the end of each batch of stories that fill no block: "paper" drops them, "lossless" carries them on.
    packing: Literal["paper", "lossless"] = "paper"
    end_of_text: bool = False  # put the end-of-text token after each story
    layout: Literal["stream", "documents"] = "stream"  # stories end to end in blocks, or each in a row of its own
    # A token in front of every block or row; "auto" is what a pretrained model's tokenizer does when it is called.
    beginning_of_text: Literal["auto"] | bool = "auto"
    chat_template: bool = False  # each story is a user's message in the tokenizer's chat template (documents only)
    max_tokens: Count | None = None  # of the train text; what follows is left out
    ood: str | None = None  # out-of-distribution text for NC5: a file, folder or hub dataset
    seed: Seed = 0  # of the built-in generator


class ArchitectureSettings(Section):
    """What all models of a study share."""

    heads: Count = Architecture.heads  # of attention, in every layer
    window: Count = Architecture.window  # keys that a local layer's query sees, its own included
    positions: Count = Architecture.positions  # the longest block that a model takes


Beta = Annotated[float, Field(ge=0, lt=1)]


class TrainingSettings(Section):
    """The recipe; the defaults are those of `Recipe`, the paper's."""

    learning_rate: float = Field(Recipe.learning_rate, gt=0)  # of AdamW at the start; see `Recipe` for its course
    batch_size: Literal["paper"] | Count = "paper"  # sequences; "paper": by architecture
    decay: dict[str, Annotated[float, Field(ge=0)]] = paper.DECAY  # weight decay by the letter of a run's name
    betas: tuple[Beta, Beta] = Recipe.betas  # of AdamW
    eps: float = Field(Recipe.eps, gt=0)  # of AdamW
    clip_norm: float = Field(Recipe.clip_norm, gt=0)  # largest norm of a gradient; longer ones are shortened to it
    init_seed: Seed = Recipe.init_seed  # of the initial weights; a run's own seed shuffles the data
    autocast: Literal["bf16", "fp32"] = "bf16"  # of matrix products on a GPU; the CPU always trains in fp32
    deterministic: bool = False  # on a GPU: the same bits every time, killed or not; costs 1 to 8 % of the speed


def _as_layers(value: Any) -> Any:
    """One layer stands for a list of it; a list becomes ascending, each layer once."""
    given = _as_tuple(value)
    if given == ("all",):
        return "all"
    texts = [str(layer) for layer in given]  # a command line gives texts; True and 1.5 are none of these
    if not all(re.fullmatch(r"\d{1,4}", text) for text in texts):
        raise ValueError(
            f"extraction.layers: should be all, or numbers of layers such as [0, 6, 12], not {brief(value)}"
        )
    return tuple(sorted({int(text) for text in texts}))


Layers = Annotated[Literal["all"] | tuple[int, ...], BeforeValidator(_as_layers)]


class ExtractionSettings(Section):
    """How features become class statistics."""

    # Of matrix products on a GPU; the CPU uses fp32. "auto": fp16 for models trained here, and for others that of their
    # checkpoint, on a CPU too.
    precision: Literal["auto", "fp32", "tf32", "fp16", "bf16"] = "auto"
    blocks_per_batch: Count = 16  # blocks that a model is given at once
    covariance: bool = True  # the pooled within-class covariance, which nc1_pinv needs
    decisions: bool = False  # count decisions of head and nearest mean by class, which the null of NC4 needs
    random_network: bool = False  # extract the same network with untrained weights too; takes the time once more
    parts: bool = False  # keep the sums of eight parts of the text too, for standard errors and convergence
    # Layers inside the model that are measured too: "all", or a list such as [0, 6, 12]; 0 is the embeddings.
    layers: Layers = ()
    layers_norm: bool = False  # their features go through the model's final norm before all measurements
    layers_law: bool = False  # their covariances too, for nc1_pinv and the law of next-token prediction

    @model_validator(mode="after")
    def _check_layers(self) -> ExtractionSettings:
        for key in ("layers_norm", "layers_law"):
            if getattr(self, key) and not self.layers:
                raise ValueError(f"extraction.{key}: is for inner layers, and none are named; add layers: all")
        return self


FEWEST_DRAWS = 20  # of a null: fewer tell no standard deviation


class MeasurementSettings(Section):
    """What is measured, over which classes."""

    min_count: int = Field(1, ge=1, lt=2**63)  # classes with fewer training samples are left out
    riesz_s: float = Field(1.0, gt=0)  # exponent of the Riesz kernel
    sensitivity: tuple[Annotated[int, Field(ge=1, lt=2**63)], ...] = (1, 2, 10, 100)  # min_counts of sensitivity.csv
    neighbours: int = Field(5, ge=1, lt=2**31)  # nearest class means listed in the per-token table
    corrected: bool = False  # measure again, corrected for the noise of classes with few samples
    spectrum: bool = False  # ranks and spectra of features, class means and within-class scatter
    nulls: int = Field(0, ge=0, lt=2**31)  # draws of what measurements are without structure, 20 or more; 0 for none
    # What `lcutils measure --tokens auto` waits for: that twice the text changes none of these by more than this share.
    settle: OneOrMore[str] = ("nc1_quotient", "gnc2_log_cov", "nc3_cosine_mean", "unc3_cosine_cov")
    tolerance: float = Field(0.02, gt=0, lt=1)  # that share


class AnalysisSettings(Section):
    """What the analysis needs besides the rows."""

    permutations: int = Field(10_000, ge=1, lt=2**31)  # random permutations in the tests of relations
    published: tuple[str, ...] = ()  # published tables (CSV) to compare with ours
    names: tuple[str, ...] = paper.FIRST_NAMES  # Table 5
    pictures: bool = True  # each figure as SVG and PNG too, half of the time; false: live charts in pages alone


class GridEntry(Section):
    """A product of values; each field takes one value or a list."""

    depth: OneOrMore[Annotated[int, Field(gt=0, le=10_000)]]  # layers
    width: OneOrMore[Annotated[int, Field(gt=0, le=2**20)]]  # of the features; a multiple of the heads
    epochs: OneOrMore[Annotated[int, Field(gt=0, le=2**20)]]  # times that a run sees the train text
    decay: OneOrMore[str] = ("d",)  # letters of `training.decay`
    seed: OneOrMore[Seed | None] = (None,)  # of the order of the data; 42 if not given
    checkpoints: OneOrMore[Annotated[int, Field(ge=0, le=2**20)]]  # epochs whose ends are measured; 0 is the first

    @property
    def size(self) -> int:
        """Number of run names, those that occur twice counted twice."""
        return math.prod(map(len, (self.depth, self.width, self.epochs, self.decay, self.seed)))

    def run_names(self) -> Iterator[RunName]:
        """The names of the product, in order."""
        for values in product(self.depth, self.width, self.epochs, self.decay, self.seed):
            yield RunName(*values)


def _source_alone(value: Any) -> Any:
    return {"source": value} if isinstance(value, str) else value


class PretrainedFields(Section):
    """Where a model lies that is measured as it is, and how it is given the text."""

    source: str  # a checkpoint folder, that of a PEFT adapter, or a name on the hub
    revision: str | None = None  # branch, tag or commit on the hub
    # Several of them, measured as checkpoints 0, 1, 2 …; "step{1000..5000..1000}" stands for five.
    revisions: OneOrMore[str] = ()
    tokens_per_step: Count | None = None  # turns the step in a revision's name into tokens seen
    tokenizer: str | None = None  # its own if not given
    layout: Literal["stream", "documents"] | None = None  # that of the corpus if not given
    beginning_of_text: Literal["auto"] | bool | None = None  # likewise
    trust_remote_code: bool = False  # run the code that comes with the model
    base: str | None = None  # another model of the study, which this one was made from


PretrainedModel = Annotated[PretrainedFields, BeforeValidator(_source_alone)]  # a plain string is its source
