"""Native pixels: the smallest exact type, and what is refused."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from manikin.client.cohort import native
from manikin.client.cohort.native import UnusableError, canonical, luminance

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)


@given(hnp.arrays(np.float32, (1, 3, 2), elements=FINITE))
def test_canonical_keeps_every_value(pixels):
    if pixels.min() == pixels.max():
        with pytest.raises(UnusableError) as caught:
            canonical(pixels)
        assert caught.value.reason == "constant"
    else:
        np.testing.assert_array_equal(canonical(pixels).astype(np.float32), pixels)


@given(hnp.arrays(st.sampled_from([np.int16, np.uint16, np.uint8, np.int32]), (1, 2, 2)))
def test_canonical_does_not_depend_on_how_whole_numbers_came(pixels):
    if pixels.min() == pixels.max() or np.abs(pixels.astype(np.int64)).max() > 2**15:
        return
    one, other = canonical(pixels), canonical(pixels.astype(np.float64))
    assert one.dtype == other.dtype
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_values_that_are_not_finite_in_float32_are_refused(bad):
    with np.errstate(over="ignore"), pytest.raises(UnusableError) as caught:
        canonical(np.array([[[0.0, bad]]]))
    assert caught.value.reason == "not finite"


@pytest.mark.parametrize("pixels", [np.zeros((1, 0, 4)), np.array([[["x", "y"]]]), np.array([[[1j, 2j]]])])
def test_what_holds_no_numbers_is_refused(pixels):
    with pytest.raises(UnusableError):
        canonical(pixels)


def test_luminance_of_grey_is_grey_and_alpha_does_not_matter():
    grey = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 4, axis=1)
    grey[:, 3] = 7
    np.testing.assert_array_equal(luminance(grey), np.arange(256))


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(native).failed == 0
