"""Thresholds and p-values of patients who are not tested: exact rates, by counting."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from manikin.common.errors import BadData, Misconfigured
from manikin.privacy.audit.statistics.conformal import (
    conformal_p_values,
    conformal_rank,
    conformal_threshold,
    mismatched_share,
    rate_interval,
)


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


@given(st.lists(st.integers(0, 6), min_size=2, max_size=30), st.sampled_from([0.05, 0.2, 0.5]))
def test_each_of_n_plus_one_patients_is_equally_likely_to_be_the_outsider(scores, level):
    """Leave one out after another: at most a share `level` has a p-value at or below it, ties or not."""
    values = np.array(scores, dtype=float)
    p_values = [conformal_p_values(values[[i]], np.delete(values, i))[0] for i in range(len(values))]
    assert np.mean(np.array(p_values) <= level) <= level
    above = [values[i] > conformal_threshold(np.delete(values, i), fpr=level) for i in range(len(values))]
    assert np.mean(above) <= level


def test_p_values_by_hand():
    assert conformal_p_values(np.array([0.0, 2.0, 9.0]), np.array([1.0, 2.0, 3.0])).tolist() == [1.0, 0.75, 0.25]


def test_the_rate_of_one_threshold_lies_in_its_interval():
    rng, n, repetitions = np.random.default_rng(0), 200, 2000
    low, high = rate_interval(n, fpr=0.01, alpha=0.05)
    assert (low, high) == pytest.approx((0.001217, 0.027547), abs=1e-5)
    rates = np.array([1 - conformal_threshold(rng.random(n), fpr=0.01) for _ in range(repetitions)])
    missed = int(((rates < low) | (rates > high)).sum())
    assert binom.ppf(1e-4, repetitions, 0.05) <= missed <= binom.isf(1e-4, repetitions, 0.05)
    assert rate_interval(50, fpr=0.01, alpha=0.05) == (0.0, 1.0)


@pytest.mark.parametrize(("ratio", "share"), [(4, 0.1855), (10, 0.4013), (20, 0.6415)])
def test_the_false_share_of_a_threshold_from_fewer_images(ratio, share):
    assert mismatched_share(ratio, share=0.05) == pytest.approx(share, abs=1e-4)


def test_the_false_share_of_a_threshold_from_fewer_images_in_the_shared_vectors(vectors):
    for ratio, share in vectors["copy_rule_false_flag_rate_if_calibrated_train_to_validation"].items():
        assert mismatched_share(float(ratio.split(":")[0]), share=0.05) == pytest.approx(share, abs=0.005)


@pytest.mark.parametrize("fpr", [0.0, 1.0, -0.1, math.nan, math.inf])
def test_rates_that_are_none_are_refused(fpr):
    with pytest.raises(Misconfigured, match="must lie between 0 and 1"):
        conformal_threshold(np.zeros(3), fpr=fpr)


def test_scores_that_are_not_numbers_are_refused():
    with pytest.raises(BadData, match="cannot be ranked"):
        conformal_threshold(np.array([1.0, np.nan]), fpr=0.5)
    with pytest.raises(BadData, match="cannot be ranked"):
        conformal_p_values(np.zeros((2, 2)), np.zeros(3))
