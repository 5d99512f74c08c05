import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manikin.common.generators.shrinkage import (
    clean_spectrum,
    denoise_symmetric,
    james_stein,
    positive_part,
    symmetric_power,
)


def symmetric_noise(k: int, entry_std: float, seed: int) -> torch.Tensor:
    half = torch.randn(k, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return entry_std * (half + half.T) / math.sqrt(2)


def test_nothing_is_changed_where_there_is_no_noise() -> None:
    matrix = symmetric_noise(10, 1.0, 0)
    assert torch.equal(denoise_symmetric(matrix, entry_std=0.0), matrix)
    vector = torch.randn(6, dtype=torch.float64)
    assert torch.equal(james_stein(vector, 0.0, torch.zeros(6)), vector)


def test_pure_noise_is_taken_for_nothing() -> None:
    for seed in range(5):
        assert float(denoise_symmetric(symmetric_noise(60, 0.3, seed), entry_std=0.3).abs().max()) < 0.2


def test_a_strong_direction_comes_out_nearer_to_the_truth_than_it_went_in() -> None:
    k, strength = 50, 6.0
    truth = torch.zeros(k, k, dtype=torch.float64)
    truth[0, 0] = strength
    noisy = truth + symmetric_noise(k, 0.3, 1)
    cleaned = denoise_symmetric(noisy, entry_std=0.3)
    assert float((cleaned - truth).norm()) < 0.4 * float((noisy - truth).norm())


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.floats(0.0, 2.0), st.integers(0, 100))
def test_shrinking_never_makes_a_vector_longer(k: int, noise: float, seed: int) -> None:
    vector = torch.randn(k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    shrunk = james_stein(vector, noise, torch.arange(k) // 3)
    assert float(shrunk.norm()) <= float(vector.norm()) + 1e-12
    assert bool((shrunk * vector >= 0).all())


def test_a_positive_part_keeps_a_share_of_the_references_variance() -> None:
    reference = torch.diag(torch.tensor([4.0, 1.0, 0.25], dtype=torch.float64))
    result = positive_part(torch.diag(torch.tensor([-3.0, 2.0, 0.25], dtype=torch.float64)), reference, floor=0.25)
    assert result.diagonal().tolist() == pytest.approx([1.0, 2.0, 0.25])


def test_powers_of_a_matrix_multiply() -> None:
    half = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    matrix = half @ half.T + torch.eye(5, dtype=torch.float64)
    root = symmetric_power(matrix, 0.5)
    assert torch.allclose(root @ root, matrix)
    assert torch.allclose(symmetric_power(matrix, -0.5) @ root, torch.eye(5, dtype=torch.float64))


def test_a_cleaned_spectrum_beats_a_cut_one_where_many_directions_hold_a_little() -> None:
    k = 80
    truth = torch.diag(torch.linspace(0.0, 4.0, k, dtype=torch.float64))
    noisy = truth + symmetric_noise(k, 0.3, 2)
    error = {
        clean: float((clean(noisy, entry_std=0.3) - truth).norm()) for clean in (clean_spectrum, denoise_symmetric)
    }
    assert error[clean_spectrum] < 0.75 * float((noisy - truth).norm())
    assert error[clean_spectrum] < 0.75 * error[denoise_symmetric]


def test_a_cleaned_spectrum_is_the_observed_one_where_there_is_no_noise_and_small_where_there_is_nothing_else() -> None:
    matrix = symmetric_noise(60, 0.3, 0)
    assert torch.equal(clean_spectrum(matrix, entry_std=0.0), matrix)
    assert float(clean_spectrum(matrix, entry_std=0.3).norm()) < 0.25 * float(matrix.norm())
