"""The sum is exact, nothing less than the whole roster shows anything, and nothing but one request adds up."""

from __future__ import annotations

import hmac
import itertools
import struct

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from manikin.common.errors import Misconfigured, ProtocolViolation
from manikin.common.keys import SigningKey
from manikin.privacy.roster import Roster, sign_offer
from manikin.privacy.secure_sum import (
    CHUNK_BYTES,
    LONG,
    SHORT,
    Summation,
    largest_bound,
    mask,
    unmask,
    word_type,
)

PLAN, STEP, REQUEST = "ab" * 32, 7, bytes(range(32))
BOUND, SHORT_BOUND = 1 << 40, 1 << 20
BOUNDS = pytest.mark.parametrize("bound", [BOUND, SHORT_BOUND], ids=["64 bits", "32 bits"])
FALSE_ALARM = 1e-6  # of each statistical test, had its keys been drawn by chance
IDENTITY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))  # signatures are tested in test_roster


def private_of(name: str) -> bytes:
    return hmac.digest(b"tests of the secure sum", name.encode(), "sha256")


def make_roster(names, *, plan=PLAN, step=STEP) -> Roster:
    offers = (sign_offer(IDENTITY, private_of(n), hospital=n, plan=plan, step=step) for n in names)
    return Roster(plan, step, tuple(offers))


def answer(vector, *, own, roster, request=REQUEST, bound=BOUND):
    return mask(vector, private=private_of(own), own=own, roster=roster, request=request, bound=bound)


def shares(count, size, *, seed=0, bound=BOUND):
    return np.random.default_rng(seed).integers(-bound, bound, (count, size), endpoint=True)


def names_of(count):
    return [f"hospital {i}" for i in range(count)]


def total_of(parts):
    """The sum of words, modulo 2 to their width."""
    return np.sum(parts, axis=0, dtype=parts[0].dtype)


def looks_uniform(words) -> bool:
    """Each bit is set half the time, and each byte takes its 256 values equally often."""
    size = words.itemsize
    raw = words.astype(words.dtype.newbyteorder("<")).view(np.uint8).reshape(-1, size)
    ones = np.unpackbits(raw, axis=1).sum(axis=0)
    bits = stats.binom.cdf(np.minimum(ones, len(words) - ones), len(words), 0.5).min() * 2 * 8 * size
    counts = [np.bincount(raw[:, byte], minlength=256) for byte in range(size)]
    values = min(stats.chisquare(count).pvalue for count in counts) * size
    return min(bits, values) > FALSE_ALARM


def test_the_test_of_uniformity_sees_what_is_not_uniform():
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**64, 4096, dtype=np.uint64)
    assert looks_uniform(words)
    assert not looks_uniform(words >> np.uint64(1))
    assert not looks_uniform(words & ~np.uint64(255))
    assert not looks_uniform(shares(1, 4096)[0].view(np.uint64))
    assert not looks_uniform(np.where(rng.random(4096) < 0.1, np.uint64(0), words))


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(2, 12), st.integers(1, 40))
def test_the_sum_is_exact_for_every_roster_and_order(data, count, size):
    names = data.draw(st.lists(st.text("abcäß中 -_0", min_size=1), min_size=count, max_size=count, unique=True))
    bound = data.draw(st.one_of(st.integers(1, largest_bound(count, word)) for word in (SHORT, LONG)))
    entries = st.lists(st.integers(-bound, bound), min_size=size, max_size=size)
    vectors = {name: np.array(data.draw(entries), dtype=np.int64) for name in names}
    roster = make_roster(data.draw(st.permutations(names)))
    parts = {name: answer(vectors[name], own=name, roster=roster, bound=bound) for name in names}
    came = {name: parts[name] for name in data.draw(st.permutations(names))}
    expected = [sum(int(vectors[name][i]) for name in names) for i in range(size)]  # in Python's integers
    assert unmask(came, roster=roster, bound=bound).tolist() == expected


CHUNK = CHUNK_BYTES // 8  # words of 64 bits; half a chunk of the others


