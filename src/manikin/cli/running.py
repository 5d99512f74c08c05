"""Commands that keep processes running: the coordinator's study, the hospital's vault and gateway; and their checks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manikin.cli.agreements import deciding
from manikin.cli.console import finish, say

if TYPE_CHECKING:
    from manikin.server.agreements import Coordinator
    from manikin.server.flower import LinkStatus
    from manikin.server.running import Study

CoordinatorFolder = Annotated[Path, typer.Option("--coordinator", metavar="DIR", help="The coordinator's folder.")]
PlanName = Annotated[str, typer.Option("--plan", help="The plan's file, its digest, or the beginning of it.")]
Listen = Annotated[
    str | None, typer.Option("--listen", help="Host or interface to listen at; the address's own host by default.")
]
HospitalFolder = Annotated[Path, typer.Option("--hospital", metavar="DIR", help="The hospital's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on the last line.")]


def run(
    coordinator: CoordinatorFolder,
    plan: PlanName,
    canary: Annotated[
        bool, typer.Option("--canary", help="One round over the real sites that no patient is in, and no budget.")
    ] = False,
    listen: Listen = None,
    json_output: Json = False,
) -> None:
    """Run a study that hospitals approved: wait for their gateways, conduct the rounds, sign the release.

    Where the plan names officers, it ends with a candidate for them to decide on.
    """
    from manikin.common.errors import Misconfigured

    study = _study(coordinator, plan, canary=canary)
    if study.started and not canary:
        raise Misconfigured(
            "This study was started before.",
            f"Its run lies in {study.folder}.",
            f"Go on with it: manikin coordinator resume --coordinator {coordinator} --plan {study.plan.digest[:16]}",
        )
    _conduct(study, listen, json_output)


def resume(coordinator: CoordinatorFolder, plan: PlanName, listen: Listen = None, json_output: Json = False) -> None:
    """Go on with a study that was interrupted, from its last checkpoint."""
    from manikin.common.errors import Misconfigured

    study = _study(coordinator, plan)
    if not study.started:
        raise Misconfigured("This study was never started.", "", "Start it with `manikin coordinator run`.")
    if study.said().get("state") == "finished":
        say("This study has ended.")
        _conclude(study, study.said(), json_output)
        return
    _conduct(study, listen, json_output)


def status(
    coordinator: CoordinatorFolder,
    plan: Annotated[str | None, typer.Option("--plan", help="Only this plan.")] = None,
    json_output: Json = False,
) -> None:
    """Show each plan of a coordinator: who approved it, who is connected, and how far its run has come."""
    from rich.console import Console
    from rich.table import Table

    from manikin.server.agreements import Coordinator
    from manikin.server.running import find_study, proposed

    home = Coordinator.open(coordinator)
    studies = [find_study(home, name) for name in ([plan] if plan else proposed(home))]
    rows = [_row(study) for study in studies]
    table = Table("plan", "study", "answers", "connected", "state", "last phase")
    for row in rows:
        answers = ", ".join(f"{name}: {said}" for name, said in row["answers"].items())
        phase = row["error"] or row["phase"]
        table.add_row(row["plan"][:16], row["study"], answers, ", ".join(row["online"]), row["state"], phase)
    Console().print(table)
    finish({"plans": rows}, json_output)


def _row(study: Study) -> dict[str, Any]:
    from manikin.common.agreements import Approval
    from manikin.server.agreements import answers
    from manikin.server.running import read_status

    said = study.said()
    link = read_status(study.folder / "link.json")
    state, error = said.get("state", "not started"), said.get("error", {}).get("what", "")
    if link is not None and state not in ("finished", "failed"):  # the ServerApp has not said how it ended
        ended = link.state == "finished"
        state = link.outcome if ended else link.state
        error = link.details if ended else error
    return {
        "plan": study.plan.digest,
        "study": study.plan.study.name,
        "answers": {
            name: "none" if answer is None else "approved" if isinstance(answer, Approval) else "refused"
            for name, answer in answers(study.home, study.plan).items()
        },
        "online": [] if link is None else link.online,
        "state": state,
        "phase": "officers decide" if "candidate" in said and "release" not in said else said.get("phase", ""),
        "error": error,
        "attendance": said.get("attendance", {}),
        "seconds": said.get("seconds", {}),
    }


def start(
    hospital: HospitalFolder,
    group: Annotated[str | None, typer.Option("--group", help="Group shared by vault and gateway.")] = None,
    gateway_user: Annotated[
        str | None, typer.Option("--gateway-user", help="As root: the user that the gateway runs as.")
    ] = None,
    network: Annotated[
        bool, typer.Option("--network/--no-network", help="Give up the protection that the vault has no network.")
    ] = False,
) -> None:
    """Run the hospital: the vault without a network, and the gateway. Ends on Ctrl-C; nothing is lost by that."""
    from manikin.client.starting import start_hospital

    start_hospital(hospital, group=group, gateway_user=gateway_user, network=network, say=say)


def gateway(
    folder: Annotated[Path, typer.Option("--gateway", metavar="DIR", help="The gateway's folder.")],
    socket: Annotated[Path, typer.Option("--socket", help="The vault's socket.")],
    port: Annotated[int | None, typer.Option("--port", help="Loopback port for Flower; a free one by default.")] = None,
) -> None:
    """Run the gateway alone: it relays between the coordinator and the vault's socket."""
    from manikin.client.gateway import Gateway

    opened = Gateway.open(folder)
    if sys.stdout.isatty():  # elsewhere its log says so
        say(f"Relaying between {opened.address} and {socket}; logs: {opened.folder / 'home' / 'logs'}")
    opened.run(socket, port=port)


