"""From a study to a plan: solve the noise so that everything together spends at most the study's ε."""

from __future__ import annotations

from manikin.common import generators
from manikin.common.errors import Misconfigured
from manikin.common.generators import Releasable, Trainable
from manikin.common.plan import Plan
from manikin.common.study import PretrainStage, ReleaseStage, Study, TrainStage
from manikin.privacy import accounting, skellam_accounting
from manikin.privacy.budget import sampling, stage_size


def propose(study: Study) -> Plan:
    """The plan of a study.

    The audit's share of ε is kept back: in this version audits stay in the hospital and spend nothing.

    Raises:
        Misconfigured: a family cannot do what a stage asks.
        BudgetExhausted: no noise meets the target.
    """
    _check_families(study)
    noise = iter(_noise_multipliers(study))
    return Plan(study, tuple(None if isinstance(s, PretrainStage) else next(noise) for s in study.stage))


def _noise_multipliers(study: Study) -> list[float]:
    """One for each charged stage, in order."""
    charged = [(n, s, *sampling(s)) for n, s in enumerate(study.stage) if not isinstance(s, PretrainStage)]
    epsilon, privacy = study.privacy.epsilon * (1 - study.audit.epsilon_share), study.privacy
    if study.federation.distributed:
        draft = Plan(study, ())
        requests = [
            skellam_accounting.Request(s.epsilon_share, rate, steps, size=stage_size(draft, n))
            for n, s, rate, steps in charged
        ]
        shared = skellam_accounting.calibrate(
            requests, epsilon=epsilon, delta=privacy.delta, multiplicity=privacy.multiplicity
        )
        return [cost.noise_multiplier for cost in shared]
    solved = accounting.calibrate(
        [accounting.Request(s.epsilon_share, rate, steps) for _, s, rate, steps in charged],
        epsilon=epsilon,
        delta=privacy.delta,
        multiplicity=privacy.multiplicity,
    )
    return [cost.noise_multiplier for cost in solved]


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
