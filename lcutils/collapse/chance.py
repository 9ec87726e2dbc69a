"""Closed forms of measurements without structure: means equal but for sampling, directions and decisions unrelated.

Shapes: C classes of the head, K kept ones, D dimensions.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.special import gammaln, polygamma, psi
from scipy.stats import beta
from torch import Tensor

from lcutils.features.statistics import ClassStatistics
from lcutils.tensors import NUMBERS


def chi_mean(dim: int) -> float:
    """Mean length of a standard normal vector of D dimensions: sqrt(2) Gamma((D + 1) / 2) / Gamma(D / 2).

    >>> round(chi_mean(1) ** 2, 6) == round(2 / math.pi, 6)
    True
    """
    return math.sqrt(2) * math.exp(gammaln((dim + 1) / 2) - gammaln(dim / 2))


def sphere_coherence(dim: int, shift: float = 0.0) -> float:
    """Mean of |cos + shift| for two directions spread evenly over a sphere in D >= 2 dimensions, 0 <= shift < 1.

    The cosine is 2 B - 1 with B ~ Beta(a, a), a = (D - 1) / 2. With F its distribution function,
    E|cos + e| = e (1 - 2 F(-e)) + 2 G(e), G(e) = -integral of x dF up to -e = (1 - e²)^a / (2 a Beta(1/2, a)).
    With no shift it is Gamma(D / 2) / (sqrt(pi) Gamma((D + 1) / 2)).

    >>> round(sphere_coherence(3), 6)
    0.5
    """
    a = (dim - 1) / 2
    log_beta = gammaln(0.5) + gammaln(a) - gammaln(a + 0.5)
    below = float(beta.cdf((1 - shift) / 2, a, a))  # F(-shift)
    return shift * (1 - 2 * below) + (1 - shift**2) ** a / (a * math.exp(log_beta))


def unrelated_directions(dim: int, classes: int) -> dict[str, float]:
    """Cosines of class means, and of means and head, where no direction has to do with another.

    In plain words: were the class means scattered evenly around their centre, and the head's rows chosen without
    looking at them, cosines would be this near 0 in D dimensions. Centred means sum to zero, so the cosines between
    them average -1 / (K - 1), as a simplex's do; their spread is 1 / sqrt(D).

    Exact for means of equal length as K grows; lengths that differ (rare classes' are longer) move the mean cosine.
    """
    mean, std = -1 / (classes - 1), 1 / math.sqrt(dim)
    return {
        "nc2_cosine_mean": mean,
        "nc2_cosine_std": std,
        "nc2_cosine_cov": std / mean,
        "nc2_coherence": sphere_coherence(dim, 1 / (classes - 1)),
        "nc3_cosine_mean": 0.0,
        "nc3_duality_error": math.sqrt(2),
    }


def gaussian_classes(stats: ClassStatistics, min_count: int = 1) -> dict[str, float]:
    """NC1 and norms of NC2 where all classes share one true mean and each keeps the spread that was observed.

    In plain words: give every class the same true mean, and let only the luck of its n_c samples move the mean that is
    seen. Classes with a wide spread and few samples then lie far out, and that alone gives distances and norms.

    Class c scatters isotropically in D dimensions with its observed variance, v_c = sigma_c² n_c / (n_c - 1) without
    bias (a singleton's, and that of samples which are all equal, is the pooled one). Its mean scatters with t_c = v_c /
    n_c, so mu_c - mu_c' = sqrt((t_c + t_c') / D) z with z standard normal, and 1 / ||z||² has mean 1 / (D - 2),
    1 / ||z||⁴ mean 1 / ((D - 2)(D - 4)), log ||z||² mean psi(D / 2) + log 2.

    | key | value |
    |---|---|
    | `nc1_cdnv_galanti` | mean over pairs of s D / ((D - 2) (t_c + t_c')), s = (sigma_c² + sigma_c'²) / 2 |
    | `nc1_cdnv` | mean over pairs of s D² / ((D - 2)(D - 4) (t_c + t_c')²) |
    | `nc1_cdnv_log` | mean over pairs of log s - 2 (log((t_c + t_c') / D) + psi(D / 2) + log 2) |
    | `nc1_quotient` | tr S_W / mean q, q_c = t_c (1 - 2/K) + mean t / K the spread of mu_c - mu_bar |
    | `nc2_norm_cov` | sqrt(D mean q / (E||z|| mean sqrt q)² - 1) |
    | `nc2_log_norm_std` | sqrt(var(log q) / 4 + psi'(D / 2) / 4) |
    | `nc2_log_norm_cov` | that over mean(log q) / 2 + (psi(D / 2) + log(2 / D)) / 2 |
    | `nc2_etf_error` | sqrt(2 - 2 a), a = sum q / sqrt((K - 1) ((sum q)² / D + (1 + 1/D) sum q²)) |

    The first three are exact. The others are so as K grows, since they are ratios of means over classes and all classes
    share a centre. Keys whose moment is infinite in few dimensions are left out.

    Raises:
        ValueError: fewer than two kept classes.
    """
    counts, D = stats.counts, stats.dim
    ids = (counts >= max(min_count, 1)).nonzero()[:, 0]
    if len(ids) < 2:
        raise ValueError(f"{len(ids)} class(es) have at least {min_count} sample(s); two are needed")
    total, every = (stats.variances * counts).sum(), counts.sum()
    pooled = total / (every - (counts > 0).sum()).clamp(min=1)
    n, sigma2 = counts[ids].double(), stats.variances[ids]  # (K,)
    t = torch.where(sigma2 > 0, sigma2 / (n - 1).clamp(min=1), pooled / n)  # (K,)
    if not float(t.min()) > 0:  # no class has any spread
        return {}
    K, values = len(t), _pairs(t, sigma2, D)
    q = t * (1 - 2 / K) + t.mean() / K  # (K,)
    logs = q.log()
    values["nc1_quotient"] = float(total / every / q.mean())
    values["nc2_norm_cov"] = math.sqrt(float(D * q.mean() / (chi_mean(D) * q.sqrt().mean()) ** 2) - 1)
    log_std = math.sqrt(float(logs.var()) / 4 + float(polygamma(1, D / 2)) / 4)
    values["nc2_log_norm_std"] = log_std
    values["nc2_log_norm_cov"] = log_std / (float(logs.mean()) + float(psi(D / 2)) + math.log(2 / D)) * 2
    likeness = q.sum() / ((K - 1) * (q.sum() ** 2 / D + (1 + 1 / D) * q.square().sum())).sqrt()
    values["nc2_etf_error"] = math.sqrt(max(2 - 2 * float(likeness), 0.0))
    return values


def _pairs(t: Tensor, sigma2: Tensor, dim: int) -> dict[str, float]:
    """The three keys over pairs c < c', some rows of the K x K pairs at a time."""
    K = len(t)
    sums = torch.zeros(4, dtype=torch.float64, device=t.device)
    step = max(NUMBERS // K, 1)
    for top in range(0, K, step):
        rows = slice(top, min(top + step, K))
        upper = torch.ones(rows.stop - top, K, dtype=torch.bool, device=t.device).triu_(top + 1)  # (r, K) c < c'
        apart = (t[rows, None] + t)[upper] / dim
        spread = (sigma2[rows, None] + sigma2)[upper] / 2
        some = spread > 0
        logs = spread[some].log() - 2 * apart[some].log()
        sums += torch.stack([(spread / apart).sum(), (spread / apart**2).sum(), logs.sum(), some.sum().double()])
    galanti, cdnv, log, spread_pairs = sums.tolist()
    pairs, values = K * (K - 1) / 2, {}
    if dim > 4:
        values["nc1_cdnv"] = cdnv / pairs / ((dim - 2) * (dim - 4))
    if spread_pairs:
        values["nc1_cdnv_log"] = log / spread_pairs - 2 * (float(psi(dim / 2)) + math.log(2))
    if dim > 2:
        values["nc1_cdnv_galanti"] = galanti / pairs / (dim - 2)
    return values


def chance_agreement(head: np.ndarray, nearest: np.ndarray) -> tuple[float, float]:
    """NC4 where head and nearest class mean decide independently, each as often for a class as it did.

    In plain words: shuffle the decisions of one side over the validation tokens. Two deciders that both like the
    commonest classes agree quite often by that alone; only what lies above it says that they know of one another.

    With h_c and m_c decisions for class c of n tokens, the mean share is p = sum h_c m_c / n² (the chance agreement of
    Cohen's kappa, 1960). Over all permutations the variance of the number of agreements is, after Hoeffding (1951),
    (sum h_c m_c - sum h_c m_c (h_c + m_c) / n + n² p²) / (n - 1). Both are exact, so nothing is drawn.

    Args:
        head, nearest: (C,) decisions of each side for each class; equal sums n.

    Returns:
        Mean and standard deviation of the share; nan without tokens, the deviation with one.

    Raises:
        ValueError: the sums differ.

    Example:
        >>> chance_agreement(np.array([1, 1]), np.array([1, 1]))
        (0.5, 0.5)
    """
    h, m = head.astype(np.float64), nearest.astype(np.float64)
    n = h.sum()
    if n != m.sum():
        raise ValueError(f"both sides decide for every token: {int(n)} and {int(m.sum())} decisions do not go together")
    if n == 0:
        return math.nan, math.nan
    p = float(h @ m / n**2)
    if n == 1:
        return p, math.nan
    variance = (h @ m - (h * m) @ (h + m) / n + n**2 * p**2) / (n - 1)
    return p, math.sqrt(max(float(variance), 0.0)) / float(n)
