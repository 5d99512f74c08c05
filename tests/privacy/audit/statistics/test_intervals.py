"""Known answers, and coverage summed exactly over everything that can be observed."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from manikin.common.errors import Misconfigured
from manikin.privacy.audit.statistics.intervals import (
    clopper_pearson,
    noised_count_interval,
    noised_rate_interval,
    noised_share_interval,
    trials_needed,
)
from manikin.privacy.audit.statistics.noise import Noise, geometric_noise, skellam_noise

SILENCE = Noise(np.ones(1), 0.0)
GEOMETRIC, SKELLAM = geometric_noise(epsilon=0.5, sensitivity=1), skellam_noise(variance=6.0)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (0, 100, 0.0, 0.036217),
        (1, 1000, 0.000025, 0.005559),
        (2, 2000, 0.000121, 0.003608),
        (5, 1000, 0.001625, 0.011629),
        (20, 2000, 0.006119, 0.015402),
    ],
)
def test_clopper_pearson_two_sided(hits, n, low, high):
    assert clopper_pearson(hits, n, alpha=0.05) == pytest.approx((low, high), abs=1e-6)


@pytest.mark.parametrize(("n", "high"), [(100, 0.029513), (299, 0.009969), (2995, 0.001000)])
def test_clopper_pearson_upper_end_at_one_sided_level(n, high):
    assert clopper_pearson(0, n, alpha=0.1)[1] == pytest.approx(high, abs=1e-6)


@pytest.mark.parametrize("rate", [0.003, 0.01, 0.2, 0.5])
def test_clopper_pearson_covers_by_exact_computation(rate):
    intervals = [clopper_pearson(hits, 150, alpha=0.05) for hits in range(151)]
    covering = [low <= rate <= high for low, high in intervals]
    assert sum(binom.pmf(hits, 150, rate) for hits in range(151) if covering[hits]) >= 0.95


def test_clopper_pearson_knows_nothing_without_trials_and_refuses_nonsense():
    assert clopper_pearson(0, 0, alpha=0.05) == (0.0, 1.0)
    with pytest.raises(ValueError, match="3 successes in 2 trials"):
        clopper_pearson(3, 2, alpha=0.05)


def test_clopper_pearson_in_the_shared_vectors(vectors):
    for name, (low, high) in vectors["clopper_pearson"]["two_sided_95"].items():
        hits, n = map(int, name.split("/"))
        assert clopper_pearson(hits, n, alpha=0.05) == pytest.approx((low, high), abs=1e-6)
    for name, high in vectors["clopper_pearson"]["one_sided_95_upper"].items():
        hits, n = map(int, name.split("/"))
        assert clopper_pearson(hits, n, alpha=0.1)[1] == pytest.approx(high, abs=1e-6)


@pytest.mark.parametrize(
    ("rate", "hits", "trials"),
    [
        *[(0.01, hits, trials) for hits, trials in ((0, 299), (1, 473), (3, 773), (5, 1049))],
        *[(0.001, hits, trials) for hits, trials in ((0, 2995), (1, 4742), (3, 7752), (5, 10511))],
    ],
)
def test_trials_that_show_a_rate(rate, hits, trials):
    assert trials_needed(rate, hits=hits, alpha=0.05) == trials
    assert clopper_pearson(hits, trials, alpha=0.1)[1] <= rate < clopper_pearson(hits, trials - 1, alpha=0.1)[1]


@given(st.integers(0, 60), st.integers(1, 60), st.sampled_from([0.01, 0.05, 0.2]))
@settings(deadline=None)
def test_without_noise_the_interval_is_that_of_clopper_and_pearson(hits, more, alpha):
    n = hits + more
    found = noised_rate_interval(hits, n, SILENCE, alpha=alpha)
    assert found == pytest.approx(clopper_pearson(hits, n, alpha=alpha), abs=1e-8)


@pytest.mark.parametrize("noise", [GEOMETRIC, SKELLAM, GEOMETRIC.summed(3)], ids=["geometric", "skellam", "summed"])
@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.4, 1.0])
def test_intervals_of_noised_counts_cover_by_exact_computation(noise, rate):
    n, alpha = 120, 0.05
    counts = np.arange(-noise.reach, n + noise.reach + 1)
    chances = np.convolve(binom.pmf(np.arange(n + 1), n, rate), noise.probabilities)
    likely = chances > 1e-7
    covered = 0.0
    for count, chance in zip(counts[likely], chances[likely], strict=True):
        low, high = noised_rate_interval(int(count), n, noise, alpha=alpha)
        covered += chance * (low <= rate <= high)
    assert 1 - alpha <= covered + chances[~likely].sum() <= 1
    plain = sum(
        chance
        for count, chance in zip(counts, chances, strict=True)
        if (ends := clopper_pearson(min(max(int(count), 0), n), n, alpha=alpha))[0] <= rate <= ends[1]
    )
    assert rate not in (0.01, 0.05) or plain < 1 - alpha  # ignoring the noise misses too often


def test_a_count_that_only_noise_explains_gives_an_end_of_the_range():
    assert noised_rate_interval(-40, 50, GEOMETRIC, alpha=0.05) == (0.0, pytest.approx(0.0, abs=1e-9))
    low, high = noised_rate_interval(90, 50, GEOMETRIC, alpha=0.05)
    assert (low, high) == (pytest.approx(1.0, abs=1e-9), 1.0)
    assert noised_rate_interval(3, 0, GEOMETRIC, alpha=0.05) == (0.0, 1.0)


def test_it_is_no_longer_than_the_usual_widening_by_the_half_width():
    width = GEOMETRIC.half_width(alpha=0.05)
    low, high = noised_rate_interval(20, 1000, GEOMETRIC, alpha=0.05)
    wide = clopper_pearson(20 - width, 1000, alpha=0.05)[0], clopper_pearson(20 + width, 1000, alpha=0.05)[1]
    plain = clopper_pearson(20, 1000, alpha=0.05)
    assert wide[0] < low < plain[0] < plain[1] < high < wide[1]


def test_both_counts_noised_cover_the_share():
    rng, repetitions, n, rate, missed = np.random.default_rng(0), 200, 150, 0.1, 0
    noise = GEOMETRIC.summed(2)
    z, p = np.arange(-noise.reach, noise.reach + 1), noise.probabilities / noise.probabilities.sum()
    for _ in range(repetitions):
        first, second = (int(draw) for draw in rng.choice(z, size=2, p=p))
        hits, trials = int(rng.binomial(n, rate)) + first, n + second
        low, high = noised_share_interval(hits, trials, noise, noise, alpha=0.05)
        missed += not low <= rate <= high
    assert missed <= binom.isf(1e-4, repetitions, 0.05)


def test_each_end_of_a_share_is_for_the_number_of_trials_that_puts_it_farthest():
    fewest, most = noised_count_interval(60, SKELLAM, alpha=0.025)
    low = noised_rate_interval(20, most, GEOMETRIC, alpha=0.025)[0]
    high = noised_rate_interval(20, fewest, GEOMETRIC, alpha=0.025)[1]
    assert fewest < 60 < most
    assert noised_share_interval(20, 60, GEOMETRIC, SKELLAM, alpha=0.05) == (low, high)


@given(st.integers(0, 100), st.sampled_from([0.01, 0.05, 0.3]))
@settings(deadline=None)
def test_the_interval_of_a_fixed_count_covers_by_exact_computation(count, alpha):
    covered = 0.0
    for z, chance in enumerate(GEOMETRIC.probabilities, start=-GEOMETRIC.reach):
        low, high = noised_count_interval(count + z, GEOMETRIC, alpha=alpha)
        covered += chance * (low <= count <= high)
    assert covered >= 1 - alpha


@pytest.mark.parametrize("alpha", [0.0, 1.0, math.nan])
def test_levels_that_are_none_are_refused(alpha):
    with pytest.raises(Misconfigured, match="must lie between 0 and 1"):
        noised_rate_interval(1, 10, GEOMETRIC, alpha=alpha)
    with pytest.raises(Misconfigured, match="cannot be -1"):
        noised_rate_interval(1, -1, GEOMETRIC, alpha=0.05)
