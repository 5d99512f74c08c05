"""What a release rests on where its plan names officers: an audit report, ledger heads, and the officers' decisions.

The same checks decide at the gate whether a release is signed, and afterwards whether one is accepted: `trust` is the
plan's own parties there, a trust file here. Nothing in this module looks at a key that lies in the bundle.

Promised: whoever passes has an audit report of this very generator, a ledger head of the plan's last charged step from
every hospital that answered it, and k approvals of this very candidate from at least two institutions. Not promised:
that a report is true, or that no officer said otherwise elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from manikin.common import agreements
from manikin.common.decisions import AuditReport, Decision, HeadDocument
from manikin.common.documents import TrustedKey, canonical_json
from manikin.common.errors import AuditFailed, ManikinError, PolicyRefusal, VerificationFailed
from manikin.common.keys import Trust
from manikin.common.officers import INSTITUTIONS_MIN, Officer, institutions
from manikin.common.plan import Plan
from manikin.common.release.facts import AUDIT_FILE, AUDIT_FOLDER, HEADS_FILE, STATE_FILE, ReleaseFacts
from manikin.common.release.reading import refused
from manikin.common.wire import CHARGED

HOSPITALS_MAX = 1000

About = tuple[str, str, str, str]  # digests that a decision names: plan, generator, report, candidate


@dataclass(frozen=True)
class Evidence:
    """What lies beside a generator.

    Args:
        generator: SHA-256 of the generator's file.
        report: SHA-256 of the signed audit report.
        audit: the report.
        heads: one ledger head of each hospital that answered the last charged step, by name.
        missed: hospitals that were asked it and did not answer.
    """

    generator: str
    report: str
    audit: AuditReport
    heads: Mapping[str, HeadDocument]
    missed: tuple[str, ...]

    def about(self, facts: ReleaseFacts, candidate: str) -> About:
        """What a decision on it names."""
        return facts.plan_digest, self.generator, self.report, candidate


class _Heads(BaseModel):
    """`ledger-heads.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    plan: agreements.Digest
    step: Annotated[int, Field(ge=0)]
    heads: Annotated[dict[str, str], Field(max_length=HOSPITALS_MAX)]
    missed: Annotated[list[str], Field(max_length=HOSPITALS_MAX)]


def signatories(plan: Plan) -> Trust:
    """A plan's own parties as those to trust: for the coordinator who proposed it, and for an officer whom it names."""
    keys = [TrustedKey(plan.coordinator.name, "coordinator", plan.coordinator.public_key)] if plan.coordinator else []
    keys += [TrustedKey(p.name, "hospital", p.public_key) for p in plan.participants]
    keys += [TrustedKey(o.name, "officer", o.public_key, o.institution) for o in plan.officers]
    return Trust(tuple(keys), plan.officers_needed, plan.digest)


def heads_file(plan: Plan, step: int, heads: Mapping[str, str], missed: Iterable[str]) -> bytes:
    """`ledger-heads.json`: what hospitals signed after the last charged step of a plan.

    Args:
        plan: the plan.
        step: the last step that was charged.
        heads: envelopes by hospital.
        missed: hospitals that were asked it and did not answer.
    """
    return canonical_json({"plan": plan.digest, "step": step, "heads": dict(heads), "missed": sorted(missed)})


def read_evidence(facts: ReleaseFacts, content: Mapping[str, bytes], trust: Trust) -> Evidence:
    """The audit report and the ledger heads of a release or a candidate.

    Args:
        facts: what it claims.
        content: its files.
        trust: whose signatures count.

    Raises:
        VerificationFailed: one is missing, malformed, about something else, or not signed by whom it must be.
    """
    generator = _sha256(content.get(STATE_FILE, b""))
    report = content.get(AUDIT_FILE)
    if report is None or HEADS_FILE not in content:
        raise refused("Its plan names officers, and it holds no audit report or no ledger heads.")
    audit = agreements.read(report, AuditReport, [key.public_key for key in trust.of("coordinator")])
    # (1) The audit is of this plan and this generator, and its files are those that it names.
    if (audit.plan, audit.generator) != (facts.plan_digest, generator):
        raise refused("Its audit report is about another generator or another plan.")
    files = {name: _sha256(file) for name, file in content.items() if name.startswith(AUDIT_FOLDER)}
    if files != audit.files:
        raise refused("The files of its audit report are not those that the report names.")
    # (2) The heads are complete.
    heads, missed = _read_heads(facts, content[HEADS_FILE], trust)
    return Evidence(generator, _sha256(report), audit, heads, missed)


def _read_heads(facts: ReleaseFacts, file: bytes, trust: Trust) -> tuple[dict[str, HeadDocument], tuple[str, ...]]:
    try:
        raw = _Heads.model_validate(json.loads(file))
        plan = Plan.from_dict(dict(facts.plan))
    except (ManikinError, ValidationError, ValueError, RecursionError):
        raise refused("Its ledger heads or its plan are not of a form that this version knows.") from None
    # (a) They are of the last step of this plan that charges a patient.
    charged = {step.index for step in plan.steps() if step.action in CHARGED}
    if raw.plan != facts.plan_digest or raw.step not in charged or plan.next_charged(raw.step) is not None:
        raise refused("Its ledger heads are not of the last charged step of its plan.")
    # (b) They are of hospitals of the plan, at least as many as its quorum, and nobody is both there and missing.
    parties = {party.name: party for party in plan.participants}
    named = [*raw.heads, *raw.missed]
    if len(set(named)) != len(named) or not set(named) <= set(parties) or len(named) != facts.hospitals:
        raise refused("Its ledger heads do not account for each of its hospitals.")
    if len(raw.heads) < plan.study.federation.quorum:
        raise refused("It holds fewer ledger heads than the quorum of its plan.")
    # (c) Each is signed by a trusted hospital of that name, whose key the plan names too.
    keys = {name: _hospital_keys(name, parties[name].public_key, trust) for name in raw.heads}
    heads = {name: agreements.read(head.encode(), HeadDocument, keys[name]) for name, head in raw.heads.items()}
    if any((h.hospital, h.plan, h.step) != (name, facts.plan_digest, raw.step) for name, h in heads.items()):
        raise refused("A ledger head is of another hospital, plan or step.")
    return heads, tuple(raw.missed)


def _hospital_keys(name: str, planned: bytes, trust: Trust) -> list[bytes]:
    return [key.public_key for key in trust.of("hospital") if (key.name, key.public_key) == (name, planned)]


def require_decisions(
    facts: ReleaseFacts, evidence: Evidence, candidate: str, envelopes: Collection[bytes], trust: Trust
) -> tuple[Decision, ...]:
    """The approvals of a candidate, if they are enough for its release.

    Args:
        facts: what is claimed, with the plan that names the officers.
        evidence: what lies beside the generator.
        candidate: the candidate's digest.
        envelopes: the decisions.
        trust: officers whose signatures count: those of the plan, or fewer.

    Raises:
        AuditFailed: the audit failed, or is inconclusive and not every officer waived that.
        PolicyRefusal: an officer refuses or asks for more, or too few approved.
        VerificationFailed: a decision is on something else, malformed, given twice, or not signed by the officer whom
            it names.
    """
    # (1) Each is a decision on this very candidate, by one officer whose key is trusted.
    about = evidence.about(facts, candidate)
    decisions = [read_decision(envelope, trust.officers, about=about) for envelope in envelopes]
    if len({decision.officer for decision in decisions}) < len(decisions):
        raise VerificationFailed("The decisions are refused.", "An officer decided twice.", "Give the later one only.")
    # (2) The audit did not fail, and nobody is against it.
    if evidence.audit.verdict == "fail":
        raise AuditFailed(
            "The audit of this generator failed.",
            _failed(evidence.audit),
            "Nothing overrides it: study it, train another.",
        )
    require_nobody_against(decisions)
    # (3) Enough officers approved, of enough institutions.
    approved = {decision.officer for decision in decisions}
    voices = institutions(officer for officer in trust.officers if officer.name in approved)
    if len(approved) < facts.officers_needed or len(voices) < INSTITUTIONS_MIN:
        raise PolicyRefusal(
            f"{len(approved)} officers of {len(voices)} institutions approved.",
            f"The plan needs {facts.officers_needed}, of at least {INSTITUTIONS_MIN} institutions.",
            f"Ask for the decisions of: {_names(o for o in facts.officers if o.name not in approved)}.",
        )
    # (4) An inconclusive audit is waived in writing by every officer whom the plan names.
    waived = {decision.officer for decision in decisions if decision.waiver}
    silent = [officer for officer in facts.officers if officer.name not in waived]
    if evidence.audit.verdict == "inconclusive" and silent:
        raise AuditFailed(
            "The audit is inconclusive, and not every officer waived that.",
            f"Without a waiver: {_names(silent)}.",
            "Each officer whom the plan names gives one: manikin release sign ... --decision approve --waiver TEXT.",
        )
    return tuple(sorted(decisions, key=lambda decision: decision.officer))


def read_decision(envelope: bytes, officers: Iterable[Officer], *, about: About) -> Decision:
    """A decision on one candidate, signed by the officer whom it names.

    Raises:
        VerificationFailed: malformed, on something else, or signed by nobody or somebody else of these officers.
    """
    keys = {officer.name: officer.public_key for officer in officers}
    decision = agreements.read(envelope, Decision, keys.values())
    if decision.officer not in keys:
        raise _unfit(decision, "No such officer is trusted with it.")
    decision = agreements.read(envelope, Decision, [keys[decision.officer]])
    if (decision.plan, decision.generator, decision.report, decision.candidate) != about:
        raise _unfit(decision, "It is on another candidate.")
    return decision


def require_nobody_against(decisions: Iterable[Decision]) -> None:
    """Refuse where an officer refuses or asks for more.

    Raises:
        PolicyRefusal: with each one's reason.
    """
    against = [decision for decision in decisions if decision.decision != "approve"]
    if against:
        words = {"refuse": "refuses", "ask-more": "asks for more"}
        raise PolicyRefusal(
            "An officer does not approve this release.",
            " ".join(f"{d.officer} {words[d.decision]}: {d.reason}" for d in against),
            "A refusal is final: propose another study. Who asks for more can decide anew on the same candidate.",
        )


def _failed(audit: AuditReport) -> str:
    return " ".join(f"{test.name}: {test.finding}" for test in audit.tests if test.verdict == "fail")


def _unfit(decision: Decision, why: str) -> VerificationFailed:
    return VerificationFailed(
        f"The decision of {decision.officer} is refused.", why, "Ask the officer to decide on this candidate."
    )


def _names(officers: Iterable[Officer]) -> str:
    return ", ".join(f"{officer.name} ({officer.institution})" for officer in officers)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
