"""From a finished generator to a signed bundle or a candidate, and the coordinator's key that signs it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from manikin.common import agreements
from manikin.common.errors import VerificationFailed
from manikin.common.generators import Generator
from manikin.common.keys import SigningKey, write_trust
from manikin.common.plan import Plan
from manikin.common.release import ReleaseFacts, open_candidate, verify_bundle, write_bundle
from manikin.common.release.bundle import state_file, write_candidate
from manikin.common.release.evidence import heads_file, read_evidence, signatories
from manikin.common.release.facts import AUDIT_FILE, HEADS_FILE, STATE_FILE
from manikin.privacy.budget import plan_epsilon, plan_mechanisms, plan_statements
from manikin.privacy.costs import Total, describe
from manikin.server.auditing import audit_report

AUDIT_STATEMENT = (
    "Each hospital ran a membership-inference test and a nearest-neighbour re-identification test on this generator. "
    "Their answers were computed from patients, not noised and not charged to ε, so they stay in the hospitals "
    "and are not part of this bundle."
)


def coordinator_key(folder: Path) -> SigningKey:
    """The coordinator's key of a run folder, made on first use; private to its owner."""
    file = folder / "keys" / "coordinator.pem"
    if file.exists():
        return SigningKey.load(file)
    key = SigningKey.generate()
    key.save(file)
    return key


def release(
    folder: Path,
    *,
    plan: Plan,
    generator: Generator,
    hospitals: int,
    created: str,
    audit_statement: str,
    key: SigningKey,
) -> tuple[Path, Path, Total]:
    """Write and sign the bundle of a plan without officers; returns it, the trust file beside it, and ε.

    Raises:
        Misconfigured: the plan names officers, who have to decide first.
        StorageFailure: the disk is full; no bundle is left behind.
    """
    spent = plan_epsilon(plan)
    facts = _facts(plan, spent, hospitals=hospitals, created=created, audit_statement=audit_statement)
    name = plan.coordinator.name if plan.coordinator else "coordinator"
    bundle, trust = folder / "release", folder / "trust.json"
    write_trust(trust, [key.trusted(name, "coordinator")])
    if bundle.exists():
        verify_bundle(bundle, trust)  # a resumed run that had already signed
    else:
        write_bundle(bundle, generator=generator, facts=facts, signer=key)
    return bundle, trust, spent


def prepare(
    folder: Path,
    *,
    plan: Plan,
    generator: Generator,
    hospitals: Sequence[str],
    heads: Mapping[str, Mapping[str, str]],
    created: str,
    audit_statement: str,
    key: SigningKey,
) -> tuple[Path, Total]:
    """Write the candidate of a plan with officers, with its audit report; returns it, and ε.

    Args:
        folder: the run's.
        plan: the plan.
        generator: what is to be released.
        hospitals: everyone who was asked.
        heads: ledger heads by charged step and hospital, as the checkpoint holds them.
        created: ISO 8601 time.
        audit_statement: what was audited, in words.
        key: the coordinator's.

    Raises:
        VerificationFailed: ledger heads are missing, or one is not of a hospital of the plan.
        StorageFailure: the disk is full; no candidate is left behind.
    """
    spent = plan_epsilon(plan)
    candidate = folder / "candidate"
    if not candidate.exists():
        facts = _facts(plan, spent, hospitals=len(hospitals), created=created, audit_statement=audit_statement)
        state = state_file(generator)
        report, files = audit_report(plan, hashlib.sha256(state).hexdigest())
        files |= {AUDIT_FILE: agreements.write(report, key), HEADS_FILE: _last_heads(plan, hospitals, heads)}
        read_evidence(facts, {**files, STATE_FILE: state}, signatories(plan))  # before anything is written
        write_candidate(candidate, generator=generator, facts=facts, signer=key, extra=files)
    opened = open_candidate(candidate)  # also one of a resumed run
    if opened.plan != plan:
        raise VerificationFailed("The candidate is of another plan.", "", f"Remove {candidate}, then resume.")
    return candidate, spent


def _last_heads(plan: Plan, hospitals: Sequence[str], heads: Mapping[str, Mapping[str, str]]) -> bytes:
    step = max((int(step) for step in heads), default=0)
    last = heads.get(str(step), {})
    return heads_file(plan, step, last, missed=set(hospitals) - set(last))


def _facts(plan: Plan, spent: Total, *, hospitals: int, created: str, audit_statement: str) -> ReleaseFacts:
    study = plan.study
    privacy = study.privacy
    return ReleaseFacts(
        plan=plan.to_dict(),
        plan_digest=plan.digest,
        hospitals=hospitals,
        epsilon=spent.value,
        delta=privacy.delta,
        unit=privacy.unit,
        multiplicity=privacy.multiplicity,
        mode=study.federation.mode,
        accountants=spent.accountants,
        mechanisms=describe(plan_mechanisms(plan)),
        data=study.data.model_dump(mode="json"),
        audit_statement=audit_statement,
        code_version=plan.code_version,
        created=created,
        collusion=study.federation.collusion,
        adversaries=_adversaries(plan),
    )


def _adversaries(plan: Plan) -> dict[str, float] | None:
    found = plan_statements(plan)
    if found is None:
        return None
    return {name: getattr(found, name).value for name in ("release", "collusion", "broken")}
