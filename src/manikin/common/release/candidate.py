"""A candidate: what officers decide on before it is released, and the decision that one of them signs.

It is read like a release: every byte of it is listed under the coordinator's signature, the audit report is of this
generator, the ledger heads are complete. The coordinator's key is the one that the plan names: whether this is the plan
that an officer means, the officer sees from its digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from manikin.common import agreements
from manikin.common.decisions import AuditReport, Choice, Decision
from manikin.common.documents import open_envelope
from manikin.common.errors import AuditFailed, ManikinError, Misconfigured, PolicyRefusal
from manikin.common.keys import SigningKey
from manikin.common.officers import Officer
from manikin.common.plan import Plan
from manikin.common.release.evidence import Evidence, read_evidence, signatories
from manikin.common.release.facts import CANDIDATE_FILE, CANDIDATE_TYPE, ReleaseFacts
from manikin.common.release.reading import read_envelope, read_listed, refused
from manikin.common.release.verification import read_facts, read_generator


@dataclass(frozen=True)
class Candidate:
    """A candidate whose signature, digests and evidence hold.

    Args:
        folder: where it lies.
        digest: SHA-256 of its statement, hex: what decisions name.
        plan: the plan.
        facts: what it claims.
        evidence: audit report and ledger heads.
        files: content by name.
    """

    folder: Path
    digest: str
    plan: Plan
    facts: ReleaseFacts
    evidence: Evidence
    files: Mapping[str, bytes]

    @property
    def audit(self) -> AuditReport:
        return self.evidence.audit


def open_candidate(folder: Path) -> Candidate:
    """Read a candidate.

    Raises:
        VerificationFailed: at the first step that does not hold; nothing of it should be decided on.
    """
    # (1) It is whole, and names a plan.
    statement, files = read_listed(folder, None, envelope=CANDIDATE_FILE, predicate_type=CANDIDATE_TYPE)
    facts = read_facts(statement, files)
    try:
        plan = Plan.from_dict(dict(facts.plan))
    except ManikinError as error:
        raise refused(f"Its plan is none that this version knows: {error.why}") from None
    if plan.digest != facts.plan_digest or not plan.officers:
        raise refused("Its plan names no officers, or says more than this version understands.")
    # (2) The plan's coordinator signed it.
    trust = signatories(plan)
    signed = open_envelope(read_envelope(folder, CANDIDATE_FILE), trust.keys, predicate_type=CANDIDATE_TYPE)
    if signed.digest != statement.digest:
        raise refused("It changed while it was read.")
    # (3) The generator loads, the audit report is of it, and the ledger heads are complete.
    read_generator(files)
    return Candidate(folder, signed.digest, plan, facts, read_evidence(facts, files, trust), files)


def officer_of(candidate: Candidate, key: SigningKey) -> Officer:
    """The officer of the plan who holds this key.

    Raises:
        PolicyRefusal: the plan names nobody with it.
    """
    for officer in candidate.plan.officers:
        if officer.public_key == key.public_key:
            return officer
    raise PolicyRefusal(
        "This key decides on nothing here.", "The plan names no officer with it.", "Use the key that was accepted."
    )


def decide(candidate: Candidate, key: SigningKey, *, decision: Choice, reason: str, waiver: str = "") -> bytes:
    """An officer's signed decision on a candidate.

    Args:
        candidate: what it is on.
        key: the officer's.
        decision: "approve", "refuse" or "ask-more".
        reason: one line in the officer's own words; it is published with a release.
        waiver: why an inconclusive audit is accepted; needed to approve one, and for nothing else.

    Raises:
        AuditFailed: it approves what the audit failed, or waives nothing where the audit is inconclusive.
        PolicyRefusal: the plan names nobody with this key.
        Misconfigured: a text is empty, too long or not one line, or there is nothing to waive.
    """
    officer, verdict = officer_of(candidate, key), candidate.audit.verdict
    if decision == "approve" and verdict == "fail":
        raise AuditFailed("This generator cannot be approved.", "Its audit failed.", "Refuse it, or ask for more.")
    if decision == "approve" and verdict == "inconclusive" and not waiver:
        raise AuditFailed(
            "This generator is not approved without a waiver.",
            "Its audit is inconclusive: it shows neither a leak nor that there is none.",
            "Say in writing why you accept that, with --waiver; or refuse, or ask for more.",
        )
    if waiver and (decision, verdict) != ("approve", "inconclusive"):
        raise Misconfigured("There is nothing to waive.", "A waiver approves an inconclusive audit.", "Leave it out.")
    try:
        said = Decision(
            officer=officer.name,
            plan=candidate.plan.digest,
            generator=candidate.evidence.generator,
            report=candidate.evidence.report,
            candidate=candidate.digest,
            decision=decision,
            reason=reason,
            waiver=waiver,
        )
    except ValidationError:
        raise Misconfigured(
            f"A reason or a waiver is one line of at most {agreements.REASON_CHARACTERS_MAX} printable characters.",
            "",
            "Correct --reason or --waiver.",
        ) from None
    return agreements.write(said, key)
