"""Skellam integers from random words: the inverse distribution function, tabulated in exact integer arithmetic.

A Skellam number of variance μ is the difference of two Poisson numbers of mean μ/2; P(k) is proportional to the Bessel
function I_k(μ). Its table comes from the recurrence I_(k-1) = I_(k+1) + (2k/μ) I_k, run downwards, where it is stable,
on Python's integers. Floats choose where the table begins and nothing else, so the same words give the same noise on
every platform.

Promised: one draw differs from a Skellam number by less than 2**-100 in total variation. Thresholds are exact to
2**-126 each, and there are fewer than 2**24 of them; nothing is drawn farther out than `largest(variance)`, beyond
which lies less than 2**-127 of the probability. Drawn n times, that adds less than n · 2**-99 · e^ε to a δ: less than
1e-14 for 2**50 draws at ε = 1. Not promised: that no clock tells of a word that meets a threshold (less than one in
2**39 does, and takes a second word).

>>> largest(4096**2), len(thresholds(4096**2)[0])
(61193, 53477)
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from manikin.common.errors import Misconfigured
from manikin.privacy.randomness import Stream

VARIANCE_MAX = 1 << 40  # its table has 14 million entries, which is more than anyone wants to wait for
_BITS = 127  # of a threshold; the sign is the word's last bit
_TAIL = 161 * math.log(2)  # the table begins where less than 2**-160 of the probability is left
_GUARD_BITS = 64
_QUOTIENT_BITS = 320
_REMEMBERED = 4

Integers = NDArray[np.int64]
Thresholds = tuple[NDArray[np.uint64], NDArray[np.uint64]]


def largest(variance: int) -> int:
    """Bound on the magnitude of everything drawn with this variance: about 15 standard deviations.

    Raises:
        Misconfigured: the variance is not a whole number from 1 to 2**40.
    """
    if not 1 <= variance <= VARIANCE_MAX:
        raise Misconfigured(f"The variance of Skellam noise is a whole number from 1 to 2**40, not {variance}.")
    low, high = 1, 64 + 64 * math.isqrt(variance)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _chernoff(middle, variance) >= _TAIL else (middle + 1, high)
    return low


def _chernoff(k: int, variance: int) -> float:
    """-log of a bound on P(X >= k): the least of μ (cosh t - 1) - t k over t, written without cancellation."""
    return k * math.asinh(k / variance) - k * k / (math.hypot(k, variance) + variance)


@lru_cache(maxsize=_REMEMBERED)
def thresholds(variance: int) -> Thresholds:
    """2**127 · P(|X| > j) for j = n-1, …, 0, rounded down, as the upper and the lower 64 bits, ascending.

    A 127-bit number u below exactly m of them stands for a magnitude of m.
    """
    above, weight, tail, tails = 0, 1 << _GUARD_BITS, 0, []
    for k in range(largest(variance), 0, -1):
        tail += weight
        tails.append(tail)  # proportional to P(X >= k)
        above, weight = weight, above + 2 * k * weight // variance
    inverse = (1 << (_QUOTIENT_BITS + _BITS + 1)) // (weight + 2 * tail)
    numbers = [number for number in (tail * inverse >> _QUOTIENT_BITS for tail in tails) if number]
    upper = np.array([number >> 64 for number in numbers], np.uint64)
    lower = np.array([number & 0xFFFFFFFFFFFFFFFF for number in numbers], np.uint64)
    for part in (upper, lower):
        part.flags.writeable = False
    return upper, lower


def draw(size: int, *, variance: int, stream: Stream) -> Integers:
    """int64 (size,): Skellam numbers with mean 0; one word each, and one more for each word that meets a threshold.

    Raises:
        Misconfigured: the variance is not a whole number from 1 to 2**40.
    """
    upper, lower = thresholds(variance)
    words = stream.words(size)
    halves = words >> np.uint64(1)
    below = np.searchsorted(upper, halves, side="right")
    undecided = np.flatnonzero(upper[np.maximum(below, 1) - 1] == halves)
    for i, word in zip(undecided, stream.words(len(undecided)), strict=True):
        first = np.searchsorted(upper, halves[i], side="left")
        below[i] = first + np.searchsorted(lower[first : below[i]], word, side="right")
    magnitudes = (len(upper) - below).astype(np.int64)
    return np.where(words & np.uint64(1), -magnitudes, magnitudes)
