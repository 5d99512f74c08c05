"""Bringing images to a study: values, places and spacings against what can be computed by hand."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manikin.client.cohort.preprocessing import preprocess, windowed

RNG = np.random.default_rng(0)


def one(pixels, data, *, axes="HW", spacing_mm=None):
    (result,) = preprocess(pixels[None], data, axes=axes, spacing_mm=spacing_mm)
    return result


def blob(shape, spacing, centre_mm=(0.0, 0.0), width_mm=8.0):
    """A Gaussian of known place and width in mm around the middle of the field of view."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    squared = sum((x - c) ** 2 for x, c in zip(np.meshgrid(*axes, indexing="ij"), centre_mm, strict=True))
    return 255 * np.exp(-squared / (2 * width_mm**2))[None]


def test_same_shape_is_windowed_only(make_data):
    pixels = np.arange(64, dtype=np.uint8).reshape(1, 8, 8) * 4
    result = one(pixels, make_data())
    assert (result.shape, result.dtype) == ((1, 1, 8, 8), np.float32)
    np.testing.assert_allclose(result[0], pixels / 127.5 - 1, atol=1e-6)


def test_the_window_clips_and_channels_are_picked_in_order(make_data):
    pixels = np.stack([np.full((8, 8), value) for value in (-50.0, 100.0, 400.0)])
    result = one(pixels, make_data(window=(0, 200), channels=(2, 1, 0)))
    np.testing.assert_allclose(result[0, :, 0, 0], [1, 0, -1])


def test_percentiles_are_each_images_and_channels_own(make_data):
    pixels = RNG.normal(size=(3, 2, 16, 16)) * np.array([1, 50, 1e4])[:, None, None, None] + 1e5
    result = windowed(pixels.astype(np.float32), make_data(window=None, window_percentiles=(5, 95)))
    at_ends = [(result <= -1).mean(axis=(2, 3)), (result >= 1).mean(axis=(2, 3))]
    np.testing.assert_allclose(at_ends, 0.05, atol=0.01)


def test_a_mostly_black_image_keeps_what_it_shows(make_data):
    pixels = np.zeros((1, 1, 16, 16), np.float32)
    pixels[0, 0, 3, 3] = 7
    result = windowed(pixels, make_data(window=None, window_percentiles=(1, 99)))
    assert (result[0, 0, 3, 3], result[0, 0, 0, 0]) == (1, -1)


@pytest.mark.parametrize("new_mm", [1.0, 2.0, 3.3])
def test_spacing_keeps_places_and_sizes_in_mm(make_data, new_mm):
    """A blob off the centre is where it was, as wide as it was (and a little smoother), after resampling."""
    old = (0.9, 1.6)
    pixels = blob((120, 90), old, centre_mm=(9.0, -14.0), width_mm=5.0)
    result = one(pixels, make_data((64, 64), spacing_mm=(new_mm, new_mm)), spacing_mm=old)[0, 0]
    weights = (result + 1) / 2
    places = (np.arange(64) - 31.5) * new_mm
    for axis, expected in enumerate((9.0, -14.0)):
        profile = weights.sum(axis=1 - axis)
        mean = (profile * places).sum() / profile.sum()
        width = np.sqrt((profile * (places - mean) ** 2).sum() / profile.sum())
        assert abs(mean - expected) < 0.1  # the field of view cuts the tail
        assert 4.9 < width < 5.6


def test_coarse_sampling_does_not_alias(make_data):
    """Stripes finer than the new pixels average out instead of turning into broad ones."""
    stripes = np.tile([0.0, 255.0], (1, 128, 64))
    result = one(stripes, make_data((20, 20), spacing_mm=(4.2, 4.2)), spacing_mm=(1.0, 1.0))
    assert np.abs(result[..., 2:-2, 2:-2]).max() < 0.25


