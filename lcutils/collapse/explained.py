r"""More on each of the catalogue's measurements: formula, meaning, direction, scale, what it hides, who defined it.

In the formulas: \mu_c is the mean feature of class c, \bar\mu the unweighted mean of the kept means, \sigma_c^2 the
within-class variance, w_c the class's row of the head, K the number of kept classes, D the width of the features. \hat
stands for division by the length, \langle \cdot \rangle for the mean over the classes or pairs c < c' below it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Direction = Literal["down", "up", "zero", "none"]
Scale = Literal["free", "power", "shift", "unit"]


@dataclass(frozen=True, kw_only=True)
class Explained:
    """More on a measurement than its entry in the catalogue says.

    Attributes:
        formula: the definition in LaTeX.
        meaning: two sentences for a reader who does not have the paper.
        hides: one sentence on what it does not show.
        source: who defined it, and where.
        null: its value without structure, in LaTeX and words; empty where no closed form is known.
        direction: which way collapse lies: "down", "up", "zero" (its size falls: a CoV whose mean may have either sign)
            or "none" (not known).
        scale: what features c times as large do to it, the head as it was: nothing ("free"), c^`power` times as large
            ("power"), `power` * log c added ("shift"), or another change, because it depends on the unit ("unit").
        power: of `scale`.
    """

    formula: str = ""
    meaning: str = ""
    hides: str = ""
    source: str = ""
    null: str = ""
    direction: Direction = "none"
    scale: Scale = "free"
    power: int = 0


def told(
    formula: str,
    meaning: str,
    hides: str,
    source: str,
    null: str = "",
    direction: Direction = "down",
    scale: Scale = "free",
    power: int = 0,
) -> Explained:
    """Return the entry of a measurement; most fall towards collapse and are free of scale."""
    return Explained(
        formula=formula, meaning=meaning, hides=hides, source=source, null=null, direction=direction, scale=scale,
        power=power,
    )  # fmt: skip


_PAPER = "Wu and Papyan 2024, section 3"
_PAPYAN = "Papyan, Han and Donoho 2020"
_GALANTI = "Galanti, György and Hutter 2022"
_LIU = "Liu, Yu, Weller and Schölkopf 2023"
_ZHU = "Zhu and others 2021"

_SPREAD = r"\frac{(\sigma_c^2 + \sigma_{c'}^2)/2}{\lVert \mu_c - \mu_{c'} \rVert^{%s}}"
_PAIRS = r"\left\langle %s \right\rangle_{c < c'}"
_NORM = r"\lVert \mu_c - \bar\mu \rVert"
_COSINE = r"\cos(\mu_c - \bar\mu,\ \mu_{c'} - \bar\mu)"
_HEAD = r"\cos(w_c,\ \mu_c - \bar\mu)"
_FRAME = (
    r"\left\lVert \frac{G}{\lVert G \rVert_F} - \frac{I - \frac{1}{K} \mathbf{1}\mathbf{1}^\top}{\sqrt{K-1}} "
    r"\right\rVert_F,\quad G = "
)
_ABSOLUTE = r"\frac{\Gamma(D/2)}{\sqrt{\pi}\,\Gamma((D+1)/2)} \approx \sqrt{\tfrac{2}{\pi D}}"


def _over(what: str, index: str) -> dict[str, str]:
    """Return mean, standard deviation and CoV of `what` over the classes or pairs of `index`, in LaTeX."""
    mean, std = (rf"\operatorname{{{name}}}_{{{index}}}\, {what}" for name in ("mean", "std"))
    return {"mean": mean, "std": std, "cov": rf"\frac{{{std}}}{{{mean}}}"}


_POLE = (
    "Where the mean crosses 0 it has a pole: it runs to plus or minus infinity and back while the spread hardly "
    "changes, so read the standard deviation beside it."
)
_norms, _log_norms = _over(_NORM, "c"), _over(rf"\log {_NORM}", "c")
_cosines, _head_cosines = _over(_COSINE, "c < c'"), _over(_HEAD, "c")


def _uniformity() -> dict[str, Explained]:
    """Return the words of GNC2: three statistics of three kernels."""
    kernels = {
        "gnc2_log": (
            r"\log \frac{1}{\lVert u_c - u_{c'} \rVert}",
            r"u_c = \widehat{\mu_c - \bar\mu}",
            "log inverse distance of two class means, taken as directions from their common centre",
            "",
            f"{_PAPER}; the idea: {_LIU}",
        ),
        "gnc2_log_uncentred": (
            r"\log \frac{1}{\lVert u_c - u_{c'} \rVert}",
            r"u_c = \hat\mu_c",
            "log inverse distance of two class means, taken as directions from the origin",
            " A part that all class means share brings all directions together, whatever their spread around it.",
            f"{_PAPER}; the idea: {_LIU}",
        ),
        "gnc2_riesz": (
            r"\lVert u_c - u_{c'} \rVert^{-s}",
            r"u_c = \widehat{\mu_c - \bar\mu}",
            "inverse distance (to the power s) of two class means, taken as directions from their common centre",
            " A large s lets the nearest pairs alone decide.",
            f"{_LIU}; Wu and Papyan's released code",
        ),
    }
    meanings = {
        "mean": "This is the average {what}. It is lowest where the directions spread evenly over a sphere; pairs that "
        "bunch together raise it.",
        "std": "This is how much the {what}, differs from pair to pair. It falls as the directions spread evenly, "
        "since no pair is then much nearer than another.",
        "cov": "This is the standard deviation of the {what}, divided by its mean. It measures how unevenly directions "
        "spread: nearer to 0 is more even.",
    }
    hides = {
        "mean": "An average over all pairs hardly sees a few classes that sit on top of one another.",
        "std": "It does not tell a few pairs that are very near from many that are a little nearer.",
        "cov": _POLE,
    }
    sphere = {
        "log": {
            "mean": r"$-\log 2 - \tfrac12(\psi(\tfrac{D-1}{2}) - \psi(D-1))$ for a uniform sphere",
            "std": r"$\tfrac12\sqrt{\psi'(\tfrac{D-1}{2}) - \psi'(D-1)}$ for a uniform sphere",
            "cov": "the uniform sphere's standard deviation over its mean",
        },
        "riesz": {
            "mean": r"$2^{-s}\,\frac{\Gamma(a - s/2)\,\Gamma(2a)}{\Gamma(a)\,\Gamma(2a - s/2)}$, $a = \tfrac{D-1}{2}$, "
            "for a uniform sphere, finite for $s < D - 1$",
            "std": "from the uniform sphere's means at $s$ and $2s$, finite for $2s < D - 1$",
            "cov": "the uniform sphere's standard deviation over its mean, finite for $2s < D - 1$",
        },
    }
    made = {}
    for kernel, (formula, unit, what, aside, source) in kernels.items():
        kind = "riesz" if kernel == "gnc2_riesz" else "log"
        for end, statistic in _over(formula, "c < c'").items():
            # The mean of a Riesz kernel is positive, so its CoV has no pole.
            said = hides["std"] if (kind, end) == ("riesz", "cov") else hides[end]
            made[f"{kernel}_{end}"] = told(
                rf"{statistic},\quad {unit}",
                meanings[end].format(what=what),
                said + aside,
                source,
                sphere[kind][end],
                direction="zero" if (kind, end) == ("log", "cov") else "down",
            )
    return made


EXPLAINED: dict[str, Explained] = {
    "nc1_cdnv": told(
        _PAIRS % (_SPREAD % 4),
        "For two classes, the spread of their features is set against the distance of their means, and this is "
        "averaged over all pairs. Near 0, each class is a tight cloud far away from the others.",
        "It has the dimension of 1/length², so features that merely grow lower it, and a few pairs of near means carry "
        "the average.",
        f"{_PAPER}; with the square of the distance: {_GALANTI}",
        scale="power",
        power=-2,
    ),
    "nc1_cdnv_log": told(
        _PAIRS % (r"\log " + _SPREAD % 4),
        "The same ratio of spread to distance, but its logarithm is averaged, so that a typical pair counts and not "
        "the few nearest ones. It falls without end as the classes tighten.",
        "It too falls when features merely grow, and pairs of classes with one sample each are left out, because their "
        "spread is 0.",
        "This project, from Wu and Papyan's CDNV",
        scale="shift",
        power=-2,
    ),
    "nc1_cdnv_galanti": told(
        _PAIRS % (_SPREAD % 2),
        "The spread of two classes over the squared distance of their means, averaged over all pairs: a pure number. "
        "Near 0, each class is a tight cloud far away from the others, whatever the size of the features.",
        "A few pairs of near means carry the average, and the means and spreads of rare classes are poorly known.",
        _GALANTI,
        r"about $n/2$ for labels that say nothing, with $n$ samples in each class and many dimensions",
    ),
    "nc1_pinv": told(
        r"\frac{1}{K} \operatorname{tr}\left(S_W S_B^{+}\right)",
        "The spread within classes, each direction weighed by how little the class means spread along it. Near 0, "
        "features leave their class mean only in directions in which the means are far apart.",
        "Directions in which the class means hardly differ decide, and those are the ones that few samples know least.",
        f"{_PAPYAN} (NC1)",
    ),
    "nc1_quotient": told(
        r"\frac{\operatorname{tr} S_W}{\operatorname{tr} S_B}",
        "The total spread of the features around their class means, over the total spread of the class means. Near 0, "
        "knowing the class is knowing the feature.",
        "Frequent classes rule its numerator and rare ones, with their poorly known means, its denominator, so more "
        "rare classes lower it without collapse.",
        "Tirer, Huang and Niles-Weed 2023",
        r"about $1/\langle 1/n_c \rangle_c$, the harmonic mean of the class sizes, for labels that say nothing",
    ),
    "nc2_norm_cov": told(
        _norms["cov"],
        "The distances of the class means from their common centre vary by this share of their average. At 0, all "
        "class means are equally far out.",
        "It says nothing of directions: class means in two heaps may have equal norms.",
        f"{_PAPYAN} (NC2)",
    ),
    "nc2_log_norm_cov": told(
        _log_norms["cov"],
        "The logarithms of the same distances vary by this share of their average. At 0, all class means are equally "
        "far out.",
        "A logarithm depends on the unit of length, so features twice as large have another value; and where the mean "
        "of the logs crosses 0 it has a pole.",
        f"{_PAPER}",
        direction="zero",
        scale="unit",
    ),
    "nc2_log_norm_std": told(
        _log_norms["std"],
        "How much the distances of the class means from their common centre differ, as ratios: 0.1 means that they "
        "typically differ by 10 %. At 0, all class means are equally far out.",
        "It says nothing of directions, and classes near the centre, often rare ones, weigh heavily.",
        "This project, from Wu and Papyan's log norms",
    ),
    "nc2_cosine_mean": told(
        _cosines["mean"],
        "The average cosine of the angle between two class means, seen from their common centre. It cannot be lower "
        "than -1/(K-1), where the directions cancel; values above it say that many classes lie on one side.",
        "It depends on the sum of the directions alone, so it says almost nothing of how they are arranged.",
        f"{_PAPYAN} (NC2)",
        "0 for independent uniform directions",
    ),
    "nc2_cosine_std": told(
        _cosines["std"],
        "How much the angles between class means differ from pair to pair. At 0 all pairs have the same angle, which "
        "at most D + 1 classes can have in D dimensions.",
        "With more classes than dimensions it cannot reach 0, so its least value depends on the width of the model.",
        f"{_PAPYAN} (NC2)",
        r"$1/\sqrt{D}$ for independent uniform directions",
    ),
    "nc2_cosine_cov": told(
        _cosines["cov"],
        "The standard deviation of the cosines between class means, over their average. At 0 all pairs have the same "
        "angle.",
        "The average is next to 0 for many classes, so it says more of that average than of the spread: "
        + _POLE[0].lower()
        + _POLE[1:],
        f"{_PAPER}",
        direction="zero",
    ),
    "nc2_coherence": told(
        _PAIRS % rf"\left\lvert {_COSINE} + \tfrac{{1}}{{K-1}} \right\rvert",
        "How far the cosine of two class means is, on average, from that of a simplex, the most even arrangement. At 0 "
        "every pair has the simplex's angle, which at most D + 1 classes can have in D dimensions.",
        "With more classes than dimensions it cannot reach 0, so its least value depends on the width of the model.",
        f"{_PAPYAN} (NC2)",
        rf"about ${_ABSOLUTE}$ for many uniform directions",
    ),
    "nc2_etf_error": told(
        rf"{_FRAME} \left[(\mu_c - \bar\mu)^\top (\mu_{{c'}} - \bar\mu)\right]_{{c, c'}}",
        "The table of all inner products of class means is scaled to length 1 and compared with that of a simplex. At "
        "0 norms and angles are all equal.",
        "With more classes than dimensions it stays near its highest value, √2, and its changes are hard to read.",
        f"{_ZHU}; {_PAPER}",
    ),
    **_uniformity(),
    "nc3_cosine_mean": told(
        _head_cosines["mean"],
        "For each class, how well the head's row for it points along the class mean, averaged. At 1 head and class "
        "means have the same directions.",
        "An average may hide that frequent and rare classes align very differently: UNC3 looks at that.",
        f"{_PAPYAN} (NC3); {_PAPER}",
        "0 for a head that is independent of the class means",
        direction="up",
    ),
    "nc3_duality_error": told(
        rf"{_FRAME} \left[w_c^\top (\mu_{{c'}} - \bar\mu)\right]_{{c, c'}}",
        "The table of all inner products of head rows and class means is scaled to length 1 and compared with that of "
        "a simplex. At 0 both form one and the same simplex.",
        "With more classes than dimensions it stays near √2, and it mixes alignment with the evenness of norms and "
        "angles.",
        f"{_ZHU}; {_PAPER}",
        r"about $\sqrt{2}$ for a head that is independent of the class means",
    ),
    "unc3_cosine_cov": told(
        _head_cosines["cov"],
        "How much the alignment of head row and class mean differs from class to class, as a share of its average. At "
        "0 all classes align equally well, though not necessarily well.",
        "All classes may be equally badly aligned. " + _POLE,
        _PAPER,
        direction="zero",
    ),
    "nc4_agreement": told(
        r"\Pr\left[\arg\max_c\, s\,(\langle w_c, h \rangle + b_c) = \arg\min_c\, \lVert h - \mu_c \rVert\right]",
        "The share of new tokens for which the head chooses the class whose mean is nearest to the feature. At 1 the "
        "trained head does nothing that a rule of nearest means would not do.",
        "Frequent tokens make up most of the text, so a few classes decide; both may agree and be wrong; and with a "
        "bias in the head it depends on the features' scale.",
        f"{_PAPYAN} (NC4); {_PAPER}",
        direction="up",
    ),
    "nc4_agreement_weights": told(
        r"\Pr\left[\arg\max_c\, \langle w_c, h \rangle = \arg\min_c\, \lVert h - \mu_c \rVert\right]",
        "The same share, with the head's bias and scale left out. It tells how much of the agreement the weights alone "
        "carry; only models with a bias or a scale have it.",
        "It is not the decision that the model makes; and a few frequent tokens decide.",
        "This project, from NC4",
        direction="up",
    ),
    "nc5_ood_deviation": told(
        r"\left\langle \left\lvert \cos(\mu_c,\ m) \right\rvert \right\rangle_c,\quad "
        r"m = \text{mean feature of out-of-distribution text}",
        "How far the average feature of foreign text is from being at right angles to the class means. Near 0 such "
        "text lies off all classes, so it can be told from ordinary text.",
        "Only the mean of the foreign features counts: they may lie on the classes one by one and cancel.",
        "Ammar and others 2024 (NECO)",
        rf"${_ABSOLUTE}$ for a uniform direction",
    ),
}
