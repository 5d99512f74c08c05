"""What a release claims, as values: public numbers of the plan and of the guarantee, never a count of patients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from manikin.common.decisions import AuditReport, Decision
from manikin.common.documents import PREDICATE_PREFIX
from manikin.common.errors import ManikinError, Misconfigured, VerificationFailed
from manikin.common.generators.base import Generator, GeneratorSpec
from manikin.common.officers import Officer, problem_with

PREDICATE_TYPE = PREDICATE_PREFIX + "release:v1"
CANDIDATE_TYPE = PREDICATE_PREFIX + "candidate:v1"

STATE_FILE = "generator.safetensors"
SPEC_FILE = "spec.json"
PLAN_FILE = "plan.json"
CARD_FILE = "README.md"
METADATA_FILE = "configs/metadata.json"
PRIVACY_FILE = "privacy.json"
PRIVACY_CARD_FILE = "PRIVACY.md"
ENVELOPE_FILE = "release.dsse.json"
CANDIDATE_FILE = "candidate.dsse.json"  # in its place while officers decide

AUDIT_FILE = "audit.dsse.json"
AUDIT_FOLDER = "audit/"
HEADS_FILE = "ledger-heads.json"
DECISIONS_FOLDER = "decisions/"


@dataclass(frozen=True)
class ReleaseFacts:
    """Everything that the cards say, given by whoever ran the study.

    Args:
        plan: the study and its noise multipliers, as the plan document holds them.
        plan_digest: SHA-256 of the plan's canonical JSON, hex.
        hospitals: how many took part.
        epsilon: what one unit may lose at most over the whole study, at `delta`: the larger of all accountants.
        delta: see `epsilon`.
        unit: what is added or removed between neighbouring data sets.
        multiplicity: number of hospitals that may hold the same patient.
        mode: "local": each hospital adds all the noise; "distributed": each adds a share, and only sums leave.
        collusion: in distributed mode, how many hospitals may work with the server against the others.
        adversaries: in distributed mode, ε against whoever holds the release alone ("release"), against colluding
            hospitals with the server ("collusion", which is `epsilon`), and if the secure sum were broken ("broken").
        accountants: ε by each accountant's name.
        mechanisms: what was done with patients: kind, noise_multiplier, sample_rate, steps of each.
        data: the study's data section: modality, spatial_dims, shape, spacing_mm, window, labels.
        audit_statement: what was audited, by whom, and what that shows.
        code_version: version of Manikin that trained the generator.
        created: ISO 8601 time of the release.

    Raises:
        Misconfigured: a number is not finite or out of range, or `created` is not a time.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    plan: Mapping[str, Any]
    plan_digest: str
    hospitals: int
    epsilon: float
    delta: float
    unit: Literal["patient", "image"]
    multiplicity: int
    mode: Literal["local", "distributed"]
    accountants: Mapping[str, float]
    mechanisms: list[dict[str, Any]]
    data: Mapping[str, Any]
    audit_statement: str
    code_version: str
    created: str
    collusion: int | None = None
    adversaries: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        numbers = (self.epsilon, self.delta, *self.accountants.values(), *(self.adversaries or {}).values())
        if not all(math.isfinite(number) and number >= 0 for number in numbers):
            raise _invalid("ε and δ must be finite and not negative.")
        if self.hospitals < 1 or self.multiplicity < 1 or self.delta >= 1:
            raise _invalid("hospitals and multiplicity start at 1, and δ is below 1.")
        if self.accountants and self.epsilon < max(self.accountants.values()):
            raise _invalid("ε is smaller than what an accountant found.")
        distributed = self.mode == "distributed"
        if distributed != (self.collusion is not None) or distributed != (self.adversaries is not None):
            raise _invalid("collusion and adversaries are stated in distributed mode, and in no other.")
        if self.adversaries is not None and set(self.adversaries) != {"release", "collusion", "broken"}:
            raise _invalid("ε is stated against three adversaries: release, collusion and broken.")
        problem = _problem_with_officers(self)
        if problem:
            raise _invalid(problem)
        try:
            datetime.fromisoformat(self.created)
        except ValueError:
            raise _invalid(f"{self.created!r} is not an ISO 8601 time.") from None

    @property
    def study_name(self) -> str:
        return str(self.plan.get("study", {}).get("name", "unnamed"))

    @property
    def officers(self) -> tuple[Officer, ...]:
        """Who decides on the release, as its plan says."""
        return tuple(
            Officer(str(o["name"]), str(o["key"]), str(o["institution"])) for o in self.plan.get("officers", ())
        )

    @property
    def officers_needed(self) -> int:
        """How many of them must approve."""
        return int(self.plan.get("officers_needed", 0))

    def to_predicate(self) -> dict[str, Any]:
        """What is signed beside the files: all facts but the plan, which is a file named by its digest."""
        facts = asdict(self)
        del facts["plan"]
        return {"schema": 1, **facts}

    @classmethod
    def from_predicate(cls, predicate: Mapping[str, Any], plan: Mapping[str, Any]) -> ReleaseFacts:
        """The facts of a statement.

        Raises:
            VerificationFailed: a fact is missing, unknown or out of range.
        """
        facts = dict(predicate)
        try:
            if facts.pop("schema", None) != 1:
                raise _invalid("Its schema is unknown.")
            return TypeAdapter(cls).validate_python({**facts, "plan": plan})
        except (ValidationError, Misconfigured):
            raise VerificationFailed(
                "The release is refused.",
                "Its statement is not one of a release that this version knows.",
                "Update Manikin, or ask the coordinator which version made it.",
            ) from None


def _problem_with_officers(facts: ReleaseFacts) -> str:
    try:
        return problem_with(facts.officers, facts.officers_needed)
    except (ManikinError, KeyError, TypeError, ValueError, AttributeError):
        return "its plan's officers are none."


def _invalid(why: str) -> Misconfigured:
    return Misconfigured("The facts of a release are not valid.", why, "Correct what is passed to the release.")


@dataclass(frozen=True)
class Release:
    """A bundle whose digests hold.

    Args:
        folder: where it lies.
        digest: SHA-256 of the release statement, hex: the release's name in data sets made from it.
        spec: layout of the generator.
        facts: what the release claims.
        generator: ready to sample.
        signer_name: whose signature held, or None if no trust file was given: then anybody may have made it.
        audit: the audit report; None if the plan names no officers, or no trust file was given.
        decisions: the officers' approvals, checked against the trust file; none in the same cases.
    """

    folder: Path
    digest: str
    spec: GeneratorSpec
    facts: ReleaseFacts
    generator: Generator
    signer_name: str | None
    audit: AuditReport | None = None
    decisions: tuple[Decision, ...] = ()
