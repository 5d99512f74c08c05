"""How Gaussian-private is what came out? μ from gradient canaries, and from rates with exact intervals.

A gradient canary is a direction that was added to the sum at the clip norm, as if by one more patient. Its score is
the update's component along it, in units of the update's root mean square over coordinates: normal with standard
deviation 1 about μ if only noise and canaries are in the update, and if there are many more coordinates than canaries.
`claim.epsilon_for_mu` turns a μ into an ε.

Promises: the lower limit of `fit_canaries` exceeds the true μ with probability at most α for normal scores; the ε of
`epsilon_from_rates` holds for any mechanism, at a threshold given beforehand. Does not promise that canaries see wrong
sampling or noise that is used twice: those have detectors of their own.

>>> fit = fit_canaries(0.925 + ndtri((np.arange(300) + 0.5) / 300), alpha=0.05)
>>> round(fit.mu, 2), round(fit.low, 2), fit.canaries
(0.93, 0.83, 300)
>>> round(detectable_mu(0.925, 300, alpha=0.01, power=0.9), 3)
1.133
>>> from manikin.privacy.audit.statistics.intervals import clopper_pearson
>>> tpr, fpr = clopper_pearson(100, 100, alpha=0.05), clopper_pearson(0, 100, alpha=0.05)
>>> round(epsilon_from_rates(tpr, fpr, delta=0.0), 2), round(mu_from_rates(tpr, fpr), 2)
(3.28, 3.59)

Andrew et al. 2023; Dong, Roth and Su 2022; Kairouz, Oh and Viswanath 2015.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtr, stdtrit

from manikin.common.errors import BadData
from manikin.privacy.audit.statistics.checks import check_share, checked_scores

Float64Array = NDArray[np.float64]


def canary_scores(update: Float64Array, canaries: Float64Array) -> Float64Array:
    """The update's component along each canary, over the update's root mean square, float64 (k,).

    Args:
        update: float64 (d,), of the whole model or of one block of parameters.
        canaries: float64 (k, d), the same coordinates; any length but zero.

    Raises:
        BadData: the update is zero or not finite, or a canary is zero.
    """
    spread = float(np.linalg.norm(update)) / math.sqrt(max(len(update), 1))
    lengths = np.linalg.norm(canaries, axis=1)
    if not (math.isfinite(spread) and spread > 0 and np.all(lengths > 0)):
        raise BadData("Canaries cannot be scored.", "The update or a canary is zero, or the update is not finite.")
    scores: Float64Array = canaries @ update / (lengths * spread)
    return scores


@dataclass(frozen=True)
class CanaryFit:
    """μ as the canaries show it, with the one-sided lower limit."""

    mu: float
    low: float
    canaries: int


def fit_canaries(scores: Float64Array, *, alpha: float) -> CanaryFit:
    """Mean of the scores, and its lower limit at level α by Student's t.

    Raises:
        BadData: fewer than two scores, or one is NaN.
    """
    check_share("A level", alpha)
    scores = _enough(scores)
    k, mu = len(scores), float(scores.mean())
    error = float(scores.std(ddof=1)) / math.sqrt(k)
    return CanaryFit(mu, mu - float(stdtrit(k - 1, 1 - alpha)) * error, k)


def claim_p_value(scores: Float64Array, *, mu: float) -> float:
    """One-sided p-value of "the true μ is at most the claimed one", by Student's t."""
    scores = _enough(scores)
    gap, error = float(scores.mean()) - mu, float(scores.std(ddof=1)) / math.sqrt(len(scores))
    if error == 0:
        return 0.0 if gap > 0 else 1.0
    return float(stdtr(len(scores) - 1, -gap / error))


def detectable_mu(mu: float, canaries: int, *, alpha: float, power: float) -> float:
    """Smallest true μ that a test of a claimed μ at level α contradicts with probability `power`."""
    check_share("A level", alpha)
    check_share("A power", power)
    return mu + float(-ndtri(alpha) + ndtri(power)) / math.sqrt(canaries)


def mu_from_rates(tpr: tuple[float, float], fpr: tuple[float, float]) -> float:
    """Lower limit of μ from two-sided 1 − α intervals of the two rates at one threshold; at least 0.

    Only the lower end of `tpr` and the upper end of `fpr` are used: together they hold with probability 1 − α.
    """
    if tpr[0] <= fpr[1]:
        return 0.0
    return float(ndtri(tpr[0]) - ndtri(fpr[1]))


def epsilon_from_rates(tpr: tuple[float, float], fpr: tuple[float, float], *, delta: float) -> float:
    """Lower limit of ε at δ from the same intervals; at least 0, infinite if no ε allows the rates.

    Both directions, "was in" and "was out", follow from the same two ends, so that the larger needs no correction.
    """
    return max(0.0, _log_ratio(tpr[0] - delta, fpr[1]), _log_ratio(1 - fpr[1] - delta, 1 - tpr[0]))


def _log_ratio(above: float, below: float) -> float:
    if above <= 0:
        return -math.inf
    return math.log(above / below) if below > 0 else math.inf


def _enough(scores: Float64Array) -> Float64Array:
    scores = checked_scores(scores)
    if len(scores) < 2:
        raise BadData("One canary tells nothing.", "A spread needs at least two scores.")
    return scores
