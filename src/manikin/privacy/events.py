"""The ledger's rows: events in a chain, and which patients each of them charged.

A *reserve* event says what a step costs and charges patients; a *commit* event keeps the reply. Both carry a signed
head. Patients enter an event's hash through HMAC under the event's nonce, never openly: a head must not let anyone
test who is in a cohort, nor tell that the cohort is another one. Functions here run inside a caller's transaction.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from manikin.common.keys import SigningKey
from manikin.privacy.chain import GENESIS, LedgerHead, link, sign_head

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS event (
    sequence INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    plan TEXT NOT NULL,
    step INTEGER NOT NULL CHECK (step >= 0),
    request BLOB NOT NULL,
    mechanism TEXT,
    epsilon REAL,
    delta REAL,
    patients BLOB,
    nonce BLOB,
    hash BLOB NOT NULL,
    head TEXT,
    reply BLOB
) STRICT""",
    "CREATE INDEX IF NOT EXISTS by_step ON event (plan, step)",
    "CREATE UNIQUE INDEX IF NOT EXISTS done_once ON event (plan, step) WHERE kind = 'commit'",
    "CREATE TABLE IF NOT EXISTS patient (key TEXT, event INTEGER, PRIMARY KEY (key, event)) STRICT, WITHOUT ROWID",
)


class Content(NamedTuple):
    """What an event says.

    Args:
        kind: "reserve" or "commit".
        plan, step, request: as in `Reservation`.
        mechanism: what the step costs, in JSON; reserve only.
        epsilon, delta: what the plan charges each patient; None where it charges nobody.
        reply: the bytes that are sent; commit only.
    """

    kind: str
    plan: str
    step: int
    request: bytes
    mechanism: str | None = None
    epsilon: float | None = None
    delta: float | None = None
    reply: bytes | None = None


class Event(NamedTuple):
    """An event in its place.

    Args:
        sequence: from 1, without a gap.
        content: what it says.
        nonce: 32 bytes that never leave; reserve only.
        patients: the commitment to whom it charged; reserve only.
    """

    sequence: int
    content: Content
    nonce: bytes | None
    patients: bytes | None

    def link(self, previous: bytes) -> bytes:
        """The event's hash: of all its fields, the reply by its digest."""
        reply = None if self.content.reply is None else hashlib.sha256(self.content.reply).digest()
        return link(previous, self.sequence, *self.content[:-1], reply, self.nonce, self.patients)

    def head(self, digest: bytes, hospital: str) -> LedgerHead:
        """What is told of the event."""
        content = self.content
        return LedgerHead(
            hospital=hospital,
            sequence=self.sequence,
            hash=digest.hex(),
            plan=content.plan,
            step=content.step,
            request=content.request.hex(),
        )


EVENT_COLUMNS = f"sequence, {', '.join(Content._fields)}, nonce, patients"


def commitment(nonce: bytes, patients: Iterable[str]) -> bytes:
    """Digest of a set of patients that says nothing of them without the nonce."""
    return hmac.digest(nonce, link(GENESIS, *sorted(patients)), "sha256")


def append(
    db: sqlite3.Connection, content: Content, *, newcomers: Iterable[str], hospital: str, signer: SigningKey | None
) -> None:
    """Add an event to the end of the chain, with its head if there is a key, and charge its patients."""
    last = db.execute("SELECT sequence, hash FROM event ORDER BY sequence DESC LIMIT 1").fetchone()
    sequence, previous = (last[0] + 1, last[1]) if last else (1, GENESIS)
    newcomers = sorted(newcomers)
    nonce = committed = None
    if content.kind == "reserve":
        nonce = _nonce(signer, link(previous, sequence, content.plan, content.step, content.request))
        committed = commitment(nonce, newcomers)
    event = Event(sequence, content, nonce, committed)
    digest = event.link(previous)
    head = sign_head(event.head(digest, hospital), signer) if signer else None
    row = (sequence, *content, nonce, committed, digest, head)
    marks = ", ".join("?" * len(row))
    db.execute(f"INSERT INTO event ({EVENT_COLUMNS}, hash, head) VALUES ({marks})", row)  # noqa: S608
    db.executemany("INSERT INTO patient VALUES (?, ?)", ((key, sequence) for key in newcomers))


def _nonce(signer: SigningKey | None, place: bytes) -> bytes:
    """Random to everyone without the key, and the same at the same place of the chain: Ed25519 is deterministic."""
    if signer is None:
        return secrets.token_bytes(32)
    return hashlib.sha256(signer.sign(b"manikin ledger nonce " + place)).digest()