@BOUNDS
@pytest.mark.parametrize("size", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 1, 4 * CHUNK + 17])
def test_chunks_join_without_a_seam(size, bound):
    """No stretch of a stream is used twice, and none is left out."""
    names, vectors = names_of(3), shares(3, size, bound=bound)
    roster = make_roster(names)
    parts = {n: answer(vector, own=n, roster=roster, bound=bound) for n, vector in zip(names, vectors, strict=True)}
    assert np.array_equal(unmask(parts, roster=roster, bound=bound), vectors.sum(axis=0))
    bare = answer(np.zeros(size, np.int64), own=names[0], roster=roster, bound=bound)
    assert len(np.unique(bare)) >= size - 10  # of 65,553 words of 32 bits, half a pair is expected to be equal


def test_the_vector_given_stays_as_it_was_wherever_it_lies():
    roster, vector = make_roster(names_of(2)), shares(1, 20)[0]
    whole, before = answer(vector, own="hospital 0", roster=roster), vector.copy()
    spread = np.repeat(vector, 2)[::2]
    spread.flags.writeable = False
    assert np.array_equal(answer(spread, own="hospital 0", roster=roster), whole)
    assert np.array_equal(vector, before)


@BOUNDS
def test_a_known_answer_built_from_the_primitives(bound):
    """Written from the documentation alone: X25519, HKDF by hand (RFC 5869), ChaCha20, and arithmetic in Python."""
    names, vectors, size = ("a", "bé", "c"), shares(3, 3, bound=bound), 3
    width, code = (64, "Q") if bound == BOUND else (32, "L")
    roster = make_roster(names)

    def stream(first, second, secret):
        info = b"manikin secure sum mask v1" + REQUEST + roster.digest + struct.pack(">Q", bound)
        for name in (first.encode(), second.encode()):
            info += struct.pack(">L", len(name)) + name
        key = hmac.digest(hmac.digest(bytes(32), secret, "sha256"), info + b"\x01", "sha256")
        cipher = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
        return struct.unpack(f"<{size}{code}", cipher.update(bytes(width // 8 * size)))

    def secret(one, two):
        private = X25519PrivateKey.from_private_bytes(private_of(one))
        public = X25519PrivateKey.from_private_bytes(private_of(two)).public_key().public_bytes_raw()
        return private.exchange(X25519PublicKey.from_public_bytes(public))

    ab, ac = stream("a", "bé", secret("bé", "a")), stream("a", "c", secret("c", "a"))
    bc = stream("bé", "c", secret("bé", "c"))
    expected = {
        "a": [x + p + q for x, p, q in zip(vectors[0].tolist(), ab, ac, strict=True)],
        "bé": [x - p + q for x, p, q in zip(vectors[1].tolist(), ab, bc, strict=True)],
        "c": [x - p - q for x, p, q in zip(vectors[2].tolist(), ac, bc, strict=True)],
    }
    for name, vector in zip(names, vectors, strict=True):
        sent = answer(vector, own=name, roster=roster, bound=bound)
        assert sent.tolist() == [value % 2**width for value in expected[name]]


@BOUNDS
@pytest.mark.parametrize("count", [2, 3, 5])
def test_with_any_hospital_missing_the_rest_is_uniform(count, bound):
    """Every sum over a proper part of the roster, with vectors that are anything but uniform."""
    names = names_of(count)
    roster = make_roster(names)
    vectors = [np.full(4096, 7 * i, np.int64) for i in range(count)]
    parts = [answer(v, own=name, roster=roster, bound=bound) for name, v in zip(names, vectors, strict=True)]
    for size in range(1, count):
        for subset in itertools.combinations(parts, size):
            assert looks_uniform(total_of(subset))
    assert set(total_of(parts).tolist()) == {7 * count * (count - 1) // 2}


@pytest.mark.parametrize("colluding", [0, 1, 2])
def test_those_who_know_their_own_masks_learn_the_sum_of_the_rest_alone(colluding):
    """What colluding hospitals share with an honest one is taken off; as long as two are honest, they stay hidden."""
    names = names_of(4)
    roster, zeros = make_roster(names), np.zeros(4096, np.int64)
    known = {name: answer(zeros, own=name, roster=roster) for name in names[:colluding]}
    honest = {name: answer(np.full(4096, 3, np.int64), own=name, roster=roster) for name in names[colluding:]}
    for size in range(1, len(honest)):
        for subset in itertools.combinations(honest.values(), size):
            assert looks_uniform(total_of([*known.values(), *subset]))
    total = total_of([*known.values(), *honest.values()])
    assert set(total.tolist()) == {3 * len(honest)}


THREE = names_of(3)
OTHERS = {
    "another request": {"request": bytes(32)},
    "another step": {"roster": make_roster(THREE, step=STEP + 1)},
    "another plan": {"roster": make_roster(THREE, plan="cd" * 32)},
    "a larger roster": {"roster": make_roster(names_of(4))},
    "another bound": {"bound": BOUND + 1},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("odd", THREE)
def test_different_requests_steps_plans_and_rosters_never_cancel(other, odd):
    """The keys of all hospitals are the same on both sides: what is bound is what makes the difference."""
    roster, zeros = make_roster(THREE), np.zeros(4096, np.int64)
    parts = {n: answer(zeros, own=n, **({"roster": roster} | (other if n == odd else {}))) for n in THREE}
    assert looks_uniform(total_of(list(parts.values())))
    with pytest.raises(ProtocolViolation, match="larger than it can be"):
        unmask(parts, roster=roster, bound=BOUND)


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_two_completed_sums_share_no_mask(other):
    """Under the same keys, a hospital's masks in one sum tell nothing of those in the other."""
    base, zeros = make_roster(THREE), np.zeros(4096, np.int64)
    for name in THREE:
        first, second = answer(zeros, own=name, roster=base), answer(zeros, own=name, **({"roster": base} | other))
        assert looks_uniform(first - second)
        assert looks_uniform(first + second)
    for one, two in itertools.permutations(THREE, 2):
        mixed = answer(zeros, own=one, roster=base) + answer(zeros, own=two, **({"roster": base} | other))
        assert looks_uniform(mixed)


def test_the_masks_of_pairs_and_of_both_directions_are_unrelated():
    roster, zeros = make_roster(THREE), np.zeros(4096, np.int64)
    first, second, third = (answer(zeros, own=name, roster=roster) for name in THREE)
    for words in (first - second, first - third, second - third, first + second, first + third, second + third):
        assert looks_uniform(words)


def test_a_hospital_answers_for_itself_and_with_its_own_key_only():
    roster, vector = make_roster(THREE), np.zeros(4, np.int64)
    with pytest.raises(ProtocolViolation, match="does not name"):
        answer(vector, own="hospital 9", roster=roster)
    with pytest.raises(ProtocolViolation, match="not the one that it offered"):
        mask(vector, private=private_of(THREE[1]), own=THREE[0], roster=roster, request=REQUEST, bound=BOUND)


@pytest.mark.parametrize("request_", [b"", bytes(31), bytes(33)], ids=["none", "short", "long"])
def test_a_request_digest_has_one_length(request_):
    with pytest.raises(ProtocolViolation, match="32 bytes"):
        answer(np.zeros(4, np.int64), own=THREE[0], roster=make_roster(THREE), request=request_)


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(4),
        np.zeros(4, np.uint64),
        np.zeros(4, np.int32),
        np.zeros(4, ">i8"),
        np.zeros((2, 2), np.int64),
        np.zeros(0, np.int64),
        np.broadcast_to(np.int64(0), (1 << 36,)),
    ],
    ids=["float", "unsigned", "narrow", "big-endian", "matrix", "empty", "longer than a stream"],
)
def test_a_vector_of_another_form_is_refused(vector):
    with pytest.raises(ProtocolViolation, match="vector is one of int64"):
        answer(vector, own=THREE[0], roster=make_roster(THREE))


@pytest.mark.parametrize("entry", [BOUND + 1, -BOUND - 1, 2**63 - 1, -(2**63)])
def test_an_entry_beyond_the_bound_is_refused_and_not_named_on_the_wire(entry):
    """Patients may move it, so it is no `ProtocolViolation`: the vault says `unavailable`, as for any other failure."""
    vector = np.array([0, entry, 0], dtype=np.int64)
    with pytest.raises(Misconfigured, match="does not fit") as error:
        answer(vector, own=THREE[0], roster=make_roster(THREE))
    assert str(abs(entry)) not in str(error.value)


@pytest.mark.parametrize("count", [2, 3, 10, 50])
def test_the_largest_bounds_that_cannot_overflow(count):
    for word, capacity in ((SHORT, 2**30), (LONG, 2**62)):
        bound = largest_bound(count, word)
        assert bound * count < capacity <= (bound + 1) * count
        assert word_type(bound, hospitals=count) == word
    assert word_type(largest_bound(count, SHORT) + 1, hospitals=count) == LONG
    for refused in (largest_bound(count) + 1, 0, -1):
        with pytest.raises(Misconfigured, match="could overflow"):
            word_type(refused, hospitals=count)


@pytest.mark.parametrize("word", [SHORT, LONG], ids=["32 bits", "64 bits"])
@pytest.mark.parametrize("sign", [1, -1])
def test_sums_reach_the_largest_bound(word, sign):
    roster, bound = make_roster(THREE), largest_bound(3, word)
    vector = np.full(5, sign * bound, dtype=np.int64)
    parts = {name: answer(vector, own=name, roster=roster, bound=bound) for name in THREE}
    assert {part.dtype for part in parts.values()} == {word}
    assert unmask(parts, roster=roster, bound=bound).tolist() == [3 * sign * bound] * 5


def test_the_bound_is_checked_on_both_sides():
    roster, bound = make_roster(THREE), largest_bound(3) + 1
    with pytest.raises(Misconfigured, match="could overflow"):
        answer(np.zeros(5, np.int64), own=THREE[0], roster=roster, bound=bound)
    with pytest.raises(Misconfigured, match="could overflow"):
        unmask({name: np.zeros(5, np.uint64) for name in THREE}, roster=roster, bound=bound)


@BOUNDS
def test_a_hospital_that_lies_can_shift_a_sum_by_its_bound_and_no_sum_passes_the_limit(bound):
    roster, zeros = make_roster(THREE), np.zeros(4, np.int64)
    parts = {name: answer(zeros, own=name, roster=roster, bound=bound) for name in THREE}
    word = parts[THREE[0]].dtype.type
    limit, modulus = 3 * bound, 2 ** (8 * word().itemsize)
    for shift in (limit, modulus - limit):
        unmask(parts | {THREE[0]: parts[THREE[0]] + word(shift)}, roster=roster, bound=bound)
    for shift in (limit + 1, modulus - limit - 1, modulus // 2):
        with pytest.raises(ProtocolViolation, match="larger than it can be"):
            unmask(parts | {THREE[0]: parts[THREE[0]] + word(shift)}, roster=roster, bound=bound)


def test_exactly_the_roster_adds_up():
    roster, vectors = make_roster(THREE), shares(3, 6)
    parts = {name: answer(vector, own=name, roster=roster) for name, vector in zip(THREE, vectors, strict=True)}
    with pytest.raises(ProtocolViolation, match="1 hospitals of the roster did not answer"):
        unmask({name: parts[name] for name in THREE[1:]}, roster=roster, bound=BOUND)
    with pytest.raises(ProtocolViolation, match="did not answer"):
        unmask({}, roster=roster, bound=BOUND)
    with pytest.raises(ProtocolViolation, match="'stranger' is not of the roster"):
        unmask(parts | {"stranger": parts[THREE[0]]}, roster=roster, bound=BOUND)


def test_answers_come_one_by_one_and_a_refused_one_changes_nothing():
    roster, vectors = make_roster(THREE), shares(3, 6)
    parts = {name: answer(vector, own=name, roster=roster) for name, vector in zip(THREE, vectors, strict=True)}
    summation = Summation(roster, size=6, bound=BOUND)
    summation.add(THREE[1], parts[THREE[1]])
    for name, part in (
        (THREE[1], parts[THREE[1]]),
        ("stranger", parts[THREE[0]]),
        (THREE[0], parts[THREE[0]][:5]),
        (THREE[0], parts[THREE[0]].view(np.int64)),
        (THREE[0], parts[THREE[0]].astype(float)),
        (THREE[0], parts[THREE[0]].astype(np.uint32)),
        (THREE[0], parts[THREE[0]].reshape(2, 3)),
    ):
        with pytest.raises(ProtocolViolation):
            summation.add(name, part)
    assert summation.missing == {THREE[0], THREE[2]}
    with pytest.raises(ProtocolViolation, match="2 hospitals"):
        summation.total()
    summation.add(THREE[0], parts[THREE[0]])
    summation.add(THREE[2], parts[THREE[2]])
    assert np.array_equal(summation.total(), vectors.sum(axis=0))
