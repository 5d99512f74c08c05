"""What a claimed (ε, δ) leaves to an attacker, in rates that a reader can picture.

An attacker who raises a false alarm on a share `fpr` of outsiders recognises at most a share `tpr` of members. Two
answers are given. The *bound* follows from (ε, δ) alone and is weak: at ε = 8 it allows nearly everything. The *curve*
is that of the Gaussian mechanism with the same (ε, δ), which Gaussian releases and DP-SGD follow closely; limits in
the audit use the curve, and a crossed bound is said apart, because only a mistake in code or accounting can cross it.

>>> mu = mu_for_claim(4.0, 1e-5)
>>> round(mu, 3), round(tpr_on_curve(0.01, mu), 3), round(auc_on_curve(mu), 3)
(0.925, 0.081, 0.743)
>>> round(tpr_bound(0.01, epsilon=4.0, delta=1e-5), 3)
0.546

Dong, Roth and Su 2022 (Gaussian differential privacy); Kairouz, Oh and Viswanath 2015 (the bound).
"""

from __future__ import annotations

import math
from typing import overload

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri

Float64Array = NDArray[np.float64]


def gdp_delta(mu: float, epsilon: float) -> float:
    """δ that μ-Gaussian differential privacy gives at ε."""
    second = math.exp(epsilon + float(log_ndtr(-epsilon / mu - mu / 2)))
    return float(ndtr(-epsilon / mu + mu / 2)) - second


def mu_for_claim(epsilon: float, delta: float) -> float:
    """μ of the Gaussian mechanism whose guarantee at δ is exactly ε; inverse of `epsilon_for_mu`."""
    high = 1.0
    while gdp_delta(high, epsilon) < delta:
        high *= 2
    low = high
    while gdp_delta(low, epsilon) > delta:
        low /= 2
    return float(brentq(lambda mu: gdp_delta(mu, epsilon) - delta, low, high, xtol=1e-12))


def epsilon_for_mu(mu: float, delta: float) -> float:
    """ε of μ-Gaussian differential privacy at δ; 0 where δ alone covers it."""
    if mu <= 0 or gdp_delta(mu, 0.0) <= delta:
        return 0.0
    high = 1.0
    while gdp_delta(mu, high) > delta:
        high *= 2
    return float(brentq(lambda epsilon: gdp_delta(mu, epsilon) - delta, 0.0, high, xtol=1e-12))


@overload
def tpr_on_curve(fpr: float, mu: float) -> float: ...
@overload
def tpr_on_curve(fpr: Float64Array, mu: float) -> Float64Array: ...
def tpr_on_curve(fpr: float | Float64Array, mu: float) -> float | Float64Array:
    """Largest true-positive rate at `fpr` under μ-Gaussian differential privacy: Φ(Φ⁻¹(fpr) + μ)."""
    rate = ndtr(ndtri(fpr) + mu)
    return rate if isinstance(fpr, np.ndarray) else float(rate)


@overload
def tpr_bound(fpr: float, *, epsilon: float, delta: float) -> float: ...
@overload
def tpr_bound(fpr: Float64Array, *, epsilon: float, delta: float) -> Float64Array: ...
def tpr_bound(fpr: float | Float64Array, *, epsilon: float, delta: float) -> float | Float64Array:
    """Largest true-positive rate at `fpr` under (ε, δ): min(e^ε·fpr + δ, 1 − e^−ε·(1 − δ − fpr), 1)."""
    steep = math.exp(epsilon) * np.asarray(fpr) + delta
    flat = 1 - math.exp(-epsilon) * (1 - delta - np.asarray(fpr))
    rate = np.minimum(np.minimum(steep, flat), 1.0)
    return rate if isinstance(fpr, np.ndarray) else float(rate)


def mu_for_rates(fpr: float, tpr: float) -> float:
    """μ of the curve through one point."""
    return float(ndtri(tpr) - ndtri(fpr))


def auc_on_curve(mu: float) -> float:
    """Area under the curve: how often a member looks more like a member than an outsider does."""
    return float(ndtr(mu / math.sqrt(2)))


def best_guess_share(mu: float) -> float:
    """Share of right answers when member and outsider are equally likely: Φ(μ/2); 0.5 is a coin."""
    return float(ndtr(mu / 2))
