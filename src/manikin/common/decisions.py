"""The documents that stand between a finished generator and its release: audit report, ledger head, decision.

An `AuditReport` says what was tested on exactly one generator, and is signed by the coordinator. A `Decision` is one
officer's word on exactly one candidate: it names the digests of the plan, of the generator, of the audit report and of
the candidate, which is every byte that will be released. So none of them can be carried over to anything else.

Not promised: that a signed verdict is true, or that a decision is the officer's last one.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from manikin.common.agreements import REASON_CHARACTERS_MAX, Digest, Document, Name, printable
from manikin.common.documents import PREDICATE_PREFIX
from manikin.common.keys import Role

TESTS_MAX = 64
REPORT_FILES_MAX = 256

Verdict = Literal["pass", "fail", "inconclusive"]
Choice = Literal["approve", "refuse", "ask-more"]
Text = Annotated[str, Field(min_length=1, max_length=REASON_CHARACTERS_MAX), AfterValidator(printable)]
MaybeText = Annotated[str, Field(max_length=REASON_CHARACTERS_MAX), AfterValidator(printable)]
ReportFile = Annotated[str, Field(pattern=r"^audit/[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$")]


class AuditTest(BaseModel):
    """One test of an audit.

    Args:
        name: of the test.
        verdict: what it came to.
        finding: what was found, in one line for a reader without statistics.
        ceiling: what it could have detected, in one line.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Text
    verdict: Verdict
    finding: Text
    ceiling: Text


class AuditReport(Document):
    """What was tested on one generator, and what came of it; signed by the coordinator.

    Args:
        plan: digest of the plan.
        generator: SHA-256 of the generator's file in the release.
        verdict: of all tests together: a failed test fails the report, and it passes only if a test passed.
        tests: what was tested.
        files: digests of the report's files by their names in the release, all below `audit/`.
    """

    PREDICATE: ClassVar[str] = PREDICATE_PREFIX + "audit-report:v1"
    ROLE: ClassVar[Role] = "coordinator"

    plan: Digest
    generator: Digest
    verdict: Verdict
    tests: Annotated[tuple[AuditTest, ...], Field(strict=False, min_length=1, max_length=TESTS_MAX)]
    files: Annotated[dict[ReportFile, Digest], Field(max_length=REPORT_FILES_MAX)]

    @model_validator(mode="after")
    def _no_better_than_its_tests(self) -> AuditReport:
        found = {test.verdict for test in self.tests}
        if ("fail" in found and self.verdict != "fail") or (self.verdict == "pass" and "pass" not in found):
            raise ValueError("the verdict is better than its tests")
        return self


class Decision(Document):
    """What one officer says to one candidate.

    Args:
        officer: the officer's name in the plan.
        plan: digest of the plan.
        generator: SHA-256 of the generator's file.
        report: SHA-256 of the signed audit report.
        candidate: digest of the candidate: all files, and all that the release claims.
        decision: "ask-more" is no approval, and the reason says what is asked for.
        reason: the officer's own words; they are published with the release.
        waiver: why an inconclusive audit is accepted; empty if it is not, or there is nothing to waive.
    """

    PREDICATE: ClassVar[str] = PREDICATE_PREFIX + "decision:v1"
    ROLE: ClassVar[Role] = "officer"

    officer: Name
    plan: Digest
    generator: Digest
    report: Digest
    candidate: Digest
    decision: Choice
    reason: Text
    waiver: MaybeText

    @model_validator(mode="after")
    def _waives_only_what_it_approves(self) -> Decision:
        if self.waiver and (self.decision != "approve" or not self.waiver.strip()):
            raise ValueError("a waiver goes with an approval, and says something")
        if not self.reason.strip():
            raise ValueError("a reason says something")
        return self


class HeadDocument(Document):
    """A ledger head as a release carries it: what `privacy.chain` signs, in the same words."""

    PREDICATE: ClassVar[str] = PREDICATE_PREFIX + "ledger-head:v1"
    ROLE: ClassVar[Role] = "hospital"

    hospital: Name
    sequence: Annotated[int, Field(ge=1)]
    hash: Digest
    plan: Digest
    step: Annotated[int, Field(ge=0)]
    request: Digest
