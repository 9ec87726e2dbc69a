"""Measurements corrected for small samples: distances, norms and variances without the noise of the class means.

Of a class with n independent samples of mean m and covariance Sigma, let tau = tr Sigma. Then

    E ||mu - m||²  = tau/n            the class mean is off by so much,
    E sigma²       = tau (n-1)/n      and the variance about it falls short by the same amount.

So v = sigma² n/(n-1) has expectation tau, and e = v/n = sigma²/(n-1) that of the mean's squared error. One sample says
nothing of either: classes with one are left out of all that is corrected, and counted. K classes remain, c among them,
with independent errors eps_c = mu_c - m_c, and mu_bar is the mean of their means. What is squared has the errors'
expectation in it, which is subtracted:

    ||mu_c - mu_c'||²     has tau_c/n_c + tau_c'/n_c', as its error is eps_c - eps_c';
    ||mu_c - mu_bar||²    has (1 - 2/K) tau_c/n_c + (sum over k of tau_k/n_k)/K², as its error is eps_c - mean(eps), of
                          which eps_c has the weight 1 - 1/K and each other one -1/K;
    tr S_B                has (1 - 1/K) times the mean of tau_k/n_k, the mean of the line above.

Products with a fixed vector, <w_c, mu_c - mu_bar>, have no bias. Hence the corrected squared distances, squared norms,
variances, tr S_W = sum n_c v_c / sum n_c and tr S_B are unbiased for any distributions. Ratios and roots of them are
not: a bias of second order in their relative error is left. It is small where distances are well above the noise, and
rules where they are not: 1/d² of a squared distance near 0 is large at random. A corrected squared distance or norm may
even be negative; then it is left out of what needs its root or reciprocal, and counted. It stays in tr S_B. With many
such pairs a corrected CDNV says little; `nc1_quotient_corrected` takes the mean of the distances first, and holds.

tau/n assumes independent samples, and tokens of one story are not: the error is then larger, and what is corrected by
e is corrected by too little. `lcutils.collapse.disjoint` compares with a correction that does not assume it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lcutils.collapse.classes import KeptClasses, Moments, centre_classes, ratio
from lcutils.collapse.duality import head_cosines
from lcutils.collapse.inputs import MeasurementInputs
from lcutils.collapse.pairs import CPU_ROWS, CUDA_ROWS, squared_distances
from lcutils.features.statistics import ClassStatistics


@dataclass
class RepeatedClasses:
    """The kept classes with two samples or more, K of them, and what is corrected of each; float64."""

    classes: KeptClasses  # centred at the mean of their own means
    variances: Tensor  # (K,) v_c = sigma_c² n_c / (n_c - 1)
    errors: Tensor  # (K,) e_c = v_c / n_c
    squares: Tensor  # (K,) ||mu_c - mu_bar||² - (1 - 2/K) e_c - mean(e) / K, maybe negative

    @classmethod
    def of(cls, kept: KeptClasses) -> RepeatedClasses | None:
        """Of the kept classes; None if fewer than two have two samples."""
        chosen = (kept.counts > 1).nonzero()[:, 0]
        if len(chosen) < 2:
            return None
        parts = (values[chosen] for values in (kept.ids, kept.counts, kept.variances, kept.means))
        classes = kept if len(chosen) == kept.number else centre_classes(*parts)
        variances = classes.variances * classes.counts / (classes.counts - 1)
        errors, number = variances / classes.counts, classes.number
        squares = classes.norms.square() - (1 - 2 / number) * errors - errors.mean() / number
        return cls(classes, variances, errors, squares)

    def lengths(self) -> tuple[Tensor, Tensor]:
        """Corrected norms r_c (K,), 1 where the squared one is not above 0, and which those are not: (K,) bool."""
        positive = self.squares > 0
        return torch.where(positive, self.squares, 1.0).sqrt(), positive

    def norm_cov(self, covariance: Tensor | None) -> Tensor:
        """CoV of the corrected norms over classes, without the part of their variance that is error: ().

        A norm errs by what mu_c errs by in its own direction u, of variance uᵀ Sigma_c u / n_c. Sigma_c is not known;
        with the shape of S_W, the same for all classes, that is e_c uᵀ S_W u / tr S_W, and without S_W e_c / D, as if
        all directions were alike. Norms that vary by no more than this have a CoV of 0.

        Args:
            covariance: (D, D) S_W, if there is one.
        """
        lengths, positive = self.lengths()
        if covariance is None:
            shares = torch.full_like(lengths, 1 / self.classes.means.shape[1])
        else:
            units = self.classes.units()  # (K, D)
            shares = torch.linalg.vecdot(units @ covariance, units) / covariance.trace()
        # Without any variance the shares are not defined, and the errors are 0.
        radial = torch.where(self.errors > 0, self.errors * shares, 0.0)
        moments = Moments.of(lengths, positive)
        error = torch.where(positive, radial, 0.0).sum() / positive.sum()
        return ratio((moments.std.square() - error).clamp(min=0).sqrt(), moments.mean)


def within_trace(stats: ClassStatistics) -> Tensor:
    """tr S_W = sum n_c v_c / sum n_c over all classes with two samples or more: () float64, nan if there is none."""
    counts = stats.counts
    repeated = counts > 1
    sums = torch.where(repeated, counts * stats.variances * counts / (counts - 1).clamp(min=1), 0.0).sum()
    return ratio(sums, torch.where(repeated, counts, 0).sum().double())


def corrected_classes(inputs: MeasurementInputs) -> dict[str, Tensor]:
    """tr S_W / tr S_B, the CoV of norms and the mean cosine with the head, each from corrected squared norms.

    `nc1_quotient_corrected` is nan where the corrected tr S_B is not above 0. `nc2_norm_cov_corrected` and
    `nc3_cosine_mean_corrected` (which may exceed 1) are over the classes whose corrected squared norm is above 0. All
    are nan with fewer than two classes that have two samples.
    """
    counts = inputs.classes.counts
    nothing = counts.new_tensor(math.nan, dtype=torch.float64)
    values = {
        "nc1_quotient_corrected": nothing,
        "nc2_norm_cov_corrected": nothing,
        "nc3_cosine_mean_corrected": nothing,
        "singleton_classes": (counts == 1).sum(),
        "negative_norms": counts.new_zeros(()),
    }
    repeated = RepeatedClasses.of(inputs.classes)
    if repeated is None:
        return values
    lengths, positive = repeated.lengths()
    between = repeated.squares.mean()
    # cos(w_c, mu_c - mu_bar) has the plain norm in it, which the corrected one replaces
    cosines = head_cosines(repeated.classes, inputs.head[counts > 1])[0] * repeated.classes.norms / lengths
    return values | {
        "nc1_quotient_corrected": torch.where(between > 0, within_trace(inputs.stats) / between, torch.nan),
        "nc2_norm_cov_corrected": repeated.norm_cov(inputs.covariance),
        "nc3_cosine_mean_corrected": Moments.of(cosines, positive & ~cosines.isnan()).mean,
        "negative_norms": (~positive).sum(),
    }


def corrected_pairs(inputs: MeasurementInputs) -> dict[str, float]:
    """CDNV from corrected variances and squared distances, averaged over the pairs whose squared distance is above 0.

    d² = ||mu_c - mu_c'||² - e_c - e_c', and CDNV is ((v_c + v_c')/2) / d⁴, Galanti's the same over d². Pairs stream
    through tiles of rows x K numbers, on any device.
    """
    repeated = RepeatedClasses.of(inputs.classes)
    if repeated is None:
        return {"nc1_cdnv_corrected": math.nan, "nc1_cdnv_galanti_corrected": math.nan, "negative_pairs": 0.0}
    classes = repeated.classes
    number, squares, device = classes.number, classes.norms.square(), classes.means.device
    rows = inputs.tile or (CUDA_ROWS // 2 if classes.means.is_cuda else CPU_ROWS)
    sums = torch.zeros(3, dtype=torch.float64, device=device)  # CDNV, Galanti's, pairs that are in them
    for top in range(0, number, rows):
        i, j = slice(top, min(top + rows, number)), slice(top, number)
        d2 = squared_distances(classes, squares, i, top)  # (r, K - top), infinite on the diagonal
        d2 -= repeated.errors[i, None]
        d2 -= repeated.errors[j]
        below = torch.arange(i.start, i.stop, device=device)[:, None] > torch.arange(top, number, device=device)
        inverse = d2.masked_fill_(below | (d2 <= 0), torch.inf).reciprocal_()  # 0 for what is left out
        used = (inverse > 0).sum()
        galanti = inverse * (repeated.variances[i, None] + repeated.variances[j]).div_(2)
        sums += torch.stack([(galanti * inverse).sum(), galanti.sum(), used.double()])
    cdnv, galanti_sum, used_number = sums.tolist()
    mean = 1 / used_number if used_number else math.nan
    return {
        "nc1_cdnv_corrected": cdnv * mean,
        "nc1_cdnv_galanti_corrected": galanti_sum * mean,
        "negative_pairs": math.comb(number, 2) - used_number,
    }
