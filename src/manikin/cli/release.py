"""`manikin release`: decide on what a consortium would release, and check what it released, offline."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manikin.cli.console import finish, say

if TYPE_CHECKING:
    from manikin.common.decisions import AuditReport
    from manikin.common.officers import Officer
    from manikin.common.release import Candidate, Release

app = typer.Typer(no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]


class Said(StrEnum):
    """What an officer can say."""

    APPROVE = "approve"
    REFUSE = "refuse"
    ASK_MORE = "ask-more"


@app.command()
def sign(
    candidate: Annotated[Path, typer.Argument(help="The folder that the coordinator sent.")],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="Your key, from `manikin officer init`.")],
    decision: Annotated[
        Said, typer.Option("--decision", help="ask-more is no approval; the reason says what is asked.")
    ],
    reason: Annotated[str, typer.Option("--reason", help="One line in your own words. It is published.")],
    waiver: Annotated[
        str, typer.Option("--waiver", help="To approve an inconclusive audit: why you accept it. It is published.")
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where the decision goes; beside the candidate by default."),
    ] = None,
    json_output: Json = False,
) -> None:
    """Show what is decided on, check it, and sign a decision. Uses no network."""
    from manikin.common.errors import Misconfigured
    from manikin.common.files import write_atomically
    from manikin.common.keys import SigningKey
    from manikin.common.release import decide, open_candidate
    from manikin.common.release.candidate import officer_of

    opened, signing = open_candidate(candidate), SigningKey.load(key)
    officer = officer_of(opened, signing)
    _show(opened)
    _require_epsilon(opened)
    content = decide(opened, signing, decision=decision.value, reason=reason, waiver=waiver)
    file = out or opened.folder.absolute().parent / f"decision-{officer.key[:16]}.dsse.json"
    if file.is_dir() or opened.folder.absolute() in file.absolute().parents:
        raise Misconfigured(
            f"The decision cannot go to {file}.", "That is a folder, or part of the candidate.", "Give another --out."
        )
    write_atomically(file, content)
    say(f"Signed by {officer.name} ({officer.institution}): {decision.value}. {reason}")
    if waiver:
        say(f"Waived, since the audit is inconclusive: {waiver}")
    finish(_decided(opened, officer, decision.value, file), json_output, next_step=f"send {file} to the coordinator")


def _decided(opened: Candidate, officer: Officer, decision: str, file: Path) -> dict[str, Any]:
    return {
        "decision": decision,
        "file": str(file),
        "officer": officer.name,
        "verdict": opened.audit.verdict,
        "plan": opened.plan.digest,
        "generator": opened.evidence.generator,
        "report": opened.evidence.report,
        "candidate": opened.digest,
        "epsilon": opened.facts.epsilon,
        "delta": opened.facts.delta,
    }


def _show(opened: Candidate) -> None:
    """What is decided on, in words, before anything is signed."""
    from manikin.cli.agreements import deciding
    from manikin.common.release.privacy_card import promise

    facts, evidence = opened.facts, opened.evidence
    say(f"Candidate of study {facts.study_name}: a generator of the family {opened.plan.study.generator.family}, "
        f"{facts.hospitals} hospital(s).")  # fmt: skip
    say(f"Claims ε = {facts.epsilon:.4g} at δ = {facts.delta:.4g} per {facts.unit}. {promise(facts)}")
    _say_audit(evidence.audit)
    say(f"Ledger heads of the last charged step: {', '.join(evidence.heads)}."
        + (f" Not there, since they missed it: {', '.join(evidence.missed)}." if evidence.missed else ""))  # fmt: skip
    say(deciding(opened.plan))
    digests = {
        "plan": opened.plan.digest,
        "generator": evidence.generator,
        "audit report": evidence.report,
        "candidate": opened.digest,
    }
    for name, digest in digests.items():
        say(f"  {name:<13} sha256:{digest}")


def _say_audit(audit: AuditReport) -> None:
    say(f"Audit: {audit.verdict}.")
    for test in audit.tests:
        say(f"  {test.name}: {test.verdict}. {test.finding} Could have detected: {test.ceiling}")
    for name in audit.files:
        say(f"  Read {name}")


def _require_epsilon(opened: Candidate) -> None:
    """Compute ε again from the plan: a claim below it is not signed."""
    from manikin.common.errors import VerificationFailed
    from manikin.privacy.budget import plan_epsilon

    found = plan_epsilon(opened.plan).value
    if opened.facts.epsilon < found * (1 - 1e-9):
        raise VerificationFailed(
            "The candidate is refused.",
            f"It claims ε = {opened.facts.epsilon:.4g}, and its plan spends {found:.4g}.",
            "Ask the coordinator which version of Manikin made it.",
        )


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="The folder of the release.")],
    trust: Annotated[Path, typer.Option("--trust", help="Trust file, obtained by another way than the bundle.")],
    json_output: Json = False,
) -> None:
    """Check a release's signatures and every file of it against a trust file. Uses no network."""
    from manikin.common.release import verify_bundle

    release = verify_bundle(bundle, trust)
    facts = release.facts
    say(f"Verified: {facts.study_name}, signed by {release.signer_name}.")
    say(f"Release sha256:{release.digest}")
    say(
        f"Claims ε = {facts.epsilon:.4g} at δ = {facts.delta:.4g} per {facts.unit}, over {facts.hospitals} hospital(s)."
    )
    say_decisions(release)
    institutions = {officer.name: officer.institution for officer in facts.officers}
    result = {
        "verified": True,
        "release": str(bundle),
        "digest": release.digest,
        "signer": release.signer_name,
        "study": facts.study_name,
        "generator": release.spec.family,
        "hospitals": facts.hospitals,
        "unit": facts.unit,
        "epsilon": facts.epsilon,
        "delta": facts.delta,
        "created": facts.created,
        "audit_verdict": release.audit.verdict if release.audit else None,
        "decisions": [
            {"officer": d.officer, "institution": institutions[d.officer], "reason": d.reason, "waiver": d.waiver}
            for d in release.decisions
        ],
    }
    file_format = "png" if release.spec.spatial_dims == 2 else "nifti"
    finish(
        result,
        json_output,
        next_step=f"manikin synthesize {bundle} --trust {trust} --count 100 --format {file_format} --out DIR",
    )


def say_decisions(release: Release) -> None:
    """Who decided on a release, and what they wrote."""
    if release.audit is None:
        say("No officer decided on this release: its plan names none.")
        return
    institutions = {officer.name: officer.institution for officer in release.facts.officers}
    say(f"Audit: {release.audit.verdict}. It took {release.facts.officers_needed} of {len(institutions)} officers.")
    for decision in release.decisions:
        say(f"Approved by {decision.officer} ({institutions[decision.officer]}): {decision.reason}")
        if decision.waiver:
            say(f"  Accepts that the audit is inconclusive: {decision.waiver}")
