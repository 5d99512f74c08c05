"""What the ledger and the egress log stand on: a hash chain in a durable sqlite file, and signed heads of it.

Each entry's hash covers all its fields and the hash before it, so that a changed, missing or moved entry breaks every
later hash. A *head* is one entry's place and hash, signed: whoever holds one can tell later whether a chain still
contains it. Nothing here reads a clock: the same entries give the same hashes and the same heads, byte for byte.

Promised: with the public key, and heads held elsewhere, any edit is found, and so is a cut at the end behind the last
of those heads. Not promised: anything against who holds the signing key, beyond what heads held elsewhere show.

>>> link(GENESIS, "reserve", 1).hex()[:16], link(GENESIS, "reserve", "1").hex()[:16]
('de48d281a5db472d', '087844738993b109')
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from manikin.common.documents import Statement, TrustedKey, canonical_json, open_envelope, sign
from manikin.common.errors import StorageFailure, VerificationFailed
from manikin.common.files import storage_errors, sync_folder
from manikin.common.keys import SigningKey

BUSY_TIMEOUT_S = 30.0
GENESIS = bytes(32)
HEAD_TYPE = "urn:manikin:ledger-head:v1"

Value = str | int | float | bytes | None


def link(previous: bytes, *fields: Value) -> bytes:
    """SHA-256 of the hash before and of every field, each with its type and length, so that none can be shifted."""
    state = hashlib.sha256(previous)
    for field in fields:
        kind, content = _framed(field)
        state.update(kind + len(content).to_bytes(8, "big") + content)
    return state.digest()


def _framed(field: Value) -> tuple[bytes, bytes]:
    match field:
        case None:
            return b"n", b""
        case bytes():
            return b"b", field
        case str():
            return b"s", field.encode()
        case int():
            return b"i", str(field).encode()
        case float():
            return b"f", struct.pack(">d", field)


class LedgerHead(BaseModel):
    """One entry of a hospital's ledger, in words that no patient moves.

    Args:
        hospital: its name.
        sequence: the entry's number, from 1.
        hash: the entry's hash, hex; it depends on patients only through a keyed digest with a secret nonce.
        plan, step, request: what the entry is about; the request's digest in hex.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    hospital: str
    sequence: int = Field(ge=1)
    hash: str = Field(pattern="^[0-9a-f]{64}$")
    plan: str
    step: int = Field(ge=0)
    request: str = Field(pattern="^[0-9a-f]*$")


def sign_head(head: LedgerHead, signer: SigningKey) -> str:
    """The head in a DSSE envelope; Ed25519 gives the same bytes each time."""
    return sign(Statement(HEAD_TYPE, (), head.model_dump()), signer).decode()


def read_head(envelope: str, public_keys: Sequence[bytes]) -> tuple[LedgerHead, int]:
    """A head, and the position of the key that signed it.

    Raises:
        VerificationFailed: none of the keys signed it, or it is not written in the one way a head is written.
    """
    trusted = [TrustedKey(str(i), "hospital", key) for i, key in enumerate(public_keys)]
    opened = open_envelope(envelope.encode(), trusted, predicate_type=HEAD_TYPE, role="hospital")
    try:
        head = LedgerHead.model_validate(opened.predicate)
    except ValidationError:
        raise VerificationFailed("A ledger head was refused.", "It is not well-formed.", "Ask for it again.") from None
    if opened.subjects or _rewritten(envelope) != envelope:
        raise VerificationFailed("A ledger head was refused.", "It is written in another way.", "Ask for it again.")
    return head, int(opened.signers[0])


def _rewritten(envelope: str) -> str:
    """The envelope as `sign` would write it: base64 and JSON allow the same content in other bytes."""
    raw = json.loads(envelope)
    raw["signatures"] = raw["signatures"][:1]
    for holder, key in ((raw, "payload"), (raw["signatures"][0], "sig")):
        holder[key] = base64.b64encode(base64.b64decode(holder[key])).decode()
    return canonical_json(raw).decode() + "\n"


class Database:
    """One sqlite file (WAL, synchronous=FULL), readable by its owner only. Safe for several processes.

    Args:
        path: the file; created if absent, but never again by the same object, so that a file that vanished is noticed.
        schema: statements that make the tables.
        name: what people call the file.

    Raises:
        StorageFailure: the file cannot be written, or is no such database.
    """

    def __init__(self, path: Path, schema: Sequence[str], *, name: str) -> None:
        self.path, self.schema, self.name = path, schema, name
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
        with self.transaction() as db:
            for statement in schema:
                db.execute(statement)
        sync_folder(path.parent)

    @contextlib.contextmanager
    def transaction(self, begin: Literal["IMMEDIATE", "DEFERRED"] = "IMMEDIATE") -> Iterator[sqlite3.Connection]:
        """One durable transaction on a connection of its own, so that processes and threads share nothing.

        Args:
            begin: a deferred one only reads, and hinders no writer.

        Raises:
            StorageFailure: it could not be written; nothing of it is there.
        """
        with self._failures(), contextlib.closing(_connect(self.path)) as db:
            db.execute(f"BEGIN {begin}")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def damage(self) -> str:
        """What sqlite finds wrong with the file or its tables; empty if nothing."""
        try:
            with contextlib.closing(_connect(self.path)) as db:
                (answer,) = db.execute("PRAGMA integrity_check(1)").fetchone()
                if answer != "ok":
                    return f"The file is damaged: {answer}."
                return "" if _tables(db) == _expected(self.schema) else "Tables were added, changed or removed."
        except sqlite3.DatabaseError as error:
            return f"The file cannot be read: {error}."

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise StorageFailure(
                f"The {self.name} {self.path.name} cannot be used.",
                f"sqlite says: {error}.",
                "Nothing was done and nothing more will be: free space or restore the file, then ask again.",
            ) from error


def _connect(path: Path) -> sqlite3.Connection:
    existing = f"{path.absolute().as_uri()}?mode=rw"  # a file that vanished must not be begun anew unnoticed
    db = sqlite3.connect(existing, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
    except BaseException:
        db.close()
        raise
    return db


def _tables(db: sqlite3.Connection) -> list[tuple[str, ...]]:
    return db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name").fetchall()


def _expected(schema: Sequence[str]) -> list[tuple[str, ...]]:
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        for statement in schema:
            db.execute(statement)
        return _tables(db)
