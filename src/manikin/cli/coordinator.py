"""`manikin coordinator`: make a coordinator's folder, enrol hospitals, propose plans, and collect what they answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manikin.cli.agreements import deciding, read_document
from manikin.cli.console import finish, say
from manikin.cli.running import resume, run, say_expiry, status
from manikin.cli.watching import coordinator_metrics
from manikin.common.errors import Misconfigured

if TYPE_CHECKING:
    from manikin.common.plan import Plan
    from manikin.server.agreements import Coordinator

app = typer.Typer(no_args_is_help=True, add_completion=False)

Folder = Annotated[Path, typer.Option("--coordinator", help="The coordinator's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on the last line.")]


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    name: Annotated[str, typer.Option("--name", help="What hospitals call the coordinator.")],
    address: Annotated[str, typer.Option("--address", metavar="HOST:PORT", help="What gateways connect to.")],
    registry: Annotated[
        str, typer.Option("--registry", metavar="HOST:PORT", help="Where documents travel, if not as files.")
    ] = "",
    json_output: Json = False,
) -> None:
    """Make a coordinator's folder: keys, a certificate authority, and the card that hospitals enrol with."""
    from manikin.common.keys import fingerprint
    from manikin.server.agreements import create_coordinator

    coordinator = create_coordinator(folder, name, address, registry)
    own = fingerprint(coordinator.signing_key.public_key)
    say(f"{coordinator.name} is ready. Back up the folder: without its keys nobody can go on with its plans.")
    say(f"To be read out when hospitals call: {own}")
    result = {"coordinator": coordinator.name, "fingerprint": own, "card": str(coordinator.card)}
    finish(result, json_output, next_step=f"send {coordinator.card} to the hospitals")


@app.command()
def enroll(
    coordinator: Folder,
    enrolments: Annotated[
        list[Path] | None, typer.Argument(metavar="CARD...", help="What hospitals and officers sent.")
    ] = None,
    fingerprint: Annotated[
        list[str] | None, typer.Option(help="At least the first 16 digits, as their owner read them out. Repeatable.")
    ] = None,
    revoke: Annotated[str | None, typer.Option(metavar="NAME", help="Trust the keys of NAME no more.")] = None,
    json_output: Json = False,
) -> None:
    """Accept hospitals, or their new keys, and officers; or revoke one."""
    from manikin.server import agreements, officers

    place = agreements.Coordinator.open(coordinator)
    if bool(enrolments) == (revoke is not None):
        raise Misconfigured("Say one thing to do.", "", "Give what hospitals and officers sent, or --revoke NAME.")
    for content in [read_document(file) for file in enrolments or []]:
        _accept(place, content, fingerprint or [])
    if revoke is not None:
        key = (officers if revoke in officers.known(place) else agreements).revoke(place, revoke)
        say(f"{revoke} is revoked: the key {key[:16]} counts no more, also in plans that were approved.")
    hospitals, deciders = agreements.enrolled(place), officers.known(place)
    say(f"Enrolled: {', '.join(hospitals) or 'nobody'}.")
    say(f"Officers: {', '.join(f'{o.name} ({o.institution})' for o in deciders.values()) or 'nobody'}.")
    result = {
        "hospitals": {e.name: e.key for e in hospitals.values()},
        "officers": {o.name: {"key": o.key, "institution": o.institution} for o in deciders.values()},
    }
    step = f"manikin coordinator propose STUDY.toml --coordinator {coordinator}" + (" --officers K" if deciders else "")
    finish(result, json_output, next_step=step)


def _accept(place: Coordinator, content: bytes, said: list[str]) -> None:
    """A hospital or an officer, whichever the document introduces."""
    from manikin.common.agreements import OfficerCard, claimed
    from manikin.server import agreements, officers

    if isinstance(claimed(content), OfficerCard):
        card = officers.accept(place, content, said)
        say(f"{card.name} of {card.institution} is accepted as an officer.")
        return
    accepted = agreements.enroll(place, content, said)
    say(f"{accepted.name} is enrolled.")
    if place.registry:
        say(f"  Send it {place.folder / 'hospitals' / accepted.name}.client.pem, for gateway/client.pem.")


@app.command()
def propose(
    study: Annotated[Path, typer.Argument(help="The study's TOML file.")],
    coordinator: Folder,
    officers: Annotated[
        int | None,
        typer.Option("--officers", metavar="K", help="How many of the accepted officers must approve the release."),
    ] = None,
    json_output: Json = False,
) -> None:
    """Make a signed plan of a study, between this coordinator and all enrolled hospitals."""
    from manikin.common.study import load_study
    from manikin.server import agreements
    from manikin.server.officers import known

    place = agreements.Coordinator.open(coordinator)
    deciders = tuple(known(place).values())
    if deciders and officers is None:
        raise Misconfigured(
            f"{len(deciders)} officers are accepted, and it is not said how many must approve.",
            "Nothing about who decides has a default.",
            "Give --officers K; with 0 nobody decides, and the release says so.",
        )
    needed = officers or 0
    named = deciders if needed else ()
    plan, file = agreements.propose(place, load_study(study), officers=named, officers_needed=needed)
    _describe(plan, file, json_output)


