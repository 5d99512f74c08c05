"""Reading a ledger's chain as somebody who trusts nothing but the hospital's public key and heads held elsewhere.

Found: any field of an event or a patient that was edited, an event or a patient that is missing, added or moved, and a
cut at the end or an older copy of the file against any anchor. Not found: a cut behind the last anchor, or a chain that
was rewritten with the signing key since the last anchor.
"""

from __future__ import annotations

import hmac
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from manikin.common.errors import VerificationFailed
from manikin.privacy.chain import GENESIS, read_head
from manikin.privacy.events import EVENT_COLUMNS, Content, Event, commitment

PROBLEMS_MAX = 20


@dataclass(frozen=True)
class Verification:
    """What an inspection found.

    Args:
        entries: how many events the chain has.
        problems: what does not hold, a sentence each, the first few; none if all holds.
    """

    entries: int
    problems: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return not self.problems


def inspect(db: sqlite3.Connection, keys: Sequence[bytes], anchors: Sequence[str]) -> Verification:
    """Walk the chain from its beginning, then look for the anchors in it.

    Args:
        db: an open ledger.
        keys: public keys of the hospital, oldest first; the last is the present one.
        anchors: heads held elsewhere.
    """
    problems = [*_chain_problems(db, keys)]
    for number, anchor in enumerate(anchors, start=1):
        problem = missing(db, anchor, keys)
        if problem:
            problems.append(f"Anchor {number}: {problem}")
    (entries,) = db.execute("SELECT count(*) FROM event").fetchone()
    return Verification(entries, tuple(problems[:PROBLEMS_MAX]))


def missing(db: sqlite3.Connection, anchor: str, keys: Sequence[bytes]) -> str:
    """Why a head held elsewhere does not belong to this chain; empty if the chain contains it."""
    if db.execute("SELECT 1 FROM event WHERE head = ?", (anchor,)).fetchone():
        return ""
    try:
        head, _ = read_head(anchor, keys)
    except VerificationFailed:
        return "It is not signed by this hospital's key."
    (last,) = db.execute("SELECT coalesce(max(sequence), 0) FROM event").fetchone()
    if head.sequence > last:
        return f"The ledger was rolled back or cut: it ends at entry {last}, and the head is of entry {head.sequence}."
    return f"The ledger was rolled back and went another way: its entry {head.sequence} is not the one of the head."


def _chain_problems(db: sqlite3.Connection, keys: Sequence[bytes]) -> Iterator[str]:
    patients = _patients(db)
    previous, oldest = GENESIS, 0
    query = f"SELECT {EVENT_COLUMNS}, hash, head FROM event ORDER BY sequence"  # noqa: S608
    for sequence, *fields, nonce, committed, digest, envelope in db.execute(query):
        event = Event(sequence, Content(*fields), nonce, committed)
        if not hmac.compare_digest(event.link(previous), digest):
            yield f"Entry {sequence} was edited, or one before it was removed or moved."
        if not _charges(event, patients.pop(sequence, [])):
            yield f"Entry {sequence} charged other patients than the ledger says."
        signed, oldest = _signed(event, digest, envelope, keys, oldest)
        if not signed:
            yield f"Entry {sequence} has no head signed by this hospital."
        previous = digest
    if patients:
        yield "Patients are charged by an entry that is not there."


def _patients(db: sqlite3.Connection) -> dict[int, list[str]]:
    charged: dict[int, list[str]] = {}
    for key, event in db.execute("SELECT key, event FROM patient"):
        charged.setdefault(event, []).append(key)
    return charged


def _charges(event: Event, patients: Sequence[str]) -> bool:
    if event.nonce is None or event.patients is None:
        return not patients and event.content.kind == "commit"
    return hmac.compare_digest(commitment(event.nonce, patients), event.patients)


def _signed(event: Event, digest: bytes, envelope: str | None, keys: Sequence[bytes], oldest: int) -> tuple[bool, int]:
    """Whether the head is this event's, signed by a key that no later one had replaced; and which key."""
    try:
        head, position = read_head(envelope or "", keys)
        same = head == event.head(digest, head.hospital)
    except (VerificationFailed, ValidationError):
        return False, oldest
    return same and position >= oldest, max(position, oldest)
