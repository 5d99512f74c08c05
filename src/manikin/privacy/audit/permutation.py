"""Are the training patients crowded among the closest? A scan over ranks with an exact permutation null.

Patients are sorted by a score. If the generator treats training and other patients alike, the labels are a random
permutation of that order, whatever the scores' distribution: also for a mode-collapsed generator, where the popular
test "more than half of the synthetic images are closer to train" cries wolf in 42 % of honest cases. The statistic
is the smallest hypergeometric tail over the k lowest scores, k in `RANKS`; its own null, by permuting patients, pays
for having looked at several k.

>>> order = np.arange(400.0)
>>> scan(order[:200], order[200:], rng=np.random.default_rng(0)).p_value < 0.001
True
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from manikin.privacy.audit.flagged import POWER

Float64Array = NDArray[np.float64]
Counts = NDArray[np.int64]
RANKS = (5, 10, 20, 50, 100, 200)
PERMUTATIONS = 9999
SIMULATIONS = 400


@dataclass(frozen=True)
class Scan:
    """What the scan saw.

    Args:
        statistic: smallest tail probability over the ranks.
        p_value: of the statistic under permutation of patients; at least 1 / (PERMUTATIONS + 1).
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
        rng: source of the tie-breaking and of the permutations.
    """
    m, n = len(members), len(outsiders)
    ranks = usable_ranks(m, n)
    if not ranks:
        return Scan(1.0, 1.0, 0, 0, 0.0)
    shuffled = rng.permutation(m + n)
    order = shuffled[np.argsort(np.concatenate([members, outsiders])[shuffled], kind="stable")]
    counts = np.array([[int((order[:k] < m).sum()) for k in ranks]])
    tails = _tails(m, n)
    statistic = float(_statistic(counts, tails)[0])
    null = _null(m, n, rng, tails)
    best = min(range(len(ranks)), key=lambda i: tails[i][counts[0, i]])
    p_value = (1 + int((null <= statistic * (1 + 1e-9)).sum())) / (PERMUTATIONS + 1)
    return Scan(statistic, p_value, ranks[best], int(counts[0, best]), ranks[best] * m / (m + n))


def usable_ranks(members: int, outsiders: int) -> tuple[int, ...]:
    """Ranks of the scan that leave at least half of all patients outside."""
    return tuple(k for k in RANKS if members and outsiders and 2 * k <= members + outsiders)


def detectable_copies(members: int, outsiders: int, *, alpha: float, rng: np.random.Generator) -> int | None:
    """Fewest training patients closer than everybody else that the scan finds four times out of five.

    Returns:
        That number, or None if not even all of them would be found.
    """
    if not usable_ranks(members, outsiders):
        return None
    tails = _tails(members, outsiders)
    null = np.sort(_null(members, outsiders, rng, tails))
    may_be_lower = int(alpha * (PERMUTATIONS + 1)) - 1
    critical = null[may_be_lower] * (1 - 1e-9) if may_be_lower >= 0 else 0.0
    low, high = 1, members + 1
    while low < high:
        middle = (low + high) // 2
        planted = _statistic(_random_counts(members, outsiders, middle, SIMULATIONS, rng), tails)
        found = float((planted < critical).mean()) >= POWER
        low, high = (low, middle) if found else (middle + 1, high)
    return low if low <= members else None


def copies_pass(members: int, outsiders: int, *, share: float, alpha: float, rng: np.random.Generator) -> bool:
    """Whether the scan is strong enough to find copies of a `share` of the training patients."""
    fewest = detectable_copies(members, outsiders, alpha=alpha, rng=rng)
    return fewest is not None and fewest <= share * members


def _random_counts(members: int, outsiders: int, planted: int, draws: int, rng: np.random.Generator) -> Counts:
    """Members among the k lowest, (draws, ranks): `planted` members come first, the others in random order."""
    counts = np.zeros((draws, len(usable_ranks(members, outsiders))), np.int64)
    found, seen = np.full(draws, planted, np.int64), planted
    for column, k in enumerate(usable_ranks(members, outsiders)):
        if k > seen:
            left = members - found
            found = found + rng.hypergeometric(left, members + outsiders - seen - left, k - seen)
            seen = k
        counts[:, column] = np.minimum(found, k)
    return counts


def _null(members: int, outsiders: int, rng: np.random.Generator, tails: list[Float64Array]) -> Float64Array:
    return _statistic(_random_counts(members, outsiders, 0, PERMUTATIONS, rng), tails)


def _statistic(counts: Counts, tails: list[Float64Array]) -> Float64Array:
    columns = [tail[counts[:, column]] for column, tail in enumerate(tails)]
    smallest: Float64Array = np.min(columns, axis=0)
    return smallest


def _tails(members: int, outsiders: int) -> list[Float64Array]:
    """For each rank k, the probability of at least j members among k, for j = 0..k."""
    return [_tail(members, outsiders, k) for k in usable_ranks(members, outsiders)]


def _tail(members: int, outsiders: int, k: int) -> Float64Array:
    j = np.arange(k + 1, dtype=np.float64)
    possible = (j <= members) & (k - j <= outsiders)
    inside, outside = np.where(possible, j, 0), np.where(possible, k - j, 0)
    log = _log_choose(members, inside) + _log_choose(outsiders, outside) - _log_choose(members + outsiders, np.array(k))
    tail: Float64Array = np.cumsum(np.where(possible, np.exp(log), 0.0)[::-1])[::-1]
    return tail


def _log_choose(n: int, k: Float64Array) -> Float64Array:
    result: Float64Array = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    return result