def _describe(plan: Plan, file: Path, json_output: bool) -> None:
    from manikin.privacy.budget import plan_epsilon

    privacy, steps = plan.study.privacy, plan.steps()
    spent = plan_epsilon(plan).value
    charged = sum(step.action in ("release", "train") for step in steps)
    rounds = sum(step.action == "train" for step in steps)
    names = [party.name for party in plan.participants]
    say(f"Plan {plan.digest}")
    say(f"Between {plan.coordinator.name if plan.coordinator else ''} and {', '.join(names)}; quorum "
        f"{plan.study.federation.quorum}.")  # fmt: skip
    say(deciding(plan))
    say(f"Costs one {privacy.unit} ε = {spent:.3f} at δ = {privacy.delta:g}, of ε = {privacy.epsilon:g} asked for.")
    say(f"Each hospital is asked {len(steps)} times: {rounds} rounds of training; {charged} answers carry content.")
    result = {
        "plan": plan.digest,
        "file": str(file),
        "participants": names,
        "officers": [f"{officer.name} ({officer.institution})" for officer in plan.officers],
        "officers_needed": plan.officers_needed,
        "epsilon": spent,
        "delta": privacy.delta,
        "rounds": rounds,
        "messages": len(steps),
    }
    finish(result, json_output, next_step=f"send {file} to the hospitals, and collect their approvals")


@app.command()
def collect(
    answers: Annotated[list[Path], typer.Argument(metavar="ANSWER...", help="Approvals and refusals that came.")],
    coordinator: Folder,
    json_output: Json = False,
) -> None:
    """Keep what hospitals answered to a plan, and say who is missing."""
    from manikin.common.agreements import Approval, Refusal
    from manikin.server import agreements

    place = agreements.Coordinator.open(coordinator)
    contents = [read_document(file) for file in answers]
    digests = dict.fromkeys(agreements.collect(place, content).plan for content in contents)
    result = {}
    for digest in digests:
        plan = agreements.load_plan(place, digest)
        said = agreements.answers(place, plan)
        say(f"Plan {digest[:16]}, quorum {plan.study.federation.quorum}:")
        for name, answer in said.items():
            word = f"refuses: {answer.reason}" if isinstance(answer, Refusal) else "approves" if answer else "no answer"
            say(f"  {name}: {word}")
        approved = [name for name, answer in said.items() if isinstance(answer, Approval)]
        result[digest] = {"approved": approved, "ready": len(approved) >= plan.study.federation.quorum}
    step = f"manikin coordinator run --coordinator {coordinator} --plan {next(iter(digests))}"
    finish({"plans": result}, json_output, next_step=step if all(r["ready"] for r in result.values()) else "")


@app.command()
def release(
    coordinator: Folder,
    plan: Annotated[str, typer.Option("--plan", help="The plan's file, its digest, or the beginning of it.")],
    decision: Annotated[
        list[Path] | None, typer.Option("--decision", metavar="FILE", help="What an officer signed. Repeatable.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Sign the release of a plan's candidate, if its audit and its officers' decisions allow it."""
    from manikin.cli.release import say_decisions
    from manikin.server.agreements import Coordinator
    from manikin.server.gate import issue
    from manikin.server.running import find_study

    study = find_study(Coordinator.open(coordinator), plan)
    done, trust = issue(study.home, study.plan, [read_document(file) for file in decision or []])
    study.note(release=str(done.folder), trust=str(trust))
    say(f"Released: {done.folder} (trust file: {trust})")
    say_decisions(done)
    result = {
        "release": str(done.folder),
        "trust": str(trust),
        "digest": done.digest,
        "approved": [said.officer for said in done.decisions],
    }
    finish(result, json_output, next_step=f"manikin release verify {done.folder} --trust {trust}")


@app.command()
def registry(
    coordinator: Folder,
    listen: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="By default the card's own.")] = None,
) -> None:
    """Carry documents to and from enrolled hospitals over mutual TLS, until Ctrl-C."""
    from manikin.common.processes import split_address
    from manikin.server.agreements import Coordinator
    from manikin.server.registry import serve

    if listen is not None:
        split_address(listen)
    home = Coordinator.open(coordinator)
    say_expiry(home)
    server, port = serve(home, listen)
    say(f"The registry listens at port {port}. End it with Ctrl-C.")
    try:
        server.wait_for_termination()
    except KeyboardInterrupt:
        say("Ended.")
    finally:
        server.stop(grace=1).wait()


@app.command()
def renew(coordinator: Folder, json_output: Json = False) -> None:
    """Make a new server certificate, from the same authority and for the same key; hospitals need nothing new."""
    from manikin.server.agreements import Coordinator
    from manikin.server.renewal import renew as renewed

    until = renewed(Coordinator.open(coordinator))
    say(f"The server's certificate is valid until {until:%Y-%m-%d}. What is running takes it up when it starts again.")
    finish({"valid_until": until.isoformat()}, json_output)


app.command()(run)
app.command()(status)
app.command()(resume)
app.command("metrics")(coordinator_metrics)
