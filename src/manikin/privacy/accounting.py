"""How much privacy a set of noisy sums costs, by two accountants, and how much noise a budget asks for.

Every mechanism here is a Gaussian on a sum over patients, of whom each is drawn with probability `sample_rate`
(Poisson), repeated `steps` times. The guarantee is (ε, δ) for adding or removing one patient. Two independent programs
compute ε: privacy loss distributions (dp-accounting; Doroshenko et al. 2022, "Connect the Dots") and Opacus (numerical
composition of privacy random variables, Gopi et al. 2021; where that fails, Rényi, Mironov et al. 2019). Both give
upper bounds; the larger is the answer.

Not covered: sampling other than Poisson, noise other than Gaussian, mechanisms chosen after seeing earlier results
(inside one plan all are fixed beforehand).

A release with noise multiplier 5, and 53 steps of DP-SGD with noise multiplier 2.3 that draw 15 % of the patients:

>>> spent = epsilon([Mechanism(5.0), Mechanism(2.3, sample_rate=0.15, steps=53)], delta=1e-5)
>>> round(spent.pld, 2), round(spent.opacus, 2), spent.accountant
(2.33, 2.34, 'prv')
>>> planned = calibrate([Request(0.4), Request(0.5, 0.15, 53)], epsilon=2.7, delta=1e-5)
>>> [round(m.noise_multiplier, 1) for m in planned]
[2.4, 2.4]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from manikin.common.errors import BudgetExhausted, Misconfigured
from manikin.privacy.accountants import History, bisect, by_central_limit, by_opacus, by_pld

NOISE_MIN, NOISE_MAX = 0.1, 1000.0  # below, hardly a guarantee; above, hardly a signal
STEPS_MAX = 100_000
CLOSENESS = 0.01  # a calibrated ε lies within this share below its target
_CORRECTIONS = 8
_REMEMBERED = 64  # answers take seconds, and the same plan is asked about again and again


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise Misconfigured(what, "No guarantee can be computed from it.", "Correct the [privacy] or [[stage]] keys.")


@dataclass(frozen=True)
class Mechanism:
    """A Gaussian sum over Poisson-sampled patients, `steps` times.

    Args:
        noise_multiplier: noise standard deviation in units of the largest contribution of one patient.
        sample_rate: chance of each patient to be drawn in a step; 1 is a release over all patients.
        steps: how often.
    """

    noise_multiplier: float
    sample_rate: float = 1.0
    steps: int = 1

    def __post_init__(self) -> None:
        _require(
            math.isfinite(self.noise_multiplier) and self.noise_multiplier > 0,
            f"A noise multiplier must be positive, not {self.noise_multiplier}.",
        )
        _check_sampling(self.sample_rate, self.steps)


@dataclass(frozen=True)
class Request:
    """A mechanism whose noise is still to be found.

    Args:
        share: its part of the budget, in proportion to the other requests' shares.
        sample_rate: as in `Mechanism`.
        steps: as in `Mechanism`.
    """

    share: float
    sample_rate: float = 1.0
    steps: int = 1

    def __post_init__(self) -> None:
        _require(math.isfinite(self.share) and 0 < self.share <= 1, f"A share lies in (0, 1], not at {self.share}.")
        _check_sampling(self.sample_rate, self.steps)


@dataclass(frozen=True)
class Epsilon:
    """ε by both accountants, and the larger, which is the one to report.

    Args:
        pld: dp-accounting's privacy loss distributions.
        opacus: Opacus' accountant.
        value: the larger of both.
        accountant: which of Opacus' accountants answered: "prv" or "rdp".
    """

    pld: float
    opacus: float
    value: float
    accountant: str


def _check_sampling(sample_rate: float, steps: int) -> None:
    _require(
        math.isfinite(sample_rate) and 0 < sample_rate <= 1, f"A sample rate lies in (0, 1], not at {sample_rate}."
    )
    _require(1 <= steps <= STEPS_MAX, f"The number of steps lies between 1 and {STEPS_MAX}, not at {steps}.")


def _check_target(delta: float, multiplicity: int) -> None:
    _require(math.isfinite(delta) and 0 < delta < 1, f"δ lies between 0 and 1, not at {delta}.")
    _require(multiplicity >= 1, f"A patient is in at least one hospital, not in {multiplicity}.")


def epsilon(mechanisms: Sequence[Mechanism], *, delta: float, multiplicity: int = 1) -> Epsilon:
    """ε of all mechanisms together, for one patient added or removed.

    Args:
        mechanisms: what is done, at one hospital.
        delta: the δ that belongs to it.
        multiplicity: number of hospitals that may hold the same patient: each does all mechanisms on the patient's
            data, so everything is composed this many times.

    Raises:
        Misconfigured: δ or the multiplicity is out of range.
    """
    _check_target(delta, multiplicity)
    return _by_both(tuple(_history(mechanisms, multiplicity)), delta)


def _history(mechanisms: Sequence[Mechanism], multiplicity: int) -> History:
    """Equal mechanisms merged, so that the rounds of one training cost one convolution."""
    steps: dict[tuple[float, float], int] = {}
    for m in mechanisms:
        key = (m.noise_multiplier, m.sample_rate)
        steps[key] = steps.get(key, 0) + m.steps * multiplicity
    return [(noise, rate, count) for (noise, rate), count in sorted(steps.items())]


@lru_cache(maxsize=_REMEMBERED)
def _by_both(mechanisms: tuple[tuple[float, float, int], ...], delta: float) -> Epsilon:
    history = list(mechanisms)
    if not history:
        return Epsilon(0.0, 0.0, 0.0, "prv")
    pld = by_pld(history, delta)
    opacus, accountant = by_opacus(history, delta)
    return Epsilon(pld, opacus, max(pld, opacus), accountant)


def calibrate(requests: Sequence[Request], *, epsilon: float, delta: float, multiplicity: int = 1) -> list[Mechanism]:
    """The least noise with which all requests together cost at most `epsilon`, divided among them by their shares.

    Each request is first given the noise at which it alone would cost its share of `epsilon`; one common factor on all
    noise multipliers then brings the composition to the target, since mechanisms together cost less than their sum.

    Args:
        requests: what is planned, at one hospital.
        epsilon: what all requests together may cost; what is kept for other purposes is taken off by the caller.
        delta: the δ that belongs to it.
        multiplicity: as in `epsilon()`.

    Returns:
        One mechanism a request; the larger ε of both accountants is at most `epsilon` and within 1 % of it.

    Raises:
        Misconfigured: a number is out of range, or `epsilon` is so large that hardly any noise is left.
        BudgetExhausted: `epsilon` is so small that hardly any signal would be left.
    """
    _check_target(delta, multiplicity)
    _require(math.isfinite(epsilon) and epsilon > 0, f"ε must be positive, not {epsilon}.")
    _require(bool(requests), "There is no mechanism to calibrate.")
    return list(_calibrated(tuple(requests), epsilon, delta, multiplicity))


@lru_cache(maxsize=_REMEMBERED)
def _calibrated(
    requests: tuple[Request, ...], epsilon: float, delta: float, multiplicity: int
) -> tuple[Mechanism, ...]:
    total = math.fsum(request.share for request in requests)
    alone = [
        _scale([Mechanism(1.0, r.sample_rate, r.steps)], epsilon * r.share / total, delta, multiplicity)[0]
        for r in requests
    ]
    aim = (1 - CLOSENESS / 2) * epsilon
    for _ in range(_CORRECTIONS):
        mechanisms = _scale(alone, aim, delta, multiplicity)
        reached = _by_both(tuple(_history(mechanisms, multiplicity)), delta).value
        if (1 - CLOSENESS) * epsilon <= reached <= epsilon:
            return tuple(mechanisms)
        aim *= (1 - CLOSENESS / 2) * epsilon / reached
    raise BudgetExhausted(
        f"No noise level was found for ε = {epsilon:g}.", "The accountants disagree there.", "Choose another ε."
    )


def _scale(mechanisms: list[Mechanism], target: float, delta: float, multiplicity: int) -> list[Mechanism]:
    """The mechanisms with all noise multipliers times the factor that brings their ε (PLD, coarse) to `target`."""

    def build(factor: float) -> list[Mechanism]:
        return [Mechanism(round_up(m.noise_multiplier * factor), m.sample_rate, m.steps) for m in mechanisms]

    def cost(factor: float) -> float:
        return by_pld(_history(build(factor), multiplicity), delta, precision=1e-3)

    def guess(factor: float) -> float:
        return by_central_limit(_history(build(factor), multiplicity), delta)

    low = NOISE_MIN / max(m.noise_multiplier for m in mechanisms)
    high = NOISE_MAX / min(m.noise_multiplier for m in mechanisms)
    start = bisect(guess, target, low=low, high=high)
    lower, upper = _bracket(cost, target, start)
    factor = bisect(cost, target, low=lower, high=upper, rounds=8)
    refuse_extremes([m.noise_multiplier for m in build(factor)], target)
    return build(factor)


def _bracket(cost: Callable[[float], float], target: float, start: float) -> tuple[float, float]:
    """Two factors, one too small and one large enough, near `start`."""
    low = high = start
    while cost(high) > target and high < 4 * start:
        low, high = high, high * 1.1
    while low == high or (cost(low) <= target and low > start / 4):
        low, high = low / 1.1, low
    return low, high


def refuse_extremes(noise_multipliers: Sequence[float], target: float) -> None:
    """Raise where the noise that `target` asks for leaves hardly a signal, or hardly a guarantee."""
    if max(noise_multipliers) > NOISE_MAX:
        raise BudgetExhausted(
            f"ε = {target:.3g} cannot be met.",
            f"It asks for noise of more than {NOISE_MAX:g} times a patient's largest contribution.",
            "Raise ε or this stage's share, lower its steps, or drop the stage.",
        )
    _require(
        min(noise_multipliers) >= NOISE_MIN,
        f"ε = {target:.3g} leaves noise of less than {NOISE_MIN:g} times a patient's largest contribution.",
    )


def round_up(noise: float) -> float:
    """`noise` with six digits, never less: a number that people can read and compare."""
    digits = 5 - math.floor(math.log10(noise))
    return math.ceil(noise * 10.0**digits) / 10.0**digits
