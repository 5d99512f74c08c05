"""The vault: the only place where patients are read, and the seam that no request can talk round.

It follows a plan that its own hospital approved and its own policy allows, does what the plan's steps say, once, in
order, when the plan's coordinator signed the task, with noise bound to the whole request; what is spent stands on disk
before a patient is touched, and the reply, signed, before it leaves. What leaves is a sum or weights made by a charged
mechanism, a ledger head, or a bare acknowledgement; refusals cross as one of three codes, and their text stays in the
hospital. The same object answers embedded and behind a socket (`service`).
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from manikin import __version__
from manikin.client.agreements import require_approval
from manikin.client.anchors import Anchors
from manikin.client.canary import answer_canary
from manikin.client.cohort import Cohort, Hospital
from manikin.client.egress import EgressLog, unaccounted
from manikin.client.enrolment import former_keys
from manikin.client.policy import Policy
from manikin.common import frames, generators
from manikin.common.errors import (
    BadData,
    ManikinError,
    Misconfigured,
    PolicyRefusal,
    ProtocolViolation,
    StorageFailure,
)
from manikin.common.faults import reach
from manikin.common.files import write_atomically
from manikin.common.generators import Generator, GeneratorSpec, Releasable, Trainable
from manikin.common.images import Patient
from manikin.common.plan import Plan, Step
from manikin.common.study import ReleaseStage, TrainStage
from manikin.common.wire import RefusalCode, Refused, Reply, Task, check_arrays
from manikin.privacy import engine
from manikin.privacy.audit import AuditSettings, run_audit
from manikin.privacy.audit.report import ReportContext, write_report
from manikin.privacy.budget import plan_epsilon, stage_mechanism
from manikin.privacy.ledger import Charge, Ledger
from manikin.privacy.mechanisms import release_sum
from manikin.privacy.randomness import Stream

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
        charged = kind in ("release", "train")
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
        self._admit(plan, task)
        self._check_promise(plan)
        if task.action == "canary":
            return answer_canary(task, plan, self._key, name=self.cohort.name)
        step = self._step(plan, task)
        self._check_heads(plan, step, task)
        reply = self._audit(plan, task) if step.action == "audit" else self._spend(plan, step, task)
        return reply.signed(self._key, task)

    def _open(self, task: Task) -> Reply:
        raw = task.parameters.get("plan")
        plan = Plan.from_dict(raw if isinstance(raw, dict) else {})
        if plan.digest != task.plan_digest:
            raise ProtocolViolation("A plan was refused.", "Its digest is another one.", "Ask for the plan again.")
        self._admit(plan, task)
        self._check_promise(plan)
        self._anchors.check(plan, task.parameters.get("heads"), done={}, counted=())
        write_atomically(self._plan_file(plan.digest), plan.canonical, mode=0o600)
        self._plans[plan.digest] = plan
        self._load(plan)
        return Reply(name=self.cohort.name)

    def _admit(self, plan: Plan, task: Task) -> None:
        """Whether this plan may be followed today, and its coordinator asked this: looked at for every task."""
        if plan.coordinator is None:
            raise PolicyRefusal("A plan was refused.", "It names no coordinator.", "Propose it with its parties.")
        own = (self.cohort.name, self._key.public_key.hex())
        if own not in [(party.name, party.key) for party in plan.participants]:
            raise PolicyRefusal(
                "A plan was refused.",
                "It does not name this hospital with its present key.",
                "Enrol again, and ask the coordinator for a plan with the new key.",
            )
        task.check_signature(plan.coordinator.public_key)
        policy = self._policy()
        if policy is not None:  # the approval first: only a plan that a person saw is looked at closely
            require_approval(self.folder, plan)
            policy.check_plan(plan, today=self._today())

    def _today(self) -> date:
        """The date, or that of the last message that left if the clock was set back: a key that expired stays so."""
        return max(datetime.now(UTC).date(), self._egress.last_date() or date.min)

    def _policy(self) -> Policy | None:
        """The hospital's policy; None in an embedded run without one."""
        if self.embedded and not (self.folder / "policy.toml").exists():
            return None
        return Policy.load(self.folder)

    def _check_heads(self, plan: Plan, step: Step, task: Task) -> None:
        """Whether all who count were asked the same at the last charged step, and at the last that was taken here."""
        charged = [s.index for s in plan.steps() if s.action in ("release", "train") and s.index < step.index]
        own = {index: self.ledger.request(plan.digest, index) for index in charged}
        taken = [index for index, request in own.items() if request is not None]
        policy = self._policy()
        counted = policy.counted(plan, today=self._today()) if policy else {p.key for p in plan.participants}
        done = {index: own[index] for index in {*charged[-1:], *taken[-1:]}}
        self._anchors.check(plan, task.parameters.get("heads"), done=done, counted=counted)

    def _check_promise(self, plan: Plan) -> None:
        """Whether the plan keeps its ε by this version's accountants, and its unit by this cohort."""
        if plan.code_version != __version__:
            raise PolicyRefusal(
                "A plan was refused.",
                f"It was made by version {plan.code_version}, and this is {__version__}.",
                "Ask the coordinator for a plan of this version.",
            )
        self._check_budget(plan)
        self._check_unit(plan)

    def _check_budget(self, plan: Plan) -> None:
        spent = plan_epsilon(plan).value
        if not spent <= plan.study.privacy.epsilon:
            raise PolicyRefusal(
                f"The plan would spend ε = {spent:.3f}.",
                f"It says that it spends at most ε = {plan.study.privacy.epsilon:g}.",
                "Ask the coordinator to propose it again.",
            )

    def _check_unit(self, plan: Plan) -> None:
        if plan.study.privacy.unit == "patient" and self.cohort.unit == "image":
            raise BadData(
                "The plan promises protection of patients, and this cohort has no patient ids.",
                "Images of one patient cannot be told to belong together.",
                'Import with patient ids, or agree on a study with unit = "image".',
            )

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

    def _step(self, plan: Plan, task: Task) -> Step:
        steps = plan.steps()
        if not 0 <= task.step < len(steps) or steps[task.step].action != task.action:
            raise ProtocolViolation(
                "A task was refused.",
                f"The plan has no step {task.step} with the action {task.action!r}.",
                "Ask the coordinator to follow its plan.",
            )
        return steps[task.step]

    def _load(self, plan: Plan) -> dict[str, list[Patient]]:
        if plan.digest not in self._patients:
            self._patients = {plan.digest: self.cohort.load(plan.study.data)}
        return self._patients[plan.digest]

    def _spend(self, plan: Plan, step: Step, task: Task) -> Reply:
        stage, noise = plan.study.stage[step.stage], plan.noise_multipliers[step.stage]
        assert noise is not None
        mechanism = asdict(stage_mechanism(stage, noise))
        if isinstance(stage, TrainStage):
            mechanism["steps"] = len(plan.sgd_steps(step))
        reservation = self.ledger.reserve(plan.digest, task.step, task.digest, mechanism, charge=self._charge(plan))
        reach("vault: step reserved")
        if reservation.reply is None:
            work = self._release if isinstance(stage, ReleaseStage) else self._train
            arrays = work(plan, step, task, noise)
            reach("vault: step computed")
            self.ledger.commit(reservation, save_arrays(arrays))
            self._anchors.keep_own(self.ledger.latest())
            reach("vault: step committed")
        else:
            arrays = load_arrays(reservation.reply)
        return Reply(arrays, self.cohort.name, self.ledger.head(plan.digest, task.step))

    def _charge(self, plan: Plan) -> Charge:
        """The plan's whole ε and δ for every patient who takes part, within the policy's limits for a lifetime."""
        policy = self._policy()
        return Charge(
            patients=[patient.key for patient in self._load(plan)["train"]],
            epsilon=plan.study.privacy.epsilon,
            delta=plan.study.privacy.delta,
            limit_epsilon=policy.limits.epsilon if policy else UNLIMITED,
            limit_delta=policy.limits.delta if policy else UNLIMITED,
        )

    def _release(self, plan: Plan, step: Step, task: Task, noise: float) -> dict[str, np.ndarray[Any, Any]]:
        stage = plan.study.stage[step.stage]
        assert isinstance(stage, ReleaseStage)
        family = self._generator(plan.release_spec(stage), task)
        if not isinstance(family, Releasable):
            raise Misconfigured(f"{stage.family} releases no statistic.", "", "Change the stage's family.")
        total = release_sum(
            (family.statistic(patient) for patient in self._load(plan)["train"]),
            sensitivity=family.norm_bound,
            noise_multiplier=noise,
            stream=Stream(self.cohort.secret, request=self._bound(plan, task), purpose="release"),
        )
        return {"sum": total}

    def _train(self, plan: Plan, step: Step, task: Task, noise: float) -> dict[str, np.ndarray[Any, Any]]:
        stage = plan.study.stage[step.stage]
        assert isinstance(stage, TrainStage)
        model = self._generator(plan.generator_spec(), task)
        if not isinstance(model, Trainable):
            raise Misconfigured(f"{plan.study.generator.family} is not trained by gradients.", "", "Drop the stage.")
        request = self._bound(plan, task)
        engine.train(
            model,
            self._load(plan)["train"],
            settings=engine.DPSGD(
                clip=stage.clip,
                noise_multiplier=noise,
                sample_rate=stage.sample_rate,
                batch_size=stage.batch_size,
                draws=stage.draws,
                learning_rate=stage.learning_rate,
                ema=stage.ema,
            ),
            steps=plan.sgd_steps(step),
            stream_for=lambda i: Stream(self.cohort.secret, request=request, purpose=f"sgd step {i}"),
        )
        return {name: tensor.detach().numpy() for name, tensor in model.state().items()}

    def _bound(self, plan: Plan, task: Task) -> bytes:
        """What noise is bound to: the request, the code, and the very images that it hides.

        So the same request to another cohort, after a ledger was lost, never meets the same noise twice.
        """
        digest = hashlib.sha256(task.digest + __version__.encode())
        for patient in self._load(plan)["train"]:
            for part in (patient.key.encode(), patient.images.tobytes(), patient.labels.tobytes()):
                digest.update(hashlib.sha256(part).digest())
        return digest.digest()

    def _generator(self, spec: GeneratorSpec, task: Task) -> Generator:
        return generators.load(spec, {name: torch.from_numpy(array) for name, array in task.arrays.items()})

    def _audit(self, plan: Plan, task: Task) -> Reply:
        """Audit at home, once: the page is the hospital's own, and the acknowledgement leaves whatever was found."""
        arrays = dict(task.arrays)
        synthetic, labels = _synthetic(plan, arrays)
        model = generators.load(plan.generator_spec(), {n: torch.from_numpy(a) for n, a in arrays.items()})
        self._pin_audit(plan, task)
        try:
            self._audit_at_home(plan, model, synthetic, labels)
        except Exception as error:  # noqa: BLE001 (that an audit failed may depend on a patient, and stays here)
            self._note(error)
        return Reply(name=self.cohort.name)

    def _pin_audit(self, plan: Plan, task: Task) -> None:
        """One audit request a plan: another one could be built to ask about a patient."""
        file = self.folder / "plans" / f"{plan.digest}.audit"
        if file.exists() and file.read_bytes() != task.digest:
            raise ProtocolViolation(
                "An audit was refused.", "This plan was audited with another request.", "Ask the same again."
            )
        write_atomically(file, task.digest, mode=0o600)

    def _audit_at_home(self, plan: Plan, model: Generator, synthetic: Any, labels: Any) -> None:
        patients, study = self._load(plan), plan.study
        settings = AuditSettings(
            fpr=study.audit.fpr,
            alpha=study.audit.alpha / study.federation.quorum,  # every hospital tests, and one fail is a fail
            tpr_limit=study.audit.tpr_limit,
            seed=int(plan.digest[:8], 16),
            epsilon=study.privacy.epsilon,
            delta=study.privacy.delta,
        )
        result = run_audit(
            model,
            synthetic,
            labels,
            train=patients["train"],
            holdout=patients["holdout"],
            calibration=patients["calibration"],
            settings=settings,
        )
        context = ReportContext(
            hospital=self.cohort.name,
            study=study.name,
            plan=plan.digest,
            unit=study.privacy.unit,
            labels=study.data.labels,
            embedded=self.embedded,
            show_pairs=True,
        )
        write_report(self.folder / "reports" / plan.digest[:12], result, context=context)


def _described(reply: Reply) -> list[dict[str, Any]]:
    """What the egress log says of the arrays that leave."""
    return [{"name": n, "dtype": str(a.dtype), "shape": list(a.shape)} for n, a in sorted(reply.arrays.items())]


def _synthetic(plan: Plan, arrays: dict[str, Any]) -> tuple[Any, Any]:
    """The synthetic images and labels of an audit, taken out of its arrays; looks at the task alone.

    Raises:
        ProtocolViolation: they are missing, or not images and labels of the study.
    """
    data = plan.study.data
    images, labels = arrays.pop("synthetic.images", None), arrays.pop("synthetic.labels", None)
    sound = (
        images is not None
        and labels is not None
        and images.dtype == np.float32
        and images.shape == (len(labels), len(data.channels), *data.shape)
        and len(labels) == plan.study.audit.synthetic
        and labels.dtype == np.int64
        and labels.ndim == 1
        and labels.min() >= 0
        and labels.max() < len(data.labels)
        and float(np.abs(images).max()) <= 1
    )
    if not sound:
        raise ProtocolViolation(
            "An audit was refused.", "It brought no synthetic images of the study.", "Ask it again."
        )
    return images, labels