def check(hospital: HospitalFolder, json_output: Json = False) -> None:
    """Check all that a hospital needs before it takes part: problem and fix, line by line.

    Exit code 0 if nothing is wrong, also where the coordinator cannot be reached yet; 10 if something is.
    """
    from rich.console import Console
    from rich.table import Table

    from manikin.client.preflight import preflight
    from manikin.common.errors import Misconfigured

    findings = preflight(hospital)
    table = Table("", "", "found", "what to do")
    for finding in findings:
        table.add_row(finding.state, finding.subject, finding.found, finding.fix)
    Console().print(table)
    problems, later = ([f.subject for f in findings if f.state == state] for state in ("problem", "later"))
    if later:
        say(f"Not known before the coordinator runs: {', '.join(later)}. Check again then.")
    next_step = "" if problems else f"manikin hospital start --hospital {hospital}"
    finish({"ready": not problems, "problems": problems, "later": later}, json_output, next_step=next_step)
    if problems:
        raise Misconfigured(f"Not ready: {', '.join(problems)}.", "", "Do what the table says, then check again.")


def _study(coordinator: Path, plan: str, *, canary: bool = False) -> Study:
    from manikin.server.agreements import Coordinator
    from manikin.server.running import find_study

    return find_study(Coordinator.open(coordinator), plan, canary=canary)


def say_expiry(home: Coordinator) -> None:
    """Say when the server's certificate ends soon; one that has ended is an error."""
    import datetime

    from manikin.server.renewal import warning

    text = warning(home, datetime.datetime.now(datetime.UTC))
    if text:
        say(text)


def _conduct(study: Study, listen: str | None, json_output: bool) -> None:
    say_expiry(study.home)
    say(f"Plan {study.plan.digest[:16]}: waiting for the hospitals' gateways at {study.home.address}")
    _conclude(study, study.run(listen, watch=reporter()), json_output)


def _conclude(study: Study, said: dict[str, Any], json_output: bool) -> None:
    for step, missing in said.get("attendance", {}).items():
        say(f"Step {step} was missed by: " + ", ".join(f"{name} ({code})" for name, code in missing.items()))
    if study.canary:
        say("The canary round went through: every hospital's gateway and vault answered, and no patient was touched.")
        finish({"canary": True, **said}, json_output, next_step="manikin coordinator run, without --canary")
        return
    privacy = study.plan.study.privacy
    if "release" not in said:
        _hand_over(study, said, json_output)
        return
    say(f"Released: {said['release']} (trust file: {said['trust']})")
    say(f"Guarantee: ε = {said['epsilon']:.3f} at δ = {privacy.delta:g} for one {privacy.unit}, add or remove.")
    finish(said, json_output, next_step=f"manikin release verify {said['release']} --trust {said['trust']}")


def _hand_over(study: Study, said: dict[str, Any], json_output: bool) -> None:
    """The run has ended with a candidate, and officers have the word."""
    privacy, candidate = study.plan.study.privacy, said["candidate"]
    say(f"Not released yet. Candidate: {candidate}")
    say(f"It costs one {privacy.unit} ε = {said['epsilon']:.3f} at δ = {privacy.delta:g}, add or remove.")
    say(deciding(study.plan))
    say(f"Send it to them; each signs: manikin release sign {candidate} --key FILE --decision ... --reason ...")
    step = f"manikin coordinator release --coordinator {study.home.folder} --plan {study.plan.digest[:16]}"
    finish(said, json_output, next_step=f"{step} --decision FILE...")


def reporter() -> Callable[[LinkStatus, dict[str, Any]], None]:
    """A watcher that says what has changed: who is connected, and what is being done."""
    before: list[tuple[object, ...]] = [("", ()), ("",)]

    def report(link: LinkStatus, said: dict[str, Any]) -> None:
        connected, phase = (link.state, tuple(link.online)), (said.get("phase", ""),)
        if connected != before[0] and link.state != "finished":
            missing = ", ".join(sorted(set(link.nodes) - set(link.online)))
            rest = f"; not yet: {missing}" if missing else ""
            say(f"Connected: {', '.join(link.online) or 'nobody'}{rest}")
            before[0] = connected
        if phase != before[1]:
            if phase[0]:
                say(f"{phase[0]}")
            before[1] = phase

    return report
