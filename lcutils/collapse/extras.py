"""Entries of the catalogue that are measured only if they are asked for: corrected for small samples, and spectra.

In the words below, beside those of the catalogue: of a class with n samples, n at least 2, v_c = sigma_c² n/(n-1) and
e_c = v_c/n. Only such classes take part in what is corrected, and mu_bar is then the mean of their means. The
derivation is in `lcutils.collapse.corrected`.
"""

from __future__ import annotations

from functools import partial

from lcutils.collapse.entries import Count, Measurement

_OF_CLASSES = "lcutils.collapse.corrected:corrected_classes"
_OF_PAIRS = "lcutils.collapse.corrected:corrected_pairs"
_TWO = "over classes of n >= 2 samples, v = sigma^2 n/(n-1), e = v/n"
_DISTANCE = "||mu_c - mu_c'||^2 - e_c - e_c'"
_NORM = "||mu_c - mu_bar||^2 - e_c (1 - 2/K) - mean(e)/K"

_corrected = partial(Measurement, group="corrected")
_cdnv = partial(_corrected, "NC1", function=_OF_PAIRS, reads="pairs", log=True, limit="0 at collapse", collapsed=0.0)
_corrected_count = partial(Count, group="corrected")

CORRECTED: dict[str, Measurement] = {
    "nc1_cdnv_corrected": _cdnv(
        "CDNV, corrected for small samples",
        "mean CDNV over pairs of classes (4th power of the distance), corrected",
        f"Mean over pairs of classes of ((v_c + v_c') / 2) / d^4, d^2 = {_DISTANCE}, {_TWO}; pairs with a negative d^2 "
        "are left out.",
    ),
    "nc1_cdnv_galanti_corrected": _cdnv(
        "CDNV as Galanti defined it, corrected for small samples",
        "mean CDNV over pairs of classes (square of the distance), corrected",
        f"Mean over pairs of classes of ((v_c + v_c') / 2) / d^2, d^2 = {_DISTANCE}, {_TWO}; pairs with a negative d^2 "
        "are left out.",
    ),
    "nc1_quotient_corrected": _corrected(
        "NC1",
        "quotient of traces, corrected for small samples",
        "tr S_W / tr S_B, corrected",
        f"(sum n_c v_c / sum n_c) / mean of ({_NORM}), {_TWO}.",
        function=_OF_CLASSES,
        reads="classes",
        log=True,
        limit="0 at collapse",
        collapsed=0.0,
    ),
    "nc2_norm_cov_corrected": _corrected(
        "NC2",
        "equinorm, of norms, corrected for small samples",
        "CoV of centred class-mean norms, corrected",
        f"sqrt(variance of r_c - mean of e_c u_c' S_W u_c / tr S_W) / mean of r_c, r_c^2 = {_NORM}, u_c the direction "
        f"of mu_c - mu_bar, {_TWO}; those with a negative r_c^2 are left out.",
        function=_OF_CLASSES,
        reads="classes",
        limit="0 at collapse",
        collapsed=0.0,
    ),
    "nc3_cosine_mean_corrected": _corrected(
        "NC3",
        "self-duality, corrected for small samples",
        "mean cosine of classifier row and centred class mean, corrected",
        f"Mean of <w_c, mu_c - mu_bar> / (||w_c|| r_c), r_c^2 = {_NORM}, {_TWO}; those with a negative r_c^2 are left "
        "out.",
        function=_OF_CLASSES,
        reads="classes",
        limit="1 at collapse",
        collapsed=1.0,
    ),
}

CORRECTED_COUNTS: dict[str, Count] = {
    "singleton_classes": _corrected_count(
        "Classes with one sample; left out of everything that is corrected.",
        function=_OF_CLASSES,
        reads="classes",
    ),
    "negative_norms": _corrected_count(
        "Classes whose corrected squared norm is not above 0; left out of nc2_norm_cov_corrected and "
        "nc3_cosine_mean_corrected.",
        function=_OF_CLASSES,
        reads="classes",
    ),
    "negative_pairs": _corrected_count(
        "Pairs of classes whose corrected squared distance is not above 0; left out of nc1_cdnv_corrected and "
        "nc1_cdnv_galanti_corrected.",
        function=_OF_PAIRS,
        reads="pairs",
    ),
}

_spectral = partial(
    Measurement,
    "Spectrum",
    function="lcutils.collapse.spectrum:spectra",
    reads="classes",
    group="spectrum",
)

SPECTRUM: dict[str, Measurement] = {
    **{
        f"spectrum_{kind}_{of}": _spectral(
            f"{label} of {what}",
            f"{axis} of {what}",
            f"{formula} {matrix}.",
            log=kind != "decay",
            limit=limits[kind == "decay"],
        )
        for kind, label, axis, formula in (
            (
                "rank",
                "effective rank",
                "effective rank (RankMe)",
                "exp of the entropy of sqrt(lambda_j) / sum sqrt(lambda) (RankMe, Garrido 2023), lambda the "
                "eigenvalues of",
            ),
            (
                "decay",
                "eigenspectrum decay",
                "decay exponent of the eigenspectrum (alpha-ReQ)",
                "alpha of the least-squares line log lambda_j = a - alpha log j (alpha-ReQ, Agrawal 2022), lambda the "
                "descending eigenvalues of",
            ),
            (
                "participation",
                "participation ratio",
                "participation ratio",
                "(sum lambda)^2 / sum lambda^2, lambda the eigenvalues of",
            ),
        )
        for of, what, matrix, limits in (
            (
                "features",
                "features",
                "the covariance of all features",
                ("at most D", "0 if all directions have the same variance"),
            ),
            (
                "means",
                "class means",
                "S_B",
                ("K-1 for a simplex; at most D", "0 for a simplex"),
            ),
            (
                "within",
                "within-class scatter",
                "S_W",
                ("D if the same in all directions", "0 if the same in all directions"),
            ),
        )
    },
    "spectrum_share_between": _spectral(
        "share of variance between classes",
        "share of the features' variance that lies between classes",
        "1 - tr S_W / tr S_T, S_T the covariance of all features; a class counts by its samples.",
        limit="1 at collapse",
        collapsed=1.0,
    ),
}
