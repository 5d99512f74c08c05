"""`manikin hospital enroll`, `review`, `approve` and `refuse`: whom a hospital trusts, and what it says to a plan."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manikin.cli.console import finish, say
from manikin.common.errors import Misconfigured

if TYPE_CHECKING:
    from manikin.client.agreements import Review
    from manikin.common.plan import Plan

Folder = Annotated[Path, typer.Option("--hospital", help="The hospital's folder.")]
PlanFile = Annotated[Path, typer.Argument(metavar="PLAN", help="The plan, as the coordinator sent it.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on the last line.")]
DAY = "%Y-%m-%d"


def enroll(
    hospital: Folder,
    coordinator: Annotated[Path | None, typer.Option(help="The coordinator's card: join its studies.")] = None,
    peer: Annotated[
        list[Path] | None, typer.Option(help="Another hospital's enrolment: verify it. Repeatable.")
    ] = None,
    fingerprint: Annotated[
        list[str] | None, typer.Option(help="At least the first 16 digits, as their owner read them out. Repeatable.")
    ] = None,
    until: Annotated[
        datetime.datetime | None, typer.Option(formats=[DAY], help="The last day on which the keys count.")
    ] = None,
    rotate: Annotated[bool, typer.Option("--rotate", help="Give the vault a new key, signed by the old one.")] = False,
    revoke: Annotated[str | None, typer.Option(metavar="NAME", help="Trust the keys of NAME no more.")] = None,
    group: Annotated[
        str | None, typer.Option(help="Group of the gateway's user, who may read the gateway's key.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Join a coordinator, verify other hospitals, renew the vault's key, or trust somebody no more."""
    from manikin.client import enrolment

    if sum([coordinator is not None, bool(peer), rotate, revoke is not None]) != 1:
        raise Misconfigured("Say one thing to do.", "", "Give one of --coordinator, --peer, --rotate and --revoke.")
    pins = coordinator is not None or bool(peer)
    if (not pins and (fingerprint or until)) or (coordinator is None and group is not None):
        raise Misconfigured(
            "An option does not belong to what is to be done.",
            "--fingerprint and --until go with --coordinator or --peer, --group with --coordinator.",
            "Leave it out.",
        )
    said, day = fingerprint or [], until.date() if until else None
    result: dict[str, Any] = {}
    if coordinator is not None:
        card = enrolment.enroll(hospital, read_document(coordinator), said, until=day, group=group)
        say(f"{card.name} is pinned in policy.toml. Read the limits there: every plan is held against them.")
        result["coordinator"] = {"name": card.name, "key": card.key, "address": card.address}
    for content in [read_document(file) for file in peer or []]:
        known = enrolment.pin_peer(hospital, content, said, until=day)
        say(f"{known.name} is pinned in policy.toml, and counts for a quorum.")
        result.setdefault("peers", []).append({"name": known.name, "key": known.key})
    if rotate:
        enrolment.rotate(hospital)
        say(
            "The vault has a new key, and the old one is destroyed. Plans that name the old one are over. "
            "Restart the vault."
        )
    if revoke is not None:
        found = enrolment.revoke_pin(hospital, revoke)
        say(f"Revoked in policy.toml: {', '.join(f'{pin.name} ({pin.key[:16]})' for pin in found)}.")
        result["revoked"] = [pin.key for pin in found]
    _finish_enrolment(hospital, result, json_output, introduced=coordinator is not None or rotate)


def _finish_enrolment(folder: Path, result: dict[str, Any], json_output: bool, *, introduced: bool) -> None:
    from manikin.client.cohort import Hospital
    from manikin.client.enrolment import ENROLMENT
    from manikin.common.keys import fingerprint

    hospital = Hospital.open(folder)
    own = fingerprint(hospital.signing_key.public_key)
    result |= {"hospital": hospital.name, "fingerprint": own, "enrolment": str(folder / ENROLMENT)}
    if introduced:
        say(f"To be read out when the coordinator and other hospitals call: {own}")
    step = f"send {folder / ENROLMENT} to the coordinator and to the other hospitals" if introduced else ""
    finish(result, json_output, next_step=step)


def sync(
    gateway: Annotated[Path, typer.Option("--gateway", help="The gateway's folder.")],
    json_output: Json = False,
) -> None:
    """Send answers to the coordinator's registry and take in plans. For the gateway's user: it uses the network."""
    from manikin.client.registry import synchronise

    done = synchronise(gateway)
    for name in done.sent:
        say(f"Sent: {name}")
    for name, why in done.refused.items():
        say(f"Not taken: {name}. {why}")
    for file in done.received:
        say(f"Received: {file}")
    result = {"sent": done.sent, "refused": done.refused, "received": [str(file) for file in done.received]}
    finish(result, json_output, next_step="review the plans received, with `manikin hospital review`")


def review(plan: PlanFile, hospital: Folder, json_output: Json = False) -> None:
    """Show what a plan would let out, what it costs a patient, and what this hospital's policy says to it."""
    held = _show(plan, hospital)
    step = f"manikin hospital approve {plan} --hospital {hospital}"
    finish(_described(held), json_output, next_step=step if _refused(held) is None else "")
    held.require()


