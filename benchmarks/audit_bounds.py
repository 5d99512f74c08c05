"""Cases of the audit benchmark about bounds and intervals: known answers, false alarms, power, canaries, noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from audit_case import Case, Measured, share
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import binom

from manikin.privacy.audit.claim import epsilon_for_mu, mu_for_claim
from manikin.privacy.audit.flagged import Design, tpr_interval
from manikin.privacy.audit.statistics.conformal import conformal_threshold
from manikin.privacy.audit.statistics.gdp import canary_scores, claim_p_value, fit_canaries
from manikin.privacy.audit.statistics.intervals import clopper_pearson, noised_rate_interval
from manikin.privacy.audit.statistics.multiple import holm
from manikin.privacy.audit.statistics.noise import geometric_noise
from manikin.privacy.audit.statistics.one_run import Tally, epsilon_lower_bound, guess, mu_lower_bound, p_value
from manikin.privacy.audit.statistics.roc import area_under_curve, rates_at_threshold

Array = NDArray[np.float64]
ALPHA, DELTA = 0.05, 1e-5
STEINKE = (
    ((1000, 1000, 600), 0.297227),
    ((1000, 1000, 550), 0.093988),
    ((1000, 1000, 500), 0.0),
    ((1000, 100, 90), 1.626143),
    ((1000, 100, 100), 3.465376),
    ((100, 100, 100), 3.490216),
    ((5000, 500, 450), 1.941420),
    ((1000, 1000, 1000), 5.782283),
    ((200, 50, 45), 1.391977),
)
MAHLOUJIFAR = (
    ((1000, 1000, 600), 0.16385),
    ((1000, 100, 90), 0.60250),
    ((1000, 100, 100), 1.22553),
    ((1000, 1000, 1000), 2.36807),
    ((5000, 500, 450), 0.67152),
    ((200, 50, 45), 0.60031),
)
RATES = (((0, 100), 0.036217), ((1, 1000), 0.005559), ((2, 2000), 0.003608), ((20, 2000), 0.015402))
GAUSSIAN = ((1.0, 0.268), (2.0, 0.502), (4.0, 0.925), (8.0, 1.666))


@cache
def epsilon_bound(canaries: int, guesses: int, correct: int, looks: int = 1) -> float:
    """Steinke's bound; the same tallies come again and again."""
    tally = Tally(canaries=canaries, guesses=guesses, correct=correct)
    return epsilon_lower_bound(tally, delta=DELTA, alpha=ALPHA, looks=looks)


@cache
def mu_bound(canaries: int, guesses: int, correct: int) -> float:
    """Mahloujifar's bound."""
    return mu_lower_bound(Tally(canaries=canaries, guesses=guesses, correct=correct), alpha=ALPHA)


def known_answers(_: bool) -> tuple[bool, Measured]:
    """1: largest difference to numbers on which two other implementations agreed."""
    off = {
        "steinke": max(abs(epsilon_bound(*case) - answer) for case, answer in STEINKE),
        "f_dp": max(abs(mu_bound(*case) - answer) for case, answer in MAHLOUJIFAR),
        "clopper_pearson": max(abs(clopper_pearson(*case, alpha=ALPHA)[1] - answer) for case, answer in RATES),
        "gdp": max(abs(mu_for_claim(epsilon, DELTA) - answer) for epsilon, answer in GAUSSIAN),
    }
    limits = {"steinke": 1e-5, "f_dp": 1e-4, "clopper_pearson": 1e-5, "gdp": 5.1e-4}  # gdp is known to three digits
    return all(off[key] <= limits[key] for key in off), {key: float(f"{value:.1e}") for key, value in off.items()}


def noise_at_fixed_guesses(_: bool) -> tuple[bool, Measured]:
    """2: coins that the scores know nothing of."""
    rng, repeats = np.random.default_rng(2), 4000
    alarms = 0
    for _repeat in range(repeats):
        tally = guess(rng.normal(size=1000), rng.random(1000) < 0.5, guess_in=50, guess_out=50)
        alarms += epsilon_bound(1000, 100, tally.correct) > 0
    return alarms <= 0.065 * repeats, {"false_alarms": share(alarms, repeats), "audits": repeats}


