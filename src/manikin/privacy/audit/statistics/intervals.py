"""Exact intervals of a rate: from counts, and from counts that were noised before they left the hospital.

Promises: an interval misses the true rate with probability at most α, for any n and any rate, noise included: the
noised count is a sum of a binomial number and noise of known distribution, whose tails are inverted, not approximated.
For patients with unequal chances (several hospitals) the intervals hold for the mean chance, since such a count is
spread less than the binomial one, at counts at least one away from its mean (Hoeffding 1956).

Does not promise: the shortest interval. Adding the noise's half-width to the ends of a plain interval, as is often
done, is longer still.

>>> tuple(round(x, 6) for x in clopper_pearson(0, 100, alpha=0.05))
(0.0, 0.036217)
>>> trials_needed(0.01, hits=0, alpha=0.05), trials_needed(0.001, hits=0, alpha=0.05)
(299, 2995)
>>> from manikin.privacy.audit.statistics.noise import geometric_noise
>>> noise = geometric_noise(epsilon=0.5, sensitivity=1)
>>> [round(x, 3) for x in noised_rate_interval(20, 1000, noise, alpha=0.05)]
[0.011, 0.032]
>>> [round(x, 3) for x in clopper_pearson(20, 1000, alpha=0.05)]
[0.012, 0.031]

Clopper and Pearson 1934.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import bdtr, betainc, betaincinv

from manikin.privacy.audit.statistics.checks import check_counts, check_share
from manikin.privacy.audit.statistics.noise import Noise

Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]
PRECISION = 1e-12


def clopper_pearson(hits: int, n: int, *, alpha: float) -> tuple[float, float]:
    """Exact two-sided 1 − α interval of a rate: α/2 on each side.

    Args:
        hits: number of successes, 0 to n.
        n: number of trials; with none, nothing is known and the interval is (0, 1).
        alpha: share of intervals that may miss; 2α gives a one-sided limit at α.
    """
    if not 0 <= hits <= n:
        raise ValueError(f"{hits} successes in {n} trials")
    low = float(betaincinv(hits, n - hits + 1, alpha / 2)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, n - hits, 1 - alpha / 2)) if hits < n else 1.0
    return low, high


def trials_needed(rate: float, *, hits: int, alpha: float) -> int:
    """Fewest trials in which `hits` successes show, one-sidedly at level α, that the rate is at most `rate`."""
    check_share("A rate", rate)
    check_share("A level", alpha)
    check_counts(hits=hits)
    low, high = hits, 2 * hits + 1
    while bdtr(hits, high, rate) > alpha:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if bdtr(hits, middle, rate) <= alpha else (middle, high)
    return high


def noised_count_interval(noised: int, noise: Noise, *, alpha: float) -> tuple[int, int]:
    """Two-sided 1 − α interval of a fixed count of which count + noise is known; never below 0."""
    check_share("A level", alpha)
    width = noise.half_width(alpha=alpha)
    return max(noised - width, 0), max(noised + width, 0)


def noised_rate_interval(noised_hits: int, trials: int, noise: Noise, *, alpha: float) -> tuple[float, float]:
    """Two-sided 1 − α interval of a rate, α/2 on each side, from successes + noise; `trials` is known.

    Args:
        noised_hits: any integer, also negative or above `trials`.
        trials: with none, nothing is known and the interval is (0, 1).
        noise: its distribution, pooled over hospitals where the count is.
        alpha: share of intervals that may miss.
    """
    check_share("A level", alpha)
    check_counts(trials=trials)
    if trials == 0:
        return 0.0, 1.0
    hits = noised_hits - np.arange(-noise.reach, noise.reach + 1)
    low = _crossing(lambda rate: _mean(at_least(hits, trials, rate), noise) - alpha / 2)
    high = _crossing(lambda rate: alpha / 2 - _mean(1 - at_least(hits + 1, trials, rate), noise))
    return max(low - PRECISION, 0.0), min(high + PRECISION, 1.0)


def noised_share_interval(
    noised_hits: int, noised_trials: int, hits_noise: Noise, trials_noise: Noise, *, alpha: float
) -> tuple[float, float]:
    """The same where the number of trials was noised too: half of α goes to each count, however they depend."""
    fewest, most = noised_count_interval(noised_trials, trials_noise, alpha=alpha / 2)
    low, _ = noised_rate_interval(noised_hits, most, hits_noise, alpha=alpha / 2)
    _, high = noised_rate_interval(noised_hits, fewest, hits_noise, alpha=alpha / 2)
    return low, high


def at_least(hits: Int64Array, trials: int, rate: float) -> Float64Array:
    """P(a binomial number >= hits) for each, also outside 0 … trials."""
    inside = np.clip(hits, 1, trials)
    tails = betainc(inside, trials - inside + 1, rate)
    result: Float64Array = np.where(hits <= 0, 1.0, np.where(hits > trials, 0.0, tails))
    return result


def _mean(tails: Float64Array, noise: Noise) -> float:
    return math.fsum(noise.probabilities * tails) + noise.beyond


def _crossing(increasing: Callable[[float], float]) -> float:
    """Where an increasing function of a rate crosses zero; 0 or 1 if it does not."""
    if increasing(0.0) >= 0:
        return 0.0
    if increasing(1.0) <= 0:
        return 1.0
    return float(brentq(increasing, 0.0, 1.0, xtol=PRECISION))
