"""The playground: a tiny model through all stages, and every setting that was tried beside the present one.

A setting is named by what it changes, and is a study like any other: `<outputs>/<name>/<name>.yaml`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from lcutils.analysis import MEASUREMENTS
from lcutils.analysis.nulls import DRAWN, UNTRAINED
from lcutils.analysis.rows import Measured, load_all_nulls, load_row, results_table
from lcutils.artifacts import atomic_path
from lcutils.charts import strips
from lcutils.charts.theme import Figure
from lcutils.parameters import parse_overrides, put_overrides, resolve_path, validated_study
from lcutils.pipeline.changed import name_of, take_along
from lcutils.pipeline.jobs import measure_job
from lcutils.pipeline.overrides import expect_no_widgets, injected_parameters, open_study
from lcutils.pipeline.paths import Workspace
from lcutils.plain import text_of
from lcutils.report.few import last_bands
from lcutils.settings import FEWEST_DRAWS

START = "start"  # the setting that changes nothing
SHOWN = ["nc1_cdnv", "nc2_norm_cov", "gnc2_log_std", "nc3_cosine_mean", "unc3_cosine_cov", "nc4_agreement"]
NOTEBOOK_PARAMETERS = ("outputs", "overrides")  # of the playground, beside the fields of a setting


@dataclass(frozen=True)
class Setting:
    """What the playground's first cell holds, with the values that it begins with."""

    stories: int = 400
    vocabulary: int = 512
    depth: int = 1
    width: int = 64
    epochs: int = 3
    learning_rate: float = 4e-3
    batch_size: int = 16
    weight_decay: float = 5e-4
    min_count: int = 1

    @property
    def study(self) -> dict[str, Any]:
        """A study of this one model, measured after its first epoch and after its last."""
        checkpoints = {0, self.epochs - 1} if isinstance(self.epochs, int) else {0}  # what else is no number is refused
        return {
            "title": "Playground",
            "corpus": {"source": "built-in", "max_stories": self.stories, "max_validation_stories": 100}
            | {"tokenizer": f"bpe:{self.vocabulary}", "block_size": 64, "packing": "lossless"},
            "training": {"learning_rate": self.learning_rate, "batch_size": self.batch_size}
            | {"decay": {"d": self.weight_decay}},
            "extraction": {"blocks_per_batch": 64, "random_network": True},
            "measurement": {"min_count": self.min_count, "nulls": FEWEST_DRAWS},
            "grid": [{"depth": self.depth, "width": self.width, "epochs": self.epochs}
                     | {"checkpoints": sorted(checkpoints)}],
            "device": "cpu",
        }  # fmt: skip


def open_playground(
    setting: Setting,
    outputs: str | Path,
    overrides: Mapping[str, Any] | str | None = None,
    namespace: Mapping[str, Any] | None = None,
) -> Workspace:
    """Write the study of a setting into a folder of its own, and open it.

    Args:
        setting: the values of the notebook's first cell.
        outputs: folder of all settings.
        overrides: values of a study beyond the setting's.
        namespace: a notebook's `globals()`, so that what papermill adds to its parameters counts too.

    Raises:
        UserError: one line that names the key and the fix.
    """
    if namespace is not None:
        expect_no_widgets()
    own = (*NOTEBOOK_PARAMETERS, *(field.name for field in fields(Setting)))
    pairs = parse_overrides(overrides, own) | parse_overrides(injected_parameters(namespace or {}, own), own)
    usual = asdict(Setting())
    changed = {key: value for key, value in asdict(setting).items() if value != usual[key]} | pairs
    name = name_of(changed) if changed else START
    values, folder = setting.study, resolve_path(text_of("outputs", outputs))
    path = folder / name / f"{name}.yaml"
    put_overrides(values, pairs, "overrides")
    study = validated_study(values, path)
    with atomic_path(path) as aside:
        aside.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    for other in _names(folder):  # what this setting has in common with another is not computed again
        take_along(Workspace(study, folder / other, {}), Workspace(study, path.parent, {}))
    return open_study(path, folder)


def through_training(points: list[Measured]) -> pd.DataFrame:
    """Some measurements of one model before training and at its checkpoints, beside chance and full collapse.

    Args:
        points: of one model, by checkpoint, measured with nulls and a random network.

    Returns:
        Columns `property, measurement`, `before training`, `epoch 1` …, `by chance` (of labels dealt out at random;
        NC4 has none) and `limit`, in words.
    """
    last = points[-1].nulls
    assert last is not None
    means = {kind: last[last["kind"] == kind].set_index("measurement")["mean"] for kind in (UNTRAINED, DRAWN)}
    rows = [
        {"property": MEASUREMENTS[key].property, "measurement": key, "before training": means[UNTRAINED].get(key)}
        | {f"epoch {point.row['checkpoint'] + 1}": point.row[key] for point in points}
        | {"by chance": means[DRAWN].get(key), "limit": MEASUREMENTS[key].limit}
        for key in SHOWN
    ]
    return pd.DataFrame(rows)


def settings_beside(outputs: str | Path) -> Figure:
    """Loss and some measurements of all settings that were run: a line for each, and what chance alone gives."""
    rows, folders = [], []
    folder = resolve_path(text_of("outputs", outputs))
    for name in _names(folder):
        work = open_study(folder / name / f"{name}.yaml", folder)
        for model, checkpoint in work.study.points:
            job = measure_job(work, model, checkpoint)
            if job.current:
                rows.append(load_row(job.folder) | {"model": name})
                folders.append((name, job.folder))
    if not rows:
        return Figure("strips", "Settings side by side", missing="No setting was run to its end yet.")
    tables = [nulls.assign(model=name) for name, folder in folders if (nulls := load_all_nulls([folder])) is not None]
    results = results_table(rows)
    left_out = [key for key in MEASUREMENTS if key not in SHOWN and key in results]
    nulls = pd.concat(tables, ignore_index=True) if tables else None
    return strips(results.drop(columns=left_out), None, last_bands(nulls, results))


def _names(folder: Path) -> list[str]:
    """The settings in a folder, the unchanged one first."""
    names = [path.stem for path in folder.glob("*/*.yaml") if path.stem == path.parent.name]
    return sorted(names, key=lambda name: (name != START, name))
