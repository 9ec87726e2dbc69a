"""The measurements again, by loops over classes and pairs in NumPy: slow, plain, and independent of lcutils."""

import math
from itertools import combinations

import numpy as np

WIDE = np.longdouble


def class_statistics(features, labels, classes):
    """Counts, means, variances and pooled covariance, two passes over the features."""
    features = np.asarray(features, dtype=np.float64)
    counts = np.array([(labels == c).sum() for c in range(classes)])
    means, variances = np.zeros((classes, features.shape[1])), np.zeros(classes)
    scatter = np.zeros((features.shape[1], features.shape[1]))
    for c in range(classes):
        own = features[labels == c].astype(WIDE)
        if len(own):
            mean = own.mean(0)
            means[c] = mean
            deviations = (own - mean).astype(np.float64)
            variances[c] = (deviations**2).sum(1).mean() if len(own) > 1 else 0.0
            scatter += deviations.T @ deviations
    return counts, means, variances, scatter / max(counts.sum(), 1)


def _summary(name, values):
    values = np.array(values, dtype=WIDE)
    mean = values.mean() if len(values) else math.nan
    std = values.std(ddof=1) if len(values) > 1 else math.nan
    return {f"{name}_mean": float(mean), f"{name}_std": float(std), f"{name}_cov": float(std / mean)}


def _frame_error(gram, number):
    target = (np.eye(number) - 1 / number) / math.sqrt(number - 1)
    return float(np.sqrt(((gram / np.sqrt((gram**2).sum()) - target) ** 2).sum()))


def measurements(counts, means, variances, covariance, head, min_count=1, riesz_s=1.0, same=0.0):
    """Every measurement and count of the catalogue that needs no text.

    Means nearer than `same` are equal, as are directions: 0 compares exactly.
    """
    keep = counts >= min_count
    samples, pooled = counts.sum(), (variances * counts).sum()
    means, variances, head = means[keep].astype(WIDE), variances[keep].astype(WIDE), head[keep].astype(WIDE)
    number = len(means)
    centre = means.mean(0)
    centred = means - centre
    norms = np.sqrt((centred**2).sum(1))
    central = norms <= same
    cdnv, galanti, log_cdnv, cosines, logs, raw_logs, riesz = [], [], [], [], [], [], []
    zero = coincident = 0
    for i, j in combinations(range(number), 2):
        difference = means[i] - means[j]
        distance = np.sqrt((difference**2).sum())
        variance = (variances[i] + variances[j]) / 2
        zero += variance == 0
        apart = distance > same
        coincident += not apart
        if apart:
            cdnv.append(variance / distance**4)
            galanti.append(variance / distance**2)
            if variance > 0:
                log_cdnv.append(np.log(cdnv[-1]))
        if not central[i] and not central[j]:
            u, v = centred[i] / norms[i], centred[j] / norms[j]
            cosines.append(u @ v)
            chord = np.sqrt(((u - v) ** 2).sum())
            if apart and chord > same:
                logs.append(np.log(1 / chord))
                riesz.append(chord**-riesz_s)
        u, v = means[i] / np.sqrt((means[i] ** 2).sum()), means[j] / np.sqrt((means[j] ** 2).sum())
        chord = np.sqrt(((u - v) ** 2).sum())
        if apart and chord > same:
            raw_logs.append(np.log(1 / chord))
    between = (centred.T @ centred / number).astype(np.float64)
    with_head = (centred * head).sum(1) / norms / np.sqrt((head**2).sum(1))
    with_head = with_head[~central]
    log_norms = np.log(norms[~central])
    return {
        "nc1_cdnv": float(np.mean(cdnv)),
        "nc1_cdnv_log": float(np.mean(log_cdnv)) if log_cdnv else math.nan,
        "nc1_zero_pairs": float(zero),
        "nc1_cdnv_galanti": float(np.mean(galanti)),
        "nc1_pinv": float(np.trace(covariance @ np.linalg.pinv(between, rcond=1e-10, hermitian=True)) / number),
        "nc1_quotient": float(pooled / samples / np.trace(between)),
        "nc2_norm_cov": float(norms.std(ddof=1) / norms.mean()),
        "nc2_log_norm_cov": float(log_norms.std(ddof=1) / log_norms.mean()),
        "nc2_log_norm_std": float(log_norms.std(ddof=1)),
        **_summary("nc2_cosine", cosines),
        "nc2_coherence": float(np.mean(np.abs(np.array(cosines) + 1 / (number - 1)))),
        "nc2_etf_error": _frame_error(centred @ centred.T, number),
        **_summary("gnc2_log", logs),
        **_summary("gnc2_log_uncentred", raw_logs),
        **_summary("gnc2_riesz", riesz),
        "nc3_cosine_mean": float(with_head.mean()),
        "nc3_duality_error": _frame_error(head @ centred.T, number),
        "unc3_cosine_cov": float(with_head.std(ddof=1) / with_head.mean()),
        "n_classes": float(number),
        "coincident_pairs": float(coincident),
        "central_classes": float(central.sum()),
    }


