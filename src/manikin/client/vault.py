"""The vault: the only place where patients are read, and the seam that no request can talk round.

It does what a plan's step says, once, in order, with noise bound to the whole request; what is spent stands on
disk before a patient is touched, and the reply before it leaves. What leaves is a sum or weights made by a charged
mechanism, or a bare acknowledgement; refusals cross as a code, and their text stays in the hospital.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from manikin.client.cohort import Cohort
from manikin.common import generators
from manikin.common.errors import Misconfigured, PolicyRefusal, ProtocolViolation
from manikin.common.files import write_atomically
from manikin.common.generators import Generator, GeneratorSpec, Releasable, Trainable
from manikin.common.images import Patient
from manikin.common.plan import Plan, Step
from manikin.common.study import ReleaseStage, TrainStage
from manikin.common.wire import Reply, Task, check_arrays
from manikin.privacy import engine
from manikin.privacy.audit import AuditSettings, run_audit
from manikin.privacy.audit.report import ReportContext, write_report
from manikin.privacy.budget import plan_epsilon, stage_mechanism
from manikin.privacy.ledger import Ledger
from manikin.privacy.mechanisms import release_sum
from manikin.privacy.randomness import Stream


class Vault:
    """One hospital's patients, ledger and secret, behind a handful of tasks.

    Args:
        folder: the hospital's folder, made by `manikin hospital init`.
        embedded: all hospitals run on one machine, which the audit page then says.
    """

    def __init__(self, folder: Path, *, embedded: bool = False) -> None:
        self.folder, self.embedded = folder, embedded
        self.cohort = Cohort.open(folder)
        self.ledger = Ledger(folder / "ledger.sqlite")
        self._plans: dict[str, Plan] = {}
        self._patients: dict[str, dict[str, list[Patient]]] = {}

    def handle(self, task: Task) -> Reply:
        """Do one task, or return the very reply that was given before.

        Raises:
            ProtocolViolation: the request does not fit the plan, or changes a step that was done.
            PolicyRefusal: the plan would spend more than it says.
            BadData: the cohort does not fit the study.
        """
        check_arrays(task.arrays)
        if task.action == "open":
            return self._open(task)
        plan = self._plan(task.plan_digest)
        step = self._step(plan, task)
        if step.action == "audit":
            return self._audit(plan, task)
        return self._spend(plan, step, task)

    def _open(self, task: Task) -> Reply:
        plan = Plan.from_dict(dict(task.parameters))
        if plan.digest != task.plan_digest:
            raise ProtocolViolation("A plan was refused.", "Its digest is another one.", "Ask for the plan again.")
        self._check_budget(plan)
        self._check_unit(plan)
        write_atomically(self._plan_file(plan.digest), plan.canonical)
        self._plans[plan.digest] = plan
        self._load(plan)
        return Reply(name=self.cohort.name)

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
            raise PolicyRefusal(
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
            self._plans[digest] = Plan.from_dict(json.loads(file.read_bytes()))
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
        reservation = self.ledger.reserve(plan.digest, task.step, task.digest, mechanism)
        if reservation.reply is None:
            work = self._release if isinstance(stage, ReleaseStage) else self._train
            arrays = work(plan, step, task, noise)
            self.ledger.commit(reservation, save_arrays(arrays))
            return Reply(arrays, self.cohort.name)
        return Reply(load_arrays(reservation.reply), self.cohort.name)

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
            stream=Stream(self.cohort.secret, request=task.digest, purpose="release"),
        )
        return {"sum": total}

    def _train(self, plan: Plan, step: Step, task: Task, noise: float) -> dict[str, np.ndarray[Any, Any]]:
        stage = plan.study.stage[step.stage]
        assert isinstance(stage, TrainStage)
        model = self._generator(plan.generator_spec(), task)
        if not isinstance(model, Trainable):
            raise Misconfigured(f"{plan.study.generator.family} is not trained by gradients.", "", "Drop the stage.")
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
            stream_for=lambda i: Stream(self.cohort.secret, request=task.digest, purpose=f"sgd step {i}"),
        )
        return {name: tensor.detach().numpy() for name, tensor in model.state().items()}

    def _generator(self, spec: GeneratorSpec, task: Task) -> Generator:
        return generators.load(spec, {name: torch.from_numpy(array) for name, array in task.arrays.items()})

    def _audit(self, plan: Plan, task: Task) -> Reply:
        """Audit at home: the page is the hospital's own, and only the acknowledgement leaves."""
        arrays = dict(task.arrays)
        synthetic, labels = (arrays.pop(name, None) for name in ("synthetic.images", "synthetic.labels"))
        if synthetic is None or labels is None:
            raise ProtocolViolation("An audit was refused.", "It brought no synthetic images.", "Ask it again.")
        model = generators.load(plan.generator_spec(), {n: torch.from_numpy(a) for n, a in arrays.items()})
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
        return Reply(name=self.cohort.name)
