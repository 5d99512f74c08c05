"""The Skellam mechanism on sums over patients of several hospitals: integers, so that a secure sum can carry them.

Each hospital bounds its patients' vectors, rounds them to integers, adds them up and adds its share of the noise. The
noise of all hospitals but c, whoever they are, is exactly Skellam noise of the plan's variance, since sums of Skellam
numbers are Skellam numbers; so c hospitals that know their own noise and see the sum gain nothing by it (Agarwal,
Kairouz and Liu 2021).

Rounding is up or down at random, right on average: rounding towards zero would wipe out what is small in every patient,
and that adds up over patients, while random errors of half a unit vanish beside noise of thousands. Rounding may
lengthen a vector; the bound in units is a little larger than the bound in reals for that (by 0.1 to 0.3 % where the
noise multiplier is at most 15), and whatever is still longer, less than one vector in a million, is rounded towards
zero instead. So no vector, however made, exceeds the bound in units, on which the guarantee rests.

Units are a function of the plan's numbers alone. Not promised: the same integers for another order of the patients
(their roundings are drawn in turn), only the same distribution.

>>> scale = Scale(sensitivity=1.0, noise_multiplier=3.7, size=4)
>>> scale.units, scale.l2, scale.l1, Shares(hospitals=3, colluding=1).variance(scale)
(2048, 2051, 4102, 28794184)
>>> round(scale.noise_std, 3)
3.705
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from manikin.common.errors import Misconfigured, ProtocolViolation
from manikin.privacy.mechanisms import Vector, clip
from manikin.privacy.randomness import Stream
from manikin.privacy.skellam_table import VARIANCE_MAX, Integers, draw, largest

UNITS_MIN = 1 << 11  # units in a bound: coarser, and the allowance for rounding would cost more than 0.3 % of noise
UNITS_PER_ROOT = 8  # units in a bound, for each of the root of the vector's size: as above
STD_MIN, STD_MAX = 1 << 12, 1 << 17  # of the noise, in units: below, rounding shows; above, its table is slow to make
LONGER = 2.0**-20  # chance, at most, that a rounded vector is longer than the bound in units
MAGNITUDE_MIN = 1e-30  # of a bound: the square of anything smaller is lost beside a float
SIZE_MAX, UNITS_MAX = 1 << 28, 1 << 17  # up to here, no square of a norm overflows


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What one integer stands for, and how large one patient's integers may be.

    Args:
        sensitivity: largest L2 norm of one patient's vector.
        noise_multiplier: noise standard deviation in units of the largest contribution of one patient.
        size: d, numbers in a vector.
    """

    sensitivity: float
    noise_multiplier: float
    size: int

    def __post_init__(self) -> None:
        for name in ("sensitivity", "noise_multiplier"):
            value = getattr(self, name)
            if not (math.isfinite(value) and MAGNITUDE_MIN <= value <= 1 / MAGNITUDE_MIN):
                raise Misconfigured(f"{name} must lie between {MAGNITUDE_MIN:g} and its inverse, not at {value}.")
        if not 1 <= self.size <= SIZE_MAX:
            raise Misconfigured(f"A vector has between 1 and {SIZE_MAX} numbers, not {self.size}.")
        if self.variance > VARIANCE_MAX:
            raise Misconfigured(
                f"A noise multiplier of {self.noise_multiplier:g} on {self.size} numbers does not fit on integers.",
                "Its table would take too long to make.",
                "Lower the noise multiplier or the vector's size.",
            )

    @property
    def units(self) -> int:
        """Units in `sensitivity`."""
        wanted = max(UNITS_MIN, math.ceil(UNITS_PER_ROOT * math.sqrt(self.size)), STD_MIN / self.noise_multiplier)
        return math.ceil(min(wanted, STD_MAX / self.noise_multiplier, UNITS_MAX))

    @property
    def grid(self) -> float:
        """The real value of one unit."""
        return self.sensitivity / self.units

    @property
    def l2(self) -> int:
        """Δ2: the largest L2 norm of one patient's integers.

        The square of a rounded vector exceeds that of the vector by a sum of independent numbers, of which each lies in
        an interval of length 2|y|+1 and has a mean of at most 1/4: Hoeffding's inequality.
        """
        spread = (2 * self.units + math.sqrt(self.size)) * math.sqrt(-math.log(LONGER) / 2)
        return math.ceil(math.sqrt(self.units**2 + self.size / 4 + spread))

    @property
    def l1(self) -> int:
        """Δ1: the largest L1 norm of integers with L2 norm at most `l2`."""
        return min(math.isqrt(self.size * self.l2**2), self.l2**2)

    @property
    def variance(self) -> int:
        """Of the noise that the guarantee needs, in squared units: at least (noise multiplier · Δ2)²."""
        return math.ceil((self.noise_multiplier * self.l2) ** 2)

    @property
    def noise_std(self) -> float:
        """Standard deviation of that noise in real numbers."""
        return math.sqrt(self.variance) * self.grid