def corrected(counts, means, variances, covariance, head, min_count=1):
    """What is corrected for small samples, by loops over classes with two samples or more."""
    kept = [c for c in range(len(counts)) if counts[c] >= max(min_count, 2)]
    tau = {c: variances[c].astype(WIDE) * counts[c] / (counts[c] - 1) for c in range(len(counts)) if counts[c] > 1}
    noise = {c: tau[c] / counts[c] for c in kept}
    galanti, cdnv, negative_pairs = [], [], 0
    for i, j in combinations(kept, 2):
        d2 = ((means[i].astype(WIDE) - means[j]) ** 2).sum() - noise[i] - noise[j]
        negative_pairs += d2 <= 0
        if d2 > 0:
            galanti.append((tau[i] + tau[j]) / 2 / d2)
            cdnv.append((tau[i] + tau[j]) / 2 / d2**2)
    centre = sum(means[c].astype(WIDE) for c in kept) / max(len(kept), 1)
    squares = {}
    for c in kept:  # the error of mu_c - mu_bar, term by term
        weights = {k: (k == c) - 1 / WIDE(len(kept)) for k in kept}
        squares[c] = ((means[c] - centre) ** 2).sum() - sum(weights[k] ** 2 * noise[k] for k in kept)
    lengths = {c: np.sqrt(square) for c, square in squares.items() if square > 0}
    cosines = [head[c] @ (means[c] - centre) / np.sqrt((head[c] ** 2).sum()) / r for c, r in lengths.items()]
    radial = []  # variance of each norm's own error
    for c in lengths:
        u = (means[c] - centre) / np.sqrt(((means[c] - centre) ** 2).sum())
        share = u @ covariance @ u / np.trace(covariance) if covariance is not None else 1 / len(u)
        radial.append(noise[c] * share if noise[c] > 0 else 0.0)
    norms = np.array(list(lengths.values()), dtype=WIDE)
    spread = np.sqrt(max(norms.var(ddof=1) - np.mean(radial), 0)) / norms.mean() if len(norms) > 1 else math.nan
    within = sum(counts[c] * tau[c] for c in tau) / max(sum(counts[c] for c in tau), 1)
    between = sum(squares.values()) / max(len(kept), 1)
    return {
        "nc1_cdnv_corrected": float(np.mean(cdnv)) if cdnv else math.nan,
        "nc1_cdnv_galanti_corrected": float(np.mean(galanti)) if galanti else math.nan,
        "nc1_quotient_corrected": float(within / between) if between > 0 else math.nan,
        "nc2_norm_cov_corrected": float(spread),
        "nc3_cosine_mean_corrected": float(np.mean(cosines)) if cosines else math.nan,
        "singleton_classes": float(sum(n == 1 for n in counts if n >= min_count)),
        "negative_norms": float(len(kept) - len(lengths)),
        "negative_pairs": float(negative_pairs),
    }


def spectrum(features, labels, min_count=1):
    """Spectra of all features, of class means and within classes, from singular values of the vectors themselves."""
    classes = np.unique(labels)
    means = {c: features[labels == c].mean(0) for c in classes}
    kept = np.array([means[c] for c in classes if (labels == c).sum() >= min_count])
    deviations = features - np.array([means[c] for c in labels])
    centred = features - features.mean(0)
    values = {}
    for name, vectors in (("features", centred), ("means", kept - kept.mean(0)), ("within", deviations)):
        singular = np.linalg.svd(vectors, compute_uv=False)
        singular = [s for s in singular if s > 1e-5 * singular[0] and s > 0]
        shares = [s / sum(singular) for s in singular]
        logs = [(math.log(place), 2 * math.log(s)) for place, s in enumerate(singular, 1)]
        values[f"spectrum_rank_{name}"] = math.exp(-sum(p * math.log(p) for p in shares)) if shares else math.nan
        slope = np.polyfit(*zip(*logs, strict=True), 1)[0] if len(logs) > 1 else math.nan
        values[f"spectrum_decay_{name}"] = -slope
        values[f"spectrum_participation_{name}"] = (
            sum(s**2 for s in singular) ** 2 / sum(s**4 for s in singular) if singular else math.nan
        )
    total = (centred**2).sum()
    values["spectrum_share_between"] = 1 - (deviations**2).sum() / total if total > 0 else math.nan
    return values


def decisions(features, head, means, keep, bias=None, scale=1.0):
    """argmax_c scale (<w_c, h> + b_c) and argmin_c ||h - mu_c|| over kept classes, in float64."""
    ids = np.flatnonzero(keep)
    features, head, means = (np.asarray(x, dtype=np.float64) for x in (features, head, means))
    bias = np.zeros(len(keep)) if bias is None else np.asarray(bias, dtype=np.float64)
    linear = np.array([ids[np.argmax(scale * (head[ids] @ h + bias[ids]))] for h in features])
    nearest = np.array([ids[np.argmin(((means[ids] - h) ** 2).sum(1))] for h in features])
    return linear, nearest


def agreement(features, labels, head, means, keep, bias=None, scale=1.0):
    """Per-class hits and totals."""
    linear, nearest = decisions(features, head, means, keep, bias, scale)
    hits, totals = np.zeros(len(keep), dtype=int), np.zeros(len(keep), dtype=int)
    for label, alike in zip(labels, linear == nearest, strict=True):
        if label >= 0 and keep[label]:
            totals[label] += 1
            hits[label] += alike
    return hits, totals


def ood_deviation(means, keep, other):
    """Mean over kept classes of |cos(mu_c, m)|, m the mean feature of other text."""
    lengths = np.linalg.norm(means, axis=1) * np.linalg.norm(other)
    return np.mean([abs(means[c] @ other) / lengths[c] for c in np.flatnonzero(keep)])


def agreement_of_weights(features, labels, head, means, keep):
    """Per-class hits and totals of the head's weights alone, whatever its bias and scale."""
    return agreement(features, labels, head, means, keep)


# What `measurements` does not return.
OF_TEXT = {
    "nc4_agreement": agreement, "nc4_agreement_weights": agreement_of_weights, "nc5_ood_deviation": ood_deviation,
}  # fmt: skip
