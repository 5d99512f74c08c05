import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manikin.common.generators.transforms import CosineBasis, cosine_transform, frequency_radius

SHAPES = st.sampled_from([(5,), (7, 4), (8, 8), (3, 4, 5)])


@settings(max_examples=20, deadline=None)
@given(SHAPES, st.integers(1, 2), st.integers(0, 1000))
def test_the_transform_keeps_lengths_and_can_be_undone(shape: tuple[int, ...], channels: int, seed: int) -> None:
    images = torch.randn(3, channels, *shape, generator=torch.Generator().manual_seed(seed))
    spectrum = cosine_transform(images)
    assert torch.allclose(spectrum.flatten(1).norm(dim=1), images.flatten(1).norm(dim=1), rtol=1e-4)
    assert torch.allclose(cosine_transform(spectrum, inverse=True), images, atol=1e-4)


@pytest.mark.parametrize("shape", [(6, 9), (4, 6, 5)])
def test_low_coefficients_are_those_of_smallest_radius(shape: tuple[int, ...]) -> None:
    basis = CosineBasis(1, shape, 10)
    radius = frequency_radius(shape).flatten()
    assert radius[basis.low].max() <= radius[basis.high].min()
    assert sorted([*basis.low.tolist(), *basis.high.tolist()]) == list(range(math.prod(shape)))


def test_a_coefficient_is_the_projection_on_its_cosine() -> None:
    x = torch.arange(8) + 0.5
    wave = torch.cos(math.pi * x * 3 / 8)
    spectrum = cosine_transform(wave.reshape(1, 1, 8))[0, 0]
    assert spectrum[3] == pytest.approx(2.0, abs=1e-5)
    assert spectrum.abs().sum() == pytest.approx(2.0, abs=1e-4)


def test_channels_of_one_frequency_stand_together() -> None:
    basis = CosineBasis(2, (4, 4), 2)
    assert basis.low.tolist() == [0, 16]


def test_bands_rise_with_frequency_and_none_is_empty() -> None:
    for count in (1, 3, 9):
        basis = CosineBasis(2, (6, 5, 4), 7)
        bands = basis.bands(count)
        assert 1 <= len(torch.unique(bands)) == int(bands.max()) + 1 <= count
        radius = basis.radius[basis.high]
        assert all(radius[bands == b].max() < radius[bands == b + 1].min() for b in range(int(bands.max())))
