"""A hundred hospitals in one process beside the coordinator's, and a Flower Grid that reaches them.

What the coordinator's process does is what it does over a network, but for the network itself: messages are deflated
into Flower's objects, objects are pulled one by one, and Flower's own code inflates them. So its memory is that of a
coordinator; the hospitals' is in the other process. They train nothing: each moves every weight by a number of its own.
"""

from __future__ import annotations

import json
import multiprocessing
import threading
from collections.abc import Iterable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import InflatableObject, get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, pull_objects, push_objects
from flwr.supercore.run import Run

from manikin.client.app import packed
from manikin.common.frames import decode_task, encode_reply
from manikin.common.keys import SigningKey
from manikin.common.pieces import join
from manikin.common.wire import Arrays, Reply
from manikin.embedded.grid import take_identity

FIRST_NODE = 100
STEP = 1e-3  # hospital i moves each weight by i + 1 times this


def moved(arrays: Arrays, index: float) -> dict[str, Any]:
    """What hospital `index` gives back: every weight of the network moved."""
    step = np.float32((index + 1) * STEP)
    return {name: array + step if name.startswith("net.") else array for name, array in arrays.items()}


class Hospitals:
    """Answers tasks as Manikin's vaults or as clients of plain Flower; lives in a process of its own."""

    def __init__(self, count: int) -> None:
        self._keys = [SigningKey.generate() for _ in range(count)]
        self._objects: dict[str, bytes] = {}

    def take(self, objects: dict[str, bytes], root: str) -> None:
        """A task's records, as objects."""
        content = inflate_object_from_contents(root, objects)
        assert isinstance(content, RecordDict)
        record = next(iter(content.values()))
        self._plain = not self._keys
        self._task = None if self._plain else decode_task(join({name: a.data for name, a in record.items()}))
        self._arrays = self._task.arrays if self._task else {name: array.numpy() for name, array in record.items()}

    def answer(self, index: int) -> dict[str, Any]:
        """Make one answer; the ids of its objects, children first."""
        content = self._plain_answer(index) if self._task is None else self._signed_answer(index)
        nested = get_all_nested_objects(content)
        self._objects = {identity: thing.deflate() for identity, thing in nested.items()}
        return {"objects": list(self._objects)}

    def _plain_answer(self, index: int) -> RecordDict:
        arrays = ArrayRecord({name: Array(array) for name, array in moved(self._arrays, index).items()})
        return RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})})

    def _signed_answer(self, index: int) -> RecordDict:
        assert self._task is not None
        arrays = moved(self._arrays, index) if self._task.action == "train" else {}
        return packed(encode_reply(Reply(arrays, f"hospital-{index}").signed(self._keys[index], self._task)))

    def object(self, identity: str) -> bytes:
        return self._objects[identity]

    def public_keys(self) -> list[str]:
        return [key.public_key.hex() for key in self._keys]


def serve(pipe: Connection, count: int) -> None:
    """The other process: one request, one answer, until the pipe is closed."""
    hospitals = Hospitals(count)
    pipe.send_bytes(json.dumps(hospitals.public_keys()).encode())
    while True:
        try:
            request = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        if request["kind"] == "task":
            hospitals.take({identity: pipe.recv_bytes() for identity in request["objects"]}, request["objects"][-1])
            pipe.send_bytes(b"{}")
        elif request["kind"] == "answer":
            pipe.send_bytes(json.dumps(hospitals.answer(request["index"])).encode())
        else:
            pipe.send_bytes(hospitals.object(request["id"]))


class ObjectGrid(Grid):
    """Flower's Grid over the other process.

    Args:
        signing: how many hospitals of Manikin's there are, with keys; none for clients of plain Flower.
    """

    def __init__(self, signing: int = 0) -> None:
        take_identity(node_id=1)
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=serve, args=(other, signing), daemon=True)
        self._process.start()
        other.close()
        self.public_keys: list[str] = json.loads(self._pipe.recv_bytes())
        self._lock = threading.Lock()
        self._sent: dict[str, Message] = {}
        self._count = 0

    def _ask(self, **request: Any) -> bytes:
        with self._lock:
            self._pipe.send_bytes(json.dumps(request).encode())
            return self._pipe.recv_bytes()

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """As Flower does: every object once, however many messages hold it."""
        batch = list(messages)
        objects: dict[str, InflatableObject] = {}
        for message in batch:
            objects |= get_all_nested_objects(message.content)
        roots = {message.content.object_id for message in batch}
        assert len(roots) == 1, "one task for all"
        with self._lock:
            self._pipe.send_bytes(json.dumps({"kind": "task", "objects": list(objects)}).encode())
            push_objects(objects, lambda _, content: self._pipe.send_bytes(content), max_concurrent_pushes=1)
            self._pipe.recv_bytes()
        return [self._keep(message) for message in batch]

    def _keep(self, message: Message) -> str:
        self._count += 1
        message.metadata.__dict__["_message_id"] = identity = f"message-{self._count}"
        bare = Message(RecordDict(), message.metadata.dst_node_id, message.metadata.message_type)
        bare.metadata.__dict__["_message_id"] = identity
        self._sent[identity] = bare
        return identity

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Every answer asked for, inflated: what is held at once is up to the caller."""
        return [self._pull(self._sent.pop(identity)) for identity in message_ids if identity in self._sent]

    def _pull(self, message: Message) -> Message:
        made = json.loads(self._ask(kind="answer", index=message.metadata.dst_node_id - FIRST_NODE))
        contents = pull_objects(made["objects"], lambda identity: self._ask(kind="object", id=identity))
        content = inflate_object_from_contents(made["objects"][-1], contents)
        assert isinstance(content, RecordDict)
        return Message(content, reply_to=message)

    def close(self) -> None:
        """End the other process."""
        self._pipe.close()
        self._process.join()

    def __enter__(self) -> ObjectGrid:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """As Flower's strategies ask: all answers at once."""
        del timeout
        return self.pull_messages(self.push_messages(messages))
