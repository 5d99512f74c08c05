"""Tables of noise: the true probabilities, tails never below the true ones, sums of draws."""

import math

import numpy as np
import pytest
from scipy.stats import skellam

from manikin.common.errors import Misconfigured
from manikin.privacy.audit.statistics.noise import Noise, geometric_noise, skellam_noise


@pytest.mark.parametrize(("epsilon", "sensitivity"), [(0.1, 1), (0.5, 1), (1.0, 3), (4.0, 1)])
def test_geometric_noise_is_private_and_sums_to_one(epsilon, sensitivity):
    noise = geometric_noise(epsilon=epsilon, sensitivity=sensitivity)
    p = noise.probabilities
    assert p.sum() + 2 * noise.beyond == pytest.approx(1, abs=1e-12)
    assert noise.beyond <= 1e-15
    ratio = math.exp(-epsilon / sensitivity)
    assert noise.beyond == pytest.approx(p[-1] * ratio / (1 - ratio), rel=1e-6, abs=0)  # a geometric series
    shifted = np.log(p[sensitivity:]) - np.log(p[:-sensitivity])
    assert np.abs(shifted).max() == pytest.approx(epsilon)


@pytest.mark.parametrize("variance", [0.3, 9.0, 400.0])
def test_skellam_noise_is_that_of_the_library(variance):
    noise = skellam_noise(variance=variance)
    z = np.arange(-noise.reach, noise.reach + 1)
    np.testing.assert_allclose(noise.probabilities, skellam.pmf(z, variance / 2, variance / 2), rtol=1e-6, atol=1e-18)
    assert float((noise.probabilities * z**2).sum()) == pytest.approx(variance)
    assert noise.beyond <= 1e-15


@pytest.mark.parametrize(
    "noise", [geometric_noise(epsilon=0.7, sensitivity=1), skellam_noise(variance=4)], ids=["g", "s"]
)
def test_tails_by_summing(noise):
    for value in (-noise.reach - 5, -3, 0, 2, noise.reach, noise.reach + 1):
        z = np.arange(-noise.reach, noise.reach + 1)
        truth = noise.probabilities[z >= value].sum()
        found = float(noise.at_least(np.array([value]))[0])
        assert truth - 1e-15 <= found <= truth + noise.beyond + 1e-15
        assert float(noise.at_most(np.array([-value]))[0]) == pytest.approx(found)


def test_a_sum_of_draws_adds_variances_and_none_is_silence():
    noise = geometric_noise(epsilon=0.5, sensitivity=1)

    def variance(table: Noise) -> float:
        return float((table.probabilities * np.arange(-table.reach, table.reach + 1) ** 2).sum())

    assert variance(noise.summed(4)) == pytest.approx(4 * variance(noise))
    assert noise.summed(4).beyond == 4 * noise.beyond
    assert noise.summed(0).at_least(np.array([0, 1])).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(("epsilon", "one", "five"), [(0.1, 30, 63), (0.25, 12, 25), (0.5, 6, 13), (1.0, 3, 6)])
def test_half_widths(epsilon, one, five):
    """Of five hospitals: as simulated elsewhere. Of one: 2·a^(w+1)/(1+a) ≤ 0.05, by hand."""
    noise, a = geometric_noise(epsilon=epsilon, sensitivity=1), math.exp(-epsilon)
    by_hand = next(w for w in range(100) if 2 * a ** (w + 1) / (1 + a) <= 0.05)
    assert noise.half_width(alpha=0.05) == by_hand == one
    assert noise.summed(5).half_width(alpha=0.05) == five


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan, math.inf, 1e-9])
def test_noise_that_cannot_be_is_refused(epsilon):
    with pytest.raises(Misconfigured):
        geometric_noise(epsilon=epsilon, sensitivity=1)
    with pytest.raises(Misconfigured):
        skellam_noise(variance=1e12 if epsilon == 1e-9 else epsilon)
