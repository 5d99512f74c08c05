"""What a plan costs one patient: its stages as mechanisms, composed by the accountants."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from manikin.common import generators
from manikin.common.errors import Misconfigured
from manikin.common.generators import GeneratorSpec, Releasable, Trainable
from manikin.common.images import Patient
from manikin.common.plan import Plan
from manikin.common.study import PretrainStage, ReleaseStage, TrainStage
from manikin.privacy import costs
from manikin.privacy.accountants import by_central_limit
from manikin.privacy.accounting import NOISE_MAX, NOISE_MIN, STEPS_MAX, Mechanism
from manikin.privacy.costs import Cost, Total
from manikin.privacy.skellam import Scale, Shares
from manikin.privacy.skellam_accounting import Skellam, Statements, statements

DELTA_MIN, RATE_MIN, EPSILON_MAX = 1e-12, 1e-6, 200.0


def stage_mechanism(plan: Plan, number: int) -> Cost:
    """What a stage costs one patient, all its steps together; a release's spares are paid for whether used or not."""
    stage, noise = plan.study.stage[number], plan.noise_multipliers[number]
    assert noise is not None
    rate, steps = sampling(stage)
    if not plan.study.federation.distributed:
        return Mechanism(noise, rate, steps)
    return Skellam(noise, rate, steps, size=stage_size(plan, number))


def sampling(stage: PretrainStage | ReleaseStage | TrainStage) -> tuple[float, int]:
    """With what chance each patient is drawn in a stage's step, and how many steps there are."""
    if isinstance(stage, TrainStage):
        return stage.sample_rate, stage.steps
    return 1.0, 1 + stage.spares if isinstance(stage, ReleaseStage) else 1


def stage_size(plan: Plan, number: int) -> int:
    """Numbers in a charged stage's vector: of its statistic, or of all private parameters.

    Raises:
        Misconfigured: the stage's family has no such vector.
    """
    stage = plan.study.stage[number]
    if isinstance(stage, ReleaseStage):
        return _statistic_size(plan.release_spec(stage).to_json())
    return _gradient_size(plan.generator_spec().to_json())


@lru_cache(maxsize=16)
def _statistic_size(spec: str) -> int:
    family = generators.create(GeneratorSpec.from_json(spec))
    if not isinstance(family, Releasable):
        raise Misconfigured(f"{family.spec.family} releases no statistic.", "", "Change the stage's family.")
    blank = np.zeros((1, family.spec.channels, *family.spec.shape), np.float32)
    return len(family.statistic(Patient("", blank, np.zeros(1, np.int64))))


@lru_cache(maxsize=16)
def _gradient_size(spec: str) -> int:
    family = generators.create(GeneratorSpec.from_json(spec))
    if not isinstance(family, Trainable):
        raise Misconfigured(f"{family.spec.family} is not trained by gradients.", "", "Drop the stage.")
    return sum(p.numel() for p in family.private_parameters())


def stage_scale(plan: Plan, number: int, *, sensitivity: float) -> Scale:
    """In distributed mode, what one integer of a stage's sum stands for."""
    noise = plan.noise_multipliers[number]
    assert noise is not None
    return Scale(sensitivity=sensitivity, noise_multiplier=noise, size=stage_size(plan, number))


def plan_mechanisms(plan: Plan) -> list[Cost]:
    """All mechanisms of a plan, in the order of its stages."""
    return [stage_mechanism(plan, n) for n, noise in enumerate(plan.noise_multipliers) if noise is not None]


def plan_epsilon(plan: Plan) -> Total:
    """ε of the whole plan at its δ, for a patient in as many hospitals as its multiplicity says.

    In distributed mode: against `collusion` hospitals that work with the server.

    Raises:
        Misconfigured: its numbers are none that `propose` gives. A plan comes from another party, and accountants ask
            for memory without end where there is hardly any noise, or hardly any chance to be drawn.

    Guarantee: add/remove one patient; the larger of all accountants is `value`.
    """
    privacy, mechanisms = plan.study.privacy, plan_mechanisms(plan)
    _check_ranges(mechanisms, privacy.delta, privacy.multiplicity)
    return costs.total(mechanisms, delta=privacy.delta, multiplicity=privacy.multiplicity)


def plan_statements(plan: Plan) -> Statements | None:
    """In distributed mode, ε against the release's holder, against colluding hospitals, and with a broken sum.

    For sums over as many hospitals as the plan's quorum, the fewest that may give one; None in local mode.
    """
    federation, privacy = plan.study.federation, plan.study.privacy
    if federation.collusion is None:
        return None
    shares = Shares(hospitals=federation.quorum, colluding=federation.collusion)
    skellam = [cost for cost in plan_mechanisms(plan) if isinstance(cost, Skellam)]
    return statements(skellam, shares=shares, delta=privacy.delta, multiplicity=privacy.multiplicity)


def _check_ranges(mechanisms: Sequence[Cost], delta: float, multiplicity: int) -> None:
    history = [(m.noise_multiplier, m.sample_rate, m.steps * multiplicity) for m in mechanisms]
    sound = (
        delta >= DELTA_MIN
        and all(NOISE_MIN <= noise <= NOISE_MAX and rate >= RATE_MIN for noise, rate, _ in history)
        and sum(steps for *_, steps in history) <= STEPS_MAX
        and by_central_limit(history, delta) <= EPSILON_MAX
    )
    if not sound:
        raise Misconfigured(
            "The plan's cost is not reckoned.",
            f"It has noise outside {NOISE_MIN:g} to {NOISE_MAX:g}, a sample rate below {RATE_MIN:g}, δ below "
            f"{DELTA_MIN:g}, more than {STEPS_MAX} steps, or would cost ε of more than {EPSILON_MAX:g}.",
            "Ask the coordinator for another plan.",
        )
