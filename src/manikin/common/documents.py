"""Signed documents: canonical JSON in an in-toto statement in a DSSE envelope.

A document is a `Statement`: subjects (names with SHA-256 and size) and a predicate of a stated type. `sign` wraps
it, `open_envelope` gives it back only if a trusted key vouches for these very bytes. A new kind of document needs a
new `predicate_type` and, if others than the coordinator sign it, a new role in `keys`: nothing else changes.

Keys come from a trust file obtained outside of what is verified (`keys`), never from the envelope. What is not
promised: that a statement is recent, or that its signer told the truth.

>>> pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
b'DSSEv1 29 http://example.com/HelloWorld 11 hello world'

DSSE: https://github.com/secure-systems-lab/dsse, protocol 1.0. in-toto: Attestation Framework, Statement v1.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from manikin.common.errors import Misconfigured, VerificationFailed
from manikin.common.keys import Role, SigningKey, TrustedKey, fingerprint, key_digest, load_trust, write_trust

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_PREFIX = "urn:manikin:"  # a name, not an address: nothing is ever fetched from it

ENVELOPE_BYTES_MAX = 4 << 20  # a statement lists files, it does not carry them
SIGNATURES_MAX = 64  # more than any consortium has signers
INTEGER_MAX = 2**53 - 1  # the largest integer that RFC 8785 writes as one


def canonical_json(value: Any) -> bytes:
    """RFC 8785 bytes: equal values give equal bytes everywhere.

    Raises:
        Misconfigured: a number is not finite, or is an integer beyond 2^53.

    >>> canonical_json({"b": 1.0, "a": "δ"}).decode()
    '{"a":"δ","b":1}'
    """
    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError as error:
        raise Misconfigured(
            "A document cannot be written.", f"{error}.", "Use finite numbers and plain JSON values."
        ) from None


@dataclass(frozen=True)
class Subject:
    """A file that a statement speaks of: POSIX path relative to the statement's folder, SHA-256 in hex, bytes."""

    name: str
    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, name: str, content: bytes) -> Subject:
        return cls(name, hashlib.sha256(content).hexdigest(), len(content))


@dataclass(frozen=True)
class Statement:
    """What is signed."""

    predicate_type: str
    subjects: tuple[Subject, ...]
    predicate: Mapping[str, Any]

    @property
    def canonical(self) -> bytes:
        """The in-toto statement in RFC 8785 bytes: the envelope's payload."""
        subjects = [
            {"name": s.name, "digest": {"sha256": s.sha256}, "annotations": {"size_bytes": s.size_bytes}}
            for s in self.subjects
        ]
        return canonical_json(
            {
                "_type": STATEMENT_TYPE,
                "predicateType": self.predicate_type,
                "predicate": self.predicate,
                "subject": subjects,
            }
        )

    @property
    def digest(self) -> str:
        """SHA-256 of `canonical`, hex: the statement's name elsewhere."""
        return hashlib.sha256(self.canonical).hexdigest()


