"""A plan: the study, its solved noise, and the code that will run it. Proposed once, never edited.

Its digest names it everywhere: in every task, in the ledger, and in the release.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import rfc8785

from manikin import __version__
from manikin.common.errors import ProtocolViolation
from manikin.common.generators.base import GeneratorSpec
from manikin.common.study import PretrainStage, ReleaseStage, Study, TrainStage, parse_study


@dataclass(frozen=True)
class Step:
    """One thing that a hospital is asked to do: a release, one round of training, or the audit."""

    index: int
    action: str
    stage: int
    round: int = 0


@dataclass(frozen=True)
class Plan:
    """Everything that two parties must agree on before a patient is looked at.

    Args:
        study: what was asked for.
        noise_multipliers: one a stage, None where the stage looks at no patient.
        code_version: version of Manikin that made the plan.
    """

    study: Study
    noise_multipliers: tuple[float | None, ...]
    code_version: str = __version__

    def to_dict(self) -> dict[str, Any]:
        return {
            "study": self.study.model_dump(mode="json", by_alias=True),
            "noise_multipliers": list(self.noise_multipliers),
            "code_version": self.code_version,
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Plan:
        """A plan that was received.

        Raises:
            ProtocolViolation: it is not a plan, or its noise does not fit its stages.
        """
        try:
            plan = cls(parse_study(raw["study"]), tuple(raw["noise_multipliers"]), raw["code_version"])
        except (KeyError, TypeError) as error:
            raise ProtocolViolation("A plan was refused.", f"It lacks {error}.", "Ask for the plan again.") from None
        for stage, noise in zip(plan.study.stage, plan.noise_multipliers, strict=True):
            charged = not isinstance(stage, PretrainStage)
            if charged != (isinstance(noise, float) and noise > 0):
                raise ProtocolViolation(
                    "A plan was refused.",
                    f"Stage {stage.kind!r} has the noise multiplier {noise!r}.",
                    "Ask the coordinator to propose it again.",
                )
        return plan

    @property
    def canonical(self) -> bytes:
        """RFC 8785 bytes: the same plan gives the same bytes everywhere."""
        return rfc8785.dumps(self.to_dict())

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.canonical).hexdigest()

    def steps(self) -> list[Step]:
        """Every step at which a hospital is asked, in order; step 0 opens the plan."""
        steps = [Step(0, "open", -1)]
        for number, stage in enumerate(self.study.stage):
            if isinstance(stage, ReleaseStage):
                steps.append(Step(len(steps), "release", number))
            elif isinstance(stage, TrainStage):
                steps += [Step(len(steps) + r, "train", number, r) for r in range(stage.rounds)]
        steps.append(Step(len(steps), "audit", -1))
        return steps

    def sgd_steps(self, step: Step) -> range:
        """The DP-SGD steps of one round: consecutive, together the stage's `steps`."""
        stage = self.study.stage[step.stage]
        assert isinstance(stage, TrainStage)
        start, stop = (stage.steps * r // stage.rounds for r in (step.round, step.round + 1))
        return range(start, stop)

    def generator_spec(self) -> GeneratorSpec:
        """Spec of the generator that will be released."""
        return self._spec(self.study.generator.family, self.study.generator.options)

    def release_spec(self, stage: ReleaseStage) -> GeneratorSpec:
        """Spec of the family whose statistic a release stage asks for."""
        if stage.family == self.study.generator.family and not stage.options:
            return self.generator_spec()
        return self._spec(stage.family, stage.options)

    def _spec(self, family: str, options: dict[str, Any]) -> GeneratorSpec:
        data = self.study.data
        return GeneratorSpec(family, len(data.channels), data.shape, data.labels, options)
