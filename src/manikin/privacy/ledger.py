"""What a hospital has spent, and on whom: on disk before a step is taken, in a signed chain of entries.

*Reserve → act → commit.* A step that was refused before it was reserved costs nothing. From then on it is charged,
whether or not it is ever finished; the same request may finish it, and gets the same bytes, because randomness is
bound to the request. The same step with any other content is refused, and so is a step before one already reserved
(steps that a hospital missed stay missed). The reply is on disk before it is sent.

*It follows patients.* The first step of a plan charges the plan's whole (ε, δ) to every patient who takes part; who
joins later is charged the same when joining. What a patient has spent is the plain sum over plans, and a plan that
would bring any patient above the limit is refused. That sum holds although plans are chosen after seeing what earlier
ones gave: each plan's (ε, δ) is fixed before it starts, the sum is bounded beforehand, and basic composition has such a
filter (Rogers, Roth, Ullman and Vadhan 2016, "Privacy Odometers and Filters", Theorem 3.6).

*It is a chain* (`chain`), and each entry's head is signed. A head tells its holder nothing of patients: their keys
enter the hash through HMAC under a nonce that never leaves, drawn from the signing key, so that a run which was
disturbed has the same heads as one that was not. There is no clock here.

Promised: after a crash at any moment the ledger holds every step that may have been taken; `verify` finds any edit, and
a cut or an older copy against any head held elsewhere. Not promised: anything against who holds the signing key, except
what heads held elsewhere show; that a patient is known again under another key.

>>> import tempfile
>>> from manikin.privacy.accounting import Mechanism
>>> with tempfile.TemporaryDirectory() as folder:
...     ledger = Ledger(Path(folder) / "ledger.sqlite")
...     charge = Charge(["patient 1"], epsilon=1.0, delta=1e-5, limit_epsilon=2.0, limit_delta=1e-4)
...     reservation = ledger.reserve("plan", 0, bytes(32), Mechanism(3.73), charge=charge)
...     ledger.commit(reservation, b"noisy sum")
...     again = ledger.reserve("plan", 0, bytes(32), Mechanism(3.73), charge=charge)
...     reservation.state, again.state, again.reply, ledger.lifetime(["patient 1", "patient 2"])
('new', 'done', b'noisy sum', (1.0, 1e-05))
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from manikin.common.errors import BudgetExhausted, Misconfigured, ProtocolViolation, StorageFailure
from manikin.common.keys import SigningKey
from manikin.privacy import costs
from manikin.privacy.chain import Database
from manikin.privacy.costs import Cost, Total
from manikin.privacy.events import SCHEMA, Content, append
from manikin.privacy.inspection import Verification, inspect, missing

EVERYONE = ""  # the patient key that stands for all: a plan whose patients are unknown is charged to each
FORMER_DELTA = 1e-8  # δ at which the ε of plans of the former schema is computed: any δ has its valid ε
_CHARGED = "SELECT key, plan FROM patient JOIN event ON event = sequence"

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
class Charge:
    """Whom a plan charges, how much, and how much any of them may be charged in a lifetime.

    Args:
        patients: keys of all who take part.
        epsilon, delta: the most that the whole plan costs one of them.
        limit_epsilon, limit_delta: the most that one of them may be charged over all plans.

    Raises:
        Misconfigured: a number is not finite or negative, or a patient's key is empty.
    """

    patients: Sequence[str]
    epsilon: float
    delta: float
    limit_epsilon: float
    limit_delta: float

    def __post_init__(self) -> None:
        numbers = (self.epsilon, self.delta, self.limit_epsilon, self.limit_delta)
        if not all(math.isfinite(number) and number >= 0 for number in numbers) or self.epsilon == 0:
            raise Misconfigured("A plan cannot be charged.", f"ε, δ and their limits are {numbers}.", "Correct them.")
        if isinstance(self.patients, str) or EVERYONE in self.patients:
            raise Misconfigured("A plan cannot be charged.", "A patient has no key.", "Import the cohort again.")


@dataclass(frozen=True)
class Entry:
    """One charged step: its number, the digest of its request, what it costs, and whether a reply is kept."""

    step: int
    request: bytes
    mechanism: Cost
    done: bool


@dataclass(frozen=True)
class Spending:
    """All charged steps of one plan, finished or not, in order.

    Args:
        plan: digest of the plan.
        entries: its steps.
        charged: (ε, δ) that each of its patients is charged; None if the plan was never charged to patients.
        patients: how many are charged. For the hospital's own eyes: the number is exact.
    """

    plan: str
    entries: tuple[Entry, ...]
    charged: tuple[float, float] | None = None
    patients: int = 0

    def epsilon(self, *, delta: float, multiplicity: int = 1) -> Total:
        """ε of these steps together; see `costs.total`."""
        return costs.total([entry.mechanism for entry in self.entries], delta=delta, multiplicity=multiplicity)


class Ledger:
    """The file in which one hospital keeps what it has spent. Safe for several processes.

    A file of the former schema, which knew no patients, is taken over: its steps enter the chain, and each of its
    plans is charged to everyone, now and later.

    Args:
        path: the sqlite file; created, readable by its owner only, if absent.
        hospital: its name, as the heads say it.
        signer: the hospital's key; without it there are no heads, and `verify` will not hold.
        former_keys: keys that it had before, whose heads may be held elsewhere.

    Raises:
        StorageFailure: the file cannot be written, or is not a ledger.
    """

    def __init__(
        self,
        path: Path,
        *,
        hospital: str = "",
        signer: SigningKey | None = None,
        former_keys: Sequence[bytes] = (),
    ) -> None:
        self.path, self.hospital, self._signer = path, hospital, signer
        self._former_keys = tuple(former_keys)
        self._database = Database(path, SCHEMA, name="ledger")
        with self._database.transaction() as db:
            self._take_over(db)

    def reserve(
        self,
        plan: str,
        step: int,
        request: bytes,
        mechanism: Cost | Mapping[str, Any],
        *,
        charge: Charge | None = None,
    ) -> Reservation:
        """Charge a step before it is taken, or find what became of it.

        Args:
            plan: digest of the plan.
            step: number of the step within the plan, from 0.
            request: digest of the whole request.
            mechanism: what the step costs; a mapping has the fields of one of `costs.Cost`.
            charge: whom the plan charges. Those whom this plan has not charged yet are charged now, also where the step
                was reserved before they came; a step that is done is not acted on again, and charges nobody.

        Returns:
            The reservation, which is on disk.

        Raises:
            ProtocolViolation: this step was reserved with another request, a later step was reserved before it, or the
                plan charged another (ε, δ) before.
            BudgetExhausted: a patient would be charged more than the limit; nothing is written.
            StorageFailure: the ledger could not be written; nothing is charged, and nothing may be done.
        """
        cost = json.dumps(asdict(costs.read(mechanism) if isinstance(mechanism, Mapping) else mechanism))
        with self._database.transaction() as db:
            found = _find(db, plan, step, request, cost)
            if found is not None and found.state == "done":
                return found
            newcomers = _newcomers(db, plan, charge)
            if found is None or newcomers:
                amounts = (float(charge.epsilon), float(charge.delta)) if charge else (None, None)
                self._append(db, Content("reserve", plan, step, request, cost, *amounts), newcomers)
        return found or Reservation(plan, step, request, "new")

    def commit(self, reservation: Reservation, reply: bytes) -> None:
        """Keep the reply of a reserved step; only then may it be sent.

        Raises:
            ProtocolViolation: the step was not reserved so, or another reply is kept for it.
            StorageFailure: the ledger could not be written; the reply must not be sent.
        """
        plan, step, request = reservation.plan, reservation.step, reservation.request
        with self._database.transaction() as db:
            known = _known(db, plan, step)
            if known is None or known[0] != request:
                raise ProtocolViolation(f"Step {step} was never reserved with this request.")
            if known[2] is None:
                self._append(db, Content("commit", plan, step, request, reply=reply), ())
            elif known[2] != reply:
                raise ProtocolViolation(f"Another reply is kept for step {step}.", "One request has one reply.")

    def spent(self) -> list[Spending]:
        """What is charged, one item a plan, in order of their digests."""
        with self._database.transaction("DEFERRED") as db:
            done = set(db.execute("SELECT plan, step FROM event WHERE kind = 'commit'"))
            rows = db.execute(
                "SELECT plan, step, request, mechanism, min(sequence) FROM event WHERE kind = 'reserve' "
                "GROUP BY plan, step ORDER BY plan, step"
            ).fetchall()
            charged = _amounts(db)
            counts = Counter(plan for key, plan in db.execute(_CHARGED) if key != EVERYONE)
        plans: dict[str, list[Entry]] = {}
        for plan, step, request, cost, _ in rows:
            entry = Entry(step, request, _mechanism(cost), (plan, step) in done)
            plans.setdefault(plan, []).append(entry)
        return [Spending(plan, tuple(steps), charged.get(plan), counts[plan]) for plan, steps in plans.items()]

    def request(self, plan: str, step: int) -> bytes | None:
        """Digest of the request with which a step was reserved; None if it was not."""
        with self._database.transaction("DEFERRED") as db:
            known = _known(db, plan, step)
        return known[0] if known else None

    def lifetime(self, patients: Iterable[str]) -> tuple[float, float]:
        """The most ε and the most δ that any of these patients is charged over all plans."""
        with self._database.transaction("DEFERRED") as db:
            most = _most_charged(db, patients)
        return float(most[0]), float(most[1])

    def head(self, plan: str, step: int) -> str:
        """The signed head as of a step's commit: the same bytes whenever it is asked for.

        Raises:
            ProtocolViolation: the step is not done.
            Misconfigured: it was done without a key to sign with.
        """
        query = "SELECT head FROM event WHERE plan = ? AND step = ? AND kind = 'commit'"
        with self._database.transaction("DEFERRED") as db:
            row = db.execute(query, (plan, step)).fetchone()
        if row is None:
            raise ProtocolViolation(f"Step {step} has no ledger head.", "It is not done.")
        if row[0] is None:
            raise Misconfigured("A step has no signed head.", "The ledger was used without a key.", "Give it the key.")
        return str(row[0])

    def latest(self) -> str:
        """The signed head of the last entry; empty if nothing was ever charged, or it was not signed."""
        with self._database.transaction("DEFERRED") as db:
            row = db.execute("SELECT head FROM event ORDER BY sequence DESC LIMIT 1").fetchone()
        return str(row[0]) if row and row[0] else ""

    def check_anchor(self, envelope: str) -> None:
        """Compare with a head of this hospital that somebody else holds. It does not walk the chain: `verify` does.

        Raises:
            ProtocolViolation: this ledger does not contain it, or it is not signed by this ledger's key.
        """
        keys = [*self._former_keys, self._signer.public_key] if self._signer else []
        with self._database.transaction("DEFERRED") as db:
            problem = missing(db, envelope, keys)
        if problem:
            raise ProtocolViolation(
                "A ledger head that is held elsewhere is not in the ledger.",
                problem,
                "Take part in nothing before the newest copy of the ledger is back.",
            )

    def verify(
        self, public_key: bytes, anchors: Sequence[str] = (), *, former_keys: Sequence[bytes] = ()
    ) -> Verification:
        """Walk the whole chain, offline: every hash, signature and patient, and every anchor.

        Args:
            public_key: the hospital's, 32 raw bytes.
            anchors: heads held elsewhere.
            former_keys: keys that the hospital used before, oldest first.
        """
        damage = self._database.damage()
        if damage:
            return Verification(0, (damage,))
        try:
            with self._database.transaction("DEFERRED") as db:
                return inspect(db, [*former_keys, public_key], anchors)
        except StorageFailure as error:
            return Verification(0, (error.why,))

    def _append(self, db: sqlite3.Connection, content: Content, newcomers: Iterable[str]) -> None:
        append(db, content, newcomers=newcomers, hospital=self.hospital, signer=self._signer)

    def _take_over(self, db: sqlite3.Connection) -> None:
        """Move the rows of the former schema into the chain, and charge them to everyone."""
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'step'").fetchone():
            return
        if db.execute("SELECT 1 FROM event").fetchone():
            raise StorageFailure(
                f"The ledger {self.path.name} cannot be used.", "It has tables of two versions.", "Restore it."
            )
        rows = db.execute("SELECT plan, step, request, mechanism, reply FROM step ORDER BY rowid").fetchall()
        costs = _former_costs(rows)
        for plan, step, request, cost, reply in rows:
            amounts, everyone = ((costs.pop(plan), FORMER_DELTA), (EVERYONE,)) if plan in costs else ((None, None), ())
            self._append(db, Content("reserve", plan, step, request, cost, *amounts), everyone)
            if reply is not None:
                self._append(db, Content("commit", plan, step, request, reply=reply), ())
        db.execute("DROP TABLE step")


def _mechanism(cost: str) -> Cost:
    try:
        return costs.read(json.loads(cost))
    except (TypeError, ValueError, Misconfigured):
        raise StorageFailure("The ledger was edited.", "What a step costs is not well-formed.", "Restore it.") from None


def _former_costs(rows: Iterable[tuple[str, int, bytes, str, bytes | None]]) -> dict[str, float]:
    plans: dict[str, list[Cost]] = {}
    for plan, _, _, cost, _ in rows:
        plans.setdefault(plan, []).append(_mechanism(cost))
    return {plan: costs.total(mechanisms, delta=FORMER_DELTA).value for plan, mechanisms in plans.items()}


def _known(db: sqlite3.Connection, plan: str, step: int) -> tuple[bytes, str, bytes | None] | None:
    """A reserved step's request and cost, and its reply if it is done."""
    query = "SELECT {} FROM event WHERE plan = ? AND step = ? AND kind = ? ORDER BY sequence LIMIT 1"
    reserved = db.execute(query.format("request, mechanism"), (plan, step, "reserve")).fetchone()
    if reserved is None:
        return None
    done = db.execute(query.format("reply"), (plan, step, "commit")).fetchone()
    return (*reserved, done[0] if done else None)


