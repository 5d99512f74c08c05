"""What a hospital says to a plan: it looks (`review`), and approves or refuses, signed by its vault's key.

    agreements/DIGEST/plan.dsse.json       the plan, as it came
    agreements/DIGEST/approval.dsse.json   or refusal.dsse.json: what was said, to be sent to the coordinator

A vault follows a plan only with an approval of exactly its digest here, by this hospital's present key, and no refusal:
a changed plan has another digest, and a rotated key approves anew. What was said is entered in the egress log first.

The review's numbers on the budget over the cohort's life look at who was charged before. They are for the hospital's
own eyes, and are not among the policy's rules.
"""

from __future__ import annotations

import contextlib
import datetime
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from manikin.client.cohort.hospital import Hospital
from manikin.client.cohort.store import Store
from manikin.client.egress import EgressLog
from manikin.client.enrolment import put_out
from manikin.client.policy import Part, Policy, Ruling
from manikin.common import agreements
from manikin.common.agreements import Approval, Refusal
from manikin.common.errors import BudgetExhausted, Misconfigured, PolicyRefusal, VerificationFailed
from manikin.common.files import write_atomically
from manikin.common.plan import Plan
from manikin.privacy.budget import plan_epsilon
from manikin.privacy.costs import Total
from manikin.privacy.ledger import Ledger


@dataclass(frozen=True)
class Life:
    """ε and δ over the life of the cohort, by plain sums of what plans may cost.

    Args:
        spent: the most that any patient of the cohort was charged, by plans other than this one.
        after: with this plan.
        limit: what the policy allows.
    """

    spent: tuple[float, float]
    after: tuple[float, float]
    limit: tuple[float, float]

    @property
    def holds(self) -> bool:
        return all(after <= limit * (1 + 1e-12) for after, limit in zip(self.after, self.limit, strict=True))


@dataclass(frozen=True)
class Review:
    """A plan held against this hospital's policy, ledger and cohort.

    Args:
        plan: the plan.
        leaves: all that it would let out, beside acknowledgements.
        costs: ε of the whole plan by all accountants, at its δ.
        life: what it would do to the budget.
        rulings: the policy's rules.
    """

    plan: Plan
    leaves: tuple[Part, ...]
    costs: Total
    life: Life
    rulings: tuple[Ruling, ...]

    @property
    def keeps_its_promise(self) -> bool:
        """Whether the noise that the plan states is enough for the ε that it states."""
        return self.costs.value <= self.plan.study.privacy.epsilon

    def require(self) -> None:
        """Refuse what cannot be approved.

        Raises:
            PolicyRefusal: the policy refuses the plan, or its noise is too small for the ε that it states.
            BudgetExhausted: a patient would be charged more than the policy allows over the cohort's life.
        """
        if not self.keeps_its_promise:
            raise PolicyRefusal(
                f"The plan would spend ε = {self.costs.value:.3f}.",
                f"It says that it spends at most ε = {self.plan.study.privacy.epsilon:g}.",
                "Ask the coordinator to propose it again.",
            )
        broken = [ruling.rule for ruling in self.rulings if not ruling.holds]
        if broken:
            raise PolicyRefusal(
                "This hospital's policy refuses the plan.",
                f"These rules are broken: {', '.join(broken)}.",
                "Change policy.toml, or tell the coordinator with `manikin hospital refuse`.",
            )
        if not self.life.holds:
            raise BudgetExhausted(
                "The budget over the life of the cohort does not allow the plan.",
                f"A patient would have been charged ε = {self.life.after[0]:g}, δ = {self.life.after[1]:g}.",
                "Ask for a plan with less ε, or decide with your privacy officer to raise the limits in policy.toml.",
            )


def review(folder: Path, content: bytes, *, today: datetime.date) -> Review:
    """Hold a plan against this hospital's policy; nothing is written, and nothing leaves.

    Raises:
        VerificationFailed: it is no plan, or not signed by the coordinator that it names.
        PolicyRefusal: this hospital has no policy.
        Misconfigured: the policy is damaged, the folder is no hospital, or the plan's numbers are none that can be
            accounted for.
    """
    plan = agreements.agreed_plan(content)
    policy = Policy.load(folder)
    costs, rulings = plan_epsilon(plan), policy.rulings(plan, today=today)
    return Review(plan, tuple(policy.what_leaves(plan)), costs, _life(folder, plan, policy), rulings)


