"""What measurements are without collapse, beside a point's own: drawn, in closed form, and of an untrained network.

Stage 3 leaves what this needs: the class statistics, and where a study asks for them decisions by class and the
statistics of the same network with untrained weights. Stage 4 turns that into `nulls.csv`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor

from lcutils import paper, ranks
from lcutils.analysis.nulls import CLOSED, DRAWN, UNTRAINED, NullValue, null_table
from lcutils.analysis.rows import Measured, agreement_shares
from lcutils.collapse.agreement import AgreementCounter
from lcutils.collapse.chance import chance_agreement, gaussian_classes, unrelated_directions
from lcutils.collapse.measure import measure_by_count
from lcutils.collapse.nulls import drawn_nulls
from lcutils.corpus import Data
from lcutils.features.extracted import Extracted, save_sums
from lcutils.features.extraction import explain_overflow, extract_agreement, extract_mean, extract_statistics
from lcutils.features.models import FeatureModel, build_initial, load_feature_model
from lcutils.features.statistics import ClassStatistics
from lcutils.pipeline.paths import Workspace
from lcutils.runs import Run, TrainedRun
from lcutils.settings import MeasurementSettings

FOLDER = "untrained"  # in a point's statistics
DECISIONS = {"nc4_agreement": "head", "nc4_agreement_weights": "weights"}  # the side that is set against the nearest


# ------------------------------------------------------------------------------------- stage 3: the untrained network


def build_untrained_model(
    work: Workspace, run: Run, checkpoint: int, data: Data, precision: str, device: torch.device
) -> FeatureModel:
    """The network of a point with the weights that it had before training, or could have had.

    In plain words: features of a network that has learnt nothing still depend on the tokens before them, and so on the
    class, since some tokens follow others. What it shows comes from text and architecture; what training adds is the
    difference.

    Of a run trained here they are its own, by `training.init_seed`; a pretrained model's are drawn anew by the code of
    its family, since its own first weights are not known.
    """
    if isinstance(run, TrainedRun):
        architecture, tokens = run.architecture(data.summary["vocab_size"]), data.train.size
        seed = run.recipe.init_seed
        return build_initial(architecture, seed, precision=precision, device=device, tokens=tokens)
    return load_feature_model(
        work.checkpoint_source(run.name, checkpoint),
        precision=precision,
        device=device,
        revision=run.revisions[checkpoint],
        trust_remote_code=run.trust_remote_code,
        untrained=paper.SEED,
    )


def extract_untrained(
    work: Workspace,
    model: FeatureModel,
    data: Data,
    device: torch.device,
    folder: Path | None,
    resume: Path,
    job: dict[str, Any],
    log: Path | None,
    narrow: bool,
) -> None:
    """Extract an untrained network over the blocks of its point, into `untrained/` of the point's folder.

    Args:
        work, data: the study and the point's text.
        model: of `build_untrained_model`.
        device: where the work is done.
        folder: of the point's statistics, being made; None in a process that is not the first of torchrun's.
        resume: the folder that the point's own extraction is continued from; this one's lies in it.
        job: what decides the point's statistics.
        log: file for lines of progress.
        narrow: keep narrow pivots (see `ClassStatistics`).
    """
    settings = work.study.extraction
    common: dict[str, Any] = {"batch_size": settings.blocks_per_batch, "device": device, "log": log}
    shares: dict[str, Any] = {"rank": ranks.rank(), "world": ranks.number()}
    with explain_overflow("the untrained network", model.precision):
        statistics = extract_statistics(
            model,
            data.train,
            covariance=settings.covariance,
            classes=torch.from_numpy(data.counts[0]).nonzero()[:, 0],
            narrow=narrow,
            resume=resume / f".{FOLDER}",
            job=job,
            **shares,
            **common,
        )
        if folder:
            (folder / FOLDER).mkdir()
            save_sums(folder / FOLDER, statistics, model.classifier)
        kept = statistics.turn_into_means(work.study.measurement.min_count) if folder else ()
        del statistics  # its memory, for the means of all processes
        ids, means = ranks.from_first(*kept, device=device)
        counter = AgreementCounter(model.classifier, means, ids, device, data.validation.size, model.bias, model.scale)
        hits, totals = extract_agreement(model, data.validation, counter, **shares, **common)
        counts = {"hits": hits, "totals": totals, "hits_weights": counter.hits_weights}
        for count in {id(count): count for count in counts.values()}.values():  # a tensor that is two of them, once
            ranks.sum_over_ranks(count)
        if folder:
            arrays = {name: count.cpu().numpy() for name, count in counts.items()}
            if work.study.corpus.ood:
                arrays["ood_mean"] = extract_mean(model, data.blocks("ood"), **common).cpu().numpy()
            np.savez(folder / FOLDER / "agreement.npz", **arrays)  # type: ignore[arg-type]  # numpy's stub


@dataclass(frozen=True)
class Untrained:
    """What `extract_untrained` left: statistics, the head's rows (R, D), counts of agreement and maybe `ood_mean`."""

    statistics: ClassStatistics
    head: Tensor
    agreement: dict[str, np.ndarray]

    @classmethod
    def load(cls, folder: Path, device: torch.device | str) -> Self | None:
        """Read it from the folder of a point's statistics; None if it was not asked for."""
        folder = folder / FOLDER
        if not folder.is_dir():
            return None
        statistics = ClassStatistics.load(folder / "statistics.safetensors", device, "seen")
        head = load_file(folder / "head.safetensors", device=str(device))["rows"]
        with np.load(folder / "agreement.npz") as arrays:
            return cls(statistics, head, dict(arrays))

    def measure(self, settings: MeasurementSettings) -> dict[str, float]:
        """Measurements of the untrained network, and counts."""
        by_count = measure_by_count(
            self.statistics,
            self.head,
            min_counts=[settings.min_count],
            riesz_s=settings.riesz_s,
            ood_mean=self.agreement.get("ood_mean"),
        )
        return by_count[settings.min_count] | agreement_shares(self.agreement)


