"""How much privacy noisy sums of integers cost, and how much noise a budget asks for: Rényi, Skellam and Gaussian.

Every mechanism is a sum over patients of several hospitals with Skellam noise (`skellam`), of whom each patient is
drawn with probability `sample_rate` (Poisson), repeated `steps` times. A plan may also have Gaussian sums
(`accounting.Mechanism`), for stages in which each hospital adds all noise itself. The guarantee is (ε, δ) for one
patient added or removed.

A patient who is in m hospitals moves a sum m times, in draws of their own. Skellam noise of variance σ² is a sum of m
independent ones of variance σ²/m, so the sum tells no more than m sums, one a hospital, each with an m-th of the noise:
m mechanisms of variance σ²/m are composed.

>>> plan = [Skellam(5.0, size=20_000), Skellam(2.3, sample_rate=0.15, steps=53, size=100_000)]
>>> spent = epsilon(plan, delta=1e-5)
>>> round(spent.value, 2), round(spent.value / spent.gaussian - 1, 6) < 1e-4
(2.57, True)
>>> planned = calibrate([Request(0.4, size=20_000), Request(0.5, 0.15, 53, size=100_000)], epsilon=2.7, delta=1e-5)
>>> [round(m.noise_multiplier, 1) for m in planned]
[2.6, 2.6]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from manikin.common.errors import Misconfigured
from manikin.privacy import accounting, renyi
from manikin.privacy.accountants import bisect
from manikin.privacy.accounting import NOISE_MAX, NOISE_MIN, Mechanism, refuse_extremes, round_up
from manikin.privacy.skellam import Scale, Shares

_REMEMBERED = 64
_REMEMBERED_STEPS = 1024


@dataclass(frozen=True)
class Skellam:
    """A Skellam sum over Poisson-sampled patients, `steps` times.

    Args:
        noise_multiplier: noise standard deviation in units of the largest contribution of one patient.
        sample_rate: chance of each patient to be drawn in a step; 1 is a release over all patients.
        steps: how often.
        size: d, numbers in a sum.
    """

    noise_multiplier: float
    sample_rate: float = 1.0
    steps: int = 1
    size: int = field(kw_only=True)

    def __post_init__(self) -> None:
        _ = Mechanism(self.noise_multiplier, self.sample_rate, self.steps), self.scale

    @property
    def scale(self) -> Scale:
        """The integers, of a sensitivity of 1: ε does not depend on it."""
        return Scale(sensitivity=1.0, noise_multiplier=self.noise_multiplier, size=self.size)


@dataclass(frozen=True)
class Request:
    """A mechanism whose noise is still to be found.

    Args:
        share: its part of the budget, in proportion to the other requests' shares.
        sample_rate: as in `Skellam`.
        steps: as in `Skellam`.
        size: as in `Skellam`.
    """

    share: float
    sample_rate: float = 1.0
    steps: int = 1
    size: int = field(kw_only=True)

    def __post_init__(self) -> None:
        _ = accounting.Request(self.share, self.sample_rate, self.steps), self.with_noise(1.0)

    def with_noise(self, noise_multiplier: float) -> Skellam:
        return Skellam(noise_multiplier, self.sample_rate, self.steps, size=self.size)


@dataclass(frozen=True)
class Epsilon:
    """ε by Rényi divergences.

    Args:
        value: what is proved.
        gaussian: what the same bounds would give, were all noise Gaussian: never more.
        order: of the divergence that proves `value`.
    """

    value: float
    gaussian: float
    order: float


@dataclass(frozen=True)
class Statements:
    """The same plan against three adversaries.

    Args:
        release: who holds what is released, when all hospitals kept to the protocol: n shares of the noise count.
        collusion: c hospitals together with the server: the plan's own ε, n - c shares count.
        broken: a hospital's part without its mask: one share counts, and no one else's patients hide in it.
    """

    release: Epsilon
    collusion: Epsilon
    broken: Epsilon


def epsilon(mechanisms: Sequence[Skellam | Mechanism], *, delta: float, multiplicity: int = 1) -> Epsilon:
    """ε of all mechanisms together, for one patient added or removed, against c colluding hospitals with the server.

    Args:
        mechanisms: what is done; fixed beforehand.
        delta: the δ that belongs to it.
        multiplicity: number of hospitals that may hold the same patient.

    Raises:
        Misconfigured: δ or the multiplicity is out of range.
    """
    return _composed(tuple(mechanisms), delta, multiplicity, 1.0)


def statements(
    mechanisms: Sequence[Skellam | Mechanism], *, shares: Shares, delta: float, multiplicity: int = 1
) -> Statements:
    """ε against whoever holds the release, against colluding hospitals with the server, and with the secure sum broken.

    Gaussian mechanisms, whose noise each hospital adds alone, cost the same in all three.
    """
    whole, one = shares.hospitals / shares.needed, 1 / shares.needed
    parts = tuple(mechanisms) * multiplicity  # bare, each hospital's part has noise of its own
    return Statements(
        release=_composed(tuple(mechanisms), delta, multiplicity, whole),
        collusion=_composed(tuple(mechanisms), delta, multiplicity, 1.0),
        broken=_composed(parts, delta, 1, one),
    )


@lru_cache(maxsize=_REMEMBERED)
def _composed(mechanisms: tuple[Skellam | Mechanism, ...], delta: float, multiplicity: int, noise: float) -> Epsilon:
    """ε where the variance of Skellam noise is `noise` times the plan's."""
    if multiplicity < 1:
        raise Misconfigured(f"A patient is in at least one hospital, not in {multiplicity}.")
    if not mechanisms:
        return Epsilon(0.0, 0.0, float(renyi.orders()[-1]))
    loss = sum(multiplicity * m.steps * _step(replace(m, steps=1), multiplicity, noise) for m in mechanisms)
    ideal = sum(multiplicity * m.steps * _ideal_step(replace(m, steps=1), multiplicity, noise) for m in mechanisms)
    value, order = renyi.to_epsilon(np.asarray(loss), delta=delta)
    return Epsilon(value, renyi.to_epsilon(np.asarray(ideal), delta=delta)[0], order)


