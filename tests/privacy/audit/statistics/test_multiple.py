"""Holm's correction: between the raw values and Bonferroni's, and valid under any dependence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm

from manikin.common.errors import BadData
from manikin.privacy.audit.statistics.multiple import holm


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_the_raw_values_and_bonferroni_and_keeps_their_order(p_values):
    adjusted = holm(p_values)
    for raw, corrected in zip(p_values, adjusted, strict=True):
        assert raw <= corrected <= min(1.0, len(p_values) * raw) + 1e-12
    order = np.argsort(p_values, kind="stable")
    assert np.all(np.diff(np.array(adjusted)[order]) >= 0)


def test_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_any_false_alarm_among_true_nulls_stays_at_the_level(correlation):
    rng, repetitions = np.random.default_rng(0), 2000
    shared, own = rng.normal(size=(repetitions, 1)), rng.normal(size=(repetitions, 6))
    p_values = norm.sf(np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own)
    p_values[:, 0] = 1e-9  # one real finding must not loosen the others by more than one step
    alarms = sum(min(holm(list(row))[1:]) <= 0.05 for row in p_values)
    assert alarms <= binom.isf(1e-4, repetitions, 0.05)


@pytest.mark.parametrize("wrong", [float("nan"), -0.1, 1.5])
def test_what_is_no_probability_is_refused(wrong):
    with pytest.raises(BadData, match="not a number between 0 and 1"):
        holm([0.2, wrong])
