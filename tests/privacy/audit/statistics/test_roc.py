"""The sums behind an area, its coverage with computed false-alarm rates, and rates at a threshold of others."""

import numpy as np
import pytest
from scipy.stats import binom

from manikin.common.errors import BadData
from manikin.privacy.audit.statistics import (
    area_p_value,
    area_under_curve,
    rates_at_fpr,
    rates_at_threshold,
    roc_curve,
)


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


def test_rates_are_counted_strictly_above_a_threshold_of_patients_who_are_not_tested():
    calibration = np.arange(1.0, 101.0)
    rates = rates_at_fpr(np.array([99.0, 100.0, 101.0]), np.array([98.0, 99.5]), calibration, fpr=0.02, alpha=0.05)
    assert (rates.threshold, rates.hits, rates.false_positives) == (99.0, 2, 1)
    assert rates.tpr == pytest.approx((0.0943, 0.9916), abs=1e-4)
    assert not rates.supported


def test_the_expected_rate_of_outsiders_is_kept_and_that_of_a_threshold_on_themselves_is_not():
    """The mutant that sets the threshold on the members' and outsiders' own scores is what the third group prevents."""
    rng, flagged, n = np.random.default_rng(4), 0, 300
    for _ in range(400):
        members, outsiders, calibration = rng.normal(size=(3, n))
        flagged += rates_at_fpr(members, outsiders, calibration, fpr=0.05, alpha=0.05).hits
    assert 0.04 * 400 * n <= flagged <= 0.055 * 400 * n


def test_a_false_positive_rate_needs_outsiders_enough():
    nobody = np.zeros(0)
    for outsiders, supported in ((298, False), (299, True)):
        rates = rates_at_threshold(nobody, np.zeros(outsiders), threshold=0.0, fpr=0.01, alpha=0.05)
        assert rates.supported is supported
        assert rates.tpr == (0.0, 1.0)


def test_scores_that_are_not_numbers_are_refused():
    with pytest.raises(BadData, match="cannot be ranked"):
        area_under_curve(np.array([0.1, np.nan]), np.zeros(3), alpha=0.05)
    with pytest.raises(BadData, match="cannot be ranked"):
        rates_at_threshold(np.array([np.nan]), np.zeros(3), threshold=0.0, fpr=0.1, alpha=0.05)