def _find(db: sqlite3.Connection, plan: str, step: int, request: bytes, cost: str) -> Reservation | None:
    known = _known(db, plan, step)
    if known is None:
        last = db.execute("SELECT max(step) FROM event WHERE plan = ?", (plan,)).fetchone()[0]
        if last is not None and step < last:
            raise ProtocolViolation(
                f"Step {step} was asked for after step {last}.", "A plan's steps are taken in order."
            )
        return None
    kept_request, kept_cost, reply = known
    if (kept_request, kept_cost) != (request, cost):
        raise ProtocolViolation(
            f"Step {step} was already taken with another request.",
            "A step is done once, or answered again with the same bytes.",
            "Propose a new plan for anything else.",
        )
    return Reservation(plan, step, request, "pending" if reply is None else "done", reply)


def _newcomers(db: sqlite3.Connection, plan: str, charge: Charge | None) -> set[str]:
    """Those whom the plan has still to charge; refused if any of them cannot bear it."""
    if charge is None:
        return set()
    if _amounts(db).get(plan, (charge.epsilon, charge.delta)) != (charge.epsilon, charge.delta):
        raise ProtocolViolation("A plan charged another ε or δ before.", "A plan's cost is fixed.", "Propose it anew.")
    newcomers = set(charge.patients) - {key for key, known in db.execute(_CHARGED) if known == plan}
    if newcomers:
        _check_limits(_most_charged(db, newcomers), charge)
    return newcomers


