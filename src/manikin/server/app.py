"""The Flower ServerApp: a channel over Flower's Grid, and the round loop on top of it.

The only module of the coordinator that knows Flower.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from manikin.common.errors import ManikinError, ProtocolViolation
from manikin.common.frames import decode_reply, encode_task
from manikin.common.keys import SigningKey
from manikin.common.memory import give_back_large_blocks
from manikin.common.pieces import cut, join
from manikin.common.plan import Party, Plan
from manikin.common.wire import Refused, Reply, Task
from manikin.server.asking import Phase
from manikin.server.channel import Channel, Missing
from manikin.server.checkpoints import Checkpoints
from manikin.server.rounds import Rounds

MESSAGE_TYPES = {
    "open": "query.open",
    "release": "train.step",
    "train": "train.step",
    "audit": "query.audit",
    "canary": "query.canary",
}
BODY, FRAME = "body", "frame"
POLL_S, PAUSE_S, ATTEMPTS = 0.02, 1.0, 8
NETWORK_POLL_S = 0.25  # each look is a call over TLS


class GridChannel:
    """Hospitals behind a Flower Grid. Tasks go out signed; a reply counts if its hospital's vault signed it.

    A hospital whose gateway or vault is lost for a moment is asked the very same again until the deadline: the same
    frame gets the same answer, and costs nothing twice.

    Args:
        grid: Flower's grid.
        nodes: hospital name by node id.
        parties: the plan's participants, whose keys count.
        key: the coordinator's.
        poll_s: seconds between two looks for answers.
    """

    def __init__(
        self,
        grid: Grid,
        nodes: Mapping[int, str],
        parties: Sequence[Party],
        key: SigningKey,
        *,
        poll_s: float = POLL_S,
    ) -> None:
        self._grid, self._key, self._poll_s = grid, key, poll_s
        self._keys = {party.name: party.public_key for party in parties}
        known = {name: node for node, name in nodes.items()}
        self._nodes = {party.name: known[party.name] for party in parties if party.name in known}
        self.names = tuple(self._nodes)
        self.bytes_out = self.bytes_in = 0

    def ask(self, tasks: Mapping[str, Task], *, deadline_s: float) -> Iterator[tuple[str, Reply | Missing]]:
        """Answers as they come, pulled one at a time: Flower holds all messages of one call in memory."""
        signed = self._signed(tasks)
        deadline = time.monotonic() + deadline_s
        sent: dict[str, str] = {}
        again = dict.fromkeys(signed, 0.0)  # hospitals to be asked (once more), and when
        asked = dict.fromkeys(signed, 0)

        def put_off(name: str) -> bool:
            if asked[name] < ATTEMPTS:
                again[name] = time.monotonic() + PAUSE_S * asked[name]
            return asked[name] < ATTEMPTS

        while (sent or again) and time.monotonic() < deadline:
            due = [name for name, moment in again.items() if moment <= time.monotonic()]
            for name in due:
                del again[name]
                asked[name] += 1
            pushed = self._push({name: signed[name] for name in due})
            sent |= pushed
            yield from ((name, Missing("lost")) for name in set(due) - set(pushed.values()) if not put_off(name))
            for identity, name in list(sent.items()):
                answer = self._pull(identity, name, signed[name])
                if answer is None:
                    continue
                del sent[identity]
                if answer != Missing("lost") or not put_off(name):
                    yield name, answer
                del answer
            time.sleep(self._poll_s)
        yield from ((name, Missing("deadline")) for name in sent.values())
        yield from ((name, Missing("lost")) for name in again)

    def _signed(self, tasks: Mapping[str, Task]) -> dict[str, Task]:
        """Each task with the coordinator's signature; one that goes to many is signed once."""
        made: dict[bytes, Task] = {}
        for task in tasks.values():
            if task.digest not in made:
                made[task.digest] = task.signed(self._key)
        return {name: made[task.digest] for name, task in tasks.items()}

    def _push(self, tasks: Mapping[str, Task]) -> dict[str, str]:
        """Send; hospital by message id, without those whose gateway never connected: Flower takes nothing for them."""
        if not tasks:
            return {}
        records: dict[bytes, RecordDict] = {}
        sizes: dict[bytes, int] = {}
        messages = {}
        for name, task in tasks.items():
            if task.digest not in records:
                frame = encode_task(task)
                records[task.digest], sizes[task.digest] = _packed(frame), len(frame)
                del frame
            self.bytes_out += sizes[task.digest]
            content = records[task.digest]
            messages[name] = Message(content, self._nodes[name], MESSAGE_TYPES[task.action], group_id=str(task.step))
        identities = self._grid.push_messages(messages.values())
        return {identity: name for identity, name in zip(identities, messages, strict=True) if identity}

    def _pull(self, identity: str, name: str, task: Task) -> Reply | Missing | None:
        """A hospital's answer, or None if there is none yet."""
        messages = list(self._grid.pull_messages([identity]))
        if not messages:
            return None
        message = messages.pop()
        if message.has_error():
            known = {kind.code for kind in ManikinError.__subclasses__()}
            return Missing(message.error.reason if message.error.reason in known else "lost")
        content = message.content
        record = content.get(BODY)  # not by `array_records`, which ties a message to itself
        if not isinstance(record, ArrayRecord):
            return Missing("malformed")
        frame = join({key: piece.data for key, piece in record.items()})
        del message, content, record  # they hold all that the frame does
        self.bytes_in += len(frame)
        return self._decoded(frame, name, task)

    def _decoded(self, frame: bytes, name: str, task: Task) -> Reply | Missing:
        try:
            reply = decode_reply(frame)
            if isinstance(reply, Refused):
                return Missing(reply.code)
            if reply.name != name:
                return Missing("forged")
            reply.check_signature(self._keys[name], task)
        except ProtocolViolation as error:
            return Missing("forged" if "not signed" in error.why else "malformed")
        return reply


