"""Ledger heads that other parties hold: a hospital keeps its peers', and checks its own against theirs.

Every charged task carries the heads that all hospitals signed after each charged step before it. So each vault sees
that the hospitals that count for it were asked the very same at the last step and at the last that it took itself (a
server that sends different weights to different sites is found out at the next task), that its own ledger holds what it
once signed, and that no peer's ledger tells two histories.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
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

    def check(self, plan: Plan, heads: Any, *, done: Mapping[int, bytes | None], counted: Collection[str]) -> None:
        """Take in the heads of a task.

        Args:
            plan: whose participants' keys count.
            heads: DSSE envelopes by step and hospital, as the task brings them.
            done: the charged steps that must be agreed on, with the digest of this hospital's own request at each, or
                None where it was not asked.
            counted: keys of the hospitals that count for the quorum.

        Raises:
            ProtocolViolation: malformed or forged, a ledger went back, too few heads, or peers were asked otherwise.
        """
        if not isinstance(heads, Mapping) or not all(isinstance(named, Mapping) for named in heads.values()):
            raise _refused("It brings no ledger heads.")
        parties = {party.name: party for party in plan.participants}
        facts: dict[str, dict[str, LedgerHead]] = {}
        for step, named in heads.items():
            facts[str(step)] = {str(n): self._take_in(parties.get(str(n)), str(h)) for n, h in named.items()}
        for step_done, own_request in done.items():
            at = facts.get(str(step_done), {})
            _check_same_step(plan, [f for n, f in at.items() if parties[n].key in counted], step_done, own_request)

    def _take_in(self, party: Party | None, head: str) -> LedgerHead:
        facts = self._read(party, head)
        assert party is not None
        if party.name == self.name:
            self.ledger.check_anchor(head)
        else:
            self._keep(party, facts, head)
        return facts

    def keep_own(self, head: str) -> None:
        """Keep this hospital's newest head beside its ledger, to be looked for when the vault opens again."""
        write_atomically(self.folder / "own.json", json.dumps({"head": head}).encode(), mode=0o600)

    def check_own(self) -> None:
        """Whether the ledger still holds the newest head that it signed.

        Raises:
            ProtocolViolation: it went back.
        """
        file = self.folder / "own.json"
        if file.exists():
            self.ledger.check_anchor(str(json.loads(file.read_bytes())["head"]))

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


def _check_same_step(plan: Plan, facts: Sequence[LedgerHead], step: int, own_request: bytes | None) -> None:
    at = [fact for fact in facts if (fact.plan, fact.step) == (plan.digest, step)]
    if len(at) < plan.study.federation.quorum:
        raise _refused(f"It brings fewer ledger heads of step {step} than the quorum.")
    requests = {fact.request for fact in at} | ({own_request.hex()} if own_request is not None else set())
    if len(requests) > 1:
        raise _refused(f"Hospitals were asked different things at step {step}.")


def _refused(why: str) -> ProtocolViolation:
    return ProtocolViolation("A task was refused.", why, "Ask the coordinator for its record of the round.")
