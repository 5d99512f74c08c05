"""Secure sums over a run: who is asked, and what becomes of a sum that somebody dropped out of.

A sum needs the answer of everyone on its roster. The roster is on disk before anyone is asked. If somebody does not
answer, the step is lost: the answers that came are uniform noise, they are charged, and the next step (or a release's
spare) is asked of those who are left, with fresh samples and noise; who was missing is invited again. Where fewer than
the quorum answered, or a release has no spare left, the run stops, and goes on with the very same when all are back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from manikin.common.errors import TransportFailure
from manikin.common.plan import Step
from manikin.common.wire import MASKED, Arrays
from manikin.privacy.budget import stage_scale
from manikin.privacy.mechanisms import Vector
from manikin.privacy.secure_sum import Summation, largest_bound
from manikin.privacy.skellam import Shares, to_real
from manikin.server.asking import Asking
from manikin.server.offers import Offers, opening

INVITATION_S = 30.0  # how long those who missed a sum have to say that they are back


@dataclass(frozen=True)
class Sum:
    """A sum over all patients of a roster, noised.

    Args:
        total: float64 (d,).
        noise_std: standard deviation of the noise in it, the shares of all hospitals together.
        hospitals: how many are in it.
    """

    total: Vector
    noise_std: float
    hospitals: int


@dataclass(frozen=True)
class SecureSums:
    """The charged steps of a plan in distributed mode.

    Args:
        asking: the hospitals.
        save: puts the checkpoint on disk.
    """

    asking: Asking
    save: Callable[[], None]

    def ask(self, step: Step, arrays: Arrays, *, sensitivity: float) -> Sum | None:
        """The sum of a step; None if it was lost and the plan goes on without it.

        Args:
            step: a charged one.
            arrays: what it works from.
            sensitivity: largest L2 norm of one patient's vector.

        Raises:
            TransportFailure: fewer than the quorum answered, or a release was lost that has no spare left. The same
                step may be asked again.
            ProtocolViolation: the masks did not cancel: a hospital answered something else than it was asked.
        """
        plan, checkpoint = self.asking.plan, self.asking.checkpoint
        self._invite(step)
        roster = Offers(plan, checkpoint).roster(step)
        self.save()  # from here on the step is asked with this roster or not at all
        scale = stage_scale(plan, step.stage, sensitivity=sensitivity)
        summation = Summation(roster, size=scale.size, bound=largest_bound(len(roster.offers)))
        self.asking.ask(
            step,
            parameters=self.asking.standing() | {"roster": [offer.as_json() for offer in roster.offers]},
            arrays=arrays,
            expected={MASKED: ((scale.size,), "uint64")},
            fold=lambda name, answer: summation.add(name, np.asarray(answer[MASKED])),
            names=roster.names,
        )
        if summation.missing:
            self._lose(step, summation.missing)
            return None
        collusion = plan.study.federation.collusion
        assert collusion is not None
        shares = Shares(hospitals=len(roster.offers), colluding=collusion)
        noise_std = math.sqrt(shares.hospitals * shares.variance(scale)) * scale.grid
        return Sum(to_real(summation.total(), scale=scale), noise_std, shares.hospitals)

    def _lose(self, step: Step, missing: frozenset[str]) -> None:
        stage_steps = [s for s in self.asking.plan.steps() if s.stage == step.stage]
        if step.action == "release" and step == stage_steps[-1]:
            raise TransportFailure(
                f"The sum of step {step.index} lacks {', '.join(sorted(missing))}.",
                "A secure sum needs everyone it was begun with, and this release has no spare left.",
                "Mend the cause there, then run the same command with --resume.",
            )
        self.asking.checkpoint.lost.append(step.index)

    def _invite(self, step: Step) -> None:
        """After a loss, ask those who have no key for this step whether they are back."""
        plan, checkpoint = self.asking.plan, self.asking.checkpoint
        if checkpoint.asked.get("step") not in checkpoint.lost:
            return
        absent = [name for name in self.asking.channel.names if name not in Offers(plan, checkpoint).of(step)]
        if absent:
            self.asking.ask(
                plan.steps()[0],
                parameters=opening(plan, step, checkpoint.latest_heads),
                names=absent,
                quorum=0,
                deadline_s=INVITATION_S,
            )
