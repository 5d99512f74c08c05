"""Accountants: ε of composed, Poisson-subsampled Gaussian mechanisms, by programs of others.

A history is what Opacus calls so: (noise multiplier, sample rate, steps) of each mechanism, Poisson sampling, one
patient added or removed. `by_pld` and `by_opacus` are upper bounds; `by_central_limit` is a guess that costs nothing
and tells the others how fine to compute.

>>> history = [(2.3, 0.15, 53)]
>>> [round(x, 2) for x in (by_pld(history, 1e-5), by_opacus(history, 1e-5)[0], by_central_limit(history, 1e-5))]
[2.18, 2.19, 1.98]
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable

import numpy as np
from scipy.integrate import IntegrationWarning
from scipy.special import log_ndtr, ndtr

_MESH_CELLS = 1 << 20

History = list[tuple[float, float, int]]


def by_pld(history: History, delta: float, *, precision: float = 1e-4) -> float:
    """Upper bound by privacy loss distributions, on a mesh fine against both ε and the loss of one step."""
    from dp_accounting.pld import privacy_loss_distribution

    step_loss = min(rate / noise for noise, rate, _ in history)
    width = max(10 / noise + noise**-2 for noise, _, _ in history)
    mesh = max(min(precision * by_central_limit(history, delta), 500 * precision * step_loss), width / _MESH_CELLS)
    losses = [
        privacy_loss_distribution.from_gaussian_mechanism(
            standard_deviation=noise, sampling_prob=rate, value_discretization_interval=mesh
        ).self_compose(steps)
        for noise, rate, steps in history
    ]
    return float(functools.reduce(lambda a, b: a.compose(b), losses).get_epsilon_for_delta(delta))


def by_opacus(history: History, delta: float) -> tuple[float, str]:
    """Upper bound by PRV where it works, else by RDP: for large ε or tiny δ, PRV's mesh fails."""
    from opacus.accountants import PRVAccountant  # brings torch, which who only reads a ledger need not wait for

    accountant = PRVAccountant()
    accountant.history = list(history)
    error = min(max(3e-3 * by_central_limit(history, delta), 2e-4), 1e-2)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("error", IntegrationWarning)
            warnings.simplefilter("ignore", UserWarning)
            value = float(accountant.get_epsilon(delta, eps_error=error))
    except (ValueError, RuntimeError, ArithmeticError, IntegrationWarning):
        value = math.nan
    return (value, "prv") if math.isfinite(value) and value > 0 else (by_rdp(history, delta), "rdp")


def by_rdp(history: History, delta: float) -> float:
    """Upper bound by Rényi divergences, up to a tenth above the others; infinite where they overflow."""
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = list(history)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "optimal order is the largest": looser, still a bound
            return max(float(accountant.get_epsilon(delta)), 0.0)
    except ArithmeticError:
        return math.inf


def by_central_limit(history: History, delta: float) -> float:
    """ε of the Gaussian that the composition tends to (Dong et al. 2019, Bu et al. 2020); a guess, no bound."""
    mu = math.sqrt(sum(steps * _squared_mu(noise, rate) for noise, rate, steps in history))
    return bisect(lambda x: _gaussian_delta(mu, x), delta, low=1e-6, high=mu * mu / 2 + 40 * mu + 1e-6)


def _squared_mu(noise: float, rate: float) -> float:
    return noise**-2 if rate == 1 else rate**2 * math.expm1(min(noise**-2, 500.0))


def _gaussian_delta(mu: float, x: float) -> float:
    """δ of a Gaussian mechanism with sensitivity μ standard deviations, at ε = x (Balle and Wang 2018)."""
    return float(ndtr(mu / 2 - x / mu) - math.exp(min(x + float(log_ndtr(-mu / 2 - x / mu)), 0.0)))


def bisect(falling: Callable[[float], float], target: float, *, low: float, high: float, rounds: int = 40) -> float:
    """A point, at most a hair above the smallest, where `falling` is at most `target`; `high` if there is none."""
    for _ in range(rounds):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if falling(middle) <= target else (middle, high)
    return high
