"""Secure sums over a run: whose keys are at hand, who is asked, and what becomes of a sum that somebody dropped out of.

A sum needs the answer of everyone on its roster. Hospitals offer a fresh key for the next step with each answer; the
roster is those whose offer for the step is at hand, and it is on disk before anyone is asked, so that a resumed run
asks the very same. If somebody does not answer, the step is lost: the answers that came are uniform noise, they are
charged, and the next step (or a release's spare) is asked of those who are left, with fresh samples and noise. Where
the plan has no step left for it, or too few are left, the run stops, and goes on when the hospital is back.

Nothing here can open a share: the coordinator holds public keys and masked words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manikin.common.errors import ProtocolViolation, TransportFailure
from manikin.common.plan import Plan, Step
from manikin.common.wire import CHARGED, MASKED, Arrays, Reply, Task
from manikin.privacy.roster import Offer, Roster, check_offer
from manikin.privacy.secure_sum import Summation, largest_bound
from manikin.server.checkpoints import Checkpoint


def opening(plan: Plan, step: Step, heads: Mapping[str, str]) -> dict[str, Any]:
    """Parameters of an opening that asks the hospitals' keys for a step."""
    return {"plan": plan.to_dict(), "heads": {"latest": dict(heads)}, "offer": step.index}


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

        It stands in the checkpoint afterwards, and earlier steps' offers do not.

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


class MaskedSum:
    """The running sum of one roster's masked answers.

    Args:
        roster: who is asked.
        size: numbers in an answer.
    """

    def __init__(self, roster: Roster, size: int) -> None:
        self.roster = roster
        self._summation = Summation(roster, size=size, bound=largest_bound(len(roster.offers)))

    def add(self, name: str, arrays: Arrays) -> None:
        """Fold in one answer.

        Raises:
            ProtocolViolation: it does not fit; nothing was folded in.
        """
        self._summation.add(name, np.asarray(arrays[MASKED]))

    @property
    def complete(self) -> bool:
        """Whether everyone answered."""
        return not self._summation.missing

    def total(self) -> NDArray[np.int64]:
        """The exact sum.

        Raises:
            ProtocolViolation: somebody is missing, or the masks did not cancel.
        """
        return self._summation.total()
