"""One run in the networked runtime, from its folder alone: what Flower's ServerApp process does.

`manikin coordinator run` prepares the folder `plans/DIGEST/run` and watches it; this module reads the signed plan, the
coordinator's key and which node is which hospital, conducts the rounds, and keeps `status.json` for whoever watches:
nothing in it that a patient moves. It ends with a signed release, with a
candidate where the plan names officers, or with the reason why there is neither.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from manikin.common.errors import ManikinError, Misconfigured
from manikin.common.files import write_atomically
from manikin.common.generators.sampling import balanced, draw
from manikin.common.keys import SigningKey
from manikin.common.logs import open_log
from manikin.common.plan import Party, Plan
from manikin.privacy.chain import read_head
from manikin.server.agreements import Coordinator, load_plan, require_approvals
from manikin.server.asking import Advance, to_numpy
from manikin.server.channel import Channel, Logged
from manikin.server.checkpoints import Checkpoints
from manikin.server.releasing import AUDIT_STATEMENT, prepare, release
from manikin.server.rounds import Rounds

OpenChannel = Callable[[Mapping[int, str], Sequence[Party], SigningKey], Channel]

NETWORKED_STATEMENT = AUDIT_STATEMENT + " The coordinator has seen none of their verdicts."


class Status:
    """`status.json` of a run folder, replaced at each change.

    state: "running", "finished" or "failed"; phase: what is being done; attendance: for each step, who missed it and
    why; seconds: by phase; bytes: of frames, in and out; error: what, why and next step of a failure; release: the
    bundle; candidate: what officers decide on. `also` gives what is true at each change, whatever the change is.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.also: Callable[[], dict[str, Any]] = dict
        self._content: dict[str, Any] = {"state": "running", "phase": "", "seconds": {}, "attendance": {}}

    def update(self, **changes: Any) -> None:
        """Change some entries and write."""
        self._content |= self.also() | changes
        write_atomically(self._file, json.dumps(self._content, sort_keys=True).encode())

    @contextlib.contextmanager
    def phase(self, title: str, total: int | None) -> Iterator[Advance]:
        """Show a phase as the one being done, and keep how long each phase took."""
        del total
        started = time.monotonic()
        self.update(phase=title)
        yield lambda _: None
        seconds = dict(self._content["seconds"])
        seconds.setdefault(title, []).append(round(time.monotonic() - started, 3))
        self.update(phase="", seconds=seconds)


class Heads:
    """The newest ledger head of each hospital over all plans, in `heads.json` by key: sent when a plan is opened.

    Args:
        file: where they are kept.
        plan: whose participants' heads are kept and sent. What is held of others stays as it is.
    """

    def __init__(self, file: Path, plan: Plan) -> None:
        self._file, self._plan = file, plan

    def _read(self) -> dict[str, str]:
        return dict(json.loads(self._file.read_bytes())) if self._file.exists() else {}

    def keep(self, heads: Mapping[str, str]) -> None:
        """Take in the heads of a step, by hospital; one that is older than what is held changes nothing.

        A plan that is gone on with after a later one brings such heads: its hospitals answer a step as they did.
        """
        held = self._read()
        for party in self._plan.participants:
            head = heads.get(party.name, "")
            if _sequence(party, head) > _sequence(party, held.get(party.key, "")):
                held[party.key] = head
        write_atomically(self._file, json.dumps(held, sort_keys=True).encode())

    def latest(self) -> dict[str, str]:
        """Those held of the plan's participants, by name; for a new key there is none (`ledger --anchor`)."""
        held = self._read()
        return {p.name: held[p.key] for p in self._plan.participants if _sequence(p, held.get(p.key, ""))}


def _sequence(party: Party, head: str) -> int:
    """The number of the entry that a head is of; 0 if it is no head of this party."""
    try:
        return read_head(head, [party.public_key])[0].sequence
    except ManikinError:
        return 0


def conduct(folder: Path, open_channel: OpenChannel) -> None:
    """Run the plan of a run folder to its end, going on from the last checkpoint.

    Args:
        folder: `plans/DIGEST/run` of a coordinator's folder, with nodes.json; a file `canary` in it asks for a canary
            round only.
        open_channel: from node names, participants and key to the hospitals.

    Raises:
        ManikinError: the reason why there is no release; it stands in status.json too.
    """
    status = Status(folder / "status.json")
    try:
        status.update()
        home = Coordinator.open(folder.parents[2])
        plan = load_plan(home, folder.parent.name)
        parties = require_approvals(home, plan)
        log = open_log("coordinator", hospitals=[party.name for party in parties]).bind(program="serverapp")
        channel = Logged(open_channel(_nodes(folder), parties, home.signing_key), log)
        held = Heads(home.folder / "heads.json", plan)
        rounds = Rounds(plan, channel, Checkpoints(folder, plan.digest), phase=status.phase, keep_heads=held.keep)
        rounds.checkpoint.latest_heads = held.latest()
        if rounds.checkpoint.done:
            log.info("resumed", plan=plan.digest)
        status.also = lambda: {
            "attendance": rounds.checkpoint.attendance,
            "bytes": {"in": channel.bytes_in, "out": channel.bytes_out},
        }
        if (folder / "canary").exists():
            rounds.canary()
            status.update(state="finished", phase="")
            return
        _run(rounds, plan, folder, home.signing_key, status)
        log.info("prepared" if plan.officers else "released", plan=plan.digest)
    except ManikinError as error:
        open_log("coordinator").error("failed", program="serverapp", code=error.code)
        words = {"code": error.code, "what": error.what, "why": error.why, "next_step": error.next_step}
        status.update(state="failed", error=words)
        raise


def _run(rounds: Rounds, plan: Plan, folder: Path, key: SigningKey, status: Status) -> None:
    rounds.run()
    ask_audits(rounds, plan)
    if plan.officers:
        candidate, spent = prepare(
            folder,
            plan=plan,
            generator=rounds.generator,
            hospitals=rounds.channel.names,
            heads=rounds.checkpoint.heads,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            audit_statement=NETWORKED_STATEMENT,
            key=key,
        )
        status.update(state="finished", phase="", candidate=str(candidate), epsilon=spent.value)
        return
    bundle, trust, spent = release(
        folder,
        plan=plan,
        generator=rounds.generator,
        hospitals=len(rounds.channel.names),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        audit_statement=NETWORKED_STATEMENT,
        key=key,
    )
    status.update(
        state="finished",
        phase="",
        release=str(bundle),
        trust=str(trust),
        epsilon=spent.value,
    )


def ask_audits(rounds: Rounds, plan: Plan) -> None:
    """Draw the synthetic images that audits look at, and ask every hospital to audit."""
    count = plan.study.audit.synthetic
    conditions = balanced(count, len(plan.study.data.labels))
    with rounds.phase("Drawing synthetic images for the audits", count) as advance:
        images = draw(rounds.generator, conditions, seed=int(plan.digest[:12], 16), progress=advance)
    arrays = to_numpy({**rounds.generator.state(), "synthetic.images": images, "synthetic.labels": conditions})
    rounds.ask(plan.steps()[-1], arrays=arrays)


def _nodes(folder: Path) -> dict[int, str]:
    try:
        return {int(node): str(name) for node, name in json.loads((folder / "nodes.json").read_bytes()).items()}
    except (OSError, ValueError, AttributeError):
        raise Misconfigured(
            "The run's folder has no nodes.json.", "", "Start it with `manikin coordinator run`."
        ) from None