def search_over_thresholds(quick: bool) -> tuple[bool, Measured]:
    """3: the best of all pairs of numbers of guesses, paid for and, as a mutant, not."""
    reached: Measured = {}
    repeats = 400 if quick else 2000
    for m in (200, 1000):
        pairs = _pairs(m)
        corrected, uncorrected = _searched(m, pairs, repeats, np.random.default_rng([3, m]))
        reached |= {
            f"m={m}": {
                "corrected": share(corrected, repeats),
                "uncorrected": share(uncorrected, repeats),
                "pairs": len(pairs),
            }
        }
    held = all(one["corrected"] <= 0.075 and one["uncorrected"] >= 0.30 for one in reached.values())
    return held, reached | {"audits": repeats}


def _pairs(m: int) -> list[tuple[int, int]]:
    step = math.isqrt(m)
    numbers = range(0, m + 1, step)
    return [(a, b) for a in numbers for b in numbers if 0 < a + b <= m]


def _searched(m: int, pairs: Sequence[tuple[int, int]], repeats: int, rng: np.random.Generator) -> tuple[int, int]:
    """Audits of noise in which the best pair has ε > 0: at α over the number of pairs, and at α."""
    needed = {level: np.array([_fewest(m, a + b, level) for a, b in pairs]) for level in (ALPHA / len(pairs), ALPHA)}
    ins, outs = np.array(pairs).T
    alarms = dict.fromkeys(needed, 0)
    for _ in range(repeats):
        coins = rng.random(m) < 0.5  # in the order of the scores, of which they are independent
        from_top = np.concatenate([[0], np.cumsum(coins[::-1])])
        from_bottom = np.concatenate([[0], np.cumsum(~coins)])
        correct = from_top[ins] + from_bottom[outs]
        for level, least in needed.items():
            alarms[level] += bool((correct >= least).any())
    return alarms[ALPHA / len(pairs)], alarms[ALPHA]


@cache
def _fewest(m: int, guesses: int, level: float) -> int:
    """Fewest right guesses that rule out ε = 0."""
    low, high = 0, guesses + 1
    while low < high:
        middle = (low + high) // 2
        ruled_out = p_value(Tally(canaries=m, guesses=guesses, correct=middle), epsilon=0.0, delta=DELTA) <= level
        low, high = (low, middle) if ruled_out else (middle + 1, high)
    return low


def randomised_response(_: bool) -> tuple[bool, Measured]:
    """4: the mechanism for which the one-run bound is tight."""
    rng, reached, held = np.random.default_rng(4), {}, True
    for epsilon, least in ((0.5, 0.35), (1.0, 0.80), (2.0, 1.75), (4.0, 3.4)):
        bounds = [epsilon_bound(1000, 1000, int(v)) for v in rng.binomial(1000, expit(epsilon), size=1000)]
        above, mean = float(np.mean([bound > epsilon for bound in bounds])), float(np.mean(bounds))
        held = held and above <= 0.07 and mean >= least
        reached[f"ε={epsilon:g}"] = {"mean_bound": round(mean, 3), "above_truth": round(above, 4)}
    return held, reached


def gaussian_scores(quick: bool) -> tuple[bool, Measured]:
    """5: canaries whose scores are N(1, 1) if in and N(0, 1) if out."""
    rng, repeats = np.random.default_rng(5), 100 if quick else 400
    truth = epsilon_for_mu(1.0, DELTA)
    by_steinke, by_mu = [], []
    for _ in range(repeats):
        included = rng.random(2000) < 0.5
        tally = guess(rng.normal(size=2000) + included, included, guess_in=200, guess_out=200)
        by_steinke.append(epsilon_bound(2000, 400, tally.correct))
        by_mu.append(epsilon_for_mu(mu_bound(2000, 400, tally.correct), DELTA))
    above = float(np.mean([bound > truth for bound in by_steinke + by_mu]))
    reached = {"steinke": round(float(np.mean(by_steinke)), 3), "f_dp": round(float(np.mean(by_mu)), 3)}
    held = reached["steinke"] >= 1.4 and reached["f_dp"] >= 2.2 and above <= 0.05
    return held, reached | {"truth": round(truth, 3), "above_truth": above, "audits": repeats}