@dataclass(frozen=True, kw_only=True)
class Shares:
    """How the noise is divided among the hospitals.

    Args:
        hospitals: n, all that take part in a sum.
        colluding: c, how many of them may take their own noise off the sum without harm to the others' patients.
    """

    hospitals: int
    colluding: int

    def __post_init__(self) -> None:
        if not 1 <= self.colluding < self.hospitals:
            raise Misconfigured(
                f"{self.colluding} of {self.hospitals} hospitals cannot be the number that may collude.",
                "At least one may, and at least one must be left whose noise counts.",
                "Correct the [privacy] keys of the study.",
            )

    @property
    def needed(self) -> int:
        """n - c: the number of shares that together have the plan's variance."""
        return self.hospitals - self.colluding

    def variance(self, scale: Scale) -> int:
        """Of one hospital's share: n - c of them have at least the variance of `scale`."""
        return -(-scale.variance // self.needed)


def largest_sum(scale: Scale, *, shares: Shares, patients: int) -> int:
    """Bound on the magnitude of every number in a sum over all hospitals with at most so many patients altogether."""
    return patients * scale.l2 + shares.hospitals * largest(shares.variance(scale))


def to_integers(vector: Vector, *, scale: Scale, stream: Stream) -> Integers:
    """One patient's vector in units: int64 (d,), L2 norm at most `scale.l2`, right on average if within the bound.

    Longer than `scale.sensitivity`, it is cut to it; not finite, it is zero. Never raises for what the vector holds.
    Takes ⌈d/2⌉ words of the stream, whatever the vector.
    """
    exact = clip(vector, bound=scale.sensitivity)[0] / scale.grid
    rounded = np.floor(exact + _fractions(len(exact), stream=stream)).astype(np.int64)
    if int(rounded @ rounded) <= scale.l2**2:
        return rounded
    return np.trunc(exact).astype(np.int64)  # no longer than `exact`, whose norm `units` is below `l2` by one or more


def _fractions(size: int, *, stream: Stream) -> Vector:
    """float64 (size,): odd multiples of 2**-33 inside (0, 1), two a word: a rounding is right to 2**-33 on average."""
    words = stream.words((size + 1) // 2)
    halves = np.stack([words & np.uint64(0xFFFFFFFF), words >> np.uint64(32)], axis=1).ravel()[:size]
    return (halves.astype(np.float64) + 0.5) * 2.0**-32


def to_real(integers: Integers, *, scale: Scale) -> Vector:
    """float64 (d,): the sum that the integers stand for."""
    return integers.astype(np.float64) * scale.grid


def noise(scale: Scale, *, shares: Shares, stream: Stream) -> Integers:
    """int64 (d,): one hospital's share of the noise."""
    return draw(scale.size, variance=shares.variance(scale), stream=stream)


def release_integers(contributions: Iterable[Vector], *, scale: Scale, shares: Shares, stream: Stream) -> Integers:
    """One hospital's part of a sum over patients, with its share of the noise: to be masked, never to be sent bare.

    Args:
        contributions: float64 vectors (d,), one per patient. One longer than `scale.sensitivity` is cut to it, and one
            that is not finite counts as zero.
        scale: of the plan.
        shares: of the plan and the roster.
        stream: of this hospital and this step, used for nothing else.

    Returns:
        int64 (d,), in units of `scale.grid`.

    Raises:
        ProtocolViolation: a vector has another shape or type than its family's.

    Guarantee: the sum of all hospitals' parts is a Skellam mechanism, add/remove one patient (Agarwal, Kairouz and Liu
    2021); ε by `skellam_accounting.epsilon`. One part alone has only one share of the noise.
    """
    rounding, total = stream.fork("rounding"), np.zeros(scale.size, np.int64)
    for vector in contributions:
        if vector.dtype != np.float64 or vector.shape != (scale.size,):
            raise ProtocolViolation("A contribution has the wrong shape or type.", "Each is one float64 vector (d,).")
        total += to_integers(vector, scale=scale, stream=rounding)
    return total + noise(scale, shares=shares, stream=stream.fork("noise"))
