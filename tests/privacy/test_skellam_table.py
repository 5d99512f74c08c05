"""Skellam numbers from words: thresholds by a power series, draws by their distribution, ties by exact integers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from manikin.common.errors import Misconfigured
from manikin.privacy.randomness import Stream
from manikin.privacy.skellam_table import draw, largest, thresholds

SECRET, REQUEST = bytes(range(32)), bytes(reversed(range(32)))
FALSE_ALARM = 1e-6  # of each statistical test, had its seed been drawn by chance
PINNED = [-83, -201, 199, 128, 0, 206]
BITS = 400  # of the fixed-point numbers that the thresholds are held against


def make_stream(purpose: str) -> Stream:
    return Stream(SECRET, request=REQUEST, purpose=purpose)


class Scripted(Stream):
    """A stream whose words were written down."""

    script: list[int]

    def words(self, n: int) -> np.ndarray:
        taken, self.script = self.script[:n], self.script[n:]
        return np.array(taken, np.uint64)


def scripted(*words: int) -> Scripted:
    stream = Scripted(SECRET, request=REQUEST, purpose="scripted")
    stream.script = list(words)
    return stream


def bessel(k: int, variance: int) -> int:
    """I_k(variance) times 2**BITS, from its power series."""
    term = (variance**k << BITS) // (2**k * math.factorial(k))
    total, m = 0, 0
    while term:
        total += term
        m += 1
        term = term * variance**2 // (4 * m * (m + k))
    return total


def exponential(x: int) -> int:
    """e**x times 2**BITS."""
    term, total, m = 1 << BITS, 0, 0
    while term:
        total += term
        m += 1
        term = term * x // m
    return total


def exact_thresholds(variance: int) -> list[int]:
    upper, lower = thresholds(variance)
    return [(int(a) << 64) + int(b) for a, b in zip(upper, lower, strict=True)]


@pytest.mark.parametrize("variance", [1, 2, 50])
def test_thresholds_are_exact_to_the_last_two_bits(variance):
    found = exact_thresholds(variance)[::-1]
    weights = [bessel(k, variance) for k in range(len(found) + 60)]
    for j, threshold in enumerate(found):
        expected = (2 * sum(weights[j + 1 :]) << 127) // exponential(variance)
        assert abs(threshold - expected) <= 2


@pytest.mark.parametrize("variance", [900, 4096**2])
def test_thresholds_of_wide_noise_agree_with_scaled_bessel_functions(variance):
    found = np.array([float(t) for t in exact_thresholds(variance)[::-1]]) * 2.0**-127
    mass = -np.diff(found) / 2  # P(X = j) for j = 1, 2, …
    k = np.arange(1, 5 * math.isqrt(variance))
    assert np.allclose(mass[: len(k)], special.ive(k, float(variance)), rtol=1e-7)


@pytest.mark.parametrize("variance", [1, 2, 50, 10_000])
def test_what_lies_beyond_the_table_is_less_than_one_part_in_2_to_the_127(variance):
    found = exact_thresholds(variance)
    assert 1 <= found[0] < 2**40  # rare, but there
    assert found == sorted(found)
    assert len(found) <= largest(variance) < 16 * math.sqrt(variance) + 64


@given(
    variance=st.sampled_from([1, 50, 10_000]), where=st.floats(0, 1), offset=st.integers(-2, 2), sign=st.integers(0, 1)
)
def test_a_word_that_meets_a_threshold_is_settled_by_the_next_one(variance, where, offset, sign):
    found = exact_thresholds(variance)
    number = min(max(found[round(where * (len(found) - 1))] + offset, 0), 2**127 - 1)
    word = (number >> 64 << 1) | sign
    magnitude = sum(number < threshold for threshold in found)
    drawn = draw(1, variance=variance, stream=scripted(word, number & (2**64 - 1)))
    assert drawn.tolist() == [-magnitude if sign else magnitude]


def test_the_smallest_word_of_all_gives_the_largest_number():
    assert draw(1, variance=50, stream=scripted(0, 0)).tolist() == [len(thresholds(50)[0])]
    assert draw(1, variance=50, stream=scripted(2**64 - 2)).tolist() == [0]


def test_the_last_bit_is_the_sign():
    words = make_stream("words").words(1000).tolist()
    there, back = (draw(1000, variance=900, stream=scripted(*(w ^ flip for w in words))) for flip in (0, 1))
    assert np.array_equal(there, -back)


@pytest.mark.parametrize("variance", [1, 8, 300])
def test_draws_follow_the_distribution(variance):
    sample = draw(400_000, variance=variance, stream=make_stream(f"chi-square {variance}"))
    k = np.arange(-int(4 * math.sqrt(variance)), int(4 * math.sqrt(variance)) + 1)
    mass = special.ive(np.abs(k), float(variance))
    seen = np.array([np.count_nonzero(sample == j) for j in k])
    rest = len(sample) - seen.sum()
    observed, expected = np.append(seen, rest), np.append(mass, 1 - mass.sum()) * len(sample)
    assert stats.chisquare(observed, expected).pvalue > FALSE_ALARM


def test_wide_noise_has_the_moments_of_a_skellam_number():
    variance, n = 5000**2, 1_000_000
    sample = draw(n, variance=variance, stream=make_stream("moments")) / 5000.0
    bound = stats.norm.isf(FALSE_ALARM / 2)
    assert abs(sample.mean()) < bound / math.sqrt(n)
    assert abs(np.square(sample).mean() - 1) < bound * math.sqrt(2 / n)
    assert abs((sample**4).mean() - 3) < bound * math.sqrt(96 / n)
    assert stats.kstest(sample[:200_000], "norm").pvalue > FALSE_ALARM
    assert abs(np.dot(sample[1:], sample[:-1])) / math.sqrt(n - 1) < bound


@pytest.mark.parametrize(("parts", "each"), [(2, 4), (5, 3)])
def test_a_sum_of_shares_is_a_skellam_number_of_the_summed_variance(parts, each):
    shares = [draw(300_000, variance=each, stream=make_stream(f"{parts} {i}")) for i in range(parts)]
    sample, variance = np.sum(shares, axis=0), parts * each
    k = np.arange(-12, 13)
    mass = special.ive(np.abs(k), float(variance))
    seen = np.array([np.count_nonzero(sample == j) for j in k])
    observed = np.append(seen, len(sample) - seen.sum())
    expected = np.append(mass, 1 - mass.sum()) * len(sample)
    assert stats.chisquare(observed, expected).pvalue > FALSE_ALARM


def test_equal_words_give_equal_noise_for_ever():
    drawn = draw(6, variance=10_000, stream=make_stream("pinned"))
    assert drawn.dtype == np.int64
    assert drawn.tolist() == PINNED
    assert np.array_equal(drawn, draw(6, variance=10_000, stream=make_stream("pinned")))
    assert not np.array_equal(drawn, draw(6, variance=10_000, stream=make_stream("other")))


@pytest.mark.parametrize("variance", [0, -1, 2**40 + 1])
def test_a_variance_out_of_range_is_refused(variance):
    with pytest.raises(Misconfigured, match="variance"):
        draw(1, variance=variance, stream=make_stream("refused"))