def plant(
    rng: np.random.Generator, canaries: int, blocks: Sequence[tuple[int, float]], length: float = 1.0
) -> list[Array]:
    """Scores of `canaries` in an update of canaries and noise: overall, then by block of (coordinates, noise).

    The directions are uniform on the sphere. Only their components along each other are drawn (Bartlett 1933: exact
    in distribution), and of the rest of the noise its length.
    """
    parts = [_directions(rng, canaries, size) for size, _ in blocks]
    norms = np.sqrt(sum((part**2).sum(1) for part in parts))
    parts = [part / norms[:, None] for part in parts]
    updates = [
        np.append(
            length * part.sum(0) + sigma * rng.normal(size=canaries),
            sigma * math.sqrt(rng.chisquare(size - canaries)),
        )
        for part, (size, sigma) in zip(parts, blocks, strict=True)
    ]
    padded = [np.pad(part, ((0, 0), (0, 1))) for part in parts]
    sizes = [size for size, _ in blocks]
    whole = _scores(np.concatenate(updates), np.concatenate(padded, axis=1), sum(sizes))
    return [whole, *(_scores(u, c, size) for u, c, size in zip(updates, padded, sizes, strict=True))]


def _directions(rng: np.random.Generator, canaries: int, size: int) -> Array:
    lower = np.tril(rng.normal(size=(canaries, canaries)), -1)
    lower[np.diag_indices(canaries)] = np.sqrt(rng.chisquare(size - np.arange(canaries)))
    return lower


def _scores(update: Array, canaries: Array, size: int) -> Array:
    """The scores that the same vectors have among `size` coordinates."""
    return canary_scores(update, canaries) * math.sqrt(size / len(update))


def gradient_canaries(_: bool) -> tuple[bool, Measured]:
    """6: 300 canaries among 100,000 parameters."""
    rng, repeats, delta = np.random.default_rng(6), 100, 1e-6
    reached, held = {}, True
    for sigma, least in ((4.22, 0.5), (1.54, 2.2), (0.541, 9.0)):
        fits = [fit_canaries(plant(rng, 300, [(100_000, sigma)])[0], alpha=ALPHA) for _ in range(repeats)]
        truth = epsilon_for_mu(1 / sigma, delta)
        point = epsilon_for_mu(float(np.mean([fit.mu for fit in fits])), delta)
        low = float(np.mean([epsilon_for_mu(fit.low, delta) for fit in fits]))
        above = float(np.mean([fit.low > 1 / sigma for fit in fits]))
        held = held and abs(point / truth - 1) <= 0.1 and low >= least and above <= 0.1
        numbers = {"point": point, "mean_bound": low, "above_truth": above}
        reached[f"ε={truth:.2f}"] = {key: round(value, 3) for key, value in numbers.items()}
    return held, reached | {"audits": repeats}


def bug_zoo(quick: bool) -> tuple[bool, Measured]:
    """7: scores as each bug makes them, against a claim of ε = 4."""
    mu, k, quarter = mu_for_claim(4.0, DELTA), 300, 25_000
    sigma = 1 / mu
    builds: dict[str, tuple[list[tuple[int, float]], float]] = {
        "correct": ([(quarter, sigma)] * 4, 1.0),
        "noise off": ([(quarter, 0.0)] * 4, 1.0),
        "half the noise": ([(quarter, sigma / 2)] * 4, 1.0),
        "one block without noise": ([(quarter, sigma)] * 3 + [(quarter, 0.0)], 1.0),
        "clip off, gradients three times as long": ([(quarter, sigma)] * 4, 3.0),
    }
    repeats = 200 if quick else 1000
    found = {}
    for number, (name, (blocks, length)) in enumerate(builds.items()):
        rng = np.random.default_rng([7, number])
        found[name] = share(sum(_contradicts(plant(rng, k, blocks, length), mu) for _ in range(repeats)), repeats)
    bugs = {name: value for name, value in found.items() if name != "correct"}
    held = found["correct"] <= 0.02 and all(
        value >= (0.95 if name == "half the noise" else 0.99) for name, value in bugs.items()
    )
    return held, found | {"builds": repeats}


def _contradicts(scores: list[Array], mu: float) -> bool:
    """Whether the whole or a block contradicts μ at 1 %; of k equal blocks, one may show μ/√k."""
    blocks = scores[1:]
    p_values = [claim_p_value(scores[0], mu=mu), *(claim_p_value(s, mu=mu / math.sqrt(len(blocks))) for s in blocks)]
    return min(holm(p_values)) <= 0.01