def test_small_images_are_padded_dark_and_large_ones_cut_around_the_centre(make_data):
    pixels = np.full((1, 4, 12), 255, np.uint8)
    pixels[0, 0, 0] = 254
    result = one(pixels, make_data((8, 8), spacing_mm=(1, 1)), spacing_mm=(1.0, 1.0))
    np.testing.assert_array_equal(result[0, 0, :, 0] > 0, [0, 0, 1, 1, 1, 1, 0, 0])
    assert result[0, 0, 0, 0] == -1


@pytest.mark.parametrize(("study_mm", "native_mm"), [(None, (3.0, 1.0)), ((1, 1), None)])
def test_without_spacing_the_field_of_view_is_resized(make_data, study_mm, native_mm):
    left_half = np.zeros((1, 30, 10), np.uint8)
    left_half[..., :5] = 255
    result = one(left_half, make_data((12, 12), spacing_mm=study_mm), spacing_mm=native_mm)
    np.testing.assert_array_equal(result[0, 0, 6] > 0, [1] * 6 + [0] * 6)


def test_a_volume_keeps_its_axes(make_data):
    volume = RNG.integers(0, 256, (1, 4, 5, 6)).astype(np.uint8)
    result = one(volume, make_data((6, 5, 4), spacing_mm=(1, 1, 1)), axes="RAS", spacing_mm=(1.0, 1.0, 1.0))
    np.testing.assert_allclose(result[0, 0, 1:5, :, :], volume[0, :, :, 1:5] / 127.5 - 1, atol=1e-5)


def test_axial_slices_of_a_volume_are_hung_as_radiologists_do(make_data):
    volume = np.zeros((1, 8, 6, 5), np.uint8)
    volume[0, 7, 5, :] = 255  # the patient's right, in front
    volume[0, :, :, 2] = 0  # an empty slice
    result = one(volume, make_data((6, 8), spacing_mm=(2, 1)), axes="RAS", spacing_mm=(1.0, 2.0, 9.0))
    assert result.shape == (4, 1, 6, 8)
    assert (result[:, 0, 0, 0] == 1).all()
    assert (result[:, 0, 1:, 1:] == -1).all()


def test_a_volume_taken_as_it_came_is_cut_across_its_first_axis(make_data):
    volume = RNG.integers(0, 256, (1, 3, 8, 8)).astype(np.uint8)
    result = one(volume, make_data(), axes="DHW")
    np.testing.assert_allclose(result[:, 0], volume[0] / 127.5 - 1, atol=1e-6)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(4, 20), st.integers(4, 20)),
    new=st.tuples(st.integers(4, 20), st.integers(4, 20)),
    spacing=st.none() | st.floats(0.5, 3),
    others=st.integers(0, 3),
)
def test_an_image_does_not_depend_on_those_beside_it(make_data, shape, new, spacing, others):
    pixels = np.random.default_rng(1).integers(0, 256, (1 + others, 1, *shape)).astype(np.uint8)
    data = make_data(new, spacing_mm=(1.3, 0.9), window=None, window_percentiles=(1, 99))
    native = None if spacing is None else (spacing, 1.0)
    together = preprocess(pixels, data, axes="HW", spacing_mm=native)
    alone = preprocess(pixels[:1], data, axes="HW", spacing_mm=native)
    np.testing.assert_array_equal(together[0], alone[0])
    assert np.abs(together).max() <= 1


@pytest.mark.parametrize("spacing_mm", [None, (3.0, 3.0)])
def test_dark_borders_stay_dark_when_an_image_shrinks(make_data, spacing_mm):
    """A filter that takes what lies beyond the border for mid-grey would light them up."""
    pixels = np.zeros((1, 48, 48), np.uint8)
    pixels[0, 20:28, 20:28] = 255
    native = None if spacing_mm is None else (1.0, 1.0)
    result = one(pixels, make_data((16, 16), spacing_mm=spacing_mm), spacing_mm=native)[0, 0]
    np.testing.assert_allclose([result[0], result[-1], result[:, 0], result[:, -1]], -1, atol=1e-4)
    assert result[7:9, 7:9].min() > 0
