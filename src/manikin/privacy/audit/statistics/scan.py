"""Are the training patients crowded among the closest? A scan over ranks with its exact permutation null.

Patients are sorted by a score. If the generator treats training and other patients alike, the labels are a random
permutation of that order, whatever the scores' distribution: also for a mode-collapsed generator, where the popular
test "more than half of the synthetic images are closer to train" cries wolf in 42 % of honest cases. The statistic
is the smallest hypergeometric tail over the k lowest scores, k in `RANKS`. Its p-value is the share of all permutations
of the patients with one as small, which pays for having looked at several k; it is computed, not sampled, by following
the number of members from one rank to the next.

Promises: p-values are valid for any scores, ties broken at random. The unit is the patient: with several images a
patient, give the lowest score of each. (Permuting images instead cries wolf when a patient's images resemble each
other.)

>>> order = np.arange(400.0)
>>> found = scan(order[:200], order[200:], rng=np.random.default_rng(0))
>>> found.rank, found.members, found.p_value < 1e-50
(200, 200, True)
>>> detectable_copies(500, 500, alpha=0.05, power=0.8)
9
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from manikin.privacy.audit.statistics.checks import check_counts, check_share, checked_scores

Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]
RANKS = (5, 10, 20, 50, 100, 200)
ROUNDING = 1e-9


@dataclass(frozen=True)
class Scan:
    """What the scan saw.

    Args:
        statistic: smallest tail probability over the ranks.
        p_value: share of the permutations of patients with a statistic as small.
        rank: the k at which it was smallest, 0 where there was nothing to scan.
        members: training patients among those k.
        expected: how many there would be by chance.
    """

    statistic: float
    p_value: float
    rank: int
    members: int
    expected: float


def scan(members: Float64Array, outsiders: Float64Array, *, rng: np.random.Generator) -> Scan:
    """One-sided permutation test of "training patients have no lower scores than the others".

    Args:
        members, outsiders: one score a patient, smaller for closer; ties are broken at random, blind to the group.
        rng: source of the tie-breaking.

    Raises:
        BadData: a score is NaN.
    """
    m, n = len(members), len(outsiders)
    ranks = usable_ranks(m, n)
    scores = np.concatenate([checked_scores(members), checked_scores(outsiders)])
    if not ranks:
        return Scan(1.0, 1.0, 0, 0, 0.0)
    shuffled = rng.permutation(m + n)
    order = shuffled[np.argsort(scores[shuffled], kind="stable")]
    counts = [int((order[:k] < m).sum()) for k in ranks]
    tails = [_tail(m, n, k)[count] for k, count in zip(ranks, counts, strict=True)]
    best = int(np.argmin(tails))
    return Scan(
        statistic=float(tails[best]),
        p_value=min(1.0, chance_as_small(m, n, float(tails[best]), planted=0)),
        rank=ranks[best],
        members=counts[best],
        expected=ranks[best] * m / (m + n),
    )


def lowest_by_patient(scores: Float64Array, owners: Int64Array, patients: int) -> Float64Array:
    """The lowest score among each patient's images, float64 (patients,); infinite for a patient without images.

    Args:
        scores: one an image, smaller for closer.
        owners: whose image it is, 0 to patients − 1.
    """
    lowest = np.full(patients, np.inf)
    np.minimum.at(lowest, owners, checked_scores(scores))
    return lowest


def usable_ranks(members: int, outsiders: int) -> tuple[int, ...]:
    """Ranks of the scan that leave at least half of all patients outside."""
    check_counts(members=members, outsiders=outsiders)
    return tuple(k for k in RANKS if members and outsiders and 2 * k <= members + outsiders)


def chance_as_small(members: int, outsiders: int, statistic: float, *, planted: int) -> float:
    """Probability that the scan's statistic is at most `statistic`.

    Args:
        members, outsiders: numbers of patients.
        statistic: a tail probability.
        planted: members known to come first; the others are in random order. With none: the p-value.
    """
    quiet, seen, found = np.zeros(members + 1), planted, 0.0
    quiet[planted] = 1.0
    for k in usable_ranks(members, outsiders):
        if k > seen:
            quiet, seen = _moved_on(quiet, members, outsiders, seen, k), k
        tail = _tail(members, outsiders, k)
        among = np.minimum(np.arange(members + 1), k)
        alarm = tail[among] <= statistic * (1 + ROUNDING)
        found += math.fsum(quiet[alarm])
        quiet[alarm] = 0.0
    return found


def critical_statistic(members: int, outsiders: int, *, alpha: float) -> float:
    """Largest value of the statistic with a p-value of at most α; 0 if there is none."""
    check_share("A level", alpha)
    ranks = usable_ranks(members, outsiders)
    if not ranks:
        return 0.0
    values = np.unique(np.concatenate([_tail(members, outsiders, k) for k in ranks]))
    values = values[(values > 0) & (values <= alpha * (1 + ROUNDING))]
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        fits = chance_as_small(members, outsiders, float(values[middle]), planted=0) <= alpha
        low, high = (middle + 1, high) if fits else (low, middle)
    return float(values[low - 1]) if low else 0.0


def detectable_copies(members: int, outsiders: int, *, alpha: float, power: float) -> int | None:
    """Fewest training patients closer than everybody else that the scan finds with probability `power`.

    Returns:
        That number, or None if not even all of them would be found.
    """
    check_share("A power", power)
    if not usable_ranks(members, outsiders):
        return None
    critical = critical_statistic(members, outsiders, alpha=alpha)
    low, high = 1, members + 1
    while low < high and critical > 0:
        middle = (low + high) // 2
        enough = chance_as_small(members, outsiders, critical, planted=middle) >= power
        low, high = (low, middle) if enough else (middle + 1, high)
    return low if critical > 0 and low <= members else None


def copies_pass(members: int, outsiders: int, *, share: float, alpha: float, power: float) -> bool:
    """Whether the scan is strong enough to find copies of a `share` of the training patients."""
    fewest = detectable_copies(members, outsiders, alpha=alpha, power=power)
    return fewest is not None and fewest <= share * members


def _moved_on(chances: Float64Array, members: int, outsiders: int, seen: int, rank: int) -> Float64Array:
    """Chances of each number of members among the first `rank` patients, from those among the first `seen`."""
    found = np.flatnonzero(chances)[:, None]
    more = np.arange(rank - seen + 1)[None, :]
    moves = chances[found] * _mass(members - found, outsiders - (seen - found), rank - seen, more)
    after: Float64Array = np.bincount((found + more).ravel(), weights=moves.ravel(), minlength=members + 1).astype(
        np.float64
    )
    return after[: members + 1]  # what lies beyond has probability 0


def _tail(members: int, outsiders: int, k: int) -> Float64Array:
    """Probability of at least j members among k patients, for j = 0 … k."""
    tail: Float64Array = np.cumsum(_mass(members, outsiders, k, np.arange(k + 1))[::-1])[::-1]
    return tail


def _mass(members: Int64Array | int, outsiders: Int64Array | int, k: int, j: Int64Array) -> Float64Array:
    """Probability of exactly j members among k patients of the given numbers; 0 where that cannot be."""
    possible = (j <= members) & (k - j <= outsiders) & (j <= k)
    inside, outside = np.where(possible, j, 0), np.where(possible, k - j, 0)
    log = _log_choose(members, inside) + _log_choose(outsiders, outside) - _log_choose(members + outsiders, k)
    return np.where(possible, np.exp(log), 0.0)


def _log_choose(n: Int64Array | int, k: Int64Array | int) -> Float64Array:
    result: Float64Array = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    return result
