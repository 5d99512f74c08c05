"""Exact and conservative statistics of an audit: rates, areas, thresholds and corrections.

Promises: Clopper–Pearson intervals cover at least as often as they say, for any n; the conformal threshold has an
expected false-positive rate of at most the one asked for, for any continuous or tied scores. There is no maximum over
thresholds anywhere: chosen after the fact, it finds a "leak" in 34 to 49 % of audits of pure noise.

>>> tuple(round(x, 6) for x in clopper_pearson(0, 100, alpha=0.05))
(0.0, 0.036217)
>>> conformal_threshold(np.arange(1.0, 201.0), fpr=0.01)
199.0

Clopper and Pearson 1934; DeLong, DeLong and Clarke-Pearson 1988; Holm 1979; Vovk, Gammerman and Shafer 2005.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtri
from scipy.stats import rankdata

Float64Array = NDArray[np.float64]


def clopper_pearson(hits: int, n: int, *, alpha: float) -> tuple[float, float]:
    """Exact two-sided 1 − α interval of a rate: α/2 on each side.

    Args:
        hits: number of successes, 0 to n.
        n: number of trials; with none, nothing is known and the interval is (0, 1).
        alpha: share of intervals that may miss.
    """
    if not 0 <= hits <= n:
        raise ValueError(f"{hits} successes in {n} trials")
    low = float(betaincinv(hits, n - hits + 1, alpha / 2)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, n - hits, 1 - alpha / 2)) if hits < n else 1.0
    return low, high


def conformal_rank(n: int, *, fpr: float) -> int:
    """Which of `n` calibration scores, counted from the smallest, is the threshold; above `n`: none of them."""
    return math.ceil((n + 1) * (1 - fpr) - 1e-9)


def conformal_threshold(calibration: Float64Array, *, fpr: float) -> float:
    """The ⌈(n+1)(1−fpr)⌉-th smallest score: an outsider's score exceeds it with probability at most `fpr`.

    Returns:
        The threshold, to be exceeded strictly; infinite if there are too few calibration scores for this `fpr`.
    """
    rank = conformal_rank(len(calibration), fpr=fpr)
    return float(np.sort(calibration)[rank - 1]) if rank <= len(calibration) else math.inf


@dataclass(frozen=True)
class Area:
    """Area under the ROC curve with its interval; NaN-free, (0.5, 0, 1) where a side is empty."""

    value: float
    low: float
    high: float


def area_under_curve(members: Float64Array, outsiders: Float64Array, *, alpha: float) -> Area:
    """AUC (ties count half) with DeLong's two-sided 1 − α interval.

    The interval is asymptotic and collapses where the scores separate perfectly: it is for reading, and the
    verdict uses `area_p_value`, which does not.
    """
    m, n = len(members), len(outsiders)
    if m < 2 or n < 2:
        return Area(0.5, 0.0, 1.0)
    together = rankdata(np.concatenate([members, outsiders]))
    above = (together[:m] - rankdata(members)) / n
    below = 1 - (together[m:] - rankdata(outsiders)) / m
    value = float(above.mean())
    half = float(-ndtri(alpha / 2)) * math.sqrt(float(above.var(ddof=1)) / m + float(below.var(ddof=1)) / n)
    return Area(value, max(0.0, value - half), min(1.0, value + half))


def area_p_value(value: float, limit: float, m: int, n: int) -> float:
    """One-sided p-value of "the true AUC is at most `limit`", normal, with the largest variance any scores can have.

    That variance is limit·(1 − limit)/min(m, n) (Birnbaum and Klose 1957): no score distribution makes the test lie.
    """
    if min(m, n) < 2:
        return 1.0
    spread = math.sqrt(limit * (1 - limit) / min(m, n))
    return math.erfc((value - limit) / spread / math.sqrt(2)) / 2


def roc_curve(members: Float64Array, outsiders: Float64Array) -> tuple[Float64Array, Float64Array]:
    """False- and true-positive rates at every threshold, from (0, 0) to (1, 1); for drawing, never for a verdict."""
    thresholds = np.unique(np.concatenate([members, outsiders]))[::-1]
    false = np.searchsorted(np.sort(-outsiders), -thresholds, side="right") / max(len(outsiders), 1)
    true = np.searchsorted(np.sort(-members), -thresholds, side="right") / max(len(members), 1)
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p-values, in the given order: compare each with α.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    worst = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = worst
    return adjusted
