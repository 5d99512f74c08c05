"""Rényi bounds against sums over the distributions themselves, and against another program."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.rdp import RdpAccountant
from scipy import special, stats

from manikin.common.errors import Misconfigured
from manikin.privacy import renyi
from manikin.privacy.renyi import gaussian, orders, sampled, skellam, to_epsilon, whole

DELTA = 1e-5


def log_mass(variance: float, shift: int, reach: int) -> np.ndarray:
    """log P(X + shift = k) for |k| <= reach."""
    with np.errstate(divide="ignore"):
        return np.log(special.ive(np.abs(np.arange(-reach, reach + 1) - shift), variance))


def divergence(p: np.ndarray, q: np.ndarray, order: int) -> float:
    """Of p from q, both as log masses."""
    there = np.isfinite(p) & np.isfinite(q)
    return float(special.logsumexp(order * p[there] - (order - 1) * q[there])) / (order - 1)


def reach_of(variance: float, shift: int, order: int) -> int:
    return int(40 * math.sqrt(variance)) + 4 * order * shift + 60


@pytest.mark.parametrize("variance", [0.5, 1.0, 2.0, 10.0, 100.0, 1e4])
@pytest.mark.parametrize("shift", [1, 2, 3, 10])
def test_the_skellam_bound_is_never_below_a_direct_sum(variance, shift):
    bounds = skellam(l2=shift, l1=shift, variance=variance)
    for order in (2, 3, 4, 8, 16, 64):
        reach = reach_of(variance, shift, order)
        exact = divergence(log_mass(variance, shift, reach), log_mass(variance, 0, reach), order)
        bound = bounds[order - 2]
        assert exact <= bound * (1 + 1e-12)
        assert bound >= gaussian(math.sqrt(variance) / shift)[order - 2]
        if variance == 1e4:
            assert bound < 1.002 * exact


def test_the_bound_for_many_numbers_is_never_below_their_sum():
    bounds = skellam(l2=3, l1=5, variance=400.0)  # of (2, 2, 1)
    for order in (2, 5, 20):
        reach = reach_of(400.0, 2, order)
        exact = sum(divergence(log_mass(400.0, shift, reach), log_mass(400.0, 0, reach), order) for shift in (2, 2, 1))
        assert exact <= bounds[order - 2] < 1.03 * exact


def test_the_bound_is_the_one_of_the_paper():
    assert skellam(l2=2, l1=3, variance=10.0)[3 - 2] == pytest.approx(0.6 + (5 * 4 + 6 * 3) / 400)
    assert skellam(l2=1, l1=1, variance=1.0)[16 - 2] == pytest.approx(8.0 + 3 / 2)


@pytest.mark.parametrize("variance", [1.0, 9.0, 400.0])
@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.9])
def test_a_sampled_step_is_bounded_both_ways(variance, rate):
    shift = 3
    bounds = sampled(skellam(l2=shift, l1=shift, variance=variance), rate=rate)
    for order in (2, 3, 8, 32):
        reach = reach_of(variance, shift, order)
        without, certain = log_mass(variance, 0, reach), log_mass(variance, shift, reach)
        mixture = np.logaddexp(math.log(1 - rate) + without, math.log(rate) + certain)
        bound = bounds[list(orders()).index(order)]
        removed, added = divergence(mixture, without, order), divergence(without, mixture, order)
        assert max(removed, added) <= bound * (1 + 1e-9) + 1e-13
        if variance == 400:
            assert bound < 1.05 * removed + 1e-13


def compose(noise: float, rate: float, steps: int, among: np.ndarray) -> RdpAccountant:
    accountant, event = RdpAccountant(orders=among.tolist()), GaussianDpEvent(noise)
    return accountant.compose(event if rate == 1 else PoissonSampledDpEvent(rate, event), steps)


def convert(divergences: np.ndarray, among: np.ndarray, delta: float) -> np.ndarray:
    return divergences + np.log1p(-1 / among) - np.log(delta * among) / (among - 1)


@pytest.mark.parametrize("noise", [0.7, 1.0, 2.3, 20.0])
@pytest.mark.parametrize("rate", [0.001, 0.01, 0.15, 0.9, 1.0])
def test_on_gaussians_the_bound_is_what_dp_accounting_computes(noise, rate):
    among = orders()[orders() < 300]
    step = sampled(gaussian(noise), rate=rate)[: len(among)]
    for steps in (1, 53, 1000):
        other = compose(noise, rate, steps, among)
        for delta in (1e-5, 1e-9):
            theirs, ours = other.get_epsilon(delta), max(convert(steps * step, among, delta).min(), 0.0)
            assert theirs * (1 - 1e-9) <= ours <= theirs * (1 + 1e-6)


@pytest.mark.parametrize("order", [2, 3, 7, 60, 4096])
def test_at_every_single_order_too(order):
    where = list(orders()).index(order)
    among = orders()[where : where + 1]
    for noise, rate in ((0.8, 0.2), (3.0, 0.01), (6.0, 1.0)):
        ours = convert(100 * sampled(gaussian(noise), rate=rate)[where], among, DELTA)[0]
        assert compose(noise, rate, 100, among).get_epsilon(DELTA) == pytest.approx(max(ours, 0), rel=1e-9)


def test_among_all_orders_the_best_is_taken():
    step = 53 * sampled(gaussian(2.3), rate=0.15)
    bounds = convert(step, orders(), DELTA)
    assert to_epsilon(step, delta=DELTA) == (pytest.approx(bounds.min(), rel=1e-12), orders()[np.argmin(bounds)])


@pytest.mark.parametrize("noise", [0.5, 1.0, 3.73, 20.0])
def test_a_release_costs_at_most_a_seventh_more_than_the_closed_form_and_never_less(noise):
    proved, order = to_epsilon(gaussian(noise)[orders() - 2], delta=DELTA)

    def exact_delta(x: float) -> float:
        return stats.norm.cdf(0.5 / noise - x * noise) - math.exp(x) * stats.norm.cdf(-0.5 / noise - x * noise)

    assert exact_delta(proved) <= DELTA < exact_delta(proved / 1.15)
    assert order in orders()


def test_sampling_everybody_is_no_sampling_and_sampling_hardly_anybody_costs_hardly_anything():
    base = gaussian(1.0)
    assert np.array_equal(sampled(base, rate=1.0), base[orders() - 2])
    assert np.allclose(sampled(base, rate=1 - 1e-9), base[orders() - 2], rtol=1e-3)
    few = sampled(gaussian(5.0), rate=1e-6)
    assert few[0] == pytest.approx(1e-12 * math.expm1(1 / 25), rel=1e-4)  # q² (e^D - 1): nothing lost to rounding
    assert np.all(np.diff(sampled(base, rate=0.1)) > 0)


def test_the_orders_are_whole_and_start_at_two():
    assert orders()[0] == whole()[0] == 2
    assert orders()[-1] == whole()[-1] == renyi.ORDER_MAX
    assert np.all(np.diff(orders()) > 0)


def test_no_loss_is_hardly_any_epsilon_and_never_less_than_none():
    assert 0 <= to_epsilon(np.zeros(len(orders())), delta=DELTA)[0] < 1e-3
    assert to_epsilon(np.zeros(len(orders())), delta=0.9)[0] == 0.0


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, math.nan, math.inf])
def test_a_delta_out_of_range_is_refused(delta):
    with pytest.raises(Misconfigured):
        to_epsilon(np.zeros(len(orders())), delta=delta)
