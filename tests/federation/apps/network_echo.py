"""A ServerApp and a ClientApp that carry bytes there and back, for tests of what lies between."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

client = ClientApp()
server = ServerApp()


@client.query("echo")
def echo(message: Message, context: Context) -> Message:
    """What came, with one added to each byte, and the size of this process."""
    frame = message.content.array_records["body"].to_numpy_ndarrays()[0]
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    body = ArrayRecord([frame + 1, np.array([resident], np.int64)])
    del context
    return Message(RecordDict({"body": body}), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Rounds of echoes; what came back, and how long it took, to a file."""
    folder = Path(str(context.run_config["folder"]))
    asked = json.loads((folder / "echo.json").read_text())
    nodes = {int(node): name for node, name in json.loads((folder / "nodes.json").read_text()).items()}
    for number in range(asked["rounds"]):
        started = time.monotonic()
        answers = _round(grid, nodes, number, asked["bytes"], asked["deadline_s"])
        line = {"round": number, "seconds": time.monotonic() - started, "answers": answers}
        with (folder / "rounds.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def _round(grid: Grid, nodes: dict[int, str], number: int, size: int, deadline_s: float) -> dict[str, object]:
    frame = np.random.default_rng(number).integers(0, 200, size, np.uint8)
    body = RecordDict({"body": ArrayRecord([frame])})
    messages = [Message(body, node, "query.echo", group_id=str(number)) for node in nodes]
    sent = {i: node for i, node in zip(grid.push_messages(messages), nodes, strict=True) if i is not None}
    answers: dict[str, object] = dict.fromkeys(nodes.values(), "missing")
    deadline = time.monotonic() + deadline_s
    while sent and time.monotonic() < deadline:
        for reply in grid.pull_messages(list(sent)):
            name = nodes[sent.pop(reply.metadata.reply_to_message_id)]
            if reply.has_error():
                answers[name] = f"error {reply.error.code}"
                continue
            got, resident = reply.content.array_records["body"].to_numpy_ndarrays()
            answers[name] = int(resident[0]) if np.array_equal(got, frame + 1) else "changed"
        time.sleep(0.2)
    return answers
