"""Rényi divergences of whole orders: of a Skellam sum, after Poisson sampling, and what they mean as ε at a δ.

All bounds are for one patient added or removed, both ways, and for fixed orders, so that composition is a sum.

Sampling: with P and Q what a step gives with and without the patient for certain, the step gives a mixture
(1-q) Q + q P against Q. The binomial theorem gives the divergence of the mixture from Q exactly in those of P from Q
(Zhu and Wang 2019; Steinke 2022, theorem 11). It bounds the divergence of Q from the mixture too where a reflection
swaps P and Q (Mironov, Talwar and Zhang 2019, theorem 5), as it does for any noise that is symmetric about zero and
added to two values, Skellam and Gaussian among them. Nothing else is assumed of the noise. Other sources of randomness
(who else is drawn, how they are rounded) are shared by both sides; divergences are quasi-convex in such mixtures.

Not promised: the least ε. For Gaussian noise, privacy loss distributions give a tenth less in usual plans (ε from 0.5
to 8, a sample rate from 0.1), and many times less for few steps with a sample rate of a thousandth.

>>> step = sampled(gaussian(2.3), rate=0.15)
>>> [round(x, 2) for x in to_epsilon(53 * step, delta=1e-5)]
[2.41, 8.0]
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from manikin.common.errors import Misconfigured

ORDER_MAX = 4096
Divergences = NDArray[np.float64]


@lru_cache(maxsize=1)
def orders() -> NDArray[np.int64]:
    """The orders at which everything is composed: 2 to 64, then ever farther apart, up to 4096."""
    far = np.geomspace(64, ORDER_MAX, 64)[1:]
    every = np.concatenate([np.arange(2, 65), np.rint(far).astype(np.int64)])
    every.flags.writeable = False
    return every


def whole() -> NDArray[np.int64]:
    """2, 3, …, 4096: the orders at which the divergences of a step without sampling are needed."""
    return np.arange(2, ORDER_MAX + 1)


def gaussian(noise_multiplier: float) -> Divergences:
    """Divergences of a Gaussian sum, at the orders `whole()`."""
    return whole() / (2 * noise_multiplier**2)


def skellam(*, l2: int, l1: int, variance: float) -> Divergences:
    """Upper bounds on the divergences of a Skellam sum of integers, at the orders `whole()`.

    Agarwal, Kairouz and Liu 2021, corollary 4.1, of which the scale is 1. The first part is the Gaussian's.

    Args:
        l2: largest L2 norm of one patient's integers.
        l1: largest L1 norm of one patient's integers.
        variance: of the noise in each number.
    """
    order, square = whole(), float(l2) ** 2
    fine = ((2 * order - 1) * square + 6 * l1) / (4 * variance**2)
    excess: Divergences = order * square / (2 * variance) + np.minimum(fine, 3 * l1 / (2 * variance))
    return excess


@lru_cache(maxsize=1)
def _terms() -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], Divergences]:
    """For every order α and k = 2, …, α, one after another: where α starts, α, k, and log of α over k."""
    alphas = orders()
    starts = np.concatenate([[0], np.cumsum(alphas - 1)[:-1]])
    alpha = np.repeat(alphas, alphas - 1)
    k = np.arange(len(alpha)) - np.repeat(starts, alphas - 1) + 2
    return starts, alpha, k, gammaln(alpha + 1) - gammaln(k + 1) - gammaln(alpha - k + 1)


def sampled(divergences: Divergences, *, rate: float) -> Divergences:
    """Divergences of a step that draws each patient with probability `rate`, at the orders `orders()`.

    Args:
        divergences: upper bounds on those of the same step with everybody, at the orders `whole()`.
        rate: q, in (0, 1].
    """
    if rate == 1:
        return divergences[orders() - 2]
    starts, alpha, k, log_binomials = _terms()
    growth = (whole() - 1) * divergences
    log_growth = growth + np.log(-np.expm1(-growth))  # of e^growth - 1; all weights together are 1, so 1 is left
    logs = log_binomials + (alpha - k) * math.log1p(-rate) + k * math.log(rate) + log_growth[k - 2]
    peaks = np.maximum.reduceat(logs, starts)
    sums = np.add.reduceat(np.exp(logs - np.repeat(peaks, orders() - 1)), starts)
    bounds: Divergences = np.logaddexp(0.0, peaks + np.log(sums)) / (orders() - 1)
    return bounds


def to_epsilon(divergences: Divergences, *, delta: float) -> tuple[float, float]:
    """The least ε that the divergences at `orders()` prove at δ, and the order that proves it.

    Balle et al. 2020, theorem 21; Canonne, Kamath and Steinke 2020, proposition 12.

    Raises:
        Misconfigured: δ is not between 0 and 1.
    """
    if not (math.isfinite(delta) and 0 < delta < 1):
        raise Misconfigured(f"δ lies between 0 and 1, not at {delta}.")
    alpha = orders()
    bounds = divergences + np.log1p(-1 / alpha) - (math.log(delta) + np.log(alpha)) / (alpha - 1)
    best = int(np.argmin(bounds))
    return max(float(bounds[best]), 0.0), float(alpha[best])
