"""What of a coordinator's folder one hospital may read and add to; no transport.

A hospital reads the plans that name it with its key, everybody's answers to them, and the enrolments of those who are
enrolled: it pins peers by them. It adds answers and a renewed enrolment, all signed by itself, and by the same checks
that files go through. A first enrolment cannot be added here: nobody has a line who is not enrolled.
"""

from __future__ import annotations

from dataclasses import dataclass

from manikin.common import agreements
from manikin.common.agreements import Approval, Enrolment, Refusal
from manikin.common.errors import Misconfigured, PolicyRefusal, VerificationFailed
from manikin.common.plan import Party, Plan
from manikin.common.registry import Entry
from manikin.server.agreements import SUFFIX, Coordinator, answers, collect, enroll, enrolled, load_plan


@dataclass(frozen=True)
class Shelf:
    """The coordinator's documents, as one enrolled hospital sees them.

    Args:
        coordinator: the folder.
        reader: the hospital's accepted enrolment.
    """

    coordinator: Coordinator
    reader: Enrolment

    @classmethod
    def of(cls, coordinator: Coordinator, node_key: str) -> Shelf:
        """The shelf of the hospital whose gateway has this key.

        Raises:
            PolicyRefusal: no hospital with it is enrolled, or it was revoked.
        """
        for enrolment in enrolled(coordinator).values():
            if enrolment.node_key == node_key:
                return cls(coordinator, enrolment)
        raise PolicyRefusal("This gateway is not enrolled.", "Its hospital was revoked, or never came.", "Enrol again.")

    def put(self, content: bytes) -> bytes:
        """Add a document that this hospital signed; nothing is answered.

        Raises:
            VerificationFailed: it is not signed as it must be, or of a kind that no hospital adds.
            PolicyRefusal: it speaks for another hospital, or the coordinator's folder does not take it.
            Misconfigured: it answers a plan that was never proposed.
        """
        claimed = agreements.claimed(content)
        if isinstance(claimed, (Approval, Refusal)):
            self._require_own(claimed.hospital)
            collect(self.coordinator, content)
        elif isinstance(claimed, Enrolment):
            self._require_own(claimed.name)
            enroll(self.coordinator, content)
        else:
            raise VerificationFailed(
                "A document was refused.",
                "Hospitals add approvals, refusals and their new enrolments.",
                "Send another.",
            )
        return b""

    def _require_own(self, name: str) -> None:
        if name != self.reader.name:
            raise PolicyRefusal(
                "A document was refused.", f"It speaks for another hospital than {self.reader.name}.", "Send your own."
            )

    def entries(self) -> list[Entry]:
        """All that this hospital may read."""
        found = [Entry(kind="enrolment", plan="", name=name) for name in enrolled(self.coordinator)]
        for plan in self._plans():
            found.append(Entry(kind="plan", plan=plan.digest, name=""))
            said = answers(self.coordinator, plan)
            found += [Entry(kind="answer", plan=plan.digest, name=name) for name, answer in said.items() if answer]
        return found

    def get(self, entry: Entry) -> bytes:
        """One document.

        Raises:
            Misconfigured: it is not among `entries`.
        """
        if entry not in self.entries():
            raise Misconfigured("There is no such document here.", "", "Ask what there is.")
        if entry.kind == "enrolment":
            return (self.coordinator.folder / "hospitals" / f"{entry.name}{SUFFIX}").read_bytes()
        folder = self.coordinator.plan_folder(entry.plan)
        file = f"plan{SUFFIX}" if entry.kind == "plan" else f"approvals/{entry.name}{SUFFIX}"
        return (folder / file).read_bytes()

    def _plans(self) -> list[Plan]:
        folders = sorted((self.coordinator.folder / "plans").glob("*"))
        plans = [load_plan(self.coordinator, f.name) for f in folders if (f / f"plan{SUFFIX}").exists()]
        return [plan for plan in plans if Party(self.reader.name, self.reader.key) in plan.participants]
