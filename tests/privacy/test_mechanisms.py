"""The Gaussian mechanism: bounded, exact, on its grid, and as noisy as it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from manikin.common.errors import Misconfigured, ProtocolViolation
from manikin.privacy.mechanisms import (
    clip,
    grid_noise,
    public_grid,
    release_sum,
    round_to_zero,
)
from manikin.privacy.randomness import Stream

FALSE_ALARM = 1e-6


def make_stream(seed: int = 0) -> Stream:
    return Stream(bytes(32), request=seed.to_bytes(32, "big"), purpose="release")


def release(vectors, *, sensitivity=1.0, noise_multiplier=2.0, seed=0, size=None):
    return release_sum(
        vectors, sensitivity=sensitivity, noise_multiplier=noise_multiplier, stream=make_stream(seed), size=size
    )


def vectors(size: int = 5, length: float = 1.0):
    """Vectors of norm at most `length`."""
    element = st.floats(-1, 1, allow_subnormal=False)
    raw = hnp.arrays(np.float64, size, elements=element)
    return raw.map(lambda v: v * (length / max(1.0, float(np.linalg.norm(v)) * (1 + 1e-12))))


def test_noise_has_the_standard_deviation_that_was_asked_for():
    size, noise_std = 100_000, 3.73 * 0.5
    total = np.full(size, 7 / np.sqrt(size) * 0.5)
    noisy = release([total / 7] * 7, sensitivity=0.5, noise_multiplier=3.73)
    low, high = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], size)
    assert low < np.square((noisy - total) / noise_std).sum() < high
    assert stats.kstest((noisy - total) / noise_std, "norm").pvalue > FALSE_ALARM


def test_noise_repeats_for_the_same_request_and_for_no_other():
    data = [np.full(8, 0.1)] * 3
    assert np.array_equal(release(data), release(data))
    assert not np.any(release(data) == release(data, seed=1))


@given(cohort=st.lists(vectors(), min_size=1, max_size=6), one=vectors())
def test_one_patient_more_moves_the_release_by_at_most_the_sensitivity(cohort, one):
    moved = release([*cohort, one]) - release(cohort)
    assert np.linalg.norm(moved) <= 1.0
    assert np.abs(moved - one).max() <= public_grid(2.0)


@given(cohort=st.lists(vectors(), min_size=1, max_size=8), order=st.randoms(use_true_random=False))
def test_the_order_of_patients_does_not_show_in_a_single_bit(cohort, order):
    shuffled = list(cohort)
    order.shuffle(shuffled)
    assert np.array_equal(release(cohort), release(shuffled))


@given(cohort=st.lists(vectors(length=0.3), min_size=1, max_size=5), noise=st.floats(0.2, 500))
def test_every_released_number_lies_on_the_public_grid(cohort, noise):
    released = release(cohort, sensitivity=0.3, noise_multiplier=noise)
    units = released / public_grid(0.3 * noise)
    assert np.array_equal(units, np.rint(units))
    assert np.log2(public_grid(0.3 * noise)).is_integer()


@pytest.mark.parametrize(
    "vector",
    [
        np.array([1.0, 0.1]),
        np.array([np.nan, 0.0]),
        np.array([np.inf, 0.0]),
        np.array([-np.inf, np.inf]),
        np.array([1e200, 1e200]),
    ],
)
def test_a_contribution_beyond_its_bound_is_cut_and_one_that_is_not_finite_counts_as_zero(vector):
    moved = release([np.zeros(2), vector]) - release([np.zeros(2)])
    if np.isfinite(np.float64(math.hypot(*vector))) and abs(vector).max() < 1e100:
        assert np.linalg.norm(moved) == pytest.approx(1.0, abs=1e-5)
    else:
        assert np.array_equal(moved, np.zeros(2))


@pytest.mark.parametrize("vector", [np.zeros(3), np.zeros((2, 1)), np.zeros(2, np.float32), np.zeros(2, complex)])
def test_a_contribution_of_another_shape_or_type_is_refused(vector):
    with pytest.raises(ProtocolViolation):
        release([np.zeros(2), vector])


def test_a_contribution_too_long_by_rounding_alone_is_brought_back():
    longer = np.array([1 + 1e-7, 0.0])
    assert release([longer])[0] - release([np.zeros(2)])[0] <= 1.0


def test_an_empty_cohort_is_released_like_any_other():
    assert np.array_equal(release([], size=4), release([np.zeros(4)]))
    with pytest.raises(Misconfigured):
        release([])


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_no_release_without_noise_or_bound(bad):
    with pytest.raises(Misconfigured):
        release([np.zeros(2)], noise_multiplier=bad)
    with pytest.raises(Misconfigured):
        release([np.zeros(2)], sensitivity=bad)


@given(vector=hnp.arrays(np.float64, 4, elements=st.floats(-1e6, 1e6)), bound=st.floats(1e-3, 1e3))
def test_clipping_bounds_the_norm_and_keeps_the_direction(vector, bound):
    clipped, norm = clip(vector, bound=bound)
    assert norm == pytest.approx(float(np.linalg.norm(vector)))
    assert np.linalg.norm(clipped) <= bound * (1 + 1e-12)
    if norm <= bound:
        assert np.array_equal(clipped, vector)
    else:
        assert clipped @ vector == pytest.approx(bound * norm)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200])
def test_clipping_makes_zero_of_what_is_not_finite(value):
    clipped, norm = clip(np.array([1.0, value]), bound=1.0)
    assert not clipped.any()
    assert not np.isfinite(norm)


@given(vector=hnp.arrays(np.float64, 4, elements=st.floats(-1e3, 1e3)), power=st.integers(-30, 3))
def test_rounding_never_lengthens(vector, power):
    grid = 2.0**power
    rounded = round_to_zero(vector, grid=grid)
    assert np.all(np.abs(rounded) <= np.abs(vector))
    assert np.all(np.abs(rounded - vector) < grid)


def test_noise_of_a_tiny_bound_is_as_good_as_any():
    small = grid_noise(1000, noise_std=1e-12, stream=make_stream())
    assert np.allclose(small * 2.0**40, grid_noise(1000, noise_std=1e-12 * 2.0**40, stream=make_stream()))
    assert np.unique(small).size > 990
