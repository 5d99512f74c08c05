"""How much does one training run with planted canaries rule out? Lower bounds of ε and μ from guesses.

Each of m canaries is a patient of its own, in the training set by a fair coin. The auditor sees the result and guesses
some coins: the `guess_in` highest scores were in, the `guess_out` lowest were out, both numbers fixed beforehand. If
the training is (ε, δ)-private, so many right guesses have a probability of at most `p_value`; an ε at which it is at
most α is ruled out. That needs no assumption. The second bound is sharper and rules out μ-Gaussian privacy: turned into
an ε it assumes that the mechanism's trade-off curve is Gaussian.

Promises: either bound exceeds the truth with probability at most α. `looks` is the number of pairs (`guess_in`,
`guess_out`) or scores of which the best is reported: α is divided by it (Bonferroni). Without that, the best of all
pairs "finds" ε > 0 in 34 to 49 % of audits of pure noise.

>>> tally = Tally(canaries=1000, guesses=100, correct=90)
>>> round(epsilon_lower_bound(tally, delta=1e-5, alpha=0.05), 6)
1.626143
>>> round(mu_lower_bound(tally, alpha=0.05), 4)
0.6025
>>> round(epsilon_ceiling(100, 100, delta=0.0, alpha=0.05), 6)
3.492965

Steinke, Nasr and Jagielski 2023; Mahloujifar, Melis and Chaudhuri 2024.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr, ndtri
from scipy.stats import binom

from manikin.common.errors import Misconfigured
from manikin.privacy.audit.statistics.checks import check_counts, check_share, checked_scores

Float64Array = NDArray[np.float64]
LARGEST = 64.0
STEPS = 48


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Guesses about canaries, of one hospital or added up over several.

    Args:
        canaries: m, coins tossed.
        guesses: coins guessed.
        correct: guessed right.
    """

    canaries: int
    guesses: int
    correct: int

    def __post_init__(self) -> None:
        check_counts(canaries=self.canaries, guesses=self.guesses, correct=self.correct)
        if not self.correct <= self.guesses <= self.canaries:
            raise Misconfigured(
                f"{self.correct} right guesses of {self.guesses} on {self.canaries} canaries cannot be.",
                "There are at most as many right guesses as guesses, and as many of these as canaries.",
            )

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            canaries=self.canaries + other.canaries,
            guesses=self.guesses + other.guesses,
            correct=self.correct + other.correct,
        )


def guess(scores: Float64Array, included: NDArray[np.bool_], *, guess_in: int, guess_out: int) -> Tally:
    """Guess that the highest scores were in and the lowest out, and count what is right.

    Args:
        scores: one a canary, larger for likelier members; ties go by position, which the coins do not know.
        included: whether the canary was in the training set.
        guess_in, guess_out: how many of each, fixed before any score was seen.

    Raises:
        BadData: a score is NaN.
        Misconfigured: more guesses than canaries.
    """
    order = np.argsort(checked_scores(scores), kind="stable")
    check_counts(guess_in=guess_in, guess_out=guess_out)
    if guess_in + guess_out > len(order):
        raise Misconfigured(f"{guess_in} and {guess_out} guesses are more than {len(order)} canaries.")
    correct = int(included[order[len(order) - guess_in :]].sum()) + int((~included[order[:guess_out]]).sum())
    return Tally(canaries=len(order), guesses=guess_in + guess_out, correct=correct)


def p_value(tally: Tally, *, epsilon: float, delta: float) -> float:
    """Largest probability of so many right guesses under (ε, δ): β + 2mδ · max over i of P(v > B ≥ v − i)/i.

    B is binomial with the guesses as trials and the chance e^ε/(1 + e^ε); v are the right ones, β = P(B ≥ v).
    """
    rate = float(expit(epsilon))
    tail = float(binom.sf(tally.correct - 1, tally.guesses, rate))
    if delta == 0 or tally.correct == 0:
        return tail
    below = np.cumsum(binom.pmf(np.arange(tally.correct - 1, -1, -1), tally.guesses, rate))
    worst = float((below / np.arange(1, tally.correct + 1)).max())
    return min(1.0, tail + 2 * tally.canaries * delta * worst)


def epsilon_lower_bound(tally: Tally, *, delta: float, alpha: float, looks: int = 1) -> float:
    """Largest ε that so many right guesses rule out at level α; 0 if none.

    Args:
        tally: the guesses.
        delta: of the claim, 0 to 1.
        alpha: chance, at most, that the bound exceeds the truth.
        looks: of how many tallies this is the best.
    """
    level = _level(alpha, looks)
    if not (math.isfinite(delta) and 0 <= delta < 1):
        raise Misconfigured(f"δ must lie between 0 and 1, not at {delta}.")
    return _largest(lambda epsilon: p_value(tally, epsilon=epsilon, delta=delta) <= level)


def epsilon_ceiling(canaries: int, guesses: int, *, delta: float, alpha: float) -> float:
    """What `epsilon_lower_bound` gives if all guesses are right: a claim above it cannot be contradicted."""
    return epsilon_lower_bound(Tally(canaries=canaries, guesses=guesses, correct=guesses), delta=delta, alpha=alpha)


def rules_out(tally: Tally, *, mu: float, alpha: float) -> bool:
    """Whether so many right guesses have a probability of less than α under μ-Gaussian privacy."""
    right = alpha * tally.correct / tally.canaries
    wrong = alpha * (tally.guesses - tally.correct) / tally.canaries
    for i in range(tally.correct - 1, -1, -1):
        wrong_now = max(wrong, float(ndtr(ndtri(right) - mu)))
        right += i / (tally.guesses - i) * (wrong_now - wrong)
        wrong = wrong_now
        if right + wrong > tally.guesses / tally.canaries:
            return True
    return False


def mu_lower_bound(tally: Tally, *, alpha: float, looks: int = 1) -> float:
    """Largest μ that so many right guesses rule out at level α; 0 if none. `claim.epsilon_for_mu` makes it an ε."""
    level = _level(alpha, looks)
    return _largest(lambda mu: rules_out(tally, mu=mu, alpha=level))


def mu_ceiling(canaries: int, guesses: int, *, alpha: float) -> float:
    """What `mu_lower_bound` gives if all guesses are right."""
    return mu_lower_bound(Tally(canaries=canaries, guesses=guesses, correct=guesses), alpha=alpha)


def _level(alpha: float, looks: int) -> float:
    check_share("A level", alpha)
    if looks < 1:
        raise Misconfigured(f"The best of {looks} looks cannot be.")
    return alpha / looks


def _largest(ruled_out: Callable[[float], bool]) -> float:
    """Largest value that is still ruled out, from below; 0 if none is."""
    low, high = 0.0, 1.0
    while high < LARGEST and ruled_out(high):
        low, high = high, 2 * high
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if ruled_out(middle) else (low, middle)
    return low if low > 1e-9 else 0.0
