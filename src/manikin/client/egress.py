"""Every message that left the vault: entered, on disk, before its bytes leave.

What may leave is a closed list of kinds. "release" and "train" carry what a charged mechanism made, and each must have
a done step in the ledger; the others are free, because nothing in them moves with a patient. A message that is sent
again is entered again. When it happened is written down here, and here only: the log never leaves.

Promised: an edited, missing or moved entry is found (`chain`), and so is a message without its ledger entry. Not
promised: that a cut at the end is found, unless it takes the only entry of a step that the ledger says was done.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from manikin.common.errors import PolicyRefusal, StorageFailure
from manikin.common.keys import SigningKey
from manikin.common.wire import CHARGED
from manikin.privacy.chain import GENESIS, Database, link
from manikin.privacy.ledger import Spending

FREE_KINDS = frozenset({"open", "audit", "refusal", "canary", "counters", "enrolment", "approval"})
_SIGNED = b"manikin egress log "
_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS message (
    sequence INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    kind TEXT NOT NULL,
    plan TEXT NOT NULL,
    step INTEGER NOT NULL,
    tensors TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    digest TEXT NOT NULL,
    epsilon REAL,
    hash BLOB NOT NULL,
    signature BLOB
) STRICT""",
)
_FIELDS = "sequence, at, kind, plan, step, tensors, size_bytes, digest, epsilon"


