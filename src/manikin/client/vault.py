"""The vault: the only place where patients are read, and the seam that no request can talk round.

It follows a plan that its own hospital approved and its own policy allows, when the plan's coordinator signed the task
(`admission`), and does what the plan's steps say, once, in order, with noise bound to the whole request (`steps`). What
is spent stands on disk before a patient is touched, and the reply, signed, before it leaves. What leaves is a sum or
weights made by a charged mechanism (in distributed mode under the masks of a secure sum: `masking`), a fresh public key
for the next sum, a ledger head, or a bare acknowledgement; refusals cross as one of three codes, and
their text stays in the hospital. The same object answers embedded and behind a socket (`service`).
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from manikin.client.admission import Admission, plan_of, step_of, step_to_offer
from manikin.client.anchors import Anchors
from manikin.client.auditing import audit_at_home, pin_request, read_exhibit
from manikin.client.canary import answer_canary
from manikin.client.cohort import Cohort, Hospital
from manikin.client.egress import EgressLog, unaccounted
from manikin.client.enrolment import former_keys
from manikin.client.masking import Masking, names
from manikin.client.steps import SHARE, mechanism, perform
from manikin.common import frames
from manikin.common.errors import ManikinError, PolicyRefusal, ProtocolViolation, StorageFailure
from manikin.common.faults import reach
from manikin.common.files import write_atomically
from manikin.common.images import Patient
from manikin.common.plan import Party, Plan, Step
from manikin.common.wire import CHARGED, MASKED, RefusalCode, Refused, Reply, Task, check_arrays
from manikin.privacy.ledger import Charge, Ledger
from manikin.privacy.roster import Roster
from manikin.privacy.skellam import Shares

UNLIMITED = 1e9  # embedded, without a policy: the ledger counts, and nothing stops
_CODES: dict[type[Exception], RefusalCode] = {
    ProtocolViolation: "protocol-violation",
    PolicyRefusal: "policy-refusal",
}


class Vault:
    """One hospital's patients, ledger and secret, behind a handful of tasks.

    Args:
        folder: the hospital's folder, made by `manikin hospital init`.
        embedded: all hospitals run on one machine, by one person who holds all their folders: where there is no
            policy.toml, that person's command stands for policy and approval. The audit page says so.
    """

    def __init__(self, folder: Path, *, embedded: bool = False) -> None:
        self.folder, self.embedded = folder, embedded
        self.cohort = Cohort.open(folder)
        self._key = Hospital.open(folder).signing_key
        former = former_keys(folder)
        self.ledger = Ledger(folder / "ledger.sqlite", hospital=self.cohort.name, signer=self._key, former_keys=former)
        self._egress = EgressLog(folder / "egress.sqlite", signer=self._key)
        self._anchors = Anchors(folder / "anchors", self.ledger, self.cohort.name)
        own = Party(self.cohort.name, self._key.public_key.hex())
        self._admission = Admission(
            folder, own, self.cohort.unit, self.ledger, self._egress, self._anchors, embedded=embedded
        )
        self._masking = Masking(self.cohort.name, self._key, self.cohort.secret)
        self._check_books(former)
        self._plans: dict[str, Plan] = {}
        self._patients: dict[str, dict[str, list[Patient]]] = {}
        self._counts: Counter[str] = Counter()
        self._one_at_a_time = threading.Lock()

    def _check_books(self, former: tuple[bytes, ...]) -> None:
        """A ledger that was edited, or is older than what was signed or sent, takes part in nothing."""
        found = self.ledger.verify(self._key.public_key, former_keys=former)
        problem = "" if found.holds else found.problems[0]
        lost = unaccounted(self._egress.messages(), self.ledger.spent())
        if lost:
            problem = f"It lacks step {lost[0].step} of a plan, which the egress log says was answered."
        if problem:
            raise StorageFailure(
                "The ledger does not hold.", problem, "Restore it; see `manikin hospital ledger --verify`."
            )
        self._anchors.check_own()

    def exchange(self, frame: bytes) -> bytes:
        """Answer one frame; never raises. What leaves is entered in the egress log first."""
        with self._one_at_a_time:
            self._counts["bytes_in"] += len(frame)
            task: Task | None = None
            answer: Reply | Refused
            try:
                task = frames.decode_task(frame)
                reach("vault: task read")
                answer = self.handle(task)
            except Exception as error:  # noqa: BLE001 (whatever happened, its text stays here)
                answer = self._refusal(error)
            return self._send(task, answer)

    def _refusal(self, error: Exception) -> Refused:
        self._note(error)
        return Refused(_CODES.get(type(error), "unavailable"))

    def _note(self, error: Exception) -> None:
        """Leave the text of a failure at the hospital, where its engineer reads it."""
        text = {
            "code": error.code if isinstance(error, ManikinError) else "error",
            "what": error.what if isinstance(error, ManikinError) else "Something went wrong that should not.",
            "why": error.why if isinstance(error, ManikinError) else f"{type(error).__name__}: {error}",
            "next_step": error.next_step if isinstance(error, ManikinError) else "Report it.",
        }
        write_atomically(self.folder / "last-refusal.json", json.dumps(text).encode(), mode=0o600)

    def _send(self, task: Task | None, answer: Reply | Refused) -> bytes:
        content = frames.encode_reply(answer)
        refused = isinstance(answer, Refused)
        kind = "refusal" if refused or task is None else task.action
        plan = self._plans.get(task.plan_digest) if task is not None else None
        charged = kind in CHARGED
        self._egress.record(
            kind=kind,
            plan=plan.digest if plan is not None else "",
            step=task.step if task is not None else -1,
            tensors=[] if isinstance(answer, Refused) else _described(answer),
            content=content,
            epsilon=plan.study.privacy.epsilon if charged and plan is not None else None,
        )
        self._counts[f"refused_{answer.code}" if isinstance(answer, Refused) else f"answered_{kind}"] += 1
        self._counts["bytes_out"] += len(content)
        reach("vault: reply entered")
        return content

    def counters(self) -> dict[str, float]:
        """Messages, bytes and refusals since the start, plans and steps charged: nothing that a patient moves."""
        spent = self.ledger.spent()
        planned = sum(plan.charged[0] for plan in spent if plan.charged)
        charged = {"plans_charged": len(spent), "steps_charged": sum(len(p.entries) for p in spent)}
        numbers = {**{k: float(v) for k, v in dict(self._counts).items()}, **charged, "epsilon_planned": planned}
        content = json.dumps(numbers, sort_keys=True).encode()
        self._egress.record(kind="counters", plan="", step=-1, tensors=[], content=content, epsilon=None)
        return numbers

    def handle(self, task: Task) -> Reply:
        """Do one task, or return the very reply that was given before.

        Raises:
            ProtocolViolation: the request does not fit the plan, is not signed by its coordinator, or changes a step
                that was done.
            PolicyRefusal: the policy or a missing approval forbids the plan, or it would spend more than it says.
            BudgetExhausted: a patient of the cohort has spent too much already.
            BadData: the cohort does not fit the study.
        """
        check_arrays(task.arrays)
        if task.action == "open":
            return self._open(task).signed(self._key, task)
        plan = self._plan(task.plan_digest)
        self._admission.admit(plan, task)
        if task.action == "canary":
            return answer_canary(task, plan, self._key, name=self.cohort.name)
        step = step_of(plan, task)
        self._admission.check_heads(plan, step, task)
        reply = self._audit(plan, task) if step.action == "audit" else self._spend(plan, step, task)
        return reply.signed(self._key, task)

    def _open(self, task: Task) -> Reply:
        plan = plan_of(task)
        self._admission.admit(plan, task)
        self._admission.check_opening(plan, task)
        write_atomically(self._plan_file(plan.digest), plan.canonical, mode=0o600)
        self._plans[plan.digest] = plan
        self._load(plan)
        return Reply(name=self.cohort.name, offer=self._masking.offer(plan, step_to_offer(plan, task)))

    def _plan_file(self, digest: str) -> Path:
        return self.folder / "plans" / f"{digest}.json"

    def _plan(self, digest: str) -> Plan:
        if digest not in self._plans:
            file = self._plan_file(digest) if digest.isalnum() else None
            if file is None or not file.is_file():
                raise ProtocolViolation(
                    "A task was refused.", "Its plan was never opened here.", "Open the plan before asking its steps."
                )
            plan = Plan.from_dict(json.loads(file.read_bytes()))
            if plan.digest != digest:
                raise StorageFailure("A plan on disk was changed.", "Its digest is another one.", "Open it again.")
            self._plans[digest] = plan
        return self._plans[digest]

    def _load(self, plan: Plan) -> dict[str, list[Patient]]:
        if plan.digest not in self._patients:
            self._patients = {plan.digest: self.cohort.load(plan.study.data)}
        return self._patients[plan.digest]

    def _spend(self, plan: Plan, step: Step, task: Task) -> Reply:
        roster, shares = self._roster(plan, task)  # one that cannot be accepted costs nothing
        reservation = self.ledger.reserve(
            plan.digest, task.step, task.digest, mechanism(plan, step), charge=self._charge(plan)
        )
        reach("vault: step reserved")
        if reservation.reply is None:
            arrays = perform(
                plan, step, task, patients=self._load(plan)["train"], secret=self.cohort.secret, shares=shares
            )
            if roster is not None:
                arrays = {MASKED: self._masking.mask(arrays[SHARE], plan=plan, task=task, roster=roster)}
            reach("vault: step computed")
            self.ledger.commit(reservation, save_arrays(dict(arrays)))
            self._anchors.keep_own(self.ledger.latest())
            reach("vault: step committed")
        else:
            arrays = load_arrays(reservation.reply)
        offer = self._masking.offer(plan, plan.next_charged(step.index))
        return Reply(arrays, self.cohort.name, self.ledger.head(plan.digest, task.step), offer=offer)

    def _roster(self, plan: Plan, task: Task) -> tuple[Roster | None, Shares | None]:
        """In distributed mode, whose sum this step is, and how the noise in it is divided."""
        collusion = plan.study.federation.collusion
        if collusion is None:
            return None, None
        counted, quorum = self._admission.counted(plan)
        roster = self._masking.roster(plan, task, counted=counted, quorum=quorum)
        trusted = set(roster.names) & names(plan, counted)
        return roster, Shares(hospitals=len(trusted), colluding=collusion)

    def _charge(self, plan: Plan) -> Charge:
        """The plan's whole ε and δ for every patient who takes part, within the policy's limits for a lifetime."""
        policy = self._admission.policy()
        return Charge(
            patients=[patient.key for patient in self._load(plan)["train"]],
            epsilon=plan.study.privacy.epsilon,
            delta=plan.study.privacy.delta,
            limit_epsilon=policy.limits.epsilon if policy else UNLIMITED,
            limit_delta=policy.limits.delta if policy else UNLIMITED,
        )

    def _audit(self, plan: Plan, task: Task) -> Reply:
        """Audit at home, once: the page is the hospital's own, and the acknowledgement leaves whatever was found."""
        exhibit = read_exhibit(plan, task)
        pin_request(self.folder / "plans" / f"{plan.digest}.audit", task)
        page = self.folder / "reports" / plan.digest[:12]
        try:
            patients = self._load(plan)
            audit_at_home(page, plan, exhibit, patients, hospital=self.cohort.name, embedded=self.embedded)
        except Exception as error:  # noqa: BLE001 (that an audit failed may depend on a patient, and stays here)
            self._note(error)
        return Reply(name=self.cohort.name)


def _described(reply: Reply) -> list[dict[str, Any]]:
    """What the egress log says of the arrays that leave."""
    return [{"name": n, "dtype": str(a.dtype), "shape": list(a.shape)} for n, a in sorted(reply.arrays.items())]
