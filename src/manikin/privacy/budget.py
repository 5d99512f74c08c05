"""What a plan costs one patient: its stages as mechanisms, composed by the accountants."""

from __future__ import annotations

from manikin.common.plan import Plan
from manikin.common.study import PretrainStage, ReleaseStage, TrainStage
from manikin.privacy.accounting import Epsilon, Mechanism, epsilon


def stage_mechanism(stage: PretrainStage | ReleaseStage | TrainStage, noise_multiplier: float) -> Mechanism:
    """The mechanism of one stage, as one patient of one hospital meets it."""
    if isinstance(stage, TrainStage):
        return Mechanism(noise_multiplier=noise_multiplier, sample_rate=stage.sample_rate, steps=stage.steps)
    return Mechanism(noise_multiplier=noise_multiplier)


def plan_mechanisms(plan: Plan) -> list[Mechanism]:
    """All mechanisms of a plan, in the order of its stages."""
    return [
        stage_mechanism(stage, noise)
        for stage, noise in zip(plan.study.stage, plan.noise_multipliers, strict=True)
        if noise is not None
    ]


def plan_epsilon(plan: Plan) -> Epsilon:
    """ε of the whole plan at its δ, for a patient in as many hospitals as its multiplicity says.

    Guarantee: add/remove one patient; the larger of two accountants is `value`.
    """
    privacy = plan.study.privacy
    return epsilon(plan_mechanisms(plan), delta=privacy.delta, multiplicity=privacy.multiplicity)
