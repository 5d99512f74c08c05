"""The hospitals' fresh keys for secure sums, as a run's checkpoint keeps them, and the roster of each sum.

Hospitals offer a key for the next charged step with each answer, and when a plan is opened. The roster of a step is
everyone whose offer for it is at hand; it stays what it was when the step is asked again, so that a resumed run asks
the very same. Nothing here can open a share: the coordinator holds public keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from manikin.common.errors import ProtocolViolation, TransportFailure
from manikin.common.plan import Plan, Step
from manikin.common.wire import CHARGED, Reply, Task
from manikin.privacy.roster import Offer, Roster, check_offer
from manikin.server.checkpoints import Checkpoint


def opening(plan: Plan, step: Step | None, heads: Mapping[str, str]) -> dict[str, Any]:
    """Parameters of an opening; in distributed mode it asks the hospitals' keys for a charged step."""
    parameters = {"plan": plan.to_dict(), "heads": {"latest": dict(heads)} if heads else {}}
    return parameters | ({"offer": step.index} if plan.study.federation.distributed and step is not None else {})


def offered_step(plan: Plan, task: Task) -> Step | None:
    """The step for which the reply to a task must bring an offer; None if it must bring none."""
    if not plan.study.federation.distributed:
        return None
    if task.action == "open":
        asked = task.parameters.get("offer")
        return plan.next_charged(0) if asked is None else plan.steps()[asked]
    return plan.next_charged(task.step) if task.action in CHARGED else None


@dataclass(frozen=True)
class Offers:
    """The hospitals' keys, as the checkpoint keeps them.

    Args:
        plan: whose participants may offer.
        checkpoint: of the run.
    """

    plan: Plan
    checkpoint: Checkpoint

    def check(self, name: str, task: Task, reply: Reply) -> None:
        """Whether a reply brings the offer that it must.

        Raises:
            ProtocolViolation: it brings none, one too many, another hospital's, or one that its hospital did not sign.
        """
        step = offered_step(self.plan, task)
        if (step is None) != (reply.offer is None):
            raise ProtocolViolation("A reply was refused.", f"{name!r} offers a key where none is due, or none.")
        if step is None or reply.offer is None:
            return
        offer = Offer.from_json(dict(reply.offer))
        identities = {party.name: party.public_key for party in self.plan.participants}
        if offer.hospital != name or name not in identities:
            raise ProtocolViolation("A reply was refused.", f"{name!r} offers a key of {offer.hospital!r}.")
        check_offer(offer, identities[name], plan=self.plan.digest, step=step.index)

    def keep(self, name: str, task: Task, reply: Reply) -> None:
        """Keep the offer of a reply that was checked."""
        step = offered_step(self.plan, task)
        if step is not None and reply.offer is not None:
            self.checkpoint.offers.setdefault(str(step.index), {})[name] = dict(reply.offer)

    def of(self, step: Step) -> dict[str, dict[str, str]]:
        """Those for a step, by hospital."""
        return self.checkpoint.offers.get(str(step.index), {})

    def roster(self, step: Step) -> Roster:
        """Who is asked this step: as before if it was asked before, else everyone whose offer is at hand.

        The checkpoint holds it afterwards, and no longer the offers for earlier steps.

        Raises:
            TransportFailure: they are fewer than the quorum.
        """
        asked, checkpoint = self.checkpoint.asked, self.checkpoint
        if asked.get("step") != step.index:
            offers, quorum = self.of(step), self.plan.study.federation.quorum
            if len(offers) < quorum:
                raise TransportFailure(
                    f"{len(offers)} hospitals are ready for step {step.index}, and the quorum is {quorum}.",
                    "A secure sum needs the keys of all who take part in it.",
                    "Mend the cause at those hospitals, then run the same command with --resume.",
                )
            asked = {"step": step.index, "offers": [offers[name] for name in sorted(offers)]}
            checkpoint.asked = asked
            checkpoint.offers = {s: kept for s, kept in checkpoint.offers.items() if int(s) >= step.index}
        return Roster(self.plan.digest, step.index, tuple(Offer.from_json(offer) for offer in asked["offers"]))
