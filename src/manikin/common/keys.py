"""Ed25519 keys: to sign with, to trust, and the file that says whom to trust.

A trust file travels by another way than what it verifies. What is not promised: revocation and expiry; a key is
trusted for as long as a trust file names it. (A hospital's policy pins keys until a date, and revokes them.)
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from manikin.common.errors import ManikinError, Misconfigured, VerificationFailed
from manikin.common.files import write_atomically
from manikin.common.officers import NAME_CHARACTERS_MAX, Officer, problem_with

PUBLIC_KEY_BYTES = 32

FINGERPRINT_DIGITS_MIN = 16  # 64 bits: nobody makes another key that begins so

Role = Literal["coordinator", "hospital", "officer"]  # a trust file with any other is refused


def key_digest(public_key: bytes) -> str:
    """SHA-256 of the 32 raw bytes of a public key, hex: the key id in envelopes."""
    return hashlib.sha256(public_key).hexdigest()


def holds(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `signature` is this key's Ed25519 signature of `message`."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def fingerprint(public_key: bytes) -> str:
    """A key's digest in groups of four, for reading aloud over a telephone.

    >>> fingerprint(bytes(32))[:24]
    '6668 7aad f862 bd77 6c8f'
    """
    digest = key_digest(public_key)
    return " ".join(digest[i : i + 4] for i in range(0, len(digest), 4))


def matches(public_key: bytes, said: str) -> bool:
    """Whether `said` begins this key's fingerprint, as somebody read it out.

    Args:
        public_key: 32 raw bytes.
        said: at least the first 16 hex digits; spaces, colons and capitals do not matter.

    Raises:
        Misconfigured: too short, or not hex digits.

    >>> matches(bytes(32), "6668 7AAD F862 BD77"), matches(bytes(32), "6668 7AAD F862 BD78")
    (True, False)
    """
    digits = "".join(said.lower().replace(":", " ").split())
    if len(digits) < FINGERPRINT_DIGITS_MIN or set(digits) - set("0123456789abcdef"):
        raise Misconfigured(
            f"A fingerprint has at least {FINGERPRINT_DIGITS_MIN} hex digits.",
            "",
            "Ask its owner, by telephone or in person, to read it out.",
        )
    return key_digest(public_key).startswith(digits)


@dataclass(frozen=True)
class TrustedKey:
    """A public key that somebody vouched for outside of what it verifies.

    Args:
        name: who holds it, as people call them.
        role: what it may sign.
        public_key: 32 raw bytes, Ed25519.
        institution: an officer's; empty for others.
    """

    name: str
    role: Role
    public_key: bytes
    institution: str = ""


@dataclass(frozen=True)
class Trust:
    """Whom somebody trusts, and with what.

    Args:
        keys: coordinators, hospitals and officers.
        officers_needed: how many of the officers must have approved a release; 0 if there are none.
        plan: the only plan whose release is trusted, a digest; empty if any of the coordinator's is.
    """

    keys: tuple[TrustedKey, ...]
    officers_needed: int = 0
    plan: str = ""

    @property
    def officers(self) -> tuple[Officer, ...]:
        """Those who decide."""
        return tuple(Officer(k.name, k.public_key.hex(), k.institution) for k in self.keys if k.role == "officer")

    def of(self, role: Role) -> tuple[TrustedKey, ...]:
        """The keys of one role."""
        return tuple(key for key in self.keys if key.role == role)


class SigningKey:
    """An Ed25519 private key. Its `repr` shows the fingerprint only."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private

    def __repr__(self) -> str:
        return f"SigningKey({fingerprint(self.public_key)})"

    @classmethod
    def generate(cls) -> SigningKey:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Read a key that `save` wrote.

        Raises:
            Misconfigured: no file, not an unencrypted Ed25519 key in PEM, or readable by others than its owner.
        """
        try:
            if path.stat().st_mode & 0o077:
                raise Misconfigured(
                    f"The key {path.name} is not used.", "Others can read it.", f"Run: chmod 600 {path.name}"
                )
            private = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except FileNotFoundError:
            raise Misconfigured(f"There is no key {path.name}.", "", "Give the path of a key, or make one.") from None
        except (ValueError, TypeError):
            private = None
        if not isinstance(private, Ed25519PrivateKey):
            raise Misconfigured(f"{path.name} is not an Ed25519 key in PEM.", "", "Give the key that Manikin wrote.")
        return cls(private)

    def save(self, path: Path) -> None:
        """Write PKCS8 PEM, mode 0600; an existing key is never overwritten.

        Raises:
            Misconfigured: a file is there already.
            StorageFailure: the disk is full or not writable.
        """
        if path.exists():
            raise Misconfigured(f"{path.name} exists.", "A key is never overwritten.", "Choose another name.")
        pem = self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_atomically(path, pem, mode=0o600)

    @property
    def public_key(self) -> bytes:
        """32 raw bytes."""
        return self._private.public_key().public_bytes_raw()

    def trusted(self, name: str, role: Role) -> TrustedKey:
        """The public half, as a trust file lists it."""
        return TrustedKey(name, role, self.public_key)

    def sign(self, message: bytes) -> bytes:
        return self._private.sign(message)


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _TrustEntry(_Closed):
    name: str = Field(min_length=1, max_length=200)
    role: Role
    public_key: str
    institution: str = Field(default="", max_length=NAME_CHARACTERS_MAX)


class _TrustFile(_Closed):
    schema_version: Literal[1] = Field(alias="schema")
    keys: list[_TrustEntry] = Field(min_length=1)
    officers_needed: int = Field(default=0, ge=0)
    plan: str = Field(default="", pattern="^([0-9a-f]{64})?$")


def write_trust(path: Path, keys: Iterable[TrustedKey], *, officers_needed: int = 0, plan: str = "") -> None:
    """Write a trust file: to be handed over by another way than what it verifies.

    Args:
        path: the file.
        keys: whom to trust.
        officers_needed: see `Trust`.
        plan: see `Trust`.
    """
    content: dict[str, Any] = {"schema": 1, "keys": [_entry(key) for key in keys]}
    content |= ({"officers_needed": officers_needed} if officers_needed else {}) | ({"plan": plan} if plan else {})
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n")


def _entry(key: TrustedKey) -> dict[str, str]:
    entry = {"name": key.name, "role": key.role, "public_key": base64.b64encode(key.public_key).decode()}
    return entry | ({"institution": key.institution} if key.institution else {})


def load_trust(path: Path) -> Trust:
    """Whom a trust file trusts.

    Raises:
        VerificationFailed: the file is missing, malformed, names a key twice, an unknown role, or officers who cannot
            decide.
    """
    next_step = "Ask the coordinator for it by another way than the bundle, and compare the fingerprint by voice."
    try:
        raw = _TrustFile.model_validate(json.loads(path.read_bytes()))
        keys = tuple(
            TrustedKey(k.name, k.role, base64.b64decode(k.public_key, validate=True), k.institution) for k in raw.keys
        )
    except FileNotFoundError:
        raise VerificationFailed(f"There is no trust file {path}.", "", next_step) from None
    except (OSError, ValidationError, ValueError, RecursionError):
        raise VerificationFailed(f"{path.name} is not a trust file.", "", next_step) from None
    if any(len(k.public_key) != PUBLIC_KEY_BYTES for k in keys) or len({k.public_key for k in keys}) != len(keys):
        raise VerificationFailed(f"{path.name} is refused.", "A key is repeated or not Ed25519.", next_step)
    trust = Trust(keys, raw.officers_needed, raw.plan)
    problem = _problem_with_trust(trust)
    if problem:
        raise VerificationFailed(f"{path.name} is refused.", problem, next_step)
    return trust


def _problem_with_trust(trust: Trust) -> str:
    if any(bool(key.institution) != (key.role == "officer") for key in trust.keys):
        return "An officer has no institution, or somebody else has one."
    try:
        return problem_with(trust.officers, trust.officers_needed)
    except ManikinError as error:
        return error.why
