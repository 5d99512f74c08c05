"""From a study to a plan: solve the noise so that everything together spends at most the study's ε."""

from __future__ import annotations

from manikin.common import generators
from manikin.common.errors import Misconfigured
from manikin.common.generators import Releasable, Trainable
from manikin.common.plan import Plan
from manikin.common.study import PretrainStage, ReleaseStage, Study, TrainStage
from manikin.privacy.accounting import Request, calibrate


def propose(study: Study) -> Plan:
    """The plan of a study.

    The audit's share of ε is kept back: in this version audits stay in the hospital and spend nothing.

    Raises:
        Misconfigured: a family cannot do what a stage asks.
        BudgetExhausted: no noise meets the target.
    """
    _check_families(study)
    charged = [s for s in study.stage if not isinstance(s, PretrainStage)]
    solved = calibrate(
        [_request(stage) for stage in charged],
        epsilon=study.privacy.epsilon * (1 - study.audit.epsilon_share),
        delta=study.privacy.delta,
        multiplicity=study.privacy.multiplicity,
    )
    noise = iter(mechanism.noise_multiplier for mechanism in solved)
    return Plan(study, tuple(None if isinstance(s, PretrainStage) else next(noise) for s in study.stage))


def _request(stage: ReleaseStage | TrainStage) -> Request:
    if isinstance(stage, TrainStage):
        return Request(share=stage.epsilon_share, sample_rate=stage.sample_rate, steps=stage.steps)
    return Request(share=stage.epsilon_share)


def _check_families(study: Study) -> None:
    draft = Plan(study, ())
    generator = generators.create(draft.generator_spec())
    for stage in study.stage:
        if isinstance(stage, TrainStage) and not isinstance(generator, Trainable):
            raise Misconfigured(
                f"The family {study.generator.family!r} is not trained by gradients.",
                "The study has a train stage.",
                "Drop the stage or choose another family.",
            )
        if isinstance(stage, ReleaseStage) and not isinstance(generators.create(draft.release_spec(stage)), Releasable):
            raise Misconfigured(
                f"The family {stage.family!r} releases no statistic.",
                "The study has a release stage of it.",
                "Choose another family for the stage.",
            )
