"""Admission: whether a plan may be followed today, and whether its coordinator asked exactly this, at this point.

Everything is looked at for every task, before a patient is read or anything is reserved, in this order: who asked,
what the hospital said to the plan, what its policy says today, what the plan promises, which step is asked, and what
the other hospitals were asked.

What it does not look at: what a patient was charged before, which is the ledger's to refuse.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal

from manikin import __version__
from manikin.client.agreements import require_approval
from manikin.client.anchors import Anchors
from manikin.client.egress import EgressLog
from manikin.client.policy import Policy
from manikin.common.errors import BadData, PolicyRefusal, ProtocolViolation
from manikin.common.plan import Party, Plan, Step
from manikin.common.wire import CHARGED, Task
from manikin.privacy.budget import plan_epsilon
from manikin.privacy.ledger import Ledger


def plan_of(task: Task) -> Plan:
    """The plan that a task opens.

    Raises:
        ProtocolViolation: it brings no plan, or another one than it names.
    """
    raw = task.parameters.get("plan")
    plan = Plan.from_dict(raw if isinstance(raw, dict) else {})
    if plan.digest != task.plan_digest:
        raise ProtocolViolation("A plan was refused.", "Its digest is another one.", "Ask for the plan again.")
    return plan


def step_of(plan: Plan, task: Task) -> Step:
    """The step of a plan that a task asks.

    Raises:
        ProtocolViolation: the plan has no such step.
    """
    steps = plan.steps()
    if not 0 <= task.step < len(steps) or steps[task.step].action != task.action:
        raise ProtocolViolation(
            "A task was refused.",
            f"The plan has no step {task.step} with the action {task.action!r}.",
            "Ask the coordinator to follow its plan.",
        )
    return steps[task.step]


def step_to_offer(plan: Plan, task: Task) -> Step | None:
    """The charged step for which an opening asks the hospital's key; the plan's first if it does not say.

    Raises:
        ProtocolViolation: the plan has no such step.
    """
    asked = task.parameters.get("offer", None)
    if asked is None:
        return plan.next_charged(0)
    found = [step for step in plan.steps() if step.action in CHARGED and step.index == asked]
    if not found:
        raise ProtocolViolation("A task was refused.", "It asks a key for no charged step.", "Follow the plan.")
    return found[0]


@dataclass(frozen=True)
class Admission:
    """One hospital's door.

    Args:
        folder: the hospital's.
        own: the hospital, with its present key.
        unit: what its cohort can promise to protect.
        ledger: what was asked and done here.
        egress: when anything last left.
        anchors: the ledger heads of all.
        embedded: without a policy.toml, the command of the person who holds all folders stands for policy and approval.
    """

    folder: Path
    own: Party
    unit: Literal["patient", "image"]
    ledger: Ledger
    egress: EgressLog
    anchors: Anchors
    embedded: bool = False

    def policy(self) -> Policy | None:
        """The hospital's policy as it stands now; None in an embedded run without one.

        Raises:
            PolicyRefusal: it has none.
        """
        if self.embedded and not (self.folder / "policy.toml").exists():
            return None
        return Policy.load(self.folder)

    def today(self) -> date:
        """The date, or that of the last message that left if the clock was set back: a key that expired stays so."""
        return max(datetime.now(UTC).date(), self.egress.last_date() or date.min)

    def admit(self, plan: Plan, task: Task) -> None:
        """Whether this plan may be followed today, and its coordinator asked this.

        Raises:
            ProtocolViolation: the plan's coordinator did not sign the task.
            PolicyRefusal: the plan does not name its parties, is not approved, breaks a rule of the policy, or does not
                keep its promise.
            BadData: the cohort cannot keep it.
        """
        if plan.coordinator is None:
            raise PolicyRefusal("A plan was refused.", "It names no coordinator.", "Propose it with its parties.")
        if self.own not in plan.participants:
            raise PolicyRefusal(
                "A plan was refused.",
                "It does not name this hospital with its present key.",
                "Enrol again, and ask the coordinator for a plan with the new key.",
            )
        task.check_signature(plan.coordinator.public_key)
        policy = self.policy()
        if policy is not None:  # the approval first: only a plan that a person saw is looked at closely
            require_approval(self.folder, plan)
            policy.check_plan(plan, today=self.today())
        _check_version(plan)
        _check_budget(plan)
        self._check_unit(plan)

    def check_opening(self, plan: Plan, task: Task) -> None:
        """Take in the ledger heads that an opening brings.

        Raises:
            ProtocolViolation: one is malformed or forged, or a ledger went back.
        """
        self.anchors.check(plan, task.parameters.get("heads"), done={}, counted=())

    def check_heads(self, plan: Plan, step: Step, task: Task) -> None:
        """Whether all who count were asked the same at the last charged step, and at the last that was taken here.

        Raises:
            ProtocolViolation: they were not, fewer than the quorum show it, or a head does not hold.
        """
        charged = [s for s in plan.steps() if s.action in CHARGED and s.index < step.index]
        own = {s.index: self.ledger.request(plan.digest, s.index) for s in charged}
        taken = [index for index, request in own.items() if request is not None]
        surely = [s.index for s in charged if not s.spare]  # a spare may have been asked of nobody
        done = {index: own[index] for index in {*surely[-1:], *taken[-1:]}}
        self.anchors.check(plan, task.parameters.get("heads"), done=done, counted=self.counted(plan)[0])

    def counted(self, plan: Plan) -> tuple[frozenset[str], int]:
        """Keys of the participants that count here, this hospital's among them; and how many of them there must be."""
        policy, quorum = self.policy(), plan.study.federation.quorum
        if policy is None:
            return frozenset(party.key for party in plan.participants), quorum
        return policy.counted(plan, today=self.today()), max(quorum, policy.limits.quorum_min)

    def _check_unit(self, plan: Plan) -> None:
        if plan.study.privacy.unit == "patient" and self.unit == "image":
            raise BadData(
                "The plan promises protection of patients, and this cohort has no patient ids.",
                "Images of one patient cannot be told to belong together.",
                'Import with patient ids, or agree on a study with unit = "image".',
            )


def _check_version(plan: Plan) -> None:
    if plan.code_version != __version__:
        raise PolicyRefusal(
            "A plan was refused.",
            f"It was made by version {plan.code_version}, and this is {__version__}.",
            "Ask the coordinator for a plan of this version.",
        )


def _check_budget(plan: Plan) -> None:
    spent = plan_epsilon(plan).value
    if not spent <= plan.study.privacy.epsilon:
        raise PolicyRefusal(
            f"The plan would spend ε = {spent:.3f}.",
            f"It says that it spends at most ε = {plan.study.privacy.epsilon:g}.",
            "Ask the coordinator to propose it again.",
        )
