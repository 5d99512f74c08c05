"""The gate: from a candidate and officers' decisions to a signed release, or to the reason why there is none.

No signature is made without an audit report of this very generator that passed (or is inconclusive, and every officer
whom the plan names waived that), complete ledger heads, and k approvals from at least two institutions, none against.
Decisions that came are kept, so that they need not come together, and a refusal that came once is final, also of an
officer who was revoked after it. Not promised: anything against a coordinator who signs with other software; whoever
verifies with the trust file refuses what that makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from manikin.common.errors import Misconfigured, VerificationFailed
from manikin.common.files import write_atomically
from manikin.common.keys import Trust, write_trust
from manikin.common.officers import Officer
from manikin.common.plan import Plan
from manikin.common.release import Candidate, Release, open_candidate, verify_bundle
from manikin.common.release.bundle import write_decided
from manikin.common.release.evidence import About, read_decision, require_decisions, require_nobody_against, signatories
from manikin.server.agreements import Coordinator, one_at_a_time, revoked_keys


@one_at_a_time
def issue(home: Coordinator, plan: Plan, envelopes: Sequence[bytes]) -> tuple[Release, Path]:
    """Sign the release of a plan's candidate; the release, and the trust file for whoever verifies it.

    Args:
        home: the coordinator's folder.
        plan: the plan, which names officers.
        envelopes: the officers' decisions.

    Raises:
        AuditFailed: the audit failed, or is inconclusive and not every officer waived that.
        PolicyRefusal: an officer refuses or asks for more, or too few approved.
        VerificationFailed: candidate or decisions do not hold.
        Misconfigured: the plan names no officers, or its run has not ended with a candidate.
        StorageFailure: the disk is full or not writable; no release is left behind.
    """
    folder = home.plan_folder(plan.digest) / "run"
    bundle, trust_file = folder / "release", folder / "trust.json"
    # (1) The candidate is this coordinator's, of this plan, with its audit report and its ledger heads.
    candidate = _candidate(home, plan, folder)
    # (2) Officers who are not revoked decided on it, and nobody who decided against it was left out.
    parties, about = signatories(plan), candidate.evidence.about(candidate.facts, candidate.digest)
    trust = without(parties, revoked_keys(home))
    given = _collect(envelopes, folder / "decisions" / candidate.digest, about, parties.officers, trust.officers)
    require_nobody_against(read_decision(envelope, parties.officers, about=about) for envelope in given.values())
    decisions = require_decisions(candidate.facts, candidate.evidence, candidate.digest, list(given.values()), trust)
    # (3) The release is the candidate and the decisions, and verifies with the file that others get.
    write_trust(trust_file, parties.keys, officers_needed=parties.officers_needed, plan=parties.plan)
    if not bundle.exists():
        keys = {officer.name: officer.key for officer in plan.officers}
        by_key = {keys[decision.officer]: given[decision.officer] for decision in decisions}
        write_decided(bundle, files=candidate.files, facts=candidate.facts, decisions=by_key, signer=home.signing_key)
    return verify_bundle(bundle, trust_file), trust_file


def without(trust: Trust, revoked: frozenset[str]) -> Trust:
    """The same, less the keys that count no more."""
    return replace(trust, keys=tuple(key for key in trust.keys if key.public_key.hex() not in revoked))


def _candidate(home: Coordinator, plan: Plan, folder: Path) -> Candidate:
    if not plan.officers:
        raise Misconfigured(
            "There is nothing to decide.", "The plan names no officers.", "Its run ends with a release."
        )
    if not (folder / "candidate").exists():
        raise Misconfigured(
            "There is no candidate of this plan.", "Its run has not ended.", "Run it: manikin coordinator run."
        )
    candidate = open_candidate(folder / "candidate")
    own = home.signing_key.public_key
    if candidate.plan != plan or plan.coordinator is None or plan.coordinator.public_key != own:
        raise VerificationFailed("The candidate is of another plan.", "", "Restore the run's folder.")
    return candidate


def _collect(
    envelopes: Sequence[bytes], held: Path, about: About, everyone: Sequence[Officer], valid: Sequence[Officer]
) -> dict[str, bytes]:
    """Decisions on a candidate by officer, those that came before among them; all are kept.

    A later one takes the place of an earlier one, but not of a refusal: so an older approval undoes none.
    """
    given: dict[str, bytes] = {}
    for envelope in envelopes:
        name = read_decision(envelope, valid, about=about).officer
        if given.setdefault(name, envelope) != envelope:
            raise VerificationFailed(
                f"{name} decided twice.", "Two different decisions were given.", "Give the later one only."
            )
    for officer in everyone:
        file = held / f"{officer.key}.dsse.json"
        before = file.read_bytes() if file.exists() else None
        if before is not None and read_decision(before, everyone, about=about).decision == "refuse":
            given[officer.name] = before
        elif before is not None and officer in valid:
            given.setdefault(officer.name, before)
        if officer.name in given:
            write_atomically(file, given[officer.name])
    return given