def approve(folder: Path, content: bytes, *, today: datetime.date) -> Path:
    """Approve a plan; the approval's file.

    Raises:
        PolicyRefusal: the policy refuses it, or this hospital has refused it before.
        BudgetExhausted: a patient would be charged more than the policy allows over the cohort's life.
        VerificationFailed: it is no plan, or not signed by the coordinator that it names.
        StorageFailure: the disk is full or not writable.
    """
    held = review(folder, content, today=today)
    held.require()
    place = _place(folder, held.plan.digest)
    if (place / "refusal.dsse.json").exists():
        raise PolicyRefusal(
            "This plan was refused here.", "A refusal is final.", "Ask the coordinator for another plan."
        )
    hospital = Hospital.open(folder)
    return _say(hospital, content, Approval(plan=held.plan.digest, hospital=hospital.name))


def refuse(folder: Path, content: bytes, reason: str) -> Path:
    """Refuse a plan, also one that was approved before; the refusal's file.

    Args:
        reason: the engineer's own words. They leave the hospital.

    Raises:
        VerificationFailed: it is no plan, or not signed by the coordinator that it names.
        Misconfigured: the reason is empty, too long, or not printable.
        StorageFailure: the disk is full or not writable.
    """
    digest, hospital = agreements.agreed_plan(content).digest, Hospital.open(folder)
    try:
        refusal = Refusal(plan=digest, hospital=hospital.name, reason=reason)
    except ValidationError:
        raise Misconfigured(
            f"A reason is one line of at most {agreements.REASON_CHARACTERS_MAX} printable characters.",
            "",
            "Give --reason TEXT.",
        ) from None
    return _say(hospital, content, refusal)


def require_approval(folder: Path, plan: Plan) -> None:
    """Whether this hospital approved exactly this plan.

    Raises:
        PolicyRefusal: it did not, or it refused it, or approved it with a key that it no longer has.
    """
    place, hospital = _place(folder, plan.digest), Hospital.open(folder)
    if (place / "refusal.dsse.json").exists():
        raise PolicyRefusal("This hospital refused the plan.", "A refusal is final.", "Propose another plan to it.")
    approval = None
    with contextlib.suppress(FileNotFoundError, VerificationFailed):
        content = (place / "approval.dsse.json").read_bytes()
        approval = agreements.read(content, Approval, [hospital.signing_key.public_key])
    if approval != Approval(plan=plan.digest, hospital=hospital.name):
        raise PolicyRefusal(
            "This hospital has not approved the plan.",
            "There is no approval of exactly this plan by its present key.",
            "Read it with `manikin hospital review`, then `manikin hospital approve`.",
        )


def _say(hospital: Hospital, content: bytes, said: Approval | Refusal) -> Path:
    """Sign, enter in the egress log, then write where it can be sent from."""
    place = _place(hospital.folder, said.plan)
    key = hospital.signing_key
    envelope = agreements.write(said, key)
    kind = "approval" if isinstance(said, Approval) else "refusal"
    log = EgressLog(hospital.folder / "egress.sqlite", signer=key)
    log.record(kind=kind, plan=said.plan, step=-1, tensors=[], content=envelope, epsilon=None)
    for part in (place.parent, place):
        part.mkdir(mode=0o700, exist_ok=True)
    write_atomically(place / "plan.dsse.json", content, mode=0o600)
    write_atomically(place / f"{kind}.dsse.json", envelope, mode=0o600)
    gateway, addressee = hospital.folder / "gateway", agreements.agreed_plan(content).coordinator
    if (gateway / "outbox").is_dir() and addressee is not None:
        put_out(gateway, addressee.key, f"answer-{said.plan[:16]}.dsse.json", envelope)
    return place / f"{kind}.dsse.json"


def _life(folder: Path, plan: Plan, policy: Policy) -> Life:
    cost = (plan.study.privacy.epsilon, plan.study.privacy.delta)
    spent = _spent(folder, plan.digest, cost) if (folder / "ledger.sqlite").exists() else (0.0, 0.0)
    after = (spent[0] + cost[0], spent[1] + cost[1])
    return Life(spent, after, (policy.limits.epsilon, policy.limits.delta))


def _spent(folder: Path, digest: str, cost: tuple[float, float]) -> tuple[float, float]:
    """What other plans charged the patient of this cohort who was charged most."""
    hospital = Hospital.open(folder)
    ledger = Ledger(folder / "ledger.sqlite", hospital=hospital.name, signer=hospital.signing_key)
    with Store.open(hospital.database) as store:
        most = ledger.lifetime({layout.patient for layout in store.layouts()})
    if any(spending.plan == digest and spending.charged for spending in ledger.spent()):
        return max(0.0, most[0] - cost[0]), max(0.0, most[1] - cost[1])
    return most


def _place(folder: Path, digest: str) -> Path:
    return folder / "agreements" / digest
