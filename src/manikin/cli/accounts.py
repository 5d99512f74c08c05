"""`manikin hospital ledger` and `egress`: what was spent on patients, and what left. For the hospital's own eyes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manikin.cli.console import finish, say

if TYPE_CHECKING:
    from manikin.client.cohort import Hospital
    from manikin.client.egress import Message
    from manikin.privacy.ledger import Ledger, Spending

Folder = Annotated[Path, typer.Option("--hospital", metavar="DIR", help="The hospital's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on the last line.")]

PLAIN_DELTA = 1e-5  # δ at which the ε is shown of steps that were charged to no patients


def ledger(
    hospital: Folder,
    verify: Annotated[bool, typer.Option("--verify", help="Check the chain, its signatures and the anchors.")] = False,
    anchor: Annotated[
        list[Path] | None, typer.Option("--anchor", metavar="FILE", help="A ledger head that somebody else holds.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Show what is spent on the cohort's patients, what their lifetime has left, and the ledger's head."""
    from manikin.client.cohort import Hospital
    from manikin.common.errors import StorageFailure, VerificationFailed

    home = Hospital.open(hospital)
    anchors = [_read_anchor(path, home.name) for path in anchor or []]
    result: dict[str, Any] = {"hospital": home.name}
    problems: Sequence[str] = ()
    try:
        book = _open_ledger(home)
        if verify or anchors:
            problems = _check_ledger(book, home, anchors)
            result |= {"verified": not problems, "problems": list(problems)}
        if not problems:
            result |= _account(book, home)
    except StorageFailure as error:
        if not (verify or anchors):
            raise
        problems = [error.why]
        result |= {"verified": False, "problems": list(problems)}
    finish(result, json_output)
    if problems:
        raise VerificationFailed(
            "The ledger does not hold.", problems[0], "Take part in nothing; restore the newest copy and ask who wrote."
        )


def egress(hospital: Folder, json_output: Json = False) -> None:
    """Show every message that left the vault, and check that the log is whole and the ledger accounts for it."""
    from manikin.client.cohort import Hospital
    from manikin.client.egress import EgressLog, unaccounted, unlogged
    from manikin.common.errors import VerificationFailed

    home = Hospital.open(hospital)
    path = hospital / "egress.sqlite"
    log = EgressLog(path) if path.exists() else None
    problems = log.verify(*_keys(home)) if log else []
    messages = log.messages() if log and not problems else []
    book = _open_ledger(home)
    spent = book.spent() if book else []
    problems += [
        f"Entry {m.sequence} left without an entry in the ledger: plan {m.plan[:12]}, step {m.step}."
        for m in unaccounted(messages, spent)
    ]
    shown = [m for m in messages if m.kind != "counters"]
    _say_table(("when", "kind", "plan", "step", "tensors", "bytes", "sha256", "ε of plan"), map(_message_row, shown))
    say(f"{home.name}: {len(messages)} message(s) left, {sum(m.size_bytes for m in messages)} bytes.")
    if len(shown) < len(messages):
        say(f"Not in the table: {len(messages) - len(shown)} message(s) of counters.")
    unsent = [] if problems else unlogged(messages, spent)
    for plan, step in unsent:
        say(f"Kept and never sent: plan {plan[:12]}, step {step}. A crash before sending, or the log was cut.")
    result = {"hospital": home.name, "verified": not problems, "problems": problems}
    result |= {"messages": [_message_json(m) for m in messages], "unsent": [list(step) for step in unsent]}
    finish(result, json_output)
    if problems:
        raise VerificationFailed("The egress log does not hold.", problems[0], "Keep the file; ask who wrote to it.")


def _open_ledger(home: Hospital) -> Ledger | None:
    """The hospital's ledger; None where there is none, so that looking makes none."""
    from manikin.privacy.ledger import Ledger

    path = home.folder / "ledger.sqlite"
    return Ledger(path, hospital=home.name, signer=home.signing_key) if path.exists() else None


def _check_ledger(book: Ledger | None, home: Hospital, anchors: Sequence[str]) -> Sequence[str]:
    if book is None:
        return ["There is no ledger, and somebody holds a head of it."] if anchors else []
    *former, present = _keys(home)
    found = book.verify(present, anchors, former_keys=former)
    for problem in found.problems:
        say(problem)
    if found.holds:
        say(f"Verified: {found.entries} entries, their signatures, and {len(anchors)} anchor(s).")
    return found.problems


