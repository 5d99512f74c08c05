"""The Flower ServerApp: a channel over Flower's Grid, and the round loop on top of it.

The only module of the coordinator that knows Flower.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from manikin.common.errors import ManikinError
from manikin.common.plan import Plan
from manikin.common.wire import Reply, Task, check_arrays
from manikin.server.channel import Missing
from manikin.server.checkpoints import Checkpoints
from manikin.server.rounds import Phase, Rounds

MESSAGE_TYPES = {"open": "query.open", "release": "train.release", "train": "train.local", "audit": "query.audit"}
POLL_S = 0.02


class GridChannel:
    """Hospitals behind a Flower Grid.

    Args:
        grid: Flower's grid.
        nodes: hospital name by node id.
    """

    def __init__(self, grid: Grid, nodes: Mapping[int, str]) -> None:
        self._grid = grid
        self._nodes = {name: node for node, name in nodes.items()}
        self.names = tuple(self._nodes)

    def ask(self, tasks: Mapping[str, Task], *, deadline_s: float) -> dict[str, Reply | Missing]:
        messages = {name: self._message(name, task) for name, task in tasks.items()}
        sent = dict(zip(self._grid.push_messages(messages.values()), messages, strict=True))
        answers: dict[str, Reply | Missing] = {}
        deadline = time.monotonic() + deadline_s
        while sent and time.monotonic() < deadline:
            for message in self._grid.pull_messages(list(sent)):
                name = sent.pop(message.metadata.reply_to_message_id)
                answers[name] = _answer(message)
            if sent:
                time.sleep(POLL_S)
        answers.update(dict.fromkeys(sent.values(), Missing("deadline")))
        return answers

    def _message(self, name: str, task: Task) -> Message:
        return Message(encode_task(task), self._nodes[name], MESSAGE_TYPES[task.action], group_id=str(task.step))


def encode_task(task: Task) -> RecordDict:
    """Flower's records of a task."""
    head = {
        "plan": task.plan_digest,
        "step": task.step,
        "action": task.action,
        "parameters": dict(task.parameters),
    }
    arrays = ArrayRecord(OrderedDict((name, Array(array)) for name, array in task.arrays.items()))
    return RecordDict({"task": ConfigRecord({"json": json.dumps(head)}), "arrays": arrays})


def _answer(message: Message) -> Reply | Missing:
    if message.has_error():
        known = {kind.code for kind in ManikinError.__subclasses__()}
        return Missing(message.error.reason if message.error.reason in known else "lost")
    try:
        arrays = {n: np.array(a.numpy()) for n, a in message.content.array_records["arrays"].items()}
        check_arrays(arrays)
        return Reply(arrays, str(json.loads(str(message.content.config_records["reply"]["json"]))["name"]))
    except (KeyError, TypeError, ValueError, ManikinError):
        return Missing("malformed")


def build(plan: Plan, folder: Path, *, phase: Phase, finish: Callable[[Rounds], None]) -> ServerApp:
    """The ServerApp of one run.

    Args:
        plan: the plan.
        folder: the run's folder, for checkpoints.
        phase: shows progress.
        finish: called with the finished rounds while the hospitals can still be asked.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        nodes = {int(node): str(name) for node, name in json.loads(str(context.run_config["hospitals"])).items()}
        rounds = Rounds(plan, GridChannel(grid, nodes), Checkpoints(folder, plan.digest), phase=phase)
        rounds.run()
        finish(rounds)

    return app
