"""Streams: right bytes by an independent implementation, right distributions, bound to the request and nothing else."""

from __future__ import annotations

import hmac
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from manikin.common.errors import Misconfigured
from manikin.privacy.randomness import Stream, keystream

SECRET = bytes(range(32))
REQUEST = bytes(reversed(range(32)))
FALSE_ALARM = 1e-6  # of each statistical test, had its seed been drawn by chance


def make_stream(purpose: str = "test", *, secret: bytes = SECRET, request: bytes = REQUEST) -> Stream:
    return Stream(secret, request=request, purpose=purpose)


def chacha20_block(key: bytes, counter: int, nonce: bytes) -> bytes:
    """RFC 8439, section 2.3, written from its text."""
    start = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *struct.unpack("<8L", key), counter]
    start += struct.unpack("<3L", nonce)
    x = list(start)

    def turn(a: int, b: int, c: int, d: int) -> None:
        for p, q, r, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            x[p] = (x[p] + x[q]) & 0xFFFFFFFF
            word = x[r] ^ x[p]
            x[r] = (word << bits | word >> (32 - bits)) & 0xFFFFFFFF

    for _ in range(10):
        for column in range(4):
            turn(column, column + 4, column + 8, column + 12)
        for column in range(4):
            turn(column, 4 + (column + 1) % 4, 8 + (column + 2) % 4, 12 + (column + 3) % 4)
    return struct.pack("<16L", *((a + b) & 0xFFFFFFFF for a, b in zip(x, start, strict=True)))


def hkdf(secret: bytes, info: bytes) -> bytes:
    """RFC 5869 with SHA-256, no salt, one block."""
    return hmac.digest(hmac.digest(bytes(32), secret, "sha256"), info + b"\x01", "sha256")


def test_the_test_s_own_chacha20_meets_the_vector_of_the_rfc():
    block = chacha20_block(bytes(range(32)), 1, bytes.fromhex("000000090000004a00000000"))
    assert block[:16].hex() == "10f1e7e4d13b5915500fdd1fa32071c4"  # RFC 8439, 2.3.2


def test_keystream_meets_the_zero_vector_of_the_rfc():
    first = keystream(bytes(32)).update(bytes(64)).hex()
    assert first[:64] == "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"  # RFC 8439, A.1 no. 1


def test_words_are_chacha20_under_the_derived_key():
    purpose = "noise/ä"
    name = purpose.encode()
    key = hkdf(SECRET, b"manikin stream v1" + len(name).to_bytes(4, "big") + name + REQUEST)
    expected = b"".join(chacha20_block(key, counter, bytes(12)) for counter in range(3))
    assert make_stream(purpose).words(24).astype("<u8").tobytes() == expected


@given(parts=st.lists(st.integers(0, 40), max_size=6))
def test_draws_continue_where_the_last_ended(parts):
    stream = make_stream()
    drawn = np.concatenate([stream.words(n) for n in parts]) if parts else np.array([], np.uint64)
    assert np.array_equal(drawn, make_stream().words(sum(parts)))


class Extreme(Stream):
    """A stream whose words are all the same."""

    word = 0

    def words(self, n: int) -> np.ndarray:
        return np.full(n, self.word, np.uint64)


@pytest.mark.parametrize("word", [0, 1, 2**64 - 1, 2**64 - 2, 2**63])
def test_extreme_words_stay_inside_the_open_interval_and_give_finite_normals(word):
    stream = Extreme(SECRET, request=REQUEST, purpose="extreme")
    stream.word = word
    assert 0.0 < stream.uniform(1)[0] < 1.0
    assert abs(stream.normal(1)[0]) < 9.2
    assert stream.bernoulli(1, 1.0)[0]
    assert not stream.bernoulli(1, 0.0)[0]


def test_uniforms_are_uniform():
    sample = make_stream("uniform").uniform(200_000)
    assert stats.kstest(sample, "uniform").pvalue > FALSE_ALARM
    assert np.all(np.mod(sample * 2.0**53, 2) == 1)


def test_normals_are_normal_and_independent():
    sample = make_stream("normal").normal((500, 400)).ravel()
    assert stats.kstest(sample, "norm").pvalue > FALSE_ALARM
    low, high = stats.chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], sample.size)
    assert low < np.square(sample).sum() < high
    bound = stats.norm.isf(FALSE_ALARM / 2)
    for lag in (1, 2, 400):
        assert abs(np.dot(sample[lag:], sample[:-lag])) / np.sqrt(sample.size - lag) < bound
    tail = int((np.abs(sample) > 4).sum())
    assert stats.binomtest(tail, sample.size, 2 * stats.norm.sf(4)).pvalue > FALSE_ALARM


@pytest.mark.parametrize("p", [0.001, 0.15, 0.5, 0.97])
def test_bernoulli_has_the_rate_asked_for(p):
    taken = int(make_stream(f"bernoulli {p}").bernoulli(100_000, p).sum())
    assert stats.binomtest(taken, 100_000, p).pvalue > FALSE_ALARM


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_an_impossible_probability_is_refused(p):
    with pytest.raises(Misconfigured):
        make_stream().bernoulli(1, p)


def test_any_other_secret_request_or_purpose_gives_unrelated_bytes():
    others = [
        make_stream("test "),
        make_stream(""),
        make_stream(secret=bytes(32)),
        make_stream(secret=SECRET + b"\0"),
        make_stream(request=bytes(32)),
        make_stream().fork("test"),
    ]
    words = [tuple(stream.words(4)) for stream in [make_stream(), *others]]
    assert len(set(words)) == len(words)


def test_a_fork_does_not_depend_on_what_was_drawn_and_is_given_once():
    first, second = make_stream(), make_stream()
    second.words(1000)
    assert np.array_equal(first.fork("a").words(8), second.fork("a").words(8))
    assert not np.array_equal(first.fork("b").words(8), second.fork("c").words(8))
    with pytest.raises(ValueError, match="repeat"):
        first.fork("a")


@pytest.mark.parametrize(("secret", "request_bytes"), [(bytes(31), REQUEST), (SECRET, bytes(31)), (b"", b"")])
def test_short_secrets_and_digests_are_refused(secret, request_bytes):
    with pytest.raises(Misconfigured):
        Stream(secret, request=request_bytes, purpose="test")


def test_torch_generators_repeat_and_leave_the_global_one_alone():
    before = torch.random.get_rng_state()
    first, second = (torch.randn(5, generator=make_stream().torch_generator()) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.random.get_rng_state())
