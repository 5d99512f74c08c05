"""Known answers, coverage with computed false-alarm rates, and the sums behind an area."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from manikin.privacy.audit.statistics import (
    area_p_value,
    area_under_curve,
    clopper_pearson,
    conformal_rank,
    conformal_threshold,
    holm,
    roc_curve,
)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (0, 100, 0.0, 0.036217),
        (1, 1000, 0.000025, 0.005559),
        (2, 2000, 0.000121, 0.003608),
        (5, 1000, 0.001625, 0.011629),
        (20, 2000, 0.006119, 0.015402),
    ],
)
def test_clopper_pearson_two_sided(hits, n, low, high):
    assert clopper_pearson(hits, n, alpha=0.05) == pytest.approx((low, high), abs=1e-6)


@pytest.mark.parametrize(("n", "high"), [(100, 0.029513), (299, 0.009969), (2995, 0.001000)])
def test_clopper_pearson_upper_end_at_one_sided_level(n, high):
    assert clopper_pearson(0, n, alpha=0.1)[1] == pytest.approx(high, abs=1e-6)


@pytest.mark.parametrize("rate", [0.003, 0.01, 0.2, 0.5])
def test_clopper_pearson_covers_by_exact_computation(rate):
    intervals = [clopper_pearson(hits, 150, alpha=0.05) for hits in range(151)]
    covering = [low <= rate <= high for low, high in intervals]
    assert sum(binom.pmf(hits, 150, rate) for hits in range(151) if covering[hits]) >= 0.95


def test_clopper_pearson_knows_nothing_without_trials_and_refuses_nonsense():
    assert clopper_pearson(0, 0, alpha=0.05) == (0.0, 1.0)
    with pytest.raises(ValueError, match="3 successes in 2 trials"):
        clopper_pearson(3, 2, alpha=0.05)


@given(st.integers(1, 3000), st.sampled_from([0.001, 0.01, 0.05, 0.1]))
def test_conformal_threshold_is_exceeded_with_at_most_the_asked_probability(n, fpr):
    rank = conformal_rank(n, fpr=fpr)
    threshold = conformal_threshold(np.arange(1.0, n + 1), fpr=fpr)
    if rank > n:
        assert threshold == math.inf
        assert 1 / (n + 1) > fpr
    else:
        assert threshold == rank
        assert 1 - rank / (n + 1) <= fpr + 1e-12
        assert 1 - (rank - 1) / (n + 1) > fpr


def test_area_counts_pairs_and_half_of_the_ties():
    members, outsiders = np.array([0.0, 4, 6, 7, 3]), np.array([1.0, 2, 3, 5])
    pairs = np.sign(members[:, None] - outsiders[None, :]) / 2 + 0.5
    assert area_under_curve(members, outsiders, alpha=0.05).value == pytest.approx(pairs.mean())


def test_area_interval_is_that_of_delong():
    rng = np.random.default_rng(3)
    members, outsiders = rng.normal(0.5, 1, 60), rng.normal(0, 1, 40)
    wins = (members[:, None] > outsiders[None, :]).astype(float)
    spread = np.sqrt(wins.mean(1).var(ddof=1) / 60 + wins.mean(0).var(ddof=1) / 40)
    area = area_under_curve(members, outsiders, alpha=0.05)
    assert (area.low, area.high) == pytest.approx((area.value - 1.959964 * spread, area.value + 1.959964 * spread))


def test_area_interval_covers_one_half_under_the_null():
    rng = np.random.default_rng(0)
    areas = [area_under_curve(rng.normal(size=200), rng.normal(size=100), alpha=0.05) for _ in range(400)]
    missed = sum(not area.low <= 0.5 <= area.high for area in areas)
    assert missed <= binom.isf(1e-4, 400, 0.06)  # 0.05, and a little for the normal approximation


def test_area_test_holds_its_level_for_the_worst_scores():
    """Members are all above or all below all outsiders by a coin of each outsider: the largest variance there is."""
    rng = np.random.default_rng(1)
    limit, outsiders, level = 0.65, 60, 0.05
    areas = rng.binomial(outsiders, limit, size=2000) / outsiders
    alarms = sum(area_p_value(area, limit, 500, outsiders) < level for area in areas)
    assert alarms <= binom.isf(1e-4, 2000, 0.065)  # normal approximation of a binomial with 60 trials


def test_area_test_knows_nothing_with_one_patient_and_finds_perfect_separation():
    assert area_p_value(1.0, 0.6, 100, 1) == 1.0
    assert area_p_value(1.0, 0.6, 100, 50) < 1e-6


def test_roc_curve_by_hand():
    false, true = roc_curve(np.array([1.0, 3.0]), np.array([0.0, 2.0]))
    assert false.tolist() == [0.0, 0.0, 0.5, 0.5, 1.0]
    assert true.tolist() == [0.0, 0.5, 0.5, 1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_the_raw_values_and_bonferroni_and_keeps_their_order(p_values):
    adjusted = holm(p_values)
    for raw, corrected in zip(p_values, adjusted, strict=True):
        assert raw <= corrected <= min(1.0, len(p_values) * raw) + 1e-12
    order = np.argsort(p_values, kind="stable")
    assert np.all(np.diff(np.array(adjusted)[order]) >= 0)
