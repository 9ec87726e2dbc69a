"""Random overrides of a study that works: words, mappings and JSON, half of them near valid."""

import json
from pathlib import Path
from random import Random
from typing import Any

from studies import SCALARS, checked

from lcutils.errors import UserError
from lcutils.parameters import leaf_keys
from lcutils.pipeline.overrides import open_study

VALID = {
    "training.learning_rate": "1e-3", "learning_rate": 1e-3, "corpus.max_stories": 50, "source": "a # b: {c}.txt",
    "title": "no", "sensitivity": [1, 5], "betas": "[0.9, 0.95]", "decay": {"d": 0.1, "L": "1e-1"}, "device": "cpu",
    "drop_checkpoints": "true", "names": ["NA", "1e5"], "grid": "[{depth: 1, width: 64, epochs: 1, checkpoints: 0}]",
    "pretrained": {"007": {"source": "~/model"}}, "ood": None, "threads": 2, "batch_size": "paper", "riesz_s": "2",
}  # fmt: skip
ODD: list[Any] = [
    None, True, False, 0, -1, 10**400, 1e400, float("nan"), "", " ", "\0", "\ud83d", "a\nb", b"x", {1}, object(),
    [], {}, [[[]]], {"a": {"b": {}}}, {5: 1}, "x" * 10_000, list(range(1000)), Path("x"), print, 1j, (1, 2), *SCALARS,
]  # fmt: skip
ODD.append(ODD)  # a list within itself
ODD_PATHS: list[Any] = [2024, None, True, 1.5, [], "", "~", "~nobody/x", "..", "a\nb", "x" * 5000, "demo\0"]
ENDS = ["", "=", "==", " ", "'", '"', "\\", "#", "a", "=1=2", "$x", "\n"]


def pairs(random: Random) -> dict[Any, Any]:
    """A few keys and values, each right in half of the cases."""
    chosen = {}
    for _ in range(random.choice([0, 1, 1, 2, 3])):
        key: Any = random.choice(list(VALID))
        value = VALID[key]
        if random.random() < 0.25:
            value = random.choice([*ODD, *VALID.values()])
        if random.random() < 0.15:
            key = random.choice([key[:-1], key + "x", "corpus", "name", "a\nb", 5, None, "=", "grid", *leaf_keys()])
        chosen[key] = value
    return chosen


def attempt(random: Random, folder: Path) -> str:
    """Open a study with overrides of some form."""
    given: Any = pairs(random)
    form = random.random()
    if form < 0.25:
        texts = {key: value if isinstance(value, str) else json.dumps(value, default=str)
                 for key, value in given.items() if value is not ODD}  # fmt: skip
        given = [f"{key}={text}" for key, text in texts.items()]
    elif form < 0.5:
        given = " ".join(f"{key}={value}" for key, value in given.items()) + random.choice(ENDS)
    elif form < 0.7:
        given = json.dumps({str(k): v for k, v in given.items() if v is not ODD}, default=str)
        cut = random.randrange(len(given) + 1)
        given = random.choice([given, given, given[:cut] + random.choice(ENDS) + given[cut:]])
    elif form < 0.75:
        given = random.choice(ODD)
    study = random.choice(["demo"] * 20 + [2024, None, True, 1.5, [], "", "~", "..", "a\nb", "x" * 5000, "demo\0"])
    outputs = random.choice(
        [folder] * 20 + [2024, None, True, 1.5, [], "", "~/x", "~nobody/x", "a\nb", "x" * 5000, "\0"]
    )
    try:
        work = open_study(study, outputs, given)
        assert work.study.points
        assert work.settings_of().block_size
    except UserError as error:
        return checked(error)
    assert work.folder.is_absolute()
    assert not any(folder.iterdir())
    return "read"
