"""A sum that shows nothing but itself: every pair of hospitals shares a mask that one adds and the other subtracts.

All numbers are integers modulo 2**64, or 2**32 where that holds the sum. Hospital i sends x_i + Σ_{j>i} m_ij -
Σ_{j<i} m_ji, where j > i goes by name and m_ij is the ChaCha20 keystream under HKDF-SHA256 of their X25519 secret,
bound to the digest of the whole request, the roster, the bound and both names. The whole roster sums to Σ x_i, exactly.
This is the protocol of Bonawitz et al. 2017 without recovery from drop-out: n of n, or nothing. The step is then
asked anew, as a new step with new keys.

Promised: the sum has no error. Whoever sees all messages, and knows all secrets of the dishonest hospitals, learns
the sum over the honest ones of a roster and nothing else about them, if each answers a step once and two are honest;
with an honest one missing, what the others sent is uniform. Not promised: that a hospital tells the truth (it can
spoil a sum, or shift it by up to its bound), or that the sum itself is private (that is the noise's part). And
nothing here remembers: that a hospital answers a step once, to one roster, and destroys its key then, is the ledger's
part. Two answers under one key and request would show the difference of their vectors.

**Nothing overflows.** The plan gives a `bound` on the absolute value of each entry that one hospital sends, noise
included. Times the number of hospitals it stays below a quarter of the modulus: 2**30 for words of 32 bits, else 2**62
for words of 64, else the plan is refused (`word_type`). Clipping, the largest cohort and the noise's table keep each
entry below the bound, and `mask` refuses one that is not. A sum beyond the limit then shows that hospitals were asked
different things or that one lied: d words of leftover mask all pass with probability at most 2**-d.

>>> from manikin.common.keys import SigningKey
>>> from manikin.privacy.roster import make_offer
>>> keys = {name: SigningKey.generate() for name in ("north", "south", "west")}
>>> made = {n: make_offer(key, hospital=n, plan="demo", step=3) for n, key in keys.items()}
>>> roster = Roster("demo", 3, tuple(offer for _, offer in made.values()))
>>> share = np.array([5, -7], dtype=np.int64)
>>> common = {"roster": roster, "request": bytes(32), "bound": 1000}
>>> parts = {n: mask(share, private=private, own=n, **common) for n, (private, _) in made.items()}
>>> bool(np.any(parts["north"] == 5)), unmask(parts, roster=roster, bound=1000).tolist()
(False, [15, -21])
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import CipherContext
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from manikin.common.errors import Misconfigured, ProtocolViolation
from manikin.privacy.randomness import DIGEST_BYTES, STREAM_BYTES_MAX, keystream
from manikin.privacy.roster import Roster

SHORT: np.dtype[np.unsignedinteger[Any]] = np.dtype(np.uint32)
LONG: np.dtype[np.unsignedinteger[Any]] = np.dtype(np.uint64)
CHUNK_BYTES = 1 << 17  # keystream and words of a chunk stay in the second-level cache for all its masks
_DOMAIN = b"manikin secure sum mask v1"
_ZEROS = bytes(CHUNK_BYTES)

Integers = NDArray[np.int64]
Words = NDArray[np.unsignedinteger[Any]]


def largest_bound(hospitals: int, word: np.dtype[Any] = LONG) -> int:
    """The largest bound on one hospital's entries that a sum over so many can take: it stays below modulus / 4.

    >>> largest_bound(10), largest_bound(10, SHORT)
    (461168601842738790, 107374182)
    """
    return ((1 << (8 * word.itemsize - 2)) - 1) // hospitals


def word_type(bound: int, *, hospitals: int) -> np.dtype[np.unsignedinteger[Any]]:
    """The shortest word for sums over so many hospitals, with entries of at most `bound` each.

    Raises:
        Misconfigured: even 64 bits could overflow, or the bound is not positive.

    >>> word_type(1 << 26, hospitals=10), word_type(1 << 27, hospitals=10)
    (dtype('uint32'), dtype('uint64'))
    """
    if not 0 < bound <= largest_bound(hospitals):
        raise Misconfigured(
            "A secure sum could overflow.",
            f"Entries of up to {bound} from {hospitals} hospitals must stay below 2**62 together, and above 0.",
            "Choose a coarser grid, or fewer hospitals or patients.",
        )
    return SHORT if bound <= largest_bound(hospitals, SHORT) else LONG


def mask(vector: Integers, *, private: bytes, own: str, roster: Roster, request: bytes, bound: int) -> Words:
    """What one hospital sends: its vector under one mask for each other hospital of the roster.

    Args:
        vector: int64 (d,), each entry at most `bound` in absolute value; bounded and noised before.
        private: the X25519 key of the own offer, 32 raw bytes; to be destroyed once the answer is stored.
        own: the hospital that answers.
        roster: from `Roster.agreed`.
        request: digest of the whole task, 32 bytes: plan, step, roster, weights. Hospitals that were asked different
            things have different masks, which do not cancel.
        bound: of the plan; a public number.

    Returns:
        uint32 or uint64 (d,), as `word_type` says: uniform for whoever lacks one honest peer's answer.

    Raises:
        ProtocolViolation: the own offer is missing or another's key, or vector or digest have the wrong form.
        Misconfigured: the bound is too large for the roster, or an entry is beyond it. Patients may move the latter, so
            it is not an error of the protocol, which would cross the wire by name.

    Guarantee: none by itself; it hides a share, and its noise, among those of the roster.
    """
    word = word_type(bound, hospitals=len(roster.offers))
    _check_form(vector, np.dtype(np.int64))
    if len(request) != DIGEST_BYTES:
        raise _violation(f"A request digest has {DIGEST_BYTES} bytes, not {len(request)}.")
    if not -bound <= int(vector.min()) <= int(vector.max()) <= bound:
        raise Misconfigured("A share does not fit the secure sum.", "An entry is beyond the plan's bound.")
    streams = {True: list[CipherContext](), False: list[CipherContext]()}
    for peer in roster.peers(own, private):
        info = _info(sorted((own, peer.hospital)), roster=roster, request=request, bound=bound)
        streams[own < peer.hospital].append(keystream(_pair_key(private, peer.public, info=info)))
    return _masked(vector.astype(word), added=streams[True], subtracted=streams[False])


class Summation:
    """The coordinator's side: answers of one roster come in one after another, and only all of them give a sum.

    It holds one vector, however many hospitals there are.

    Args:
        roster: who was asked.
        size: d.
        bound: of the plan.

    Raises:
        Misconfigured: the bound is too large for the roster.
    """

    def __init__(self, roster: Roster, *, size: int, bound: int) -> None:
        word = word_type(bound, hospitals=len(roster.offers))
        self._limit = bound * len(roster.offers)
        self._missing = set(roster.names)
        self._words: Words = np.zeros(size, dtype=word)

    @property
    def missing(self) -> frozenset[str]:
        """Who has not answered yet."""
        return frozenset(self._missing)

    def add(self, hospital: str, part: Words) -> None:
        """Take one hospital's answer.

        Raises:
            ProtocolViolation: it is not of the roster, answered before, or sent another type or shape; nothing was
                added then.
        """
        if hospital not in self._missing:
            raise _violation(f"{hospital!r} is not of the roster, or answered before.")
        _check_form(part, self._words.dtype)
        if part.shape != self._words.shape:
            raise _violation(f"{hospital!r} sent {len(part)} words, not {len(self._words)}.")
        np.add(self._words, part, out=self._words)
        self._missing.remove(hospital)

    def total(self) -> Integers:
        """int64 (d,): the exact sum, once the last answer is there.

        Raises:
            ProtocolViolation: somebody's answer is missing, or masks did not cancel.
        """
        if self._missing:
            raise _violation(f"{len(self._missing)} hospitals of the roster did not answer.")
        total = self._words.view(f"i{self._words.itemsize}").astype(np.int64, copy=False)
        if not -self._limit <= int(total.min()) <= int(total.max()) <= self._limit:
            raise _violation("The sum is larger than it can be: not all answered the same request, or one lied.")
        return total


def unmask(parts: Mapping[str, Words], *, roster: Roster, bound: int) -> Integers:
    """The sum of what exactly the hospitals of the roster sent.

    Args:
        parts: words (d,) from `mask`, by hospital.
        roster: who was asked.
        bound: of the plan.

    Returns:
        int64 (d,): exact.

    Raises:
        ProtocolViolation: one is missing, one too many, of another type or shape, or the masks did not cancel.
        Misconfigured: the bound is too large for the roster.
    """
    summation = Summation(roster, size=max((part.size for part in parts.values()), default=0), bound=bound)
    for hospital, part in parts.items():
        summation.add(hospital, part)
    return summation.total()


def _info(names: Sequence[str], *, roster: Roster, request: bytes, bound: int) -> bytes:
    """What a pair's masks are bound to; the bound, since the word's width follows from it."""
    encoded = [name.encode() for name in names]
    head = _DOMAIN + request + roster.digest + bound.to_bytes(8, "big")
    return head + b"".join(len(name).to_bytes(4, "big") + name for name in encoded)


def _pair_key(private: bytes, public: bytes, *, info: bytes) -> bytes:
    """32 bytes that both hospitals of a pair derive, for one stream only."""
    secret = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret)


def _masked(words: Words, *, added: Iterable[CipherContext], subtracted: Iterable[CipherContext]) -> Words:
    """The words plus and minus keystreams, read as little-endian; in place, all streams for one chunk after another."""
    raw, zeros = memoryview(bytearray(CHUNK_BYTES)), memoryview(_ZEROS)
    buffer: Words = np.frombuffer(raw, dtype=words.dtype.newbyteorder("<"))
    signed = [(np.add, stream) for stream in added] + [(np.subtract, stream) for stream in subtracted]
    for start in range(0, len(words), len(buffer)):
        chunk = words[start : start + len(buffer)]
        for operation, stream in signed:
            stream.update_into(zeros[: chunk.nbytes], raw[: chunk.nbytes])
            operation(chunk, buffer[: len(chunk)], out=chunk)
    return words


def _check_form(vector: Integers | Words, dtype: np.dtype[Any]) -> None:
    if vector.dtype != dtype or vector.ndim != 1 or not 0 < vector.nbytes <= STREAM_BYTES_MAX:
        raise _violation(f"A vector is one of {dtype.name} (d,), d at least 1.")


def _violation(why: str) -> ProtocolViolation:
    return ProtocolViolation("A secure sum was refused.", why, "Compare versions; then ask anew, as another step.")
