"""The catalogue of measurements: what each one is, in words, and the name of the function that computes it.

Results, charts, tables and the report read this list, so it imports neither torch nor pandas. To add a measurement,
write a function that takes a `MeasurementInputs` and returns its values by key (tensors where it reads classes, plain
numbers where it reads pairs), and one entry here: `measure_collapse` then computes it. More on it (formula,
meaning, direction, scale, what it hides, source) is an entry in `lcutils.collapse.explained`. A measurement over pairs
may need another sum: see `lcutils.collapse.terms`. `tests/test_new_measurement.py` is an example.

In the words below: classes c, K of them are kept; mu_c is the mean feature of class c and mu_bar the unweighted mean
of the kept means; sigma_c² is the within-class variance, w_c the class's row of the head; pairs are c < c'; CoV is
standard deviation over mean; logs are natural; standard deviations have the n - 1 divisor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from importlib import import_module
from math import inf
from typing import Any

from lcutils.collapse.entries import Count, Measurement
from lcutils.collapse.explained import EXPLAINED
from lcutils.collapse.explained_extras import EXPLAINED_EXTRAS
from lcutils.collapse.extras import CORRECTED, CORRECTED_COUNTS, SPECTRUM

_CDNV = "((sigma_c^2 + sigma_c'^2) / 2) / ||mu_c - mu_c'||"
_KERNEL = "over pairs of classes of log(1 / ||u_c - u_c'||), u = "
_CENTRED = "(mu_c - mu_bar) / ||mu_c - mu_bar||"
_UNCENTRED = "mu_c / ||mu_c||"
_SPHERE = "a uniform sphere's value, which depends on the width"

# What the measurements of one function share.
_cdnv = partial(Measurement, "NC1", function="lcutils.collapse.variability:distance_normalised_variance", reads="pairs")
_covariance_ratio = partial(
    Measurement,
    "NC1",
    function="lcutils.collapse.variability:covariance_ratios",
    reads="classes",
    log=True,
    limit="0 at collapse",
    collapsed=0.0,
)
_norms = partial(
    Measurement,
    "NC2",
    function="lcutils.collapse.geometry:equal_norms",
    reads="classes",
    limit="0 at collapse",
    collapsed=0.0,
)
_cosines = partial(Measurement, "NC2", function="lcutils.collapse.geometry:equal_angles", reads="classes")
_uniformity = partial(
    Measurement, "GNC2", function="lcutils.collapse.geometry:uniformity", reads="pairs", limit=_SPHERE
)

_ENTRIES: dict[str, Measurement] = {
    "nc1_cdnv": _cdnv(
        "within-class variability (CDNV)",
        "mean CDNV over pairs of classes (4th power of the distance)",
        f"Mean over pairs of classes of {_CDNV}^4.",
        log=True,
        limit="0 at collapse",
        collapsed=0.0,
    ),
    "nc1_cdnv_log": _cdnv(
        "log CDNV",
        "mean log CDNV over pairs of classes",
        f"Mean over pairs of classes of log of {_CDNV}^4; left out where both variances are 0.",
        limit="minus infinity at collapse",
        collapsed=-inf,
    ),
    "nc1_cdnv_galanti": _cdnv(
        "CDNV as Galanti defined it",
        "mean CDNV over pairs of classes (square of the distance)",
        f"Mean over pairs of classes of {_CDNV}^2.",
        log=True,
        limit="0 at collapse",
        collapsed=0.0,
    ),
    "nc1_pinv": _covariance_ratio(
        "within- over between-class covariance",
        "tr(S_W pinv(S_B)) / K",
        "tr(S_W pinv(S_B)) / K (Papyan 2020).",
    ),
    "nc1_quotient": _covariance_ratio(
        "quotient of traces",
        "tr S_W / tr S_B",
        "tr S_W / tr S_B (Tirer 2023).",
    ),
    "nc2_norm_cov": _norms(
        "equinorm, of norms",
        "CoV of centred class-mean norms",
        "Standard deviation over mean of ||mu_c - mu_bar|| over classes.",
    ),
    "nc2_log_norm_cov": _norms(
        "equinorm, of log norms",
        "CoV of log centred class-mean norms",
        "Standard deviation over mean of log ||mu_c - mu_bar|| over classes; depends on its unit.",
    ),
    "nc2_log_norm_std": _norms(
        "spread of log norms",
        "standard deviation of log centred class-mean norms",
        "Standard deviation of log ||mu_c - mu_bar|| over classes.",
    ),
    "nc2_cosine_mean": _cosines(
        "mean cosine",
        "mean cosine of centred class means over pairs",
        "Mean over pairs of classes of the cosine of mu_c - mu_bar and mu_c' - mu_bar.",
        limit="-1/(K-1) for a simplex",
    ),
    "nc2_cosine_std": _cosines(
        "spread of cosines",
        "standard deviation of cosines of centred class means over pairs",
        "Standard deviation over pairs of classes of the cosine of centred class means.",
        limit="0 at collapse; 1/sqrt(D) for a uniform sphere",
        collapsed=0.0,
    ),
    "nc2_cosine_cov": _cosines(
        "equiangular",
        "CoV of cosines of centred class means over pairs",
        "Standard deviation over mean, over pairs of classes, of the cosine of centred class means.",
        limit="0 at collapse",
        collapsed=0.0,
    ),
    "nc2_coherence": Measurement(
        "NC2",
        "distance from the simplex angle",
        "mean |cosine + 1/(K-1)| over pairs of classes",
        "Mean over pairs of classes of |cosine + 1/(K-1)|, the cosine of centred class means.",
        function="lcutils.collapse.geometry:coherence",
        reads="pairs",
        limit="0 at collapse",
        collapsed=0.0,
    ),
    "nc2_etf_error": Measurement(
        "NC2",
        "distance from a simplex frame",
        "Frobenius distance of centred class means from a simplex frame",
        "|| G/||G|| - (I - 11'/K)/sqrt(K-1) || (Frobenius), G the Gram matrix of centred class means.",
        function="lcutils.collapse.geometry:etf_error",
        reads="classes",
        limit="0 at collapse",
        collapsed=0.0,
    ),
    **{
        f"gnc2_log{tag}_{end}": _uniformity(
            f"{short}, log kernel{comma}",
            f"{name} of log inverse distance, {words} class means on the sphere",
            f"{name[0].upper()}{name[1:]} {_KERNEL}{unit}.",
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
        f"gnc2_riesz_{end}": _uniformity(
            f"{short}, Riesz kernel, centred",
            f"{name} of inverse distance (Riesz), centred class means on the sphere",
            f"{name[0].upper()}{name[1:]} over pairs of classes of ||u_c - u_c'||^-s, u = {_CENTRED}.",
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
        function="lcutils.collapse.duality:self_duality",
        reads="classes",
        limit="1 at collapse",
        collapsed=1.0,
    ),
    "nc3_duality_error": Measurement(
        "NC3",
        "distance from duality",
        "Frobenius distance of classifier times centred class means from a simplex frame",
        "|| G/||G|| - (I - 11'/K)/sqrt(K-1) || (Frobenius), G = W (M - mu_bar)'.",
        function="lcutils.collapse.duality:self_duality",
        reads="classes",
        limit="0 at collapse",
        collapsed=0.0,
    ),
    "unc3_cosine_cov": Measurement(
        "UNC3",
        "uniform duality",
        "CoV of cosines of classifier row and centred class mean",
        "Standard deviation over mean, over classes, of the cosine of w_c and mu_c - mu_bar.",
        function="lcutils.collapse.duality:self_duality",
        reads="classes",
        limit="0 at collapse",
        collapsed=0.0,
    ),
    "nc4_agreement": Measurement(
        "NC4",
        "classifier agreement",
        "share of validation tokens where head and nearest class mean agree",
        "Share of validation tokens where argmax_c <w_c, h> = argmin_c ||h - mu_c||, over the kept classes; a head's "
        "bias and the sign of its scale take part, and with a bias NC4 is not scale-free.",
        function="lcutils.collapse.agreement:classifier_agreement",
        reads="text",
        limit="1 at collapse",
        collapsed=1.0,
    ),
    "nc4_agreement_weights": Measurement(
        "NC4",
        "classifier agreement, weights alone",
        "share of validation tokens where the head's weights and nearest class mean agree",
        "Share of validation tokens where argmax_c <w_c, h> = argmin_c ||h - mu_c||, over the kept classes, without "
        "the head's bias and scale; only for models that have a bias or a scale that is not positive.",
        function="lcutils.collapse.agreement:classifier_agreement",
        reads="text",
        limit="1 at collapse",
        collapsed=1.0,
    ),
    "nc5_ood_deviation": Measurement(
        "NC5",
        "orthogonality to out-of-distribution text",
        "mean |cosine| of class mean and mean feature of out-of-distribution text",
        "Mean over classes of |cos(mu_c, mean feature of out-of-distribution text)| (Ammar 2024).",
        function="lcutils.collapse.duality:ood_deviation",
        reads="text",
        limit="0 at collapse",
        collapsed=0.0,
    ),
    **CORRECTED,
    **SPECTRUM,
}
_WORDS = EXPLAINED | EXPLAINED_EXTRAS
MEASUREMENTS: dict[str, Measurement] = {
    key: replace(entry, **asdict(_WORDS[key])) if key in _WORDS else entry for key, entry in _ENTRIES.items()
}

COUNTS: dict[str, Count] = {
    "n_classes": Count(
        "K, the classes with enough samples to be kept.",
        function="lcutils.collapse.counts:class_counts",
        reads="classes",
    ),
    "nc1_zero_pairs": Count(
        "Pairs of classes whose variances are both 0; left out of nc1_cdnv_log.",
        function="lcutils.collapse.counts:pair_counts",
        reads="pairs",
    ),
    "coincident_pairs": Count(
        "Pairs of classes with equal means; left out of CDNV and of the kernels of GNC2.",
        function="lcutils.collapse.counts:pair_counts",
        reads="pairs",
    ),
    "central_classes": Count(
        "Classes whose mean equals mu_bar; left out of cosines, of kernels of centred means and of log norms.",
        function="lcutils.collapse.counts:class_counts",
        reads="classes",
    ),
    **CORRECTED_COUNTS,
}

# What `measure_collapse` returns without extras, in this order.
KEYS = tuple(k for k, entry in (MEASUREMENTS | COUNTS).items() if entry.group == "paper" and entry.reads != "text")


def load_function(name: str) -> Callable[..., Any]:
    """Import the function that an entry names as "module:function".

    >>> load_function("math:sqrt")(9)
    3.0
    """
    module, function = name.split(":")
    found: Callable[..., Any] = getattr(import_module(module), function)
    return found