def approve(plan: PlanFile, hospital: Folder, json_output: Json = False) -> None:
    """Show the review, and sign that this hospital follows exactly this plan, if its policy allows it."""
    from manikin.client.agreements import approve as sign

    _show(plan, hospital)
    file = sign(hospital, read_document(plan), today=_today())
    result = {"plan": file.parent.name, "approval": str(file)}
    step = f"send {file} to the coordinator, then: manikin hospital start --hospital {hospital}"
    finish(result, json_output, next_step=step)


def refuse(
    plan: PlanFile,
    hospital: Folder,
    reason: Annotated[str, typer.Option(help="One line, in your own words. It leaves the hospital.")],
    json_output: Json = False,
) -> None:
    """Sign that this hospital does not follow a plan, for good."""
    from manikin.client.agreements import refuse as sign

    file = sign(hospital, read_document(plan), reason)
    finish({"plan": file.parent.name, "refusal": str(file)}, json_output, next_step=f"send {file} to the coordinator")


def _show(plan: Path, hospital: Path) -> Review:
    from manikin.client.agreements import review as hold

    held = hold(hospital, read_document(plan), today=_today())
    _print(held)
    return held


def _print(held: Review) -> None:
    """The one table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"Plan {held.plan.digest[:16]} of study {held.plan.study.name}"))
    for column in ("", "this plan", "your policy", ""):
        table.add_column(column, overflow="fold")
    for row in _rows(held):
        table.add_row(*(Text("".join(c if c.isprintable() else "?" for c in cell)) for cell in row))
    Console(width=None if Console().is_terminal else 120).print(table)


def _rows(held: Review) -> list[tuple[str, str, str, str]]:
    from manikin.privacy.budget import plan_statements

    privacy, life = held.plan.study.privacy, held.life
    rows = [("leaves", f"{part.what}: {part.times} × {_bytes(part.size_bytes)}", "", "") for part in held.leaves]
    rows.append(("leaves", "acknowledgements, signed ledger heads, and refusals as one of three codes", "", ""))
    rows.append((
        "costs", f"ε = {held.costs.value:.3f} at δ = {privacy.delta:g} for one {privacy.unit}",
        f"the plan promises ε = {privacy.epsilon:g}", _verdict(held.keeps_its_promise),
    ))  # fmt: skip
    adversaries = plan_statements(held.plan)
    if adversaries is not None:
        collusion = held.plan.study.federation.collusion
        rows += [
            ("holds against", f"the coordinator with {collusion} hospital(s)", "", ""),
            (
                "holds for the release alone",
                f"ε = {adversaries.release.value:.3f}, with every hospital's noise",
                "",
                "",
            ),
            ("if the masks were broken", f"ε = {adversaries.broken.value:.3f}, with your own noise alone", "", ""),
        ]
    rows.append(("the release", deciding(held.plan), "", ""))
    (epsilon, delta), (epsilon_after, delta_after) = life.spent, life.after
    rows.append((
        "budget over the cohort's life", f"ε: {epsilon:g} → {epsilon_after:g}, δ: {delta:g} → {delta_after:g}",
        f"at most ε = {life.limit[0]:g}, δ = {life.limit[1]:g}", _verdict(life.holds),
    ))  # fmt: skip
    return rows + [(r.rule, r.planned, r.allowed, _verdict(r.holds)) for r in held.rulings]


def deciding(plan: Plan) -> str:
    """Who decides on a plan's release, in words."""
    if not plan.officers:
        return "No officer decides on the release: the plan names none."
    named = ", ".join(f"{officer.name} ({officer.institution})" for officer in plan.officers)
    return f"{plan.officers_needed} of these officers must approve the release: {named}."


def _described(held: Review) -> dict[str, Any]:
    """The review as JSON."""
    from dataclasses import asdict

    return {
        "plan": held.plan.digest,
        "study": held.plan.study.name,
        "allowed": _refused(held) is None,
        "epsilon": held.costs.value,
        "delta": held.plan.study.privacy.delta,
        "officers": [asdict(officer) for officer in held.plan.officers],
        "officers_needed": held.plan.officers_needed,
        "leaves": [{**asdict(part), "size_bytes": _finite(part.size_bytes)} for part in held.leaves],
        "life": {"spent": held.life.spent, "after": held.life.after, "limit": held.life.limit},
        "rules": [asdict(ruling) for ruling in held.rulings],
    }


def _refused(held: Review) -> Exception | None:
    from manikin.common.errors import ManikinError

    try:
        held.require()
    except ManikinError as error:
        return error
    return None


def _verdict(holds: bool) -> str:
    return "ok" if holds else "REFUSED"


def _finite(size: float) -> int | None:
    return None if size == float("inf") else int(size)


def _bytes(size: float) -> str:
    whole = _finite(size)
    return "a size that cannot be told" if whole is None else f"{whole:,} bytes"


def read_document(file: Path) -> bytes:
    """A document from a file; larger than any is cut off and will not open.

    Raises:
        Misconfigured: there is no such file, or it is a folder.
    """
    from manikin.common.documents import ENVELOPE_BYTES_MAX

    try:
        with file.open("rb") as opened:
            return opened.read(ENVELOPE_BYTES_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise Misconfigured(f"There is no file {file}.", "", "Correct the path.") from None
    except IsADirectoryError:
        raise Misconfigured(f"{file} is a folder.", "", "Give the document's file.") from None


def _today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()
