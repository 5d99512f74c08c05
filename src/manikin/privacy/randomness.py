"""Random streams bound to a request: the same request gives the same bytes, any other request gives unrelated ones.

A stream is the ChaCha20 keystream (RFC 8439) under a key that HKDF-SHA256 (RFC 5869) derives from a secret that never
leaves the vault, the digest of the whole request, and the purpose of the draw. So neither a crash nor a roll-back can
make noise cancel, and nobody without the secret can tell the noise from true randomness.

Promised: bits, uniforms and Bernoulli draws are the same on every platform. Not promised: normals go through libm's
logarithm and may differ in the last bit between platforms (rounding to a public grid hides nearly all of that), and
draws from `torch_generator` follow torch's own generator: they are repeatable, but not secret against an observer of
their output, and serve only where secrecy carries no guarantee (noise levels of a diffusion loss).

>>> from manikin.common.wire import request_digest
>>> stream = Stream(bytes(32), request=request_digest({"plan": "demo", "step": 3}), purpose="noise")
>>> stream.uniform(2).round(6).tolist()
[0.91919, 0.210601]
"""

from __future__ import annotations

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray
from scipy.special import ndtri

from manikin.common.errors import Misconfigured

DIGEST_BYTES = 32
SECRET_BYTES_MIN = 32
STREAM_BYTES_MAX = 1 << 38  # the block counter has 32 bits, a block 64 bytes
_DOMAIN = b"manikin stream v1"
_NONCE = bytes(16)  # block counter 0 and nonce 0: every key is used for one stream only


def keystream(key: bytes) -> CipherContext:
    """ChaCha20 under `key` from block 0 with nonce 0; encrypting zero bytes gives the keystream."""
    return Cipher(ChaCha20(key, _NONCE), mode=None).encryptor()


class Stream:
    """One stream of random numbers for one purpose of one request. Draws move it on; it cannot be rewound.

    Args:
        secret: at least 32 bytes that never leave the vault.
        request: the request's digest, 32 bytes.
        purpose: what is drawn; streams of different purposes are unrelated.
    """

    __slots__ = ("_context", "_drawn_bytes", "_forks", "_key", "_request")

    def __init__(self, secret: bytes, *, request: bytes, purpose: str) -> None:
        if len(secret) < SECRET_BYTES_MIN:
            raise Misconfigured(f"A stream needs a secret of at least {SECRET_BYTES_MIN} bytes.")
        if len(request) != DIGEST_BYTES:
            raise Misconfigured(f"A request digest has {DIGEST_BYTES} bytes, not {len(request)}.")
        name = purpose.encode()
        info = _DOMAIN + len(name).to_bytes(4, "big") + name + request
        self._key = HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret)
        self._request = request
        self._context = keystream(self._key)
        self._drawn_bytes = 0
        self._forks: set[str] = set()

    def fork(self, purpose: str) -> Stream:
        """An unrelated stream below this one; the same whatever was drawn from this one before.

        Raises:
            ValueError: the purpose was forked already; a second copy would repeat the first one's noise.
        """
        if purpose in self._forks:
            raise ValueError(f"the stream was already forked for {purpose!r}: its noise would repeat")
        self._forks.add(purpose)
        return Stream(self._key, request=self._request, purpose=purpose)

    def words(self, n: int) -> NDArray[np.uint64]:
        """uint64 (n,): the next 8·n bytes, little-endian."""
        size = 8 * n
        self._drawn_bytes += size
        if self._drawn_bytes > STREAM_BYTES_MAX:
            raise ValueError("the stream is exhausted: fork one for each step")
        return np.frombuffer(self._context.update(bytes(size)), dtype="<u8").astype(np.uint64, copy=False)

    def uniform(self, n: int) -> NDArray[np.float64]:
        """float64 (n,): odd multiples of 2**-53, so strictly inside (0, 1) and symmetric about 1/2."""
        return ((self.words(n) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52

    def normal(self, shape: int | tuple[int, ...]) -> NDArray[np.float64]:
        """Standard normals, float64 `shape`, by the inverse distribution function; one word each.

        One bit is the sign, 63 give a probability below 1/2 with full relative precision near 0, so that tails reach
        9.1 standard deviations and are exactly symmetric.
        """
        words = self.words(int(np.prod(shape)))
        tail = ((words >> np.uint64(1)).astype(np.float64) + 0.5) * 2.0**-64
        sign = 1.0 - 2.0 * (words & np.uint64(1)).astype(np.float64)
        magnitude: NDArray[np.float64] = -ndtri(tail)
        return (sign * magnitude).reshape(shape)

    def bernoulli(self, n: int, p: float) -> NDArray[np.bool_]:
        """bool (n,): True with probability `p`, to within 2**-53, each on its own."""
        if not 0.0 <= p <= 1.0:
            raise Misconfigured(f"A probability lies between 0 and 1, not at {p}.")
        return self.uniform(n) < p

    def torch_generator(self) -> torch.Generator:
        """A torch generator on the CPU, seeded by the next word; repeatable, not cryptographic."""
        return torch.Generator().manual_seed(int(self.words(1)[0]))