@lru_cache(maxsize=_REMEMBERED_STEPS)
def _step(mechanism: Skellam | Mechanism, multiplicity: int, noise: float) -> renyi.Divergences:
    """Divergences of one step, of which a patient in several hospitals makes `multiplicity`."""
    if isinstance(mechanism, Mechanism):
        return _ideal_step(mechanism, multiplicity, noise)
    scale = mechanism.scale
    variance = (scale.noise_multiplier * scale.l2) ** 2 * noise / multiplicity
    bounds = renyi.skellam(l2=scale.l2, l1=scale.l1, variance=variance)
    return renyi.sampled(bounds, rate=mechanism.sample_rate)


@lru_cache(maxsize=_REMEMBERED_STEPS)
def _ideal_step(mechanism: Skellam | Mechanism, multiplicity: int, noise: float) -> renyi.Divergences:
    """`_step`, were the noise Gaussian."""
    factor = 1.0 if isinstance(mechanism, Mechanism) else math.sqrt(noise / multiplicity)
    return renyi.sampled(renyi.gaussian(mechanism.noise_multiplier * factor), rate=mechanism.sample_rate)


def calibrate(requests: Sequence[Request], *, epsilon: float, delta: float, multiplicity: int = 1) -> list[Skellam]:
    """The least noise with which all requests together cost at most `epsilon`, divided among them by their shares.

    The same rule as `accounting.calibrate`: each request is first given the noise at which it alone would cost its
    share of `epsilon`; one common factor on all noise multipliers then brings the composition to the target.

    Args:
        requests: what is planned.
        epsilon: what all requests together may cost, against c colluding hospitals with the server.
        delta: the δ that belongs to it.
        multiplicity: as in `epsilon()`.

    Returns:
        One mechanism a request; their ε is at most `epsilon` and within 1 % of it.

    Raises:
        Misconfigured: a number is out of range, or `epsilon` is so large that hardly any noise is left.
        BudgetExhausted: `epsilon` is so small that hardly any signal would be left.
    """
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise Misconfigured(f"ε must be positive, not {epsilon}.")
    if not requests:
        raise Misconfigured("There is no mechanism to calibrate.")
    return list(_calibrated(tuple(requests), epsilon, delta, multiplicity))


@lru_cache(maxsize=_REMEMBERED)
def _calibrated(requests: tuple[Request, ...], target: float, delta: float, multiplicity: int) -> tuple[Skellam, ...]:
    total = math.fsum(request.share for request in requests)

    def cost(mechanisms: Sequence[Skellam]) -> float:
        return epsilon(mechanisms, delta=delta, multiplicity=multiplicity).value

    noises = [_least_factor([request], [1.0], cost, target * request.share / total) for request in requests]
    factor = _least_factor(requests, noises, cost, target)
    return tuple(_built(requests, noises, factor))


def _least_factor(
    requests: Sequence[Request], noises: Sequence[float], cost: Callable[[Sequence[Skellam]], float], target: float
) -> float:
    """The factor on all noise multipliers that brings their ε to at most `target`."""
    low, high = NOISE_MIN / (2 * max(noises)), 2 * NOISE_MAX / min(noises)
    factor = bisect(lambda x: cost(_built(requests, noises, x)), target, low=low, high=high, rounds=20)
    refuse_extremes([m.noise_multiplier for m in _built(requests, noises, factor)], target)
    return factor


def _built(requests: Sequence[Request], noises: Sequence[float], factor: float) -> list[Skellam]:
    return [r.with_noise(round_up(noise * factor)) for r, noise in zip(requests, noises, strict=True)]
