"""Integer noise on counts, as a table of probabilities: what intervals need to undo it exactly.

Promises: `at_least` and `at_most` are never below the true tail, by the mass `beyond` that the table leaves out, which
is at most 1e-15 a side for one draw and adds up over draws. Drawing noise is not done here: `mechanisms` and `skellam`
do, from a secure stream.

>>> noise = geometric_noise(epsilon=0.5, sensitivity=1)
>>> noise.half_width(alpha=0.05), noise.summed(5).half_width(alpha=0.05)
(6, 13)
>>> round(float(skellam_noise(variance=9).at_least(np.array([0]))[0]), 4)
0.5675

Ghosh, Roughgarden and Sundararajan 2012 (geometric); Agarwal, Kairouz and Liu 2021 (Skellam).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ive

from manikin.common.errors import Misconfigured

Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]
BEYOND = 1e-15
REACH_MAX = 1 << 16


@dataclass(frozen=True, eq=False)
class Noise:
    """Symmetric noise on the integers.

    Args:
        probabilities: of −reach … reach, float64 (2·reach + 1,).
        beyond: bound of the mass above the table, and of that below it.
    """

    probabilities: Float64Array
    beyond: float

    @property
    def reach(self) -> int:
        """Largest magnitude in the table."""
        return len(self.probabilities) // 2

    def at_least(self, values: Int64Array) -> Float64Array:
        """P(noise >= value) for each, from above."""
        tails = np.append(np.cumsum(self.probabilities[::-1])[::-1], 0.0)
        index = np.clip(values + self.reach, 0, len(self.probabilities))
        result: Float64Array = np.minimum(tails[index] + self.beyond, 1.0)
        return result

    def at_most(self, values: Int64Array) -> Float64Array:
        """P(noise <= value) for each, from above."""
        return self.at_least(-values)

    def half_width(self, *, alpha: float) -> int:
        """Smallest w with P(|noise| > w) at most α."""
        tails = self.at_least(np.arange(1, self.reach + 2))
        return int(np.argmax(2 * tails <= alpha)) if 2 * tails[-1] <= alpha else self.reach + 1

    def summed(self, draws: int) -> Noise:
        """The sum of so many independent draws, as in a count pooled over hospitals; of none, no noise."""
        total, beyond = np.ones(1), 0.0
        for _ in range(draws):
            total, beyond = np.convolve(total, self.probabilities), beyond + self.beyond
        return Noise(total, beyond)


def geometric_noise(*, epsilon: float, sensitivity: int) -> Noise:
    """Two-sided geometric noise, P(z) ∝ e^(−ε|z|/sensitivity): the mechanism on a count is (ε, 0)-private.

    Raises:
        Misconfigured: ε or the sensitivity is not positive, or the noise is too wide for a table.
    """
    if not (math.isfinite(epsilon) and epsilon > 0 and sensitivity >= 1):
        raise Misconfigured(f"Noise needs a positive ε and sensitivity, not {epsilon} and {sensitivity}.")
    rate = epsilon / sensitivity
    reach = _checked_reach(math.ceil(-math.log(BEYOND) / rate))
    ratio = math.exp(-rate)
    probabilities = np.exp(-rate * np.abs(np.arange(-reach, reach + 1))) * (-math.expm1(-rate) / (1 + ratio))
    return Noise(probabilities, ratio ** (reach + 1) / (1 + ratio))


def skellam_noise(*, variance: float) -> Noise:
    """The difference of two Poisson numbers of mean variance/2.

    Raises:
        Misconfigured: the variance is not positive, or the noise is too wide for a table.
    """
    if not (math.isfinite(variance) and variance > 0):
        raise Misconfigured(f"Noise needs a positive variance, not {variance}.")
    reach = 1
    while (beyond := _skellam_tail(reach + 1, variance)) > BEYOND:
        reach = _checked_reach(2 * reach)
    return Noise(ive(np.abs(np.arange(-reach, reach + 1)), variance), beyond)


def _skellam_tail(value: int, variance: float) -> float:
    """Chernoff's bound of P(noise >= value)."""
    root = math.hypot(variance, value)
    return math.exp(root - variance - value * math.asinh(value / variance))


def _checked_reach(reach: int) -> int:
    if reach > REACH_MAX:
        raise Misconfigured("Noise this wide leaves nothing of a count.", f"It reaches beyond ±{REACH_MAX}.")
    return reach
