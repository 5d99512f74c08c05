"""A whole federation on one machine over a real network: every process apart, on loopback, as hospitals would run it.

Keys, enrolments, plan and approvals are made as files by the same code as the commands; then each hospital is started
as `manikin hospital start` (a vault without a network, a gateway) and the study as `manikin coordinator run`. Whatever
ends this, all of it is ended. Fingerprints are not read out over a telephone: whoever runs this holds every folder.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from manikin.client import agreements as answering
from manikin.client import enrolment
from manikin.client.cohort.hospital import Hospital
from manikin.common.errors import Misconfigured
from manikin.common.files import write_atomically
from manikin.common.keys import fingerprint
from manikin.common.officers import Officer
from manikin.common.plan import Plan
from manikin.common.processes import GRACE_S, LOOPBACK, WATCH_S, Supervised, ending_signals, free_port, supervising
from manikin.common.study import Study
from manikin.embedded.federation import FederationResult, collect_audits, hospital_names
from manikin.privacy.audit import combine
from manikin.server import agreements
from manikin.server.agreements import Coordinator, create_coordinator
from manikin.server.asking import Phase, silent
from manikin.server.running import Study as Running
from manikin.server.running import explained, read_status

COMMAND = (sys.executable, "-P", "-m", "manikin")


def federate_over_loopback(
    study: Study, hospitals: Sequence[Path], out: Path, *, phase: Phase = silent
) -> FederationResult:
    """Run a study over hospital folders with every process apart, and release its generator.

    Args:
        study: the study.
        hospitals: folders made by `manikin hospital init` and filled by `import`.
        out: folder for the coordinator; new or empty.

    Raises:
        ManikinError: why there is no release, in the words of who refused.
    """
    started = time.monotonic()
    names = hospital_names(hospitals)
    folders = dict(zip(names, (folder.absolute() for folder in hospitals), strict=True))
    with phase("Keys, enrolments, plan and approvals, as files", None) as advance:
        home = create_coordinator(out / "coordinator", "coordinator", f"{LOOPBACK}:{free_port()}")
        introduce(home, folders)
        plan = agree(home, study, folders)
        advance(1)
    said = _run(home, plan, folders, phase)
    return _result(plan, out, folders, said, time.monotonic() - started)


def introduce(home: Coordinator, folders: dict[str, Path]) -> None:
    """Everybody pins everybody whom they work with."""
    own = fingerprint(home.signing_key.public_key)
    for folder in folders.values():
        enrolment.enroll(folder, home.card.read_bytes(), [own])
    said = {name: fingerprint(Hospital.open(folder).signing_key.public_key) for name, folder in folders.items()}
    cards = {name: (folder / enrolment.ENROLMENT).read_bytes() for name, folder in folders.items()}
    for name in folders:
        agreements.enroll(home, cards[name], [said[name]])
        for peer in set(folders) - {name}:
            enrolment.pin_peer(folders[name], cards[peer], [said[peer]])


def agree(
    home: Coordinator,
    study: Study,
    folders: dict[str, Path],
    *,
    officers: Sequence[Officer] = (),
    officers_needed: int = 0,
) -> Plan:
    """Propose the study, and let every hospital hold it against its policy and approve it."""
    plan, file = agreements.propose(home, study, officers=officers, officers_needed=officers_needed)
    today = datetime.datetime.now(datetime.UTC).date()
    for folder in folders.values():
        answer = answering.approve(folder, file.read_bytes(), today=today)
        agreements.collect(home, answer.read_bytes())
    return plan


def hospital_process(folder: Path) -> Supervised:
    """`manikin hospital start`, not started."""
    command = [*COMMAND, "hospital", "start", "--hospital", str(folder)]
    return Supervised("hospital", command, folder / "logs" / "start.log", restart=False, grace_s=6 * GRACE_S)


def coordinator_process(home: Coordinator, plan: Plan, verb: str = "run", *options: str) -> Supervised:
    """`manikin coordinator run` or `resume`, not started."""
    command = [*COMMAND, "coordinator", verb, "--coordinator", str(home.folder.absolute()), "--plan", plan.digest]
    log = home.folder / "run.log"
    return Supervised("coordinator", [*command, *options], log, restart=False, grace_s=3 * GRACE_S)


def _run(home: Coordinator, plan: Plan, folders: dict[str, Path], phase: Phase) -> dict[str, Any]:
    """Start everybody, and watch until the coordinator has ended; its last words.

    Raises:
        ManikinError: why it failed.
    """
    running = Running(home, plan)
    parties = [hospital_process(folder) for folder in folders.values()]
    coordinator = coordinator_process(home, plan)
    with ending_signals(), supervising([*parties, coordinator]), _shown(running, phase) as show:
        coordinator.start()
        for party in parties:
            party.start()
        while coordinator.ended() is None:
            for name, party in zip(folders, parties, strict=True):
                if party.ended() is not None:
                    raise Misconfigured(f"The hospital {name} ended.", party.last_words(), f"Read {party.log}.")
            show()
            time.sleep(WATCH_S)
    said = running.said()
    if said.get("state") != "finished":
        if "error" in said:
            raise explained(said["error"])
        raise Misconfigured("The coordinator ended.", coordinator.last_words(), f"Read {coordinator.log}.")
    return said


@contextlib.contextmanager
def _shown(running: Running, phase: Phase) -> Iterator[Any]:
    """Show what the coordinator's process says it is doing, as phases of this one."""
    with contextlib.ExitStack() as current:
        titles = [""]

        def show() -> None:
            title = running.said().get("phase", "")
            if not title:
                link = read_status(running.folder / "link.json")
                title = "Hospitals connect over TLS" if link is not None and link.state == "gathering" else ""
            if title and title != titles[0]:
                current.close()
                current.enter_context(phase(title, None))
                titles[0] = title

        yield show


def _result(plan: Plan, out: Path, folders: dict[str, Path], said: dict[str, Any], total: float) -> FederationResult:
    audits, verdicts = collect_audits(plan, out, folders)
    seconds = {title: round(sum(spent), 2) for title, spent in said["seconds"].items()}
    train = sum(spent for title, spent in seconds.items() if "audit" not in title)
    audit = sum(spent for title, spent in seconds.items() if "audit" in title)
    trust = Path(said["trust"])
    write_atomically(out / "status.json", json.dumps(said, sort_keys=True).encode())
    return FederationResult(
        plan=plan,
        bundle=Path(said["release"]),
        trust=trust,
        epsilon=float(said["epsilon"]),
        hospitals=tuple(folders),
        verdict=combine(verdicts),
        audits=audits,
        attendance=said["attendance"],
        seconds=seconds | {"train": round(train, 2), "audit": round(audit, 2), "total": round(total, 2)},
    )
