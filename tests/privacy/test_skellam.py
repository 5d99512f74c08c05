"""Integers for a secure sum: never longer than the bound, right on average, with the noise that was planned."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from manikin.common.errors import Misconfigured, ProtocolViolation
from manikin.privacy.randomness import Stream
from manikin.privacy.skellam import Scale, Shares, largest_sum, noise, release_integers, to_integers, to_real
from manikin.privacy.skellam_table import largest

SECRET, REQUEST = bytes(range(32)), bytes(reversed(range(32)))
FALSE_ALARM = 1e-6  # of each statistical test, had its seed been drawn by chance
SHARES = Shares(hospitals=3, colluding=1)


def make_stream(purpose: str = "test") -> Stream:
    return Stream(SECRET, request=REQUEST, purpose=purpose)


class Constant(Stream):
    """A stream whose words are all the same."""

    word = 2**64 - 1

    def words(self, n: int) -> np.ndarray:
        return np.full(n, self.word, np.uint64)


def make_constant(word: int) -> Constant:
    stream = Constant(SECRET, request=REQUEST, purpose="constant")
    stream.word = word
    return stream


def make_scale(size: int, *, sensitivity: float = 1.0, noise_multiplier: float = 2.3) -> Scale:
    return Scale(sensitivity=sensitivity, noise_multiplier=noise_multiplier, size=size)


def norm(integers: np.ndarray) -> float:
    return math.sqrt(sum(int(i) ** 2 for i in integers))


@pytest.mark.parametrize("size", [1, 10, 1000, 10**5, 10**6])
@pytest.mark.parametrize("multiplier", [0.5, 1.0, 5.0, 15.0])
def test_room_for_rounding_costs_less_than_a_third_of_a_hundredth_of_noise(size, multiplier):
    scale = make_scale(size, sensitivity=0.7, noise_multiplier=multiplier)
    assert multiplier * 0.7 <= scale.noise_std <= 1.0033 * multiplier * 0.7
    assert scale.grid * scale.units == pytest.approx(0.7)
    assert scale.variance >= (multiplier * scale.l2) ** 2
    assert scale.l1 <= min(math.sqrt(size) * scale.l2, scale.l2**2)
    assert scale.l1 + 1 > min(math.sqrt(size) * scale.l2, scale.l2**2)
    assert math.isqrt(scale.variance) >= 4096  # so that rounding is little beside it


def test_units_do_not_depend_on_the_sensitivity():
    one, other = make_scale(500), make_scale(500, sensitivity=1e-6)
    assert (one.units, one.l2, one.l1, one.variance) == (other.units, other.l2, other.l1, other.variance)
    assert other.grid == pytest.approx(1e-6 * one.grid)


def test_very_wide_noise_gets_coarser_units_rather_than_a_table_without_end():
    wide = make_scale(10_000, noise_multiplier=1000.0)
    assert wide.units < make_scale(10_000).units
    assert math.isqrt(wide.variance) < 1 << 20
    assert wide.l2 > wide.units + 1


anything = st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.floats(-1, 1), st.sampled_from([0.0, 1e308]))


@given(
    vector=hnp.arrays(np.float64, st.integers(1, 40), elements=anything),
    sensitivity=st.sampled_from([1e-30, 1e-6, 1.0, 1e29]),
    multiplier=st.sampled_from([0.1, 1.0, 1000.0]),
    word=st.sampled_from([0, 2**64 - 1, 2**32 - 1, None]),
)
def test_no_vector_and_no_rounding_passes_the_bound(vector, sensitivity, multiplier, word):
    scale = Scale(sensitivity=sensitivity, noise_multiplier=multiplier, size=len(vector))
    stream = make_stream() if word is None else make_constant(word)
    integers = to_integers(vector, scale=scale, stream=stream)
    assert integers.dtype == np.int64
    assert integers.shape == vector.shape
    assert norm(integers) <= scale.l2
    assert np.abs(integers).sum() <= scale.l1
    if not np.isfinite(vector).all():
        assert not integers.any()


@pytest.mark.parametrize("size", [10_000, 100_000])
def test_what_rounding_makes_too_long_is_rounded_to_zero_instead(size):
    scale = make_scale(size, noise_multiplier=50.0)
    vector = np.full(size, 1 / math.sqrt(size))
    for sign, word in ((1, 2**64 - 1), (-1, 0)):
        away = sign * np.ceil(vector / scale.grid)
        assert norm(away) > scale.l2 > scale.units  # had the norm not been looked at again
        integers = to_integers(sign * vector, scale=scale, stream=make_constant(word))
        assert np.array_equal(integers, sign * np.floor(vector / scale.grid))


@pytest.mark.parametrize("shape", ["dense", "sparse", "equal", "half units"])
def test_hardly_any_vector_is_too_long_after_rounding(shape):
    size, source = 3000, np.random.default_rng(3)
    scale, stream = make_scale(size), make_stream(shape)
    for _ in range(100):
        vector = {
            "dense": source.normal(size=size),
            "sparse": source.normal(size=size) * (source.random(size) < 0.01),
            "equal": np.ones(size),
            "half units": np.full(size, 0.5 * scale.grid),
        }[shape]
        vector = vector / max(np.linalg.norm(vector), 1)
        integers = to_integers(vector, scale=scale, stream=stream)
        exact = vector / scale.grid
        assert np.all(np.abs(integers - exact) < 1)
        assert not np.array_equal(integers, np.trunc(exact))


def test_rounding_is_right_on_average():
    scale = make_scale(9, noise_multiplier=1.0)
    exact = np.array([0.0, 0.1, 0.5, 0.9, -0.1, -0.5, -0.9, 7.25, -7.25])
    stream, n = make_stream("average"), 20_000
    total = np.sum([to_integers(exact * scale.grid, scale=scale, stream=stream) for _ in range(n)], axis=0)
    spread = np.sqrt(np.abs(exact) % 1 * (1 - np.abs(exact) % 1) / n)
    assert np.all(np.abs(total / n - exact) <= stats.norm.isf(FALSE_ALARM / 18) * spread + 1e-9)


def test_whole_numbers_of_units_stay_as_they_are():
    scale = make_scale(5)
    exact = np.array([0, 1, -1, 100, -2000])
    for word in (0, 2**64 - 1):
        rounded = to_integers(to_real(exact, scale=scale), scale=scale, stream=make_constant(word))
        assert np.array_equal(rounded, exact)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e300, math.nan])
def test_as_many_words_are_taken_whatever_the_vector_holds(value):
    stream = make_stream()
    to_integers(np.full(7, value), scale=make_scale(7), stream=stream)
    other = make_stream()
    other.words(4)
    assert np.array_equal(stream.words(3), other.words(3))


@pytest.mark.parametrize(("hospitals", "colluding"), [(2, 1), (3, 1), (3, 2), (10, 1), (10, 4), (50, 1)])
def test_shares_of_all_but_the_colluding_are_at_least_the_noise_of_the_plan(hospitals, colluding):
    shares = Shares(hospitals=hospitals, colluding=colluding)
    for size in (1, 10**6):
        scale = make_scale(size)
        together = (hospitals - colluding) * shares.variance(scale)
        assert scale.variance <= together < scale.variance + hospitals


@pytest.mark.parametrize(("hospitals", "colluding"), [(1, 1), (3, 0), (3, 3), (3, 4), (3, -1), (0, 0)])
def test_somebody_may_collude_and_somebody_must_be_left(hospitals, colluding):
    with pytest.raises(Misconfigured, match="collude"):
        Shares(hospitals=hospitals, colluding=colluding)


@pytest.mark.parametrize(("hospitals", "colluding"), [(2, 1), (4, 1), (4, 3)])
def test_a_sum_over_hospitals_is_exact_up_to_noise_of_the_planned_variance(hospitals, colluding):
    size, patients = 60_000, 3
    scale, shares = make_scale(size, sensitivity=2.0), Shares(hospitals=hospitals, colluding=colluding)
    source = np.random.default_rng(1)
    cohorts = [[source.normal(size=size) / math.sqrt(size) for _ in range(patients)] for _ in range(hospitals)]
    parts = [
        release_integers(cohort, scale=scale, shares=shares, stream=make_stream(f"hospital {i}"))
        for i, cohort in enumerate(cohorts)
    ]
    error = to_real(np.sum(parts, axis=0), scale=scale) - np.sum(cohorts, axis=(0, 1))
    planned = scale.noise_std * math.sqrt(hospitals / (hospitals - colluding))
    standard, bound = error / planned, stats.norm.isf(FALSE_ALARM / 2)
    assert abs(standard.mean()) < bound / math.sqrt(size)
    assert abs(np.square(standard).mean() - 1) < bound * math.sqrt(2 / size)
    assert abs((standard**4).mean() - 3) < bound * math.sqrt(96 / size)
    assert stats.kstest(standard, "norm").pvalue > FALSE_ALARM


def test_one_hospital_adds_its_share_and_no_more():
    size = 100_000
    scale = make_scale(size)
    part = release_integers([], scale=scale, shares=SHARES, stream=make_stream())
    low, high = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], size)
    assert low < np.square(part.astype(float)).sum() / SHARES.variance(scale) < high
    assert np.array_equal(part, noise(scale, shares=SHARES, stream=make_stream().fork("noise")))


def test_a_patient_moves_a_part_by_their_own_integers_alone():
    scale = make_scale(50)
    vectors = list(np.random.default_rng(2).normal(size=(3, 50)))
    with_all, without = (
        release_integers(cohort, scale=scale, shares=SHARES, stream=make_stream()) for cohort in (vectors, vectors[:2])
    )
    assert 0 < norm(with_all - without) <= scale.l2


def test_the_same_stream_gives_the_same_integers_and_any_other_gives_others():
    vectors, scale = [np.full(20, 0.1)] * 4, make_scale(20)
    first, again, other = (
        release_integers(vectors, scale=scale, shares=SHARES, stream=make_stream(name)) for name in ("a", "a", "b")
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("vector", [np.zeros(3), np.zeros((2, 1)), np.zeros(2, np.float32), np.zeros(2, np.int64)])
def test_a_contribution_of_another_shape_or_type_is_refused(vector):
    with pytest.raises(ProtocolViolation):
        release_integers([np.zeros(2), vector], scale=make_scale(2), shares=SHARES, stream=make_stream())


def test_the_largest_sum_is_stated_and_far_from_overflow():
    scale, shares = make_scale(2), Shares(hospitals=50, colluding=1)
    bound = largest_sum(scale, shares=shares, patients=7)
    assert bound == 7 * scale.l2 + 50 * largest(shares.variance(scale))
    part = release_integers([np.array([1.0, 0.0])] * 7, scale=scale, shares=shares, stream=make_stream())
    assert np.abs(part).max() <= bound
    biggest = make_scale(10**6, noise_multiplier=15.0)
    assert largest_sum(biggest, shares=shares, patients=10**9) < 2**63


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, 1e-31, 1e31])
def test_no_scale_without_noise_or_bound(bad):
    with pytest.raises(Misconfigured):
        make_scale(2, sensitivity=bad)
    with pytest.raises(Misconfigured):
        make_scale(2, noise_multiplier=bad)


@pytest.mark.parametrize(("size", "multiplier"), [(0, 1.0), (2**28 + 1, 1.0), (2**28, 1000.0)])
def test_a_vector_too_long_for_its_noise_is_refused(size, multiplier):
    with pytest.raises(Misconfigured):
        make_scale(size, noise_multiplier=multiplier)
