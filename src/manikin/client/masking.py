"""A hospital's part in secure sums: the key that it offers, the roster that it accepts, the share that it masks.

Keys are derived from the hospital's secret, plan and step, so that a vault that was killed offers the same key again.
A key is used for one answer: the ledger pins a step's request, which holds the roster and the weights, and the masks
are bound to it (`secure_sum`). The noise comes from the same secret, so a key of its own would hide nothing more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from manikin.common.errors import ProtocolViolation
from manikin.common.keys import SigningKey
from manikin.common.plan import Plan, Step
from manikin.common.wire import Task, request_digest
from manikin.privacy.randomness import Stream
from manikin.privacy.roster import KEY_BYTES, Offer, Roster, sign_offer
from manikin.privacy.secure_sum import largest_bound, mask


@dataclass(frozen=True)
class Masking:
    """What a hospital needs to take part in secure sums.

    Args:
        name: the hospital.
        key: signs its offers.
        secret: its X25519 keys are derived from it.
    """

    name: str
    key: SigningKey
    secret: bytes

    def offer(self, plan: Plan, step: Step | None) -> Mapping[str, str] | None:
        """The signed fresh key for a charged step, as a reply carries it; None in local mode, or where no step is."""
        if step is None or not plan.study.federation.distributed:
            return None
        private = self._private(plan, step.index)
        return sign_offer(self.key, private, hospital=self.name, plan=plan.digest, step=step.index).as_json()

    def roster(self, plan: Plan, task: Task, *, counted: Collection[str], quorum: int) -> Roster:
        """The roster that a task asks to mask for.

        Args:
            plan: admitted.
            task: a charged step of it.
            counted: keys of the participants that this hospital verified, its own among them.
            quorum: least number of them in the roster.

        Raises:
            ProtocolViolation: no roster, a forged or foreign offer, too few whom this hospital verified, or its own key
                is not the one that it offered.
        """
        offers = task.parameters.get("roster")
        if not isinstance(offers, list):
            raise ProtocolViolation(
                "A task was refused.", "It brings no roster.", "Ask with the offers of all who take part in the sum."
            )
        roster = Roster.agreed(
            [Offer.from_json(offer) for offer in offers],
            identities={party.name: party.public_key for party in plan.participants},
            counted=names(plan, counted),
            quorum=quorum,
            plan=plan.digest,
            step=task.step,
        )
        roster.peers(self.name, self._private(plan, task.step))
        return roster

    def mask(self, share: NDArray[np.int64], *, plan: Plan, task: Task, roster: Roster) -> NDArray[np.uint64]:
        """The share as it leaves."""
        return mask(
            share,
            private=self._private(plan, task.step),
            own=self.name,
            roster=roster,
            request=task.digest,
            bound=largest_bound(len(roster.offers)),
        )

    def _private(self, plan: Plan, step: int) -> bytes:
        request = request_digest({"plan": plan.digest, "step": step})
        words = Stream(self.secret, request=request, purpose="secure sum key").words(KEY_BYTES // 8)
        return words.astype("<u8").tobytes()


def names(plan: Plan, keys: Collection[str]) -> frozenset[str]:
    """The participants with these keys, by name."""
    return frozenset(party.name for party in plan.participants if party.key in keys)