class Tensor(BaseModel):
    """What the log says of one array: never a value of it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str
    shape: tuple[int, ...] = Field(strict=False)
    dtype: str = ""


_TENSORS = TypeAdapter(tuple[Tensor, ...])


@dataclass(frozen=True)
class Message:
    """One message that left.

    Args:
        sequence: from 1.
        at: when, UTC.
        kind: one of `CHARGED` or `FREE_KINDS`.
        plan, step: what it answers; "" and -1 where it answers nothing.
        tensors: the arrays in it.
        size_bytes: of the whole message.
        digest: SHA-256 of the whole message, hex.
        epsilon: what the plan costs a patient at the most; None for free kinds.
    """

    sequence: int
    at: str
    kind: str
    plan: str
    step: int
    tensors: tuple[Tensor, ...]
    size_bytes: int
    digest: str
    epsilon: float | None


class EgressLog:
    """The file in which a hospital keeps what left it. Safe for several processes.

    Args:
        path: the sqlite file; created, readable by its owner only, if absent.
        signer: the hospital's key; without it entries are chained but not signed.

    Raises:
        StorageFailure: the file cannot be written, or is not an egress log.
    """

    def __init__(self, path: Path, *, signer: SigningKey | None = None) -> None:
        self._signer = signer
        self._database = Database(path, _SCHEMA, name="egress log")

    def record(
        self,
        *,
        kind: str,
        plan: str,
        step: int,
        tensors: Sequence[Mapping[str, Any]],
        content: bytes,
        epsilon: float | None,
    ) -> None:
        """Enter a message; only then may it leave.

        Args:
            kind, plan, step, epsilon: as in `Message`.
            tensors: name, shape and dtype of each array.
            content: the very bytes that will leave.

        Raises:
            PolicyRefusal: its kind is not on the list, it is charged and names no ε or free and names one, or its
                tensors are not described by name, shape and dtype alone.
            StorageFailure: it could not be entered, and must not leave.
        """
        described = _describe(kind, tensors, epsilon)
        digest = hashlib.sha256(content).hexdigest()
        at = datetime.now(UTC).isoformat(timespec="seconds")
        with self._database.transaction() as db:
            last = db.execute("SELECT sequence, hash FROM message ORDER BY sequence DESC LIMIT 1").fetchone()
            sequence, previous = (last[0] + 1, last[1]) if last else (1, GENESIS)
            cost = None if epsilon is None else float(epsilon)
            fields = (sequence, at, kind, plan, step, described, len(content), digest, cost)
            chained = link(previous, *fields)
            signature = self._signer.sign(_SIGNED + chained) if self._signer else None
            marks = ", ".join("?" * (len(fields) + 2))
            db.execute(
                f"INSERT INTO message ({_FIELDS}, hash, signature) VALUES ({marks})",  # noqa: S608
                (*fields, chained, signature),
            )

    def messages(self) -> list[Message]:
        """All messages, in the order in which they left."""
        with self._database.transaction("DEFERRED") as db:
            rows = db.execute(f"SELECT {_FIELDS} FROM message ORDER BY sequence").fetchall()  # noqa: S608
        return [_message(*row) for row in rows]

    def last_date(self) -> date | None:
        """The latest date on which anything left; None if nothing ever did. It does not go back with the clock."""
        with self._database.transaction("DEFERRED") as db:
            latest = db.execute("SELECT max(at) FROM message").fetchone()[0]
        return datetime.fromisoformat(latest).date() if latest else None

    def verify(self, *public_keys: bytes) -> list[str]:
        """What does not hold in the chain, a sentence each; empty if all holds.

        Args:
            public_keys: the hospital's keys, 32 raw bytes each, the present and former ones; none: signatures are not
                looked at.
        """
        damage = self._database.damage()
        if damage:
            return [damage]
        try:
            return list(self._problems(public_keys))
        except StorageFailure as error:
            return [error.why]

    def _problems(self, public_keys: Sequence[bytes]) -> Iterator[str]:
        previous = GENESIS
        with self._database.transaction("DEFERRED") as db:
            query = f"SELECT {_FIELDS}, hash, signature FROM message ORDER BY sequence"  # noqa: S608
            for *fields, chained, signature in db.execute(query):
                if link(previous, *fields) != chained:
                    yield f"Entry {fields[0]} was edited, or one before it was removed or moved."
                if public_keys and not _signed(chained, signature, public_keys):
                    yield f"Entry {fields[0]} is not signed by this hospital."
                previous = chained


def _message(sequence: int, at: str, kind: str, plan: str, step: int, tensors: str, *rest: Any) -> Message:
    try:
        return Message(sequence, at, kind, plan, step, _TENSORS.validate_json(tensors), *rest)
    except ValidationError:
        raise StorageFailure("The egress log was edited.", f"Entry {sequence} is malformed.", "Keep it.") from None


def unaccounted(messages: Iterable[Message], spent: Iterable[Spending]) -> list[Message]:
    """Messages of a charged kind whose step the ledger does not call done: there must be none."""
    done = {(spending.plan, entry.step) for spending in spent for entry in spending.entries if entry.done}
    return [m for m in messages if m.kind in CHARGED and (m.plan, m.step) not in done]


def unlogged(messages: Iterable[Message], spent: Iterable[Spending]) -> list[tuple[str, int]]:
    """Plan and step of replies that were kept and never left: a crash before sending, or a log that was cut."""
    logged = {(message.plan, message.step) for message in messages}
    return [(s.plan, e.step) for s in spent for e in s.entries if e.done and (s.plan, e.step) not in logged]


def _describe(kind: str, tensors: Sequence[Mapping[str, Any]], epsilon: float | None) -> str:
    if kind not in CHARGED | FREE_KINDS:
        raise _refused(f"{kind!r} is not on the list of what may leave.")
    if (kind in CHARGED) != (epsilon is not None):
        raise _refused("What is charged names its ε, and nothing else does.")
    try:
        described = _TENSORS.validate_python(tuple(dict(tensor) for tensor in tensors))
    except ValidationError:
        raise _refused("Its tensors are described by more or less than name, shape and dtype.") from None
    return json.dumps([tensor.model_dump(mode="json") for tensor in described])


def _refused(why: str) -> PolicyRefusal:
    return PolicyRefusal("A message was kept from leaving.", why, "Report it: the vault should not have made it.")


def _signed(chained: bytes, signature: bytes | None, public_keys: Sequence[bytes]) -> bool:
    for key in public_keys:
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(signature or b"", _SIGNED + chained)
        except InvalidSignature:
            continue
        return True
    return False
