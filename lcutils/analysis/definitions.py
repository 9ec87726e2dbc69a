"""What each measurement is, in words for axes and tables, and what theory says of it."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log, sqrt

import pandas as pd
from scipy.special import gammaln, polygamma, psi


@dataclass(frozen=True)
class Missing:
    """Stands where a table would be: one plain sentence that says what cannot be computed, and why."""

    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Measurement:
    """One measurement, in words.

    Attributes:
        property: of neural collapse: NC1, NC2, GNC2, NC3, UNC3, NC4 or NC5.
        label: short plain words.
        axis: title of an axis; says exactly what is drawn.
        definition: one sentence with the formula.
        log: whether a log axis is natural (positive, over decades).
        limit: the value at collapse, or in theory, in plain words; empty if none is known.
    """

    property: str
    label: str
    axis: str
    definition: str
    log: bool = False
    limit: str = ""


_CDNV = "((sigma_c^2 + sigma_c'^2) / 2) / ||mu_c - mu_c'||"
_KERNEL = "over pairs of classes of log(1 / ||u_c - u_c'||), u = "
_CENTRED = "(mu_c - mu_bar) / ||mu_c - mu_bar||"
_UNCENTRED = "mu_c / ||mu_c||"
_SPHERE = "a uniform sphere's value, which depends on the width"

MEASUREMENTS: dict[str, Measurement] = {
    "nc1_cdnv": Measurement(
        "NC1",
        "within-class variability (CDNV)",
        "mean CDNV over pairs of classes (4th power of the distance)",
        f"Mean over pairs of classes of {_CDNV}^4.",
        log=True,
        limit="0 at collapse",
    ),
    "nc1_cdnv_log": Measurement(
        "NC1",
        "log CDNV",
        "mean log CDNV over pairs of classes",
        f"Mean over pairs of classes of log of {_CDNV}^4; left out where both variances are 0.",
        limit="minus infinity at collapse",
    ),
    "nc1_cdnv_galanti": Measurement(
        "NC1",
        "CDNV as Galanti defined it",
        "mean CDNV over pairs of classes (square of the distance)",
        f"Mean over pairs of classes of {_CDNV}^2.",
        log=True,
        limit="0 at collapse",
    ),
    "nc1_pinv": Measurement(
        "NC1",
        "within- over between-class covariance",
        "tr(S_W pinv(S_B)) / K",
        "tr(S_W pinv(S_B)) / K (Papyan 2020).",
        log=True,
        limit="0 at collapse",
    ),
    "nc1_quotient": Measurement(
        "NC1",
        "quotient of traces",
        "tr S_W / tr S_B",
        "tr S_W / tr S_B (Tirer 2023).",
        log=True,
        limit="0 at collapse",
    ),
    "nc2_norm_cov": Measurement(
        "NC2",
        "equinorm, of norms",
        "CoV of centred class-mean norms",
        "Standard deviation over mean of ||mu_c - mu_bar|| over classes.",
        limit="0 at collapse",
    ),
    "nc2_log_norm_cov": Measurement(
        "NC2",
        "equinorm, of log norms",
        "CoV of log centred class-mean norms",
        "Standard deviation over mean of log ||mu_c - mu_bar|| over classes; depends on its unit.",
        limit="0 at collapse",
    ),
    "nc2_log_norm_std": Measurement(
        "NC2",
        "spread of log norms",
        "standard deviation of log centred class-mean norms",
        "Standard deviation of log ||mu_c - mu_bar|| over classes.",
        limit="0 at collapse",
    ),
    "nc2_cosine_mean": Measurement(
        "NC2",
        "mean cosine",
        "mean cosine of centred class means over pairs",
        "Mean over pairs of classes of the cosine of mu_c - mu_bar and mu_c' - mu_bar.",
        limit="-1/(K-1) for a simplex",
    ),
    "nc2_cosine_std": Measurement(
        "NC2",
        "spread of cosines",
        "standard deviation of cosines of centred class means over pairs",
        "Standard deviation over pairs of classes of the cosine of centred class means.",
        limit="0 at collapse; 1/sqrt(D) for a uniform sphere",
    ),
    "nc2_cosine_cov": Measurement(
        "NC2",
        "equiangular",
        "CoV of cosines of centred class means over pairs",
        "Standard deviation over mean, over pairs of classes, of the cosine of centred class means.",
        limit="0 at collapse",
    ),
    "nc2_coherence": Measurement(
        "NC2",
        "distance from the simplex angle",
        "mean |cosine + 1/(K-1)| over pairs of classes",
        "Mean over pairs of classes of |cosine + 1/(K-1)|, the cosine of centred class means.",
        limit="0 at collapse",
    ),
    "nc2_etf_error": Measurement(
        "NC2",
        "distance from a simplex frame",
        "Frobenius distance of centred class means from a simplex frame",
        "|| G/||G|| - (I - 11'/K)/sqrt(K-1) || (Frobenius), G the Gram matrix of centred class means.",
        limit="0 at collapse",
    ),
    **{
        f"gnc2_log{tag}_{end}": Measurement(
            "GNC2",
            f"{short}, log kernel{comma}",
            f"{name} of log inverse distance, {words} class means on the sphere",
            f"{name[0].upper()}{name[1:]} {_KERNEL}{unit}.",
            limit=_SPHERE,
        )
        for tag, words, comma, unit in (
            ("", "centred", ", centred", _CENTRED),
            ("_uncentred", "un-centred", ", un-centred", _UNCENTRED),
        )
        for end, short, name in (
            ("mean", "mean", "mean"),
            ("std", "spread", "standard deviation"),
            ("cov", "hyperspherical uniformity", "CoV"),
        )
    },
    **{
        f"gnc2_riesz_{end}": Measurement(
            "GNC2",
            f"{short}, Riesz kernel, centred",
            f"{name} of inverse distance (Riesz), centred class means on the sphere",
            f"{name[0].upper()}{name[1:]} over pairs of classes of ||u_c - u_c'||^-s, u = {_CENTRED}.",
            limit=_SPHERE,
        )
        for end, short, name in (
            ("mean", "mean", "mean"),
            ("std", "spread", "standard deviation"),
            ("cov", "uniformity", "CoV"),
        )
    },
    "nc3_cosine_mean": Measurement(
        "NC3",
        "self-duality",
        "mean cosine of classifier row and centred class mean",
        "Mean over classes of the cosine of w_c and mu_c - mu_bar.",
        limit="1 at collapse",
    ),
    "nc3_duality_error": Measurement(
        "NC3",
        "distance from duality",
        "Frobenius distance of classifier times centred class means from a simplex frame",
        "|| G/||G|| - (I - 11'/K)/sqrt(K-1) || (Frobenius), G = W (M - mu_bar)'.",
        limit="0 at collapse",
    ),
    "unc3_cosine_cov": Measurement(
        "UNC3",
        "uniform duality",
        "CoV of cosines of classifier row and centred class mean",
        "Standard deviation over mean, over classes, of the cosine of w_c and mu_c - mu_bar.",
        limit="0 at collapse",
    ),
    "nc4_agreement": Measurement(
        "NC4",
        "classifier agreement",
        "share of validation tokens where head and nearest class mean agree",
        "Share of validation tokens where argmax_c <w_c, h> = argmin_c ||h - mu_c||, over the kept classes.",
        limit="1 at collapse",
    ),
    "nc5_ood_deviation": Measurement(
        "NC5",
        "orthogonality to out-of-distribution text",
        "mean |cosine| of class mean and mean feature of out-of-distribution text",
        "Mean over classes of |cos(mu_c, mean feature of out-of-distribution text)| (Ammar 2024).",
        limit="0 at collapse",
    ),
}


def measurements_in(results: pd.DataFrame) -> list[str]:
    """Keys of the measurements that `results` has at least one number of, in display order."""
    return [key for key in MEASUREMENTS if key in results and results[key].notna().any()]


def in_display_order(table: pd.DataFrame) -> pd.DataFrame:
    """`table` with its column `measurement` in the order of `MEASUREMENTS`, else in the order it had."""
    order = {key: number for number, key in enumerate(MEASUREMENTS)}
    return table.sort_values("measurement", key=lambda keys: keys.map(order), kind="stable", ignore_index=True)


def simplex_cosine(classes: int) -> float:
    """Cosine between any two vertices of a simplex of K classes: -1 / (K - 1).

    >>> simplex_cosine(3)
    -0.5
    """
    return -1.0 / (classes - 1)


def uniform_sphere_log_kernel(dim: int) -> float:
    """Mean of log(1 / ||u - v||) for u, v uniform on the unit sphere in D dimensions.

    ||u - v||^2 = 4 B with B ~ Beta(a, a), a = (D - 1) / 2, hence -ln 2 - (psi(a) - psi(2 a)) / 2.

    >>> round(uniform_sphere_log_kernel(16), 4)
    -0.3294
    """
    a = (dim - 1) / 2
    return float(-log(2) - (psi(a) - psi(2 * a)) / 2)


def _uniform_sphere_riesz(dim: int, s: float) -> float:
    """Mean of ||u - v||^-s, from E[B^(-s/2)] of Beta(a, a); infinite for s >= D - 1."""
    a = (dim - 1) / 2
    if s >= 2 * a:
        return float("inf")
    return exp(-s * log(2) + gammaln(a - s / 2) + gammaln(2 * a) - gammaln(a) - gammaln(2 * a - s / 2))


def limits_of_theory(dim: int, classes: int, *, riesz_s: float | None = None) -> pd.DataFrame:
    """What theory says of points spread uniformly on a sphere, and of a simplex.

    Args:
        dim: width of the features, D >= 2.
        classes: number of classes, K >= 2. A simplex of K classes exists only for K <= D + 1: else it has no rows.
        riesz_s: exponent of the Riesz kernel, whose moments are infinite in few dimensions (s >= D - 1); its limits
            are left out where it is not known.

    Returns:
        Columns `limit` ("uniform sphere" or "simplex"), `measurement` (key), `value`.

    Raises:
        ValueError: `dim` or `classes` below 2.
    """
    if dim < 2 or classes < 2:
        raise ValueError(f"the limits need 2 dimensions and 2 classes at least, not {dim} and {classes}")
    a = (dim - 1) / 2
    log_mean = uniform_sphere_log_kernel(dim)
    log_std = sqrt(polygamma(1, a) - polygamma(1, 2 * a)) / 2
    sphere = {
        **{f"gnc2_log{tag}_mean": log_mean for tag in ("", "_uncentred")},
        **{f"gnc2_log{tag}_std": log_std for tag in ("", "_uncentred")},
        **{f"gnc2_log{tag}_cov": log_std / log_mean for tag in ("", "_uncentred")},
        "nc2_cosine_mean": 0.0,
        "nc2_cosine_std": 1 / sqrt(dim),
    }
    distance = sqrt(2 * classes / (classes - 1))
    simplex = {
        "nc2_norm_cov": 0.0,
        "nc2_log_norm_std": 0.0,
        "nc2_cosine_mean": simplex_cosine(classes),
        "nc2_cosine_std": 0.0,
        "nc2_coherence": 0.0,
        "nc2_etf_error": 0.0,
        "gnc2_log_mean": -log(distance),
        "gnc2_log_std": 0.0,
    }
    if riesz_s is not None:
        mean = _uniform_sphere_riesz(dim, riesz_s)
        std = sqrt(_uniform_sphere_riesz(dim, 2 * riesz_s) - mean**2)
        sphere |= {"gnc2_riesz_mean": mean, "gnc2_riesz_std": std, "gnc2_riesz_cov": std / mean}
        simplex |= {"gnc2_riesz_mean": distance**-riesz_s, "gnc2_riesz_std": 0.0}
    rows = [("uniform sphere", *pair) for pair in sphere.items()]
    if classes <= dim + 1:
        rows += [("simplex", *pair) for pair in simplex.items()]
    return pd.DataFrame(rows, columns=["limit", "measurement", "value"])
