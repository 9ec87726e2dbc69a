"""GPU-hours to train the paper's 230 points, from measured tokens/s.

The study: 30 architectures, each with runs of 1, 1, 3, 10 and 10 epochs, and 20 more seeds of 2x768 for one epoch;
an epoch is 229,367 blocks of 2048 tokens. Where an architecture (depth L, width D) was not measured, the seconds a
token takes are estimated as a + b L + c D + d L D + e L D^2 with coefficients that are not negative, fitted to the
measured ones by relative error: the loss moves logits (a) and multiplies by the head (c), a layer's attention has 16
heads at every width (b), its elementwise work grows with D, its matrix products with D^2.
"""

import numpy as np
from scipy.optimize import nnls

DEPTHS, WIDTHS = (1, 2, 4, 8, 12), (64, 128, 256, 512, 768, 1024)
EPOCH_TOKENS = 229_367 * 2048
EPOCHS, SEED_RUNS = 1 + 1 + 3 + 10 + 10, 20


def terms(shapes: list[tuple[int, int]]) -> np.ndarray:
    """(n, 5) what each coefficient multiplies."""
    return np.array([[1, depth, width, depth * width, depth * width**2] for depth, width in shapes], dtype=float)


def fit(times: dict[tuple[int, int], float], shapes: list[tuple[int, int]]) -> np.ndarray:
    """(n,) seconds a token at `shapes`, from measured ones."""
    seconds = np.array(list(times.values()))
    design = terms(list(times)) / seconds[:, None]
    size = design.max(0)  # columns of one size, for the solver
    coefficients, _ = nnls(design / size, np.ones(len(seconds)))
    return terms(shapes) @ (coefficients / size)


def measured_seconds(lines: list[dict], side: str) -> dict[tuple[int, int], float]:
    """Seconds a token of the measured architectures, by (depth, width)."""
    rows = [line for line in lines if line["part"] == "rows" and line["side"] == side]
    return {tuple(map(int, row["model"].split("x"))): 1 / row["tokens_per_second"] for row in rows}  # type: ignore[misc]


def seconds_per_token(measured: dict[tuple[int, int], float]) -> dict[tuple[int, int], float]:
    """Seconds a token of all 30 architectures: as measured, else fitted."""
    grid = [(depth, width) for depth in DEPTHS for width in WIDTHS]
    fitted = dict(zip(grid, map(float, fit(measured, grid)), strict=True))
    return fitted | measured


def fit_errors(measured: dict[tuple[int, int], float]) -> dict[tuple[int, int], float]:
    """What the fit says of each measured architecture when that one is left out: relative error."""
    errors = {}
    for shape, seconds in measured.items():
        others = {other: t for other, t in measured.items() if other != shape}
        errors[shape] = float(fit(others, [shape])[0]) / seconds - 1
    return errors


def study_hours(times: dict[tuple[int, int], float]) -> float:
    """GPU-hours of the whole study."""
    epochs = sum(EPOCHS * times[depth, width] for depth in DEPTHS for width in WIDTHS) + SEED_RUNS * times[2, 768]
    return epochs * EPOCH_TOKENS / 3600


def cost_table(lines: list[dict]) -> str:
    """Hours of each architecture's five runs, * where fitted, and of the study; ours and the Trainer's."""
    text = []
    for side in ("ours", "trainer"):
        measured = measured_seconds(lines, side)
        times = seconds_per_token(measured)
        text += [f"| {side}: hours | " + " | ".join(map(str, WIDTHS)) + " |", "|---" * (len(WIDTHS) + 1) + "|"]
        for depth in DEPTHS:
            cells = []
            for width in WIDTHS:
                hours = EPOCHS * times[depth, width] * EPOCH_TOKENS / 3600
                cells.append(f"{hours:.2f}{'' if (depth, width) in measured else '*'}")
            text.append(f"| {depth} | " + " | ".join(cells) + " |")
        share = 1 - sum(measured.values()) / sum(times.values())
        worst = ", ".join(f"{d}x{w} {error:+.0%}" for (d, w), error in fit_errors(measured).items())
        text += [
            f"\nWith the 20 seeds of 2x768: {study_hours(times):.1f} GPU-hours, {share:.0%} of it fitted. "
            f"A measured one left out of the fit: {worst}.\n"
        ]
    return "\n".join(text)