def _account(book: Ledger | None, home: Hospital) -> dict[str, Any]:
    """Say what is spent, and give it as JSON values."""
    spent = book.spent() if book else []
    used = book.lifetime(_patients(home)) if book else (0.0, 0.0)
    rows = [_plan_json(spending) for spending in spent]
    titles = ("plan", "steps", "unfinished", "patients", "epsilon", "delta")
    _say_table(titles, ([_short(row[title]) for title in titles] for row in rows))
    say(f"{home.name}: the most that a patient of the cohort was charged is ε = {used[0]:g}, δ = {used[1]:g}.")
    left = _say_left(home, used)
    latest = book.latest() if book else ""
    if latest:
        _say_head(latest, home)
    return {"plans": rows, "charged": {"epsilon": used[0], "delta": used[1]}, "left": left, "head": latest}


def _plan_json(spending: Spending) -> dict[str, Any]:
    if spending.charged:
        epsilon, delta = spending.charged
    else:
        epsilon, delta = spending.epsilon(delta=PLAIN_DELTA).value, PLAIN_DELTA
    return {
        "plan": spending.plan,
        "steps": len(spending.entries),
        "unfinished": sum(not entry.done for entry in spending.entries),
        "patients": spending.patients,
        "epsilon": epsilon,
        "delta": delta,
    }


def _short(value: object) -> str:
    return value[:12] if isinstance(value, str) else f"{value:g}"


def _say_left(home: Hospital, used: tuple[float, float]) -> dict[str, float] | None:
    """What the policy leaves over the cohort's life; None without a policy."""
    if not (home.folder / "policy.toml").exists():
        say("There is no policy.toml: no further plan is allowed.")
        return None
    from manikin.client.policy import Policy

    limits = Policy.load(home.folder).limits
    left = {"epsilon": max(0.0, limits.epsilon - used[0]), "delta": max(0.0, limits.delta - used[1])}
    epsilon, delta = f"ε = {left['epsilon']:g} of {limits.epsilon:g}", f"δ = {left['delta']:g} of {limits.delta:g}"
    say(f"Left over the life of the cohort: {epsilon}, {delta}.")
    return left


def _say_head(envelope: str, home: Hospital) -> None:
    from manikin.common.errors import VerificationFailed
    from manikin.privacy.chain import read_head

    try:
        head, _ = read_head(envelope, [home.signing_key.public_key])
    except VerificationFailed:
        say("The ledger's last entry was signed with another key than the present one.")
    else:
        groups = " ".join(head.hash[i : i + 4] for i in range(0, 32, 4))
        say(f"Head: entry {head.sequence}, {groups} …")


def _patients(home: Hospital) -> set[str]:
    from manikin.client.cohort.store import Store

    with Store.open(home.database) as store:
        return {patient for patient, *_ in store.tally()}


def _keys(home: Hospital) -> list[bytes]:
    """The vault's public keys, oldest first; the last is the present one."""
    from manikin.client.enrolment import former_keys

    return [*former_keys(home.folder), home.signing_key.public_key]


def _read_anchor(path: Path, hospital: str) -> str:
    """A head in a file of its own, or this hospital's among those that a release, a coordinator or a peer keeps."""
    from manikin.common.errors import Misconfigured

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict) and "payload" in content:
        return path.read_text(encoding="utf-8").strip() + "\n"
    if isinstance(content, dict) and isinstance(content.get("heads"), dict):  # a release's ledger-heads.json
        content = content["heads"]
    for key in (hospital, "head"):
        if isinstance(content, dict) and isinstance(content.get(key), str):
            return str(content[key])
    raise Misconfigured(f"{path.name} holds no ledger head of {hospital}.", "", "Give a head as its holder keeps it.")


def _message_row(message: Message) -> list[str]:
    shapes = [f"{t.name} {'×'.join(map(str, t.shape)) or 'scalar'}" for t in message.tensors]
    tensors = ", ".join(shapes[:2]) + (f", and {len(shapes) - 2} more" if len(shapes) > 2 else "")
    step = "" if message.step < 0 else str(message.step)
    cost = "" if message.epsilon is None else f"{message.epsilon:g}"
    when = message.at.removesuffix("+00:00")
    return [when, message.kind, message.plan[:12], step, tensors, str(message.size_bytes), message.digest[:12], cost]


def _message_json(message: Message) -> dict[str, Any]:
    tensors = [tensor.model_dump(mode="json") for tensor in message.tensors]
    return {**vars(message), "tensors": tensors}


def _say_table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns as wide as their widest cell; nothing where there is no row."""
    cells = [[str(cell) for cell in row] for row in rows]
    if not cells:
        return
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    for row in [titles, *cells]:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
