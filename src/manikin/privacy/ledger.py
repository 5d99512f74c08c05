"""What a hospital has spent: one row a step, on disk before the step is taken (sqlite, WAL, synchronous=FULL).

*Reserve → act → commit.* A step that was refused before it was reserved costs nothing. From then on it is charged,
whether or not it is ever finished; the same request may finish it, and gets the same bytes, because randomness is
bound to the request. The same step with any other content is refused, and so is a step before one already reserved
(steps that a hospital missed stay missed). The reply is on disk before it is sent.

Promised: after a crash at any moment the ledger holds every step that may have been taken. Not promised: protection
against whoever can write the file, or put an older copy in its place.

>>> import tempfile
>>> from manikin.privacy.accounting import Mechanism
>>> with tempfile.TemporaryDirectory() as folder:
...     ledger = Ledger(Path(folder) / "ledger.sqlite")
...     reservation = ledger.reserve("plan", 0, bytes(32), Mechanism(3.73))
...     ledger.commit(reservation, b"noisy sum")
...     again = ledger.reserve("plan", 0, bytes(32), Mechanism(3.73))
...     reservation.state, again.state, again.reply, round(ledger.spent()[0].epsilon(delta=1e-5).value, 2)
('new', 'done', b'noisy sum', 1.0)
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from manikin.common.errors import ProtocolViolation, StorageFailure
from manikin.common.files import storage_errors, sync_folder
from manikin.privacy.accounting import Epsilon, Mechanism, epsilon

BUSY_TIMEOUT_S = 30.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS step (
    plan TEXT NOT NULL,
    step INTEGER NOT NULL CHECK (step >= 0),
    request BLOB NOT NULL,
    mechanism TEXT NOT NULL,
    reply BLOB,
    PRIMARY KEY (plan, step)
) STRICT
"""

State = Literal["new", "pending", "done"]


@dataclass(frozen=True)
class Reservation:
    """A step that is charged.

    Args:
        plan: digest of the plan.
        step: which of the plan's steps.
        request: digest of the whole request.
        state: "new"; "pending": reserved before, but never committed, so it may be acted on again; "done".
        reply: the bytes sent the first time, if done.
    """

    plan: str
    step: int
    request: bytes
    state: State
    reply: bytes | None = None


@dataclass(frozen=True)
class Entry:
    """One charged step: its number, the digest of its request, what it costs, and whether a reply is kept."""

    step: int
    request: bytes
    mechanism: Mechanism
    done: bool


@dataclass(frozen=True)
class Spending:
    """All charged steps of one plan, finished or not, in order."""

    plan: str
    entries: tuple[Entry, ...]

    def epsilon(self, *, delta: float, multiplicity: int = 1) -> Epsilon:
        """ε of these steps together; see `accounting.epsilon`."""
        return epsilon([entry.mechanism for entry in self.entries], delta=delta, multiplicity=multiplicity)


class Ledger:
    """The file in which one hospital keeps what it has spent. Safe for several processes.

    Args:
        path: the sqlite file; created, readable by its owner only, if absent.

    Raises:
        StorageFailure: the file cannot be written, or is not a ledger.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
        with self._transaction() as db:
            db.execute(_SCHEMA)
        sync_folder(path.parent)

    def reserve(self, plan: str, step: int, request: bytes, mechanism: Mechanism | Mapping[str, Any]) -> Reservation:
        """Charge a step before it is taken, or find what became of it.

        Args:
            plan: digest of the plan.
            step: number of the step within the plan, from 0.
            request: digest of the whole request.
            mechanism: what the step costs; a mapping has the fields of `Mechanism`.

        Returns:
            The reservation, which is on disk.

        Raises:
            ProtocolViolation: this step was reserved with another request, or a later step was reserved before it.
            StorageFailure: the ledger could not be written; nothing is charged, and nothing may be done.
        """
        cost = json.dumps(asdict(mechanism if isinstance(mechanism, Mechanism) else Mechanism(**mechanism)))
        with self._transaction() as db:
            known = db.execute(
                "SELECT request, mechanism, reply FROM step WHERE plan = ? AND step = ?", (plan, step)
            ).fetchone()
            if known is not None:
                return _found(plan, step, request, cost, known)
            last = db.execute("SELECT max(step) FROM step WHERE plan = ?", (plan,)).fetchone()[0]
            if last is not None and step < last:
                raise ProtocolViolation(
                    f"Step {step} was asked for after step {last}.", "A plan's steps are taken in order."
                )
            db.execute("INSERT INTO step VALUES (?, ?, ?, ?, NULL)", (plan, step, request, cost))
        return Reservation(plan, step, request, "new")

    def commit(self, reservation: Reservation, reply: bytes) -> None:
        """Keep the reply of a reserved step; only then may it be sent.

        Raises:
            ProtocolViolation: the step was not reserved so, or another reply is kept for it.
            StorageFailure: the ledger could not be written; the reply must not be sent.
        """
        key = (reservation.plan, reservation.step, reservation.request)
        with self._transaction() as db:
            known = db.execute("SELECT reply FROM step WHERE plan = ? AND step = ? AND request = ?", key).fetchone()
            if known is None:
                raise ProtocolViolation(f"Step {reservation.step} was never reserved with this request.")
            if known[0] is not None and known[0] != reply:
                raise ProtocolViolation(
                    f"Another reply is kept for step {reservation.step}.", "One request has one reply."
                )
            db.execute("UPDATE step SET reply = ? WHERE plan = ? AND step = ? AND request = ?", (reply, *key))

    def spent(self) -> list[Spending]:
        """What is charged, one item a plan, in order of their digests."""
        with self._transaction() as db:
            rows = db.execute(
                "SELECT plan, step, request, mechanism, reply IS NOT NULL FROM step ORDER BY plan, step"
            ).fetchall()
        plans: dict[str, list[Entry]] = {}
        for plan, step, request, cost, done in rows:
            plans.setdefault(plan, []).append(Entry(step, request, Mechanism(**json.loads(cost)), bool(done)))
        return [Spending(plan, tuple(entries)) for plan, entries in plans.items()]

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One durable transaction on a connection of its own, so that processes and threads share nothing."""
        with _storage_failures(self.path), contextlib.closing(_connect(self.path)) as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")


def _connect(path: Path) -> sqlite3.Connection:
    existing = f"{path.absolute().as_uri()}?mode=rw"  # a ledger that vanished must not be begun anew unnoticed
    db = sqlite3.connect(existing, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
    except BaseException:
        db.close()
        raise
    return db


@contextlib.contextmanager
def _storage_failures(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise StorageFailure(
            f"The ledger {path.name} cannot be used.",
            f"sqlite says: {error}.",
            "Nothing was done and nothing more will be: free space or restore the file, then ask again.",
        ) from error


def _found(plan: str, step: int, request: bytes, cost: str, known: tuple[bytes, str, bytes | None]) -> Reservation:
    kept_request, kept_cost, reply = known
    if (kept_request, kept_cost) != (request, cost):
        raise ProtocolViolation(
            f"Step {step} was already taken with another request.",
            "A step is done once, or answered again with the same bytes.",
            "Propose a new plan for anything else.",
        )
    return Reservation(plan, step, request, "pending" if reply is None else "done", reply)
