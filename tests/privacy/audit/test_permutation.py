"""The scan holds its level whatever the scores look like, and finds what it says it would."""

import numpy as np
import pytest
from scipy.stats import binom, hypergeom

from manikin.privacy.audit.permutation import copies_pass, detectable_copies, scan, usable_ranks

REPETITIONS = 500


@pytest.mark.parametrize("distinct", [0, 4])
def test_false_alarms_stay_at_the_level_with_and_without_ties(distinct):
    """`distinct` > 0: only so many values of the score, as a mode-collapsed generator gives."""
    rng = np.random.default_rng(distinct)
    alarms = 0
    for _ in range(REPETITIONS):
        scores = rng.normal(size=200)
        if distinct:
            scores = np.round(scores * distinct / 6)
        alarms += scan(scores[:100], scores[100:], rng=rng).p_value <= 0.05
    assert alarms <= binom.isf(1e-4, REPETITIONS, 0.05)


def test_planted_copies_of_the_announced_number_are_found():
    rng, alpha = np.random.default_rng(2), 0.05
    fewest = detectable_copies(300, 100, alpha=alpha, rng=rng)
    assert fewest is not None
    found = 0
    for _ in range(200):
        scores = rng.normal(size=400)
        scores[:fewest] -= 100
        found += scan(scores[:300], scores[300:], rng=rng).p_value <= alpha
    assert found >= binom.ppf(1e-4, 200, 0.77)  # 0.8 as simulated with 400 draws


def test_leaks_of_the_other_group_raise_no_alarm():
    order = np.arange(400.0)
    assert scan(order[200:], order[:200], rng=np.random.default_rng(0)).p_value > 0.9


def test_the_statistic_is_the_smallest_hypergeometric_tail():
    members, outsiders = np.arange(30.0), np.arange(25.5, 55.5)
    result = scan(members, outsiders, rng=np.random.default_rng(0))
    assert usable_ranks(30, 30) == (5, 10, 20)
    assert (result.rank, result.members, result.expected) == (20, 20, 10.0)
    assert result.statistic == pytest.approx(hypergeom.sf(19, 60, 30, 20))
    assert result.p_value == pytest.approx(1e-4)


def test_small_cohorts_can_find_little_or_nothing():
    rng = np.random.default_rng(0)
    assert scan(np.zeros(3), np.zeros(2), rng=rng).p_value == 1.0
    assert detectable_copies(3, 2, alpha=0.05, rng=rng) is None
    assert detectable_copies(20, 2, alpha=0.05, rng=rng) is None
    assert not copies_pass(20, 20, share=0.05, alpha=0.05, rng=rng)
    assert copies_pass(2000, 500, share=0.05, alpha=0.05, rng=rng)


def test_a_stricter_level_needs_more_copies():
    rng = np.random.default_rng(0)
    loose, strict = (detectable_copies(500, 500, alpha=alpha, rng=rng) for alpha in (0.05, 0.001))
    assert loose is not None
    assert strict is not None
    assert loose < strict
