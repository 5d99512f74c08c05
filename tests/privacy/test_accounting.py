"""Accounting: right by closed forms and by integration, both programs against each other, and never above a target."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from manikin.common.errors import BudgetExhausted, Misconfigured
from manikin.privacy.accountants import by_opacus, by_pld, by_rdp
from manikin.privacy.accounting import CLOSENESS, Mechanism, Request, calibrate, epsilon

DELTA = 1e-5


def gaussian_delta(noise: float, x: float) -> float:
    """δ of one Gaussian at ε = x: Balle and Wang 2018, theorem 8."""
    return stats.norm.cdf(0.5 / noise - x * noise) - math.exp(x) * stats.norm.cdf(-0.5 / noise - x * noise)


def sampled_delta(noise: float, rate: float, x: float) -> float:
    """δ of one subsampled Gaussian at ε = x, by integrating the excess of one density over the other, both ways."""
    z = np.linspace(-12 * noise, 12 * noise + 1, 1_000_001)
    without = stats.norm.pdf(z, 0, noise)
    with_one = (1 - rate) * without + rate * stats.norm.pdf(z, 1, noise)
    removed = integrate.trapezoid(np.maximum(with_one - math.exp(x) * without, 0), z)
    added = integrate.trapezoid(np.maximum(without - math.exp(x) * with_one, 0), z)
    return max(removed, added)


@pytest.mark.parametrize("noise", [0.5, 1.0, 3.73, 20.0])
def test_one_release_costs_what_the_closed_form_says(noise):
    spent = epsilon([Mechanism(noise)], delta=DELTA)
    assert gaussian_delta(noise, spent.pld) <= DELTA * 1.001
    assert gaussian_delta(noise, spent.pld * 0.995) > DELTA
    assert gaussian_delta(noise, spent.value) <= DELTA
    assert spent.value <= spent.pld * 1.01


@pytest.mark.parametrize(("noise", "rate"), [(0.6, 0.1), (1.0, 0.15), (1.0, 0.9)])
def test_one_sampled_step_costs_what_integration_says(noise, rate):
    spent = epsilon([Mechanism(noise, rate)], delta=DELTA)
    assert sampled_delta(noise, rate, spent.value) <= DELTA
    assert sampled_delta(noise, rate, spent.pld * 0.99) > DELTA


@pytest.mark.parametrize(
    "mechanisms",
    [
        [Mechanism(5.0), Mechanism(2.3, 0.15, 53)],
        [Mechanism(5.0), Mechanism(6.0, 0.1, 500)],
        [Mechanism(1.0, 0.15, 100)],
        [Mechanism(30.0), Mechanism(30.0, 0.15, 53)],
        [Mechanism(20.0, 0.02, 300)],
    ],
)
def test_two_programs_agree_and_renyi_lies_above_both(mechanisms):
    history = [(m.noise_multiplier, m.sample_rate, m.steps) for m in mechanisms]
    spent = epsilon(mechanisms, delta=DELTA)
    assert spent.accountant == "prv"
    assert spent.opacus == pytest.approx(spent.pld, rel=0.01)
    assert spent.value == max(spent.pld, spent.opacus) < by_rdp(history, DELTA)


def test_where_prv_fails_renyi_answers():
    spent = epsilon([Mechanism(0.02)], delta=DELTA)
    assert spent.accountant == "rdp"
    assert spent.value == spent.opacus > spent.pld


def test_a_finer_mesh_only_lowers_the_bound():
    history = [(5.0, 1.0, 1), (2.3, 0.15, 53)]
    coarse, fine = by_pld(history, DELTA, precision=1e-2), by_pld(history, DELTA, precision=5e-5)
    assert fine <= coarse <= 1.01 * fine


@pytest.mark.parametrize(
    ("less", "more"),
    [
        (Mechanism(2.0, 0.1, 50), Mechanism(1.9, 0.1, 50)),
        (Mechanism(2.0, 0.1, 50), Mechanism(2.0, 0.11, 50)),
        (Mechanism(2.0, 0.1, 50), Mechanism(2.0, 0.1, 55)),
        (Mechanism(2.0, 0.1, 50), Mechanism(2.0, 1.0, 50)),
    ],
)
def test_less_noise_more_patients_or_more_steps_cost_more(less, more):
    assert epsilon([less], delta=DELTA).value < epsilon([more], delta=DELTA).value


def test_rounds_cost_what_their_steps_cost_together():
    rounds = [Mechanism(2.3, 0.15, n) for n in (10, 10, 10, 10, 13)]
    assert epsilon(rounds, delta=DELTA) == epsilon([Mechanism(2.3, 0.15, 53)], delta=DELTA)


def test_a_patient_in_m_hospitals_pays_m_times():
    mechanisms = [Mechanism(5.0), Mechanism(4.0, 0.1, 20)]
    assert epsilon(mechanisms, delta=DELTA, multiplicity=3) == epsilon(mechanisms * 3, delta=DELTA)
    thrice = epsilon([Mechanism(6.0)], delta=DELTA, multiplicity=3).pld
    assert thrice == pytest.approx(epsilon([Mechanism(6.0 / math.sqrt(3))], delta=DELTA).pld, rel=1e-3)


def test_nothing_costs_nothing():
    assert epsilon([], delta=DELTA).value == 0


@settings(max_examples=3, deadline=None)
@given(
    target=st.floats(0.3, 8),
    share=st.floats(0.1, 0.9),
    rate=st.floats(0.02, 0.5),
    steps=st.integers(10, 100),
    multiplicity=st.integers(1, 2),
)
def test_a_calibrated_plan_never_exceeds_its_target_and_comes_within_a_hundredth(
    target, share, rate, steps, multiplicity
):
    requests = [Request(share), Request(1 - share, rate, steps)]
    mechanisms = calibrate(requests, epsilon=target, delta=DELTA, multiplicity=multiplicity)
    assert [(m.sample_rate, m.steps) for m in mechanisms] == [(1.0, 1), (rate, steps)]
    reached = epsilon(mechanisms, delta=DELTA, multiplicity=multiplicity).value
    assert (1 - CLOSENESS) * target <= reached <= target


def test_shares_decide_who_gets_the_noise():
    requests = [Request(0.2), Request(0.6)]
    small, large = calibrate(requests, epsilon=2.0, delta=DELTA)
    ratio = epsilon([large], delta=DELTA).pld / epsilon([small], delta=DELTA).pld
    assert 2.5 < ratio < 3.5
    alike = calibrate([Request(0.5), Request(0.5)], epsilon=2.0, delta=DELTA)
    assert alike[0] == alike[1]


def test_one_release_gets_the_noise_that_the_literature_gives():
    assert calibrate([Request(1.0)], epsilon=1.0, delta=DELTA)[0].noise_multiplier == pytest.approx(3.73, rel=0.01)


@pytest.mark.parametrize("steps", [500])
def test_a_usual_plan_is_calibrated_within_ten_seconds_of_one_core(steps):
    start = time.process_time()
    calibrate([Request(0.4), Request(0.5, 0.15, steps)], epsilon=2.7, delta=DELTA)
    assert time.process_time() - start < 10


def test_a_budget_too_small_or_too_large_is_refused_with_the_reason():
    with pytest.raises(BudgetExhausted, match="cannot be met"):
        calibrate([Request(1.0)], epsilon=1e-3, delta=DELTA)
    with pytest.raises(BudgetExhausted, match="share"):
        calibrate([Request(0.0001), Request(0.9, 0.1, 50)], epsilon=1.0, delta=DELTA)
    with pytest.raises(Misconfigured, match="leaves noise"):
        calibrate([Request(1.0)], epsilon=1000.0, delta=DELTA)


NOT_NUMBERS = [float("nan"), float("inf"), -1.0, 0.0]


@pytest.mark.parametrize("bad", NOT_NUMBERS)
def test_numbers_that_mean_nothing_are_refused(bad):
    with pytest.raises(Misconfigured):
        Mechanism(bad)
    with pytest.raises(Misconfigured):
        Mechanism(1.0, bad)
    with pytest.raises(Misconfigured):
        Request(bad)
    with pytest.raises(Misconfigured):
        calibrate([Request(1.0)], epsilon=bad, delta=DELTA)
    with pytest.raises(Misconfigured):
        epsilon([Mechanism(1.0)], delta=bad)


@pytest.mark.parametrize("delta", [1.0, 2.0])
def test_delta_is_below_one(delta):
    with pytest.raises(Misconfigured):
        epsilon([Mechanism(1.0)], delta=delta)


def test_counts_are_checked():
    for call in (
        lambda: Mechanism(1.0, 1.1),
        lambda: Mechanism(1.0, 0.5, 0),
        lambda: Request(1.1),
        lambda: calibrate([], epsilon=1.0, delta=DELTA),
        lambda: epsilon([Mechanism(1.0)], delta=DELTA, multiplicity=0),
    ):
        with pytest.raises(Misconfigured):
            call()


def test_opacus_answers_for_releases_without_sampling():
    value, accountant = by_opacus([(3.73, 1.0, 1)], DELTA)
    assert accountant == "prv"
    assert value == pytest.approx(1.0, rel=0.01)
