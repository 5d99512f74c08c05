"""Budgets of plans with shared integer noise: against the Gaussian, against PLD, against three adversaries."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manikin.common.errors import BudgetExhausted, Misconfigured
from manikin.privacy import accounting
from manikin.privacy.accounting import Mechanism
from manikin.privacy.skellam import Shares
from manikin.privacy.skellam_accounting import Request, Skellam, calibrate, epsilon, statements

DELTA = 1e-5
PLAN = [Skellam(5.0, size=20_000), Skellam(2.3, 0.15, 53, size=100_000)]


@pytest.mark.parametrize("noise", [0.5, 1.0, 2.3, 10.0, 100.0])
@pytest.mark.parametrize("size", [1, 1000, 10**6])
@pytest.mark.parametrize(("rate", "steps"), [(1.0, 1), (0.15, 53), (0.01, 1000)])
def test_skellam_costs_more_than_gaussian_by_less_than_a_millionth(noise, size, rate, steps):
    spent = epsilon([Skellam(noise, rate, steps, size=size)], delta=DELTA)
    assert spent.gaussian < spent.value < spent.gaussian * (1 + 1e-6) + 1e-9
    ideal = epsilon([Mechanism(noise, rate, steps)], delta=DELTA)
    assert ideal.value == ideal.gaussian == spent.gaussian


def test_longer_vectors_cost_a_little_more_for_their_l1_norm():
    short, long = (epsilon([Skellam(0.5, size=size)], delta=DELTA).value for size in (1, 10**6))
    assert short < long < short * (1 + 1e-6)


@pytest.mark.parametrize("mechanisms", [PLAN, PLAN[:1], [Skellam(6.0, 0.1, 500, size=100)]])
def test_privacy_loss_distributions_of_the_gaussian_lie_below_by_about_a_tenth(mechanisms):
    ideal = [Mechanism(m.noise_multiplier, m.sample_rate, m.steps) for m in mechanisms]
    spent = epsilon(mechanisms, delta=DELTA).value
    assert accounting.epsilon(ideal, delta=DELTA).pld < spent < 1.15 * accounting.epsilon(ideal, delta=DELTA).pld


@pytest.mark.parametrize(
    "more",
    [
        Skellam(1.9, 0.1, 50, size=100),
        Skellam(2.0, 0.11, 50, size=100),
        Skellam(2.0, 0.1, 55, size=100),
        Skellam(2.0, 1.0, 50, size=100),
    ],
)
def test_less_noise_more_patients_or_more_steps_cost_more(more):
    assert epsilon([Skellam(2.0, 0.1, 50, size=100)], delta=DELTA).value < epsilon([more], delta=DELTA).value


def test_rounds_cost_what_their_steps_cost_together():
    rounds = [Skellam(2.3, 0.15, n, size=9) for n in (10, 10, 10, 10, 13)]
    together = epsilon([Skellam(2.3, 0.15, 53, size=9)], delta=DELTA)
    assert epsilon(rounds, delta=DELTA).value == pytest.approx(together.value, rel=1e-12)


def test_a_patient_in_m_hospitals_moves_one_sum_m_times_as_far():
    thrice = epsilon([Skellam(6.0, size=10)], delta=DELTA, multiplicity=3).value
    assert thrice == pytest.approx(epsilon([Skellam(2.0, size=10)], delta=DELTA).value, rel=1e-4)
    sampled = epsilon([Skellam(6.0, 0.1, 20, size=10)], delta=DELTA, multiplicity=2).value
    alone = epsilon([Skellam(6.0 / math.sqrt(2), 0.1, 40, size=10)], delta=DELTA).value
    assert sampled == pytest.approx(alone, rel=1e-4)


def test_a_patient_in_m_hospitals_meets_m_gaussian_noises():
    twice = epsilon([Mechanism(4.0, 0.1, 20)], delta=DELTA, multiplicity=2).value
    assert twice == pytest.approx(epsilon([Mechanism(4.0, 0.1, 40)], delta=DELTA).value, rel=1e-12)


def test_gaussian_and_skellam_stages_compose():
    mixed = epsilon([*PLAN, Mechanism(4.0)], delta=DELTA).value
    assert mixed == pytest.approx(epsilon([*PLAN, Skellam(4.0, size=5)], delta=DELTA).value, rel=1e-5)


def test_nothing_costs_nothing():
    assert epsilon([], delta=DELTA).value == 0


@pytest.mark.parametrize(("hospitals", "colluding"), [(2, 1), (5, 1), (5, 4), (50, 10)])
def test_three_adversaries_meet_three_amounts_of_noise(hospitals, colluding):
    said = statements(PLAN, shares=Shares(hospitals=hospitals, colluding=colluding), delta=DELTA)
    honest = hospitals - colluding

    def scaled(factor: float) -> float:
        plan = [Skellam(m.noise_multiplier * factor, m.sample_rate, m.steps, size=m.size) for m in PLAN]
        return epsilon(plan, delta=DELTA).value

    assert said.collusion == epsilon(PLAN, delta=DELTA)
    assert said.release.value == pytest.approx(scaled(math.sqrt(hospitals / honest)), rel=1e-5)
    assert said.broken.value == pytest.approx(scaled(math.sqrt(1 / honest)), rel=1e-5)
    assert said.release.value < said.collusion.value <= said.broken.value
    for spent in (said.release, said.collusion, said.broken):
        assert spent.gaussian == pytest.approx(spent.value, rel=1e-5)


def test_a_broken_sum_shows_one_share_to_each_hospital_of_a_patient():
    shares = Shares(hospitals=4, colluding=1)
    said = statements(PLAN, shares=shares, delta=DELTA, multiplicity=2)
    doubled = [Skellam(m.noise_multiplier, m.sample_rate, 2 * m.steps, size=m.size) for m in PLAN]
    assert said.broken.value == pytest.approx(statements(doubled, shares=shares, delta=DELTA).broken.value)
    assert said.collusion == epsilon(PLAN, delta=DELTA, multiplicity=2)


def test_gaussian_noise_is_no_weaker_where_the_sum_is_broken():
    said = statements([Mechanism(4.0)], shares=Shares(hospitals=4, colluding=1), delta=DELTA)
    assert said.release == said.collusion == said.broken


@settings(max_examples=10, deadline=None)
@given(
    target=st.floats(0.3, 8),
    share=st.floats(0.1, 0.9),
    rate=st.floats(0.02, 0.5),
    steps=st.integers(10, 1000),
    size=st.sampled_from([2, 1000, 10**6]),
    multiplicity=st.integers(1, 2),
)
def test_a_calibrated_plan_never_exceeds_its_target_and_comes_within_a_hundredth(
    target, share, rate, steps, size, multiplicity
):
    requests = [Request(share, size=size), Request(1 - share, rate, steps, size=7)]
    mechanisms = calibrate(requests, epsilon=target, delta=DELTA, multiplicity=multiplicity)
    assert [(m.sample_rate, m.steps, m.size) for m in mechanisms] == [(1.0, 1, size), (rate, steps, 7)]
    reached = epsilon(mechanisms, delta=DELTA, multiplicity=multiplicity).value
    assert 0.99 * target <= reached <= target


@pytest.mark.parametrize("target", [1.0, 8.0])
def test_noise_is_at_most_a_tenth_more_than_what_privacy_loss_distributions_ask_for(target):
    ours = calibrate([Request(0.4, size=9), Request(0.5, 0.15, 53, size=9)], epsilon=target, delta=DELTA)
    theirs = accounting.calibrate(
        [accounting.Request(0.4), accounting.Request(0.5, 0.15, 53)], epsilon=target, delta=DELTA
    )
    for one, other in zip(ours, theirs, strict=True):
        assert 1 < one.noise_multiplier / other.noise_multiplier < 1.1


def test_shares_decide_who_gets_the_noise():
    small, large = calibrate([Request(0.2, size=3), Request(0.6, size=3)], epsilon=2.0, delta=DELTA)
    assert 2.5 < epsilon([large], delta=DELTA).value / epsilon([small], delta=DELTA).value < 3.5
    alike = calibrate([Request(0.5, size=3), Request(0.5, size=3)], epsilon=2.0, delta=DELTA)
    assert alike[0] == alike[1]


def test_a_budget_too_small_or_too_large_is_refused_with_the_reason():
    with pytest.raises(BudgetExhausted, match="cannot be met"):
        calibrate([Request(1.0, size=2)], epsilon=1e-3, delta=DELTA)
    with pytest.raises(Misconfigured, match="leaves noise of less than"):
        calibrate([Request(1.0, size=2)], epsilon=1e5, delta=DELTA)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_numbers_out_of_range_are_refused(bad):
    with pytest.raises(Misconfigured):
        calibrate([Request(1.0, size=2)], epsilon=bad, delta=DELTA)
    with pytest.raises(Misconfigured):
        epsilon(PLAN, delta=bad)
    with pytest.raises(Misconfigured):
        Skellam(bad, size=2)
    with pytest.raises(Misconfigured):
        Skellam(1.0, bad, size=2)
    with pytest.raises(Misconfigured):
        Request(bad, size=2)


def test_impossible_counts_are_refused():
    with pytest.raises(Misconfigured):
        Skellam(1.0, steps=0, size=2)
    with pytest.raises(Misconfigured):
        Skellam(1.0, size=0)
    with pytest.raises(Misconfigured):
        Request(0.5, steps=0, size=2)
    with pytest.raises(Misconfigured):
        epsilon(PLAN, delta=DELTA, multiplicity=0)
    with pytest.raises(Misconfigured):
        calibrate([], epsilon=1.0, delta=DELTA)
