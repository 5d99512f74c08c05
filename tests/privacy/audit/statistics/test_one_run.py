"""Known answers, sums by hand, monotone in everything, and the level kept where the truth is known."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import binom

from manikin.common.errors import BadData, Misconfigured
from manikin.privacy.audit.claim import epsilon_for_mu
from manikin.privacy.audit.statistics.one_run import (
    Tally,
    epsilon_ceiling,
    epsilon_lower_bound,
    guess,
    mu_ceiling,
    mu_lower_bound,
    p_value,
    rules_out,
)


def tally_of(canaries, guesses, correct):
    return Tally(canaries=canaries, guesses=guesses, correct=correct)


@pytest.mark.parametrize(
    ("case", "epsilon"),
    [((1000, 1000, 600), 0.297227), ((1000, 100, 90), 1.626143), ((200, 50, 45), 1.391977), ((1000, 1000, 500), 0.0)],
)
def test_known_bounds_of_epsilon(case, epsilon):
    assert epsilon_lower_bound(tally_of(*case), delta=1e-5, alpha=0.05) == pytest.approx(epsilon, abs=1e-5)


@pytest.mark.parametrize(
    ("case", "mu", "epsilon"), [((1000, 100, 90), 0.6025, 2.4564), ((200, 50, 45), 0.60031, 2.44636)]
)
def test_known_bounds_of_mu(case, mu, epsilon):
    bound = mu_lower_bound(tally_of(*case), alpha=0.05)
    assert bound == pytest.approx(mu, abs=1e-4)
    assert epsilon_for_mu(bound, 1e-5) == pytest.approx(epsilon, abs=5e-4)


def test_bounds_in_the_shared_vectors(vectors):
    known = vectors["steinke_eps_lower_bound"]
    for *case, epsilon in known["cases"]:
        bound = epsilon_lower_bound(tally_of(*case), delta=known["delta"], alpha=known["p"])
        assert bound == pytest.approx(epsilon, abs=1e-5)
    *case, epsilon = known["delta_zero_case"]
    assert epsilon_lower_bound(tally_of(*case), delta=0.0, alpha=known["p"]) == pytest.approx(epsilon, abs=1e-5)
    for guesses, ceiling in known["ceiling_all_correct_delta_zero"].items():
        assert epsilon_ceiling(int(guesses), int(guesses), delta=0.0, alpha=0.05) == pytest.approx(ceiling, abs=0.005)
    known = vectors["fdp_one_run_gdp"]
    for *case, mu, epsilon in known["cases"]:
        bound = mu_lower_bound(tally_of(*case), alpha=known["p"])
        assert bound == pytest.approx(mu, abs=1e-4)
        assert epsilon_for_mu(bound, known["delta_for_eps"]) == pytest.approx(epsilon, abs=2e-3)


@pytest.mark.parametrize("guesses", [10, 100, 1000])
def test_the_ceiling_without_delta_has_a_closed_form(guesses):
    rate = 0.05 ** (1 / guesses)
    assert epsilon_ceiling(5000, guesses, delta=0.0, alpha=0.05) == pytest.approx(math.log(rate / (1 - rate)))
    assert mu_ceiling(5000, guesses, alpha=0.05) == mu_lower_bound(tally_of(5000, guesses, guesses), alpha=0.05)


@given(st.integers(1, 25), st.data(), st.floats(0, 5), st.sampled_from([0.0, 1e-5, 0.01]))
@settings(deadline=None)
def test_the_p_value_is_the_sum_written_out(guesses, data, epsilon, delta):
    correct = data.draw(st.integers(0, guesses))
    q = math.exp(epsilon) / (1 + math.exp(epsilon))
    mass = [math.comb(guesses, k) * q**k * (1 - q) ** (guesses - k) for k in range(guesses + 1)]
    worst = max((sum(mass[correct - i : correct]) / i for i in range(1, correct + 1)), default=0.0)
    truth = min(1.0, sum(mass[correct:]) + 2 * 40 * delta * worst)
    assert p_value(tally_of(40, guesses, correct), epsilon=epsilon, delta=delta) == pytest.approx(truth, abs=1e-12)


@given(st.integers(2, 300), st.data(), st.sampled_from([0.0, 1e-6, 1e-4]))
@settings(max_examples=40, deadline=None)
def test_what_the_search_relies_on_a_larger_epsilon_is_never_ruled_out_before_a_smaller(guesses, data, delta):
    tally = tally_of(guesses, guesses, data.draw(st.integers(guesses // 2, guesses)))
    values = [p_value(tally, epsilon=epsilon, delta=delta) for epsilon in np.linspace(0, 12, 60)]
    ruled_out = [value <= 0.05 for value in values]
    assert ruled_out == sorted(ruled_out, reverse=True)
    by_mu = [rules_out(tally, mu=mu, alpha=0.05) for mu in np.linspace(0, 6, 30)]
    assert by_mu == sorted(by_mu, reverse=True)


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_randomised_response_is_exceeded_as_seldom_as_promised_by_exact_computation(epsilon):
    guesses, q = 200, float(expit(epsilon))
    bounds = np.array([epsilon_lower_bound(tally_of(200, 200, v), delta=0.0, alpha=0.05) for v in range(100, 201)])
    chances = binom.pmf(np.arange(100, 201), guesses, q)
    assert 0.02 < chances[bounds > epsilon].sum() <= 0.05
    by_mu = np.array([rules_out(tally_of(200, 200, v), mu=2.5, alpha=0.05) for v in range(101, 201)])
    assert np.all(np.diff(by_mu.astype(int)) >= 0)


def test_more_looks_cost_more_and_keep_the_level():
    tally = tally_of(1000, 200, 150)
    bounds = [epsilon_lower_bound(tally, delta=1e-5, alpha=0.05, looks=looks) for looks in (1, 10, 100)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[1] == epsilon_lower_bound(tally, delta=1e-5, alpha=0.005)
    assert mu_lower_bound(tally, alpha=0.05, looks=10) == mu_lower_bound(tally, alpha=0.005)


@pytest.mark.parametrize("looks", [1, 27])
def test_the_best_of_several_pairs_cries_wolf_unless_it_pays_for_them(looks):
    """Coins that the scores know nothing of; the best of 27 pairs, uncorrected and corrected."""
    rng, repetitions, m, alarms = np.random.default_rng(1), 150, 400, 0
    pairs = [(a, b) for a, b in itertools.product(range(0, 400, 60), repeat=2) if 0 < a + b <= 360]
    assert len(pairs) == 27
    for _ in range(repetitions):
        scores, included = rng.normal(size=m), rng.random(m) < 0.5
        tallies = [guess(scores, included, guess_in=a, guess_out=b) for a, b in pairs]
        smallest = min(p_value(tally, epsilon=0.0, delta=1e-5) for tally in tallies)
        alarms += smallest <= 0.05 / (len(pairs) if looks > 1 else 1)
    if looks == 1:
        assert alarms > 0.15 * repetitions
    else:
        assert alarms <= binom.isf(1e-4, repetitions, 0.05)


def test_guesses_by_hand_and_ties_by_position():
    scores = np.array([5.0, 1.0, 4.0, 0.0, 4.0])
    included = np.array([True, False, False, True, True])
    assert guess(scores, included, guess_in=2, guess_out=2) == tally_of(5, 4, 3)
    assert guess(scores, included, guess_in=0, guess_out=1) == tally_of(5, 1, 0)
    assert guess(scores, included, guess_in=0, guess_out=0) == tally_of(5, 0, 0)
    same = guess(np.zeros(4), np.array([False, False, True, True]), guess_in=2, guess_out=2)
    assert same == tally_of(4, 4, 4)


def test_hospitals_are_added_up():
    assert tally_of(100, 10, 9) + tally_of(50, 5, 2) == tally_of(150, 15, 11)


def test_nothing_is_ruled_out_without_guesses_or_at_chance():
    for case in ((10, 0, 0), (10, 10, 0), (1000, 1000, 510)):
        assert epsilon_lower_bound(tally_of(*case), delta=1e-5, alpha=0.05) == 0.0
        assert mu_lower_bound(tally_of(*case), alpha=0.05) == 0.0


@pytest.mark.parametrize("case", [(10, 11, 5), (10, 5, 6), (10, 5, -1)])
def test_tallies_that_cannot_be_are_refused(case):
    with pytest.raises(Misconfigured):
        tally_of(*case)


def test_arguments_that_cannot_be_are_refused():
    tally = tally_of(10, 10, 9)
    with pytest.raises(Misconfigured, match="more than 3 canaries"):
        guess(np.zeros(3), np.ones(3, bool), guess_in=2, guess_out=2)
    with pytest.raises(BadData, match="cannot be ranked"):
        guess(np.array([np.nan, 0.0]), np.ones(2, bool), guess_in=1, guess_out=0)
    for delta in (-0.1, 1.0, math.nan):
        with pytest.raises(Misconfigured, match="δ must lie"):
            epsilon_lower_bound(tally, delta=delta, alpha=0.05)
    with pytest.raises(Misconfigured, match="best of 0 looks"):
        mu_lower_bound(tally, alpha=0.05, looks=0)
