r"""More on the measurements that are taken only if they are asked for: corrected for small samples, and spectra.

Beside the letters of `lcutils.collapse.explained`: \hat v_c is the unbiased within-class variance, \hat d^2 and
\hat r^2 are squared distances and norms less the noise of the class means; \lambda_1 \ge \lambda_2 \ge \dots are the
eigenvalues of a covariance matrix.
"""

from __future__ import annotations

from lcutils.collapse.explained import EXPLAINED, Explained, told

_INDEPENDENT = (
    "It takes samples to be independent, which tokens of one story are not, and a negative squared distance or norm, "
    "of classes too near to tell apart, is left out."
)
_SPREAD = r"\left\langle \frac{(\hat v_c + \hat v_{c'})/2}{\hat d_{cc'}^{\,%s}} \right\rangle_{c < c'}"


def _corrected(key: str, formula: str, meaning: str, hides: str = _INDEPENDENT) -> Explained:
    """Return the entry of a corrected measurement, whose direction and scale are those of the plain one."""
    plain = EXPLAINED[key]
    source = f"This project; the plain measurement: {plain.source}"
    return told(formula, meaning, hides, source, direction=plain.direction, scale=plain.scale, power=plain.power)


EXPLAINED_EXTRAS: dict[str, Explained] = {
    "nc1_cdnv_corrected": _corrected(
        "nc1_cdnv",
        _SPREAD % 4,
        "The paper's CDNV, with the noise of class means that rest on few samples taken out of spreads and distances. "
        "It estimates what CDNV would be if each class had samples without end.",
        _INDEPENDENT + " Where distances are not well above the noise, one over them is large at random.",
    ),
    "nc1_cdnv_galanti_corrected": _corrected(
        "nc1_cdnv_galanti",
        _SPREAD % 2,
        "Galanti's CDNV, with the noise of class means that rest on few samples taken out of spreads and distances. It "
        "estimates what CDNV would be if each class had samples without end.",
        _INDEPENDENT + " Where distances are not well above the noise, one over them is large at random.",
    ),
    "nc1_quotient_corrected": _corrected(
        "nc1_quotient",
        r"\frac{\sum_c n_c \hat v_c \,/ \sum_c n_c}{\langle \hat r_c^{\,2} \rangle_c}",
        "The total spread within classes over that of the class means, with the noise of class means that rest on few "
        "samples taken out of both. Distances are averaged before the division, so it holds for rare classes too.",
        "Frequent classes still rule its numerator, and it takes samples to be independent, which tokens of one story "
        "are not.",
    ),
    "nc2_norm_cov_corrected": _corrected(
        "nc2_norm_cov",
        r"\frac{\sqrt{\operatorname{var}_c\, \hat r_c - \text{noise}}}{\operatorname{mean}_c\, \hat r_c}",
        "How much the class means' distances from their centre vary, as a share of their average, with the noise of "
        "few samples taken out. Noise alone makes the means of rare classes seem farther out.",
    ),
    "nc3_cosine_mean_corrected": _corrected(
        "nc3_cosine_mean",
        r"\left\langle \frac{\langle w_c,\ \mu_c - \bar\mu \rangle}{\lVert w_c \rVert\, \hat r_c} \right\rangle_c",
        "How well the head's rows point along the class means, with the noise of few samples taken out of the means' "
        "lengths. Noise alone makes the cosines of rare classes seem lower.",
        _INDEPENDENT + " A single cosine may come out above 1.",
    ),
}

_OF = {
    "features": ("S_T", "all features"),
    "means": ("S_B", "the class means"),
    "within": ("S_W", "features around their class means"),
}
_KINDS = {
    "rank": (
        r"\exp\left(-\sum_j p_j \log p_j\right),\quad p_j = \frac{\sqrt{\lambda_j}}{\sum_k \sqrt{\lambda_k}}",
        "In how many directions {what} spread, each counted by how much of their length lies along it.",
        "Garrido and others 2023 (RankMe)",
    ),
    "decay": (
        r"\log \lambda_j \approx a - \alpha \log j",
        "How fast the spread of {what} falls from the widest direction to the narrowest: the exponent of a power law.",
        "Agrawal and others 2022 (alpha-ReQ)",
    ),
    "participation": (
        r"\frac{\left(\sum_j \lambda_j\right)^2}{\sum_j \lambda_j^2}",
        "In how many directions {what} spread, the widest counted most.",
        "Gao and others 2017, for neural recordings",
    ),
}
_ENDS = {
    "features": "Full collapse leaves no more directions than class means have.",
    "means": "A simplex of K class means spreads over K - 1 directions evenly.",
    "within": "It says in how many directions classes have spread left, not how much.",
}

EXPLAINED_EXTRAS |= {
    f"spectrum_{kind}_{of}": told(
        rf"{formula}\quad (\lambda \text{{ of }} {matrix})",
        f"{meaning.format(what=what)} {_ENDS[of]}",
        "It says nothing of which directions these are, and noise of rare classes' means fills all of them."
        if of == "means"
        else "It says nothing of which directions these are, nor of how much spread there is.",
        source,
        direction="none",
    )
    for kind, (formula, meaning, source) in _KINDS.items()
    for of, (matrix, what) in _OF.items()
}
EXPLAINED_EXTRAS["spectrum_share_between"] = told(
    r"1 - \frac{\operatorname{tr} S_W}{\operatorname{tr} S_T}",
    "The share of all spread of the features that the class explains. At 1 knowing the class is knowing the feature.",
    "Frequent classes decide, and means of few samples add noise to the share between classes.",
    "The analysis of variance (Fisher 1925)",
    direction="up",
)