def _check_limits(most: tuple[Decimal, Decimal], charge: Charge) -> None:
    amounts = (charge.epsilon, charge.delta), (charge.limit_epsilon, charge.limit_delta)
    for symbol, before, amount, limit in zip("εδ", most, *amounts, strict=True):
        if before + _decimal(amount) > _decimal(limit):
            raise BudgetExhausted(
                f"The plan costs {symbol} = {amount:g}, and a patient of the cohort was charged {before:g} before.",
                f"The hospital's limit over the life of the cohort is {symbol} = {limit:g}.",
                "Refuse the plan, or agree on one that costs less.",
            )


def _amounts(db: sqlite3.Connection) -> dict[str, tuple[float, float]]:
    """(ε, δ) that each plan charges each of its patients."""
    query = "SELECT DISTINCT plan, epsilon, delta FROM event WHERE epsilon IS NOT NULL"
    return {plan: (e, d) for plan, e, d in db.execute(query)}


def _most_charged(db: sqlite3.Connection, patients: Iterable[str]) -> tuple[Decimal, Decimal]:
    """The largest sum of ε and of δ over these patients' plans; a plan charged to everyone is everyone's."""
    costs = {plan: (_decimal(e), _decimal(d)) for plan, (e, d) in _amounts(db).items()}
    plans: dict[str, set[str]] = {patient: set() for patient in {*patients, EVERYONE}}
    for key, plan in db.execute(_CHARGED):
        if key in plans:
            plans[key].add(plan)
    shared = plans[EVERYONE]
    histories = {frozenset(shared | own) for own in plans.values()}
    sums = [(sum(costs[p][0] for p in h), sum(costs[p][1] for p in h)) for h in histories]
    return Decimal(max(e for e, _ in sums)), Decimal(max(d for _, d in sums))


def _decimal(number: float) -> Decimal:
    """The decimal that a person wrote, so that three times 0.1 is 0.3 and not a little more."""
    return Decimal(repr(float(number)))
