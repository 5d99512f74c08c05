"""Distances and manifold scores against answers that are known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manikin.common.errors import BadData
from manikin.common.evaluation.fidelity import frechet_distance, kernel_distance, manifold_scores


def whitened(rng, n, d):
    """n points whose sample mean is exactly 0 and sample covariance exactly the identity."""
    points = rng.standard_normal((n, d))
    points -= points.mean(0)
    return points @ np.linalg.inv(np.linalg.cholesky(np.cov(points, rowvar=False))).T


def test_frechet_between_known_gaussians():
    rng = np.random.default_rng(0)
    x, y = whitened(rng, 200, 3), whitened(rng, 150, 3)
    scale, shift = np.array([2.0, 3.0, 0.5]), np.array([1.0, -2.0, 0.0])
    expected = np.sum(shift**2) + np.sum((scale - 1) ** 2)
    assert frechet_distance(x, y * scale + shift) == pytest.approx(expected, abs=1e-9)


def test_frechet_with_covariances_that_do_not_commute():
    rng = np.random.default_rng(1)
    first, second = rng.standard_normal((2, 4, 4))
    x, y = whitened(rng, 99, 4) @ first, whitened(rng, 99, 4) @ second
    eigenvalues = np.linalg.eigvals(first.T @ first @ second.T @ second)
    expected = np.sum(first**2) + np.sum(second**2) - 2 * np.sqrt(eigenvalues.real).sum()
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)


def test_frechet_of_identical_sets_is_zero_even_with_fewer_points_than_dimensions():
    points = np.random.default_rng(2).standard_normal((10, 40))
    assert frechet_distance(points, points) == pytest.approx(0, abs=1e-6)


def test_frechet_is_biased_upwards_and_less_so_with_more_points():
    rng = np.random.default_rng(3)
    few, many = (frechet_distance(*rng.standard_normal((2, n, 20))) for n in (60, 2000))
    assert few > 5 * many > 0


def test_kernel_distance_by_hand():
    x, y = np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])
    within_x, within_y = 1.0, 27.0  # (0·1 + 1)³, (1·2 + 1)³
    across = (1 + 1 + 8 + 27) / 4
    assert kernel_distance(x, y) == pytest.approx(within_x + within_y - 2 * across)


def test_kernel_distance_is_unbiased():
    rng = np.random.default_rng(4)
    values = [kernel_distance(*rng.standard_normal((2, 12, 3))) for _ in range(400)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))  # false alarms: 6 in 100,000
    assert min(values) < 0


def test_kernel_distance_sees_a_shift():
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((2, 200, 8))
    assert kernel_distance(x, y + 1) > 20 * abs(kernel_distance(x, y))


def test_manifold_scores_of_one_distribution_match_their_expectation():
    rng = np.random.default_rng(6)
    scores = manifold_scores(*rng.standard_normal((2, 1500, 6)), neighbours=5)
    assert scores.density == pytest.approx(1, abs=0.05)
    assert scores.coverage == pytest.approx(1 - 0.5**5, abs=0.02)
    assert scores.precision == pytest.approx(scores.recall, abs=0.05)


def test_collapse_costs_diversity_and_not_fidelity():
    rng = np.random.default_rng(7)
    real = rng.standard_normal((500, 4))
    collapsed = real[0] + 0.01 * rng.standard_normal((500, 4))
    scores = manifold_scores(real, collapsed)
    assert scores.precision > 0.95
    assert scores.recall < 0.05
    assert scores.coverage < 0.1


def test_spread_costs_fidelity_and_not_recall():
    rng = np.random.default_rng(8)
    scores = manifold_scores(rng.standard_normal((500, 4)), 6 * rng.standard_normal((500, 4)))
    assert scores.precision < 0.3
    assert scores.recall > 0.8


def test_disjoint_sets_score_nothing():
    points = np.random.default_rng(9).standard_normal((50, 3))
    scores = manifold_scores(points, points + 1000)
    assert (scores.precision, scores.recall, scores.density, scores.coverage) == (0, 0, 0, 0)


@settings(max_examples=40, deadline=None)
@given(st.integers(7, 40), st.integers(7, 40), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_scores_stay_in_their_ranges(n, m, d, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, d)), rng.standard_normal((m, d))
    scores = manifold_scores(x, y)
    assert all(0 <= value <= 1 for value in (scores.precision, scores.recall, scores.coverage))
    assert scores.density >= 0
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), abs=1e-6)
    assert kernel_distance(x, y) == pytest.approx(kernel_distance(y, x), abs=1e-9)


@pytest.mark.parametrize("measure", [frechet_distance, kernel_distance, manifold_scores])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (np.zeros((1, 3)), np.zeros((1, 3))),
        (np.zeros((9, 3)), np.zeros((9, 4))),
        (np.zeros(9), np.zeros(9)),
        (np.full((9, 3), np.nan), np.zeros((9, 3))),
        (np.zeros((9, 3)), np.full((9, 3), np.inf)),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(measure, first, second):
    with pytest.raises(BadData):
        measure(first, second)
