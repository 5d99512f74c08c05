"""The scan holds its level whatever the scores look like, and finds what it says it would."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, hypergeom

from manikin.common.errors import BadData
from manikin.privacy.audit.statistics.scan import (
    chance_as_small,
    copies_pass,
    critical_statistic,
    detectable_copies,
    lowest_by_patient,
    scan,
    usable_ranks,
)

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
    fewest = detectable_copies(300, 100, alpha=alpha, power=0.8)
    assert fewest is not None
    found = 0
    for _ in range(200):
        scores = rng.normal(size=400)
        scores[:fewest] -= 100
        found += scan(scores[:300], scores[300:], rng=rng).p_value <= alpha
    assert found >= binom.ppf(1e-4, 200, 0.8)


def test_leaks_of_the_other_group_raise_no_alarm():
    order = np.arange(400.0)
    assert scan(order[200:], order[:200], rng=np.random.default_rng(0)).p_value > 0.9


def test_the_statistic_is_the_smallest_hypergeometric_tail():
    members, outsiders = np.arange(30.0), np.arange(25.5, 55.5)
    result = scan(members, outsiders, rng=np.random.default_rng(0))
    assert usable_ranks(30, 30) == (5, 10, 20)
    assert (result.rank, result.members, result.expected) == (20, 20, 10.0)
    assert result.statistic == pytest.approx(hypergeom.sf(19, 60, 30, 20))


def test_small_cohorts_can_find_little_or_nothing():
    rng = np.random.default_rng(0)
    assert scan(np.zeros(3), np.zeros(2), rng=rng).p_value == 1.0
    assert detectable_copies(3, 2, alpha=0.05, power=0.8) is None
    assert detectable_copies(20, 2, alpha=0.05, power=0.8) is None
    assert not copies_pass(20, 20, share=0.05, alpha=0.05, power=0.8)
    assert copies_pass(2000, 500, share=0.05, alpha=0.05, power=0.8)


def test_the_p_value_is_the_share_of_all_permutations():
    """Every way to choose 6 of 12 patients, counted."""
    ranks = usable_ranks(6, 6)
    statistics = []
    for chosen in itertools.combinations(range(12), 6):
        counts = [sum(place < k for place in chosen) for k in ranks]
        statistics.append(min(hypergeom.sf(count - 1, 12, 6, k) for count, k in zip(counts, ranks, strict=True)))
    for statistic in sorted(set(statistics)):
        share = np.mean(np.array(statistics) <= statistic * (1 + 1e-9))
        assert chance_as_small(6, 6, statistic, planted=0) == pytest.approx(share, rel=1e-9)


@pytest.mark.parametrize(("members", "outsiders"), [(60, 45), (300, 200)])
def test_the_p_value_over_several_ranks_agrees_with_permutations_drawn(members, outsiders):
    rng, draws = np.random.default_rng(5), 4000
    ranks = usable_ranks(members, outsiders)
    assert len(ranks) >= 4
    tails = [hypergeom.sf(np.arange(k + 1) - 1, members + outsiders, members, k) for k in ranks]
    labels = rng.permuted(np.tile(np.arange(members + outsiders) < members, (draws, 1)), axis=1)
    drawn = np.min([tail[labels[:, :k].sum(1)] for tail, k in zip(tails, ranks, strict=True)], axis=0)
    for statistic in (0.2, 0.05, 0.01):
        alarms = int((drawn <= statistic).sum())
        low, high = binom.interval(1 - 1e-5, draws, chance_as_small(members, outsiders, statistic, planted=0))
        assert low <= alarms <= high


@given(st.integers(1, 120), st.integers(1, 120), st.sampled_from([0.05, 0.01, 0.001]))
@settings(max_examples=40, deadline=None)
def test_the_critical_value_is_the_last_that_keeps_the_level(members, outsiders, alpha):
    critical = critical_statistic(members, outsiders, alpha=alpha)
    assert critical == 0 or chance_as_small(members, outsiders, critical, planted=0) <= alpha
    above = critical * (1 + 1e-6) if critical else 1e-300
    tails = [
        hypergeom.sf(np.arange(k + 1) - 1, members + outsiders, members, k) for k in usable_ranks(members, outsiders)
    ]
    later = sorted(value for tail in tails for value in tail if value > above)
    assert not later or chance_as_small(members, outsiders, later[0], planted=0) > alpha


def test_a_patient_counts_once_with_the_lowest_of_its_images():
    lowest = lowest_by_patient(np.array([3.0, 1.0, 2.0, 5.0]), np.array([0, 0, 2, 2]), 3)
    assert lowest.tolist() == [1.0, np.inf, 2.0]


def test_permuting_images_instead_of_patients_would_cry_wolf():
    """Ten images a patient that are nearly alike: what the unit is decides."""
    rng, repetitions, by_patient, by_image = np.random.default_rng(6), 300, 0, 0
    owners = np.repeat(np.arange(80), 10)
    for _ in range(repetitions):
        scores = np.repeat(rng.normal(size=80), 10) + 0.1 * rng.normal(size=800)
        lowest = lowest_by_patient(scores, owners, 80)
        by_patient += scan(lowest[:40], lowest[40:], rng=rng).p_value <= 0.05
        by_image += scan(scores[:400], scores[400:], rng=rng).p_value <= 0.05
    assert by_patient <= binom.isf(1e-4, repetitions, 0.05)
    assert by_image > 0.3 * repetitions


def test_scores_that_are_not_numbers_are_refused():
    with pytest.raises(BadData, match="cannot be ranked"):
        scan(np.array([0.0, np.nan]), np.zeros(20), rng=np.random.default_rng(0))


def test_a_stricter_level_needs_more_copies():
    loose, strict = (detectable_copies(500, 500, alpha=alpha, power=0.8) for alpha in (0.05, 0.001))
    assert loose is not None
    assert strict is not None
    assert loose < strict
