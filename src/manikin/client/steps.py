"""The steps that are charged: from a plan, a step of it, a task, patients and a secret to the arrays that leave.

A kind of step has a cost, which the ledger reserves (`mechanism`), and its work (`perform`), whose noise comes from the
hospital's secret alone: the same arguments give the same bytes, also after a crash. Nothing here knows a ledger, a
policy or a message. That the task was admitted and the step reserved is for the caller to see to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch

from manikin import __version__
from manikin.common import generators
from manikin.common.errors import Misconfigured
from manikin.common.generators import Generator, GeneratorSpec, Releasable, TrainableGenerator
from manikin.common.images import Patient
from manikin.common.plan import Plan, Step
from manikin.common.study import ReleaseStage, TrainStage
from manikin.common.wire import Arrays, Task
from manikin.privacy import engine
from manikin.privacy.budget import stage_mechanism, stage_scale
from manikin.privacy.distributed import gradient_share
from manikin.privacy.mechanisms import release_sum
from manikin.privacy.randomness import Stream
from manikin.privacy.skellam import Shares, release_integers
from manikin.privacy.skellam_table import Integers

SHARE = "share"
Streams = Callable[[str], Stream]  # by what the noise is for


def mechanism(plan: Plan, step: Step) -> dict[str, Any]:
    """What a charged step costs a patient, as the ledger keeps it."""
    steps = len(plan.sgd_steps(step)) if step.action == "train" else 1
    return asdict(stage_mechanism(plan, step.stage)) | {"steps": steps}


def perform(
    plan: Plan, step: Step, task: Task, *, patients: Sequence[Patient], secret: bytes, shares: Shares | None = None
) -> Arrays:
    """The arrays that leave in a charged step.

    Args:
        plan: admitted.
        step: a release, or one round of training.
        task: what the coordinator asked: the state to work from.
        patients: who takes part.
        secret: the hospital's; noise is drawn from it and from all else that is given here.
        shares: in distributed mode, how the noise is divided in this sum.

    Returns:
        "sum" for a release, the whole state for training. In distributed mode "share", int64 (d,): not private before
        it is masked and added up.

    Raises:
        ProtocolViolation: the task's arrays are no state of the plan's generator.
        Misconfigured: the family does not do such a step.
        BadData: a patient does not fit the study.

    Guarantee: the mechanism that `mechanism` names, add/remove one of `patients`; in distributed mode, of the sum over
    the whole roster.
    """
    request = _bound(task, patients)

    def stream(purpose: str) -> Stream:
        return Stream(secret, request=request, purpose=purpose)

    released = isinstance(plan.study.stage[step.stage], ReleaseStage)
    if shares is not None:
        share = _release_share if released else _gradient_share
        return {SHARE: share(plan, step, task, patients, stream, shares)}
    return (_release if released else _train)(plan, step, task, patients, stream)


def _release(plan: Plan, step: Step, task: Task, patients: Sequence[Patient], stream: Streams) -> Arrays:
    family = _releasable(plan, step, task)
    total = release_sum(
        (family.statistic(patient) for patient in patients),
        sensitivity=family.norm_bound,
        noise_multiplier=_noise_multiplier(plan, step),
        stream=stream("release"),
    )
    return {"sum": total}


def _train(plan: Plan, step: Step, task: Task, patients: Sequence[Patient], stream: Streams) -> Arrays:
    model = _trainable(plan, task)
    engine.train(
        model,
        patients,
        settings=_settings(plan, step),
        steps=plan.sgd_steps(step),
        stream_for=lambda number: stream(f"sgd step {number}"),
    )
    return {name: tensor.detach().numpy() for name, tensor in model.state().items()}


def _release_share(
    plan: Plan, step: Step, task: Task, patients: Sequence[Patient], stream: Streams, shares: Shares
) -> Integers:
    family = _releasable(plan, step, task)
    scale = stage_scale(plan, step.stage, sensitivity=family.norm_bound)
    statistics = (family.statistic(patient) for patient in engine.in_order(patients))
    return release_integers(statistics, scale=scale, shares=shares, stream=stream("release"))


def _gradient_share(
    plan: Plan, step: Step, task: Task, patients: Sequence[Patient], stream: Streams, shares: Shares
) -> Integers:
    (number,) = plan.sgd_steps(step)
    return gradient_share(
        _trainable(plan, task),
        patients,
        settings=_settings(plan, step),
        shares=shares,
        stream=stream(f"sgd step {number}"),
    )


def _settings(plan: Plan, step: Step) -> engine.DPSGD:
    stage = plan.study.stage[step.stage]
    assert isinstance(stage, TrainStage)
    return engine.DPSGD(
        clip=stage.clip,
        noise_multiplier=_noise_multiplier(plan, step),
        sample_rate=stage.sample_rate,
        batch_size=stage.batch_size,
        draws=stage.draws,
        learning_rate=stage.learning_rate,
        ema=stage.ema,
    )


def _releasable(plan: Plan, step: Step, task: Task) -> Releasable:
    stage = plan.study.stage[step.stage]
    assert isinstance(stage, ReleaseStage)
    family = _generator(plan.release_spec(stage), task)
    if not isinstance(family, Releasable):
        raise Misconfigured(f"{stage.family} releases no statistic.", "", "Change the stage's family.")
    return family


def _trainable(plan: Plan, task: Task) -> TrainableGenerator:
    model = _generator(plan.generator_spec(), task)
    if not isinstance(model, TrainableGenerator):
        raise Misconfigured(f"{plan.study.generator.family} is not trained by gradients.", "", "Drop the stage.")
    return model


def _noise_multiplier(plan: Plan, step: Step) -> float:
    noise = plan.noise_multipliers[step.stage]
    assert noise is not None
    return noise


def _generator(spec: GeneratorSpec, task: Task) -> Generator:
    return generators.load(spec, {name: torch.from_numpy(array) for name, array in task.arrays.items()})


def _bound(task: Task, patients: Sequence[Patient]) -> bytes:
    """What noise is bound to: the request, the code, and the very images that it hides.

    So the same request to another cohort, after a ledger was lost, never meets the same noise twice.
    """
    digest = hashlib.sha256(task.digest + __version__.encode())
    for patient in patients:
        for part in (patient.key.encode(), patient.images.tobytes(), patient.labels.tobytes()):
            digest.update(hashlib.sha256(part).digest())
    return digest.digest()
