"""Ledger heads that other parties hold: a hospital keeps its peers', and checks its own against theirs.

Every charged task carries the heads that all hospitals signed after the step before. So each vault sees that its peers
were asked the very same step (a server that sends different weights to different sites is found out one step later),
that its own ledger holds what it once signed, and that no peer's ledger went back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manikin.common.errors import ProtocolViolation, VerificationFailed
from manikin.common.files import write_atomically
from manikin.common.plan import Party, Plan
from manikin.privacy.chain import LedgerHead, read_head
from manikin.privacy.ledger import Ledger


@dataclass(frozen=True)
class Anchors:
    """The heads that one hospital holds.

    Args:
        folder: where the heads of peers are kept.
        ledger: the hospital's own.
        name: the hospital.
    """

    folder: Path
    ledger: Ledger
    name: str

    def check(self, plan: Plan, heads: Any, *, before: int | None, own_request: bytes | None) -> None:
        """Take in the heads of a task.

        Args:
            plan: whose participants' keys count.
            heads: DSSE envelopes by hospital, as the task brings them.
            before: the charged step before the task's own; None: any step.
            own_request: digest of the request that this hospital answered at `before`, if it did.

        Raises:
            ProtocolViolation: malformed or forged, a ledger went back, too few heads, or peers were asked otherwise.
        """
        if not isinstance(heads, Mapping) or not all(isinstance(h, str) for h in heads.values()):
            raise _refused("It brings no ledger heads.")
        parties = {party.name: party for party in plan.participants}
        facts = {name: self._read(parties.get(str(name)), str(head)) for name, head in heads.items()}
        if self.name in heads:
            self.ledger.check_anchor(str(heads[self.name]))
        for name, fact in facts.items():
            if name != self.name:
                self._keep(parties[name], fact, str(heads[name]))
        if before is not None:
            _check_same_step(plan, facts, before, own_request)

    def _read(self, party: Party | None, head: str) -> LedgerHead:
        if party is None:
            raise _refused("It brings a ledger head of a stranger.")
        try:
            facts, _ = read_head(head, [party.public_key])
        except VerificationFailed as error:
            raise _refused(f"The ledger head of {party.name!r} does not hold: {error.why}") from None
        if facts.hospital != party.name:
            raise _refused("A ledger head names another hospital than its signer.")
        return facts

    def _keep(self, party: Party, facts: LedgerHead, head: str) -> None:
        file = self.folder / f"{party.key}.json"
        held: dict[str, Any] = {"hashes": {}, "newest": 0, "head": ""}
        if file.exists():
            held = json.loads(file.read_bytes())
        known = held["hashes"].setdefault(str(facts.sequence), facts.hash)
        if known != facts.hash:
            raise _refused(f"The ledger of {party.name!r} tells two histories.")
        if facts.sequence > held["newest"]:
            held |= {"newest": facts.sequence, "head": head}
        write_atomically(file, json.dumps(held).encode(), mode=0o600)

    def held(self, party: Party) -> str | None:
        """The newest head of a peer that this hospital holds, if any."""
        file = self.folder / f"{party.key}.json"
        return str(json.loads(file.read_bytes())["head"]) if file.exists() else None


def _check_same_step(plan: Plan, facts: Mapping[str, LedgerHead], before: int, own_request: bytes | None) -> None:
    at = [fact for fact in facts.values() if (fact.plan, fact.step) == (plan.digest, before)]
    if len(at) < plan.study.federation.quorum:
        raise _refused(f"It brings fewer ledger heads of step {before} than the quorum.")
    requests = {fact.request for fact in at} | ({own_request.hex()} if own_request is not None else set())
    if len(requests) > 1:
        raise _refused(f"Hospitals were asked different things at step {before}.")


def _refused(why: str) -> ProtocolViolation:
    return ProtocolViolation("A task was refused.", why, "Ask the coordinator for its record of the round.")