# ------------------------------------------------------------------------------------------------- stage 4: the table


def measure_nulls(
    measured: Measured, extracted: Extracted, untrained: Untrained | None, settings: MeasurementSettings
) -> pd.DataFrame:
    """The nulls of a point's measurements, as `nulls.csv` holds them; see `lcutils.analysis.nulls.null_table`."""
    statistics, agreement, number = extracted.statistics, extracted.agreement, int(measured.row["n_classes"])
    common = {"min_count": settings.min_count, "riesz_s": settings.riesz_s, "ood_mean": agreement.get("ood_mean")}
    drawn = drawn_nulls(statistics, extracted.head, settings.nulls, **common)  # type: ignore[arg-type]
    labels = "labels at random" + ("" if statistics.covariance is not None else ", isotropic: no covariance was kept")
    values = [NullValue(key, DRAWN, labels, null.mean, null.sd, settings.nulls) for key, null in drawn.items()]
    values += [NullValue(key, CLOSED, "decisions at random", *null) for key, null in _decisions(agreement).items()]
    forms = {
        "one true mean, isotropic Gaussian classes of the observed variances": gaussian_classes(
            statistics, settings.min_count
        ),
        "directions at random": unrelated_directions(statistics.dim, number),
    }
    values += [NullValue(key, CLOSED, basis, value) for basis, form in forms.items() for key, value in form.items()]
    if untrained is not None:
        values += [
            NullValue(key, UNTRAINED, "the same network before training", value, draws=1)
            for key, value in untrained.measure(settings).items()
        ]
    return null_table(measured.row, values, statistics.dim, settings.riesz_s)


def _decisions(agreement: dict[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Mean and deviation of NC4's null, where the decisions of both sides were counted."""
    return {
        key: chance_agreement(agreement[f"decisions_{side}"], agreement["decisions_nearest"])
        for key, side in DECISIONS.items()
        if f"decisions_{side}" in agreement
    }
