"""How many members a threshold flags, and what that says about the leak: exact for the threshold's own luck.

The threshold is one of the calibration scores, so its true false-positive rate is not known: with n calibration
scores and rank r it has exactly the distribution Beta(n − r + 1, r), and after k of m holdout patients were flagged,
exactly Beta(n − r + 1 + k, r + m − k). A plain interval of the members' rate ignores this and misses too often
(200 calibration patients at 1 %: the true rate lies between 0.1 % and 2.8 %). Here the members' count is
Bin(N, Φ(Φ⁻¹(f) + μ)) averaged over that distribution of f, for a leak of size μ; μ = 0 is no leak. Tests, intervals
and power all come from this one distribution. For μ = 0 nothing is assumed but that patients were split at random;
for other μ the leak's curve has the Gaussian mechanism's shape. Tied scores make all of it conservative.

>>> design = Design(members=1600, holdout=200, calibration=200, fpr=0.01)
>>> [round(x, 3) for x in tpr_interval(design, 16, 2, alpha=0.05)]
[0.004, 0.034]
>>> round(detectable_tpr(design, limit=0.05, alpha=0.05), 2)
0.12
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import bdtr, bdtrc, betaincinv

from manikin.privacy.audit.claim import mu_for_rates, tpr_on_curve
from manikin.privacy.audit.statistics import conformal_rank

Float64Array = NDArray[np.float64]
NODES = 400
LARGEST_MU = 12.0
POWER = 0.8


@dataclass(frozen=True)
class Design:
    """Sizes of a membership test, in patients, and the false-positive rate that it asks for."""

    members: int
    holdout: int
    calibration: int
    fpr: float

    @property
    def has_threshold(self) -> bool:
        """Whether there are calibration patients enough for a threshold at `fpr` at all."""
        return conformal_rank(self.calibration, fpr=self.fpr) <= self.calibration

    @property
    def calibration_needed(self) -> int:
        """Fewest calibration patients with which a threshold at `fpr` exists."""
        return math.ceil(1 / self.fpr - 1e-9) - 1

    @property
    def expected_false_positives(self) -> int:
        """Flagged holdout patients to plan with."""
        return round(self.holdout * self.fpr)

    def times(self, factor: float) -> Design:
        """The same design with every group larger by `factor`."""
        grown = (math.ceil(size * factor) for size in (self.members, self.holdout, self.calibration))
        members, holdout, calibration = grown
        return replace(self, members=members, holdout=holdout, calibration=calibration)


def false_positive_rates(design: Design, false_positives: int) -> Float64Array:
    """`NODES` equally likely values of the threshold's true false-positive rate."""
    rank = conformal_rank(design.calibration, fpr=design.fpr)
    first = design.calibration - rank + 1 + false_positives
    second = rank + design.holdout - false_positives
    rates: Float64Array = betaincinv(first, second, (np.arange(NODES) + 0.5) / NODES)
    return np.clip(rates, 1e-12, 1 - 1e-12)


def at_least(hits: int, members: int, rates: Float64Array, mu: float) -> float:
    """Probability that a leak of size μ flags `hits` members or more."""
    return float(bdtrc(hits - 1, members, tpr_on_curve(rates, mu)).mean()) if hits > 0 else 1.0


def at_most(hits: int, members: int, rates: Float64Array, mu: float) -> float:
    """Probability that a leak of size μ flags `hits` members or fewer."""
    return float(bdtr(hits, members, tpr_on_curve(rates, mu)).mean()) if hits < members else 1.0


def leak_p_value(
    design: Design, hits: int, false_positives: int, *, allowed: Callable[[Float64Array], Float64Array]
) -> float:
    """p-value of "the true-positive rate is at most `allowed`(false-positive rate)"; 1 where there is no threshold."""
    if not design.has_threshold or hits == 0:
        return 1.0
    rates = false_positive_rates(design, false_positives)
    return float(bdtrc(hits - 1, design.members, allowed(rates)).mean())


def tpr_interval(design: Design, hits: int, false_positives: int, *, alpha: float) -> tuple[float, float]:
    """Two-sided 1 − α interval of the true-positive rate at exactly `fpr`, α/2 on each side."""
    if not design.has_threshold or design.members == 0:
        return 0.0, 1.0
    rates = false_positive_rates(design, false_positives)
    low, high = 0.0, 1.0
    if hits > 0:
        mu = _root(lambda mu: at_least(hits, design.members, rates, mu) - alpha / 2)
        low = tpr_on_curve(design.fpr, mu)
    if hits < design.members:
        mu = _root(lambda mu: alpha / 2 - at_most(hits, design.members, rates, mu))
        high = tpr_on_curve(design.fpr, mu)
    return low, high


def detectable_tpr(design: Design, *, limit: float, alpha: float) -> float:
    """Smallest true-positive rate that a test of `limit` at level α finds four times out of five; 1 if none."""
    if not design.has_threshold:
        return 1.0
    rates = false_positive_rates(design, design.expected_false_positives)
    mu_limit = mu_for_rates(design.fpr, limit)
    critical = _smallest(lambda hits: at_least(hits, design.members, rates, mu_limit) <= alpha, design.members)
    if critical > design.members:
        return 1.0
    mu = _root(lambda mu: at_least(critical, design.members, rates, mu) - POWER)
    return tpr_on_curve(design.fpr, mu)


def pass_probability(design: Design, *, limit: float, alpha: float) -> float:
    """Chance that a generator without any leak has the upper end of its interval at or below `limit`."""
    if not design.has_threshold:
        return 0.0
    rates = false_positive_rates(design, design.expected_false_positives)
    mu_limit = mu_for_rates(design.fpr, limit)
    most = _smallest(lambda hits: at_most(hits, design.members, rates, mu_limit) > alpha / 2, design.members) - 1
    return at_most(most, design.members, rates, 0.0) if most >= 0 else 0.0


def design_needed(design: Design, *, limit: float, alpha: float) -> Design | None:
    """Smallest enlargement with which a generator without leak passes four times out of five; None above 1000 ×."""
    factor = 1.0
    while factor < 1000:
        grown = design.times(factor)
        if pass_probability(grown, limit=limit, alpha=alpha) >= POWER:
            return grown
        factor *= 1.15
    return None


def _smallest(condition: Callable[[int], bool], largest: int) -> int:
    """Smallest count in 0..largest for which a monotone condition holds; largest + 1 if none."""
    low, high = 0, largest + 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if condition(middle) else (middle + 1, high)
    return low


def _root(increasing: Callable[[float], float]) -> float:
    if increasing(-LARGEST_MU) >= 0:
        return -LARGEST_MU
    if increasing(LARGEST_MU) <= 0:
        return LARGEST_MU
    return float(brentq(increasing, -LARGEST_MU, LARGEST_MU, xtol=1e-9))