def membership_without_leak(quick: bool) -> tuple[bool, Measured]:
    """14: intervals of the true-positive rate at 1 % and of the area, where members and others are alike."""
    rng, repeats, n = np.random.default_rng(14), 400 if quick else 2000, 1000
    covered = dict.fromkeys(("rate", "area", "rate_ignoring_the_threshold"), 0)
    for _ in range(repeats):
        members, outsiders, calibration = rng.normal(size=(3, n))
        threshold = conformal_threshold(calibration, fpr=0.01)
        rates = rates_at_threshold(members, outsiders, threshold=threshold, fpr=0.01, alpha=ALPHA)
        low, high = tpr_interval(Design(n, n, n, 0.01), rates.hits, rates.false_positives, alpha=ALPHA)
        area = area_under_curve(members, outsiders, alpha=ALPHA)
        covered["rate"] += low <= 0.01 <= high
        covered["area"] += area.low <= 0.5 <= area.high
        covered["rate_ignoring_the_threshold"] += rates.tpr[0] <= 0.01 <= rates.tpr[1]
    reached = {key: share(value, repeats) for key, value in covered.items()}
    return reached["rate"] >= 0.935 and reached["area"] >= 0.935, reached | {"audits": repeats}


def noised_counts(_: bool) -> tuple[bool, Measured]:
    """19: five hospitals of 200 patients, unequal rates, each count with noise of ε = 0.5; summed, not drawn."""
    patients, noise = 200, geometric_noise(epsilon=0.5, sensitivity=1).summed(5)
    total, reached = 5 * patients, dict[str, Any]()
    counts = np.arange(-noise.reach, total + noise.reach + 1)
    interval = cache(lambda count: noised_rate_interval(count, total, noise, alpha=ALPHA))
    plain = cache(lambda count: clopper_pearson(min(max(count, 0), total), total, alpha=ALPHA))
    for rate in (0.01, 0.05, 0.2):
        chances = noise.probabilities
        for factor in (0.5, 0.5, 1.0, 1.0, 2.0):
            chances = np.convolve(chances, binom.pmf(np.arange(patients + 1), patients, factor * rate))
        likely = chances > 1e-6
        cases = [(int(count), chance) for count, chance in zip(counts[likely], chances[likely], strict=True)]
        reached[f"rate {rate:g}"] = {
            "covered": round(sum(chance for count, chance in cases if _inside(interval(count), rate)), 4),
            "ignoring_noise": round(sum(chance for count, chance in cases if _inside(plain(count), rate)), 4),
        }
    return all(one["covered"] >= 0.95 for one in reached.values()), reached


def _inside(interval: tuple[float, float], value: float) -> bool:
    return interval[0] <= value <= interval[1]


CASES = (
    Case(1, "known answers", "differences at most 1e-5 (f-DP 1e-4; GDP to the three digits known)", known_answers),
    Case(2, "noise, numbers of guesses fixed", "ε > 0 in at most 6.5 % of 4,000 audits", noise_at_fixed_guesses),
    Case(
        3,
        "noise, best of all numbers of guesses",
        "at most 7.5 %; without correction at least 30 %",
        search_over_thresholds,
    ),
    Case(
        4,
        "randomised response",
        "bound above the truth in at most 7 %; mean bounds at least .35, .80, 1.75, 3.4",
        randomised_response,
    ),
    Case(
        5,
        "Gaussian scores, μ = 1",
        "mean bounds at least 1.4 (one-run) and 2.2 (f-DP); above the truth in at most 5 %",
        gaussian_scores,
    ),
    Case(
        6,
        "gradient canaries",
        "point within 10 %; mean bounds at least .5, 2.2, 9.0; above the truth in at most 10 %",
        gradient_canaries,
    ),
    Case(
        7,
        "DP bug zoo, simulated scores",
        "found in at least 99 % (half noise 95 %); correct builds flagged in at most 2 %",
        bug_zoo,
    ),
    Case(7, "DP bug zoo, through the engine on phantoms", "the same; wrong q, reused noise and BatchNorm found"),
    Case(
        14,
        "membership without leak",
        "intervals cover the rate .01 and the area .5 in at least 93.5 %",
        membership_without_leak,
    ),
    Case(
        19, "noised counts of five hospitals", "intervals cover the rate in at least 95 %, by exact sums", noised_counts
    ),
)
