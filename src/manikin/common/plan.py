"""A plan: the study, its solved noise, and the code that will run it. Proposed once, never edited.

Its digest names it everywhere: in every task, in the ledger, and in the release.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import rfc8785

from manikin import __version__
from manikin.common.errors import Misconfigured, ProtocolViolation
from manikin.common.generators.base import GeneratorSpec
from manikin.common.officers import Officer, problem_with
from manikin.common.study import PretrainStage, ReleaseStage, Study, TrainStage, parse_study
from manikin.common.wire import CHARGED

_KEY = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Step:
    """One thing that a hospital is asked to do: a release, one round of training, or the audit.

    A release with a `round` above 0 is a spare: it is asked only if those before it were lost.
    """

    index: int
    action: str
    stage: int
    round: int = 0

    @property
    def spare(self) -> bool:
        """Whether it is asked only after a loss."""
        return self.action == "release" and self.round > 0


@dataclass(frozen=True)
class Party:
    """Who takes part: a name, and the raw Ed25519 public key in 64 hex digits that speaks for it."""

    name: str
    key: str

    def __post_init__(self) -> None:
        if not self.name or not _KEY.fullmatch(self.key):
            raise ProtocolViolation(
                "A plan was refused.", "A party has no name or no key of 64 hex digits.", "Ask for the plan again."
            )

    @property
    def public_key(self) -> bytes:
        """32 raw bytes."""
        return bytes.fromhex(self.key)


@dataclass(frozen=True)
class Plan:
    """Everything that two parties must agree on before a patient is looked at.

    Args:
        study: what was asked for.
        noise_multipliers: one a stage, None where the stage looks at no patient.
        code_version: version of Manikin that made the plan.
        coordinator: whose tasks count; None in a draft that no vault will follow.
        participants: the hospitals, whose replies and ledger heads count.
        officers: who decides on the release; none where one person runs everything, and the release says so.
        officers_needed: how many of them must approve; 0 if there are none.
    """

    study: Study
    noise_multipliers: tuple[float | None, ...]
    code_version: str = __version__
    coordinator: Party | None = None
    participants: tuple[Party, ...] = ()
    officers: tuple[Officer, ...] = ()
    officers_needed: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {
            "study": self.study.model_dump(mode="json", by_alias=True),
            "noise_multipliers": list(self.noise_multipliers),
            "code_version": self.code_version,
            "coordinator": asdict(self.coordinator) if self.coordinator else None,
            "participants": [asdict(party) for party in self.participants],
            "officers": [asdict(officer) for officer in self.officers],
            "officers_needed": self.officers_needed,
        }

    def agreed(
        self,
        coordinator: Party,
        participants: Iterable[Party],
        *,
        officers: Iterable[Officer] = (),
        officers_needed: int = 0,
    ) -> Plan:
        """This plan between these parties, to be decided on by these officers.

        Raises:
            Misconfigured: two parties share a name or a key, fewer participants than the quorum, or twice as many; or
                so many of these officers cannot decide.
        """
        plan = replace(
            self,
            coordinator=coordinator,
            participants=tuple(participants),
            officers=tuple(officers),
            officers_needed=officers_needed,
        )
        problem = plan._problem_with_parties()
        if problem:
            raise Misconfigured(
                "The study cannot be proposed to these parties.", problem, "Enrol others, or propose another study."
            )
        return plan

    def _problem_with_parties(self) -> str:
        """Why these parties cannot follow this plan; empty if they can."""
        parties, federation = self.participants, self.study.federation
        keys = {party.key for party in parties} | ({self.coordinator.key} if self.coordinator else set())
        if len({party.name for party in parties}) < len(parties) or len(keys) < len(parties) + bool(self.coordinator):
            return "Two parties share a name or a key."
        if not federation.quorum <= len(parties) < 2 * federation.quorum:
            return (
                f"The quorum is {federation.quorum}, and {len(parties)} hospitals are named: they must be at least the "
                "quorum, and fewer than twice as many, or two halves could be told different things."
            )
        if isinstance(federation.weights, tuple) and len(federation.weights) != len(parties):
            return f"{len(federation.weights)} weights are planned for {len(parties)} hospitals."
        if keys & {officer.key for officer in self.officers}:
            return "An officer has the key of another party."
        return problem_with(self.officers, self.officers_needed)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Plan:
        """A plan that was received.

        Raises:
            ProtocolViolation: it is not a plan, or its noise does not fit its stages.
        """
        try:
            plan = cls(
                parse_study(raw["study"]),
                tuple(None if noise is None else float(noise) for noise in raw["noise_multipliers"]),
                str(raw["code_version"]),
                _party(raw["coordinator"]) if raw["coordinator"] else None,
                tuple(_party(party) for party in raw["participants"]),
                tuple(_officer(officer) for officer in raw["officers"]),
                int(raw["officers_needed"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ProtocolViolation("A plan was refused.", f"It lacks {error}.", "Ask for the plan again.") from None
        named = plan.participants or plan.coordinator or plan.officers or plan.officers_needed
        problem = plan._problem_with_parties() if named else ""
        if problem:
            raise ProtocolViolation("A plan was refused.", problem, "Ask the coordinator to propose it again.")
        if len(plan.noise_multipliers) != len(plan.study.stage):
            raise ProtocolViolation("A plan was refused.", "It has not one noise a stage.", "Ask for the plan again.")
        for stage, noise in zip(plan.study.stage, plan.noise_multipliers, strict=True):
            charged = not isinstance(stage, PretrainStage)
            if charged != (noise is not None and 0 < noise < math.inf):
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
                steps += [Step(len(steps) + r, "release", number, r) for r in range(1 + stage.spares)]
            elif isinstance(stage, TrainStage):
                steps += [Step(len(steps) + r, "train", number, r) for r in range(stage.rounds)]
        steps.append(Step(len(steps), "audit", -1))
        return steps

    def next_charged(self, step: int) -> Step | None:
        """The charged step that follows, if none is lost."""
        later = (s for s in self.steps() if s.index > step and s.action in CHARGED and not s.spare)
        return next(later, None)

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


def _party(raw: dict[str, Any]) -> Party:
    return Party(str(raw["name"]), str(raw["key"]))


def _officer(raw: dict[str, Any]) -> Officer:
    return Officer(str(raw["name"]), str(raw["key"]), str(raw["institution"]))