@dataclass(frozen=True)
class OpenedStatement(Statement):
    """A statement out of an envelope, with the names of those whose signatures were checked and held."""

    signers: tuple[str, ...] = field(default=())


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """DSSE's PAE: what is signed, so that neither type nor length can be shifted into the payload."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(statement: Statement, *keys: SigningKey) -> bytes:
    """A DSSE envelope in canonical JSON, with one signature a key."""
    payload = statement.canonical
    message = pre_authentication_encoding(PAYLOAD_TYPE, payload)
    signatures = [{"keyid": key_digest(k.public_key), "sig": base64.b64encode(k.sign(message)).decode()} for k in keys]
    envelope = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": signatures,
    }
    return canonical_json(envelope) + b"\n"


Shape = TypeVar("Shape", bound=BaseModel)


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Signature(_Closed):
    keyid: str
    sig: str


class _Envelope(_Closed):
    payload_type: Literal["application/vnd.in-toto+json"] = Field(alias="payloadType")
    payload: str
    signatures: list[_Signature] = Field(min_length=1, max_length=SIGNATURES_MAX)


class _Digest(_Closed):
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class _Annotations(_Closed):
    size_bytes: int = Field(ge=0)


class _Subject(_Closed):
    name: str = Field(min_length=1)
    digest: _Digest
    annotations: _Annotations


class _Statement(_Closed):
    type_: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    predicate_type: str = Field(alias="predicateType")
    predicate: dict[str, Any]
    subject: list[_Subject]


def open_envelope(
    content: bytes,
    trusted_keys: Collection[TrustedKey] | None,
    *,
    predicate_type: str,
    role: Role = "coordinator",
) -> OpenedStatement:
    """The statement, if at least one trusted key signed exactly these bytes and no trusted key's signature is wrong.

    Args:
        content: the envelope.
        trusted_keys: keys of a trust file; None checks everything but signatures and names no signer.
        predicate_type: the only type accepted.
        role: only keys of this role count.

    Raises:
        VerificationFailed: oversize, malformed, of another type, signed by nobody trusted, or signed wrongly.
    """
    # (1) The envelope is small enough and well-formed.
    if len(content) > ENVELOPE_BYTES_MAX:
        raise _refused(f"It is larger than {ENVELOPE_BYTES_MAX} bytes.")
    envelope = _parse(_Envelope, content)
    payload = _decode(envelope.payload)
    # (2) A trusted key signed these bytes; nothing inside them is looked at before that.
    signers: tuple[str, ...] = ()
    if trusted_keys is not None:
        signers = _check_signatures(envelope, payload, [key for key in trusted_keys if key.role == role])
    # (3) The payload is a statement of the type asked for, in its one canonical form.
    raw = _parse(_Statement, payload)
    if raw.predicate_type != predicate_type:
        raise _refused(f"It is a {raw.predicate_type!r}, not a {predicate_type!r}.")
    subjects = tuple(Subject(s.name, s.digest.sha256, s.annotations.size_bytes) for s in raw.subject)
    statement = OpenedStatement(raw.predicate_type, subjects, raw.predicate, signers)
    try:
        canonical = statement.canonical
    except Misconfigured:
        canonical = b""
    if canonical != payload:
        raise _refused("Its payload is not canonical JSON.")
    return statement


def _check_signatures(envelope: _Envelope, payload: bytes, trusted: Collection[TrustedKey]) -> tuple[str, ...]:
    message = pre_authentication_encoding(envelope.payload_type, payload)
    by_id = {key_digest(key.public_key): key for key in trusted}
    signers = []
    for signature in envelope.signatures:
        key = by_id.get(signature.keyid)
        if key is None:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(key.public_key).verify(_decode(signature.sig), message)
        except InvalidSignature:
            raise _refused(f"The signature of {key.name!r} is wrong.") from None
        signers.append(key.name)
    if not signers:
        raise _refused("No key of the trust file signed it.")
    return tuple(dict.fromkeys(signers))


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise _refused("It is not well-formed.") from None


def _parse(shape: type[Shape], content: bytes) -> Shape:
    try:
        return shape.model_validate(json.loads(content, parse_int=_number, parse_constant=_refuse_constant))
    except (ValidationError, ValueError, OverflowError, RecursionError):
        raise _refused("It is not well-formed.") from None


def _number(text: str) -> int | float:
    value = int(text)
    return value if abs(value) <= INTEGER_MAX else float(value)


def _refuse_constant(text: str) -> None:
    raise ValueError(text)


def _refused(why: str) -> VerificationFailed:
    return VerificationFailed(
        "A signed document was refused.", why, "Do not use it; ask its sender for it again, and compare fingerprints."
    )


__all__ = [
    "OpenedStatement",
    "Role",
    "SigningKey",
    "Statement",
    "Subject",
    "TrustedKey",
    "canonical_json",
    "fingerprint",
    "load_trust",
    "open_envelope",
    "pre_authentication_encoding",
    "sign",
    "write_trust",
]