def _packed(frame: bytes) -> RecordDict:
    """Flower's records of a frame."""
    pieces = {name: Array("uint8", (len(piece),), FRAME, piece) for name, piece in cut(frame).items()}
    return RecordDict({BODY: ArrayRecord(pieces)})


def build(
    plan: Plan, folder: Path, key: SigningKey, *, phase: Phase, finish: Callable[[Rounds], None], canary: bool = False
) -> ServerApp:
    """The ServerApp of one run.

    Args:
        plan: the plan, with its parties.
        folder: the run's folder, for checkpoints.
        key: the coordinator's.
        phase: shows progress.
        finish: called with the finished rounds while the hospitals can still be asked.
        canary: only a canary round, which no patient is in.
    """
    built = ServerApp()

    @built.main()
    def main(grid: Grid, context: Context) -> None:
        nodes = {int(node): str(name) for node, name in json.loads(str(context.run_config["hospitals"])).items()}
        run_plan(plan, folder, GridChannel(grid, nodes, plan.participants, key), phase, finish, canary=canary)

    return built


def run_plan(
    plan: Plan, folder: Path, channel: Channel, phase: Phase, finish: Callable[[Rounds], None], *, canary: bool
) -> None:
    """All rounds of a plan over a channel, or one canary round."""
    rounds = Rounds(plan, channel, Checkpoints(folder, plan.digest), phase=phase)
    if canary:
        rounds.canary()
    else:
        rounds.run()
    finish(rounds)


app = ServerApp()


@app.main()
def networked(grid: Grid, context: Context) -> None:
    """One run in the networked runtime; all that it needs lies in the run's folder (`manikin coordinator run`)."""
    from manikin.server.networked import conduct

    give_back_large_blocks()

    def channel(nodes: Mapping[int, str], parties: Sequence[Party], key: SigningKey) -> GridChannel:
        return GridChannel(grid, nodes, parties, key, poll_s=NETWORK_POLL_S)

    conduct(Path(str(context.run_config["folder"])), channel)
