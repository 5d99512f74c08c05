"""An in-process Flower Grid whose nodes are hospital folders, served by worker processes.

Messages are Flower's own and travel as protobuf, so the same ServerApp and ClientApp run here as over a network.
Hospitals are served side by side by as many workers as asked for; a worker that dies costs its hospital an error
reply, and the next message to that hospital gets a new worker.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from flwr.app import Error, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from manikin.embedded.worker import read_frame, write_frame

WORKER_LOST = 101  # Flower error code of a worker that died
SERVER_NODE = 1
FIRST_NODE = 100


def take_identity(*, node_id: int) -> None:
    """Tell Flower who this process is; messages cannot be made before."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, node_id


class Worker:
    """One worker process, started when first needed and again after it died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def ask(self, folder: Path, body: bytes) -> bytes | None:
        """The reply's bytes, or None if the process died."""
        with self._lock:
            process = self._started()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                write_frame(process.stdin, str(folder).encode())
                write_frame(process.stdin, body)
                reply = read_frame(process.stdout)
            except (BrokenPipeError, OSError):
                reply = None
            if reply is None:
                self._reap()
            return reply

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}
            command = [sys.executable, "-m", "manikin.embedded.worker"]
            self._process = subprocess.Popen(  # noqa: S603 (our own module)
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
            )
        return self._process

    def _reap(self) -> None:
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.kill()
            self._close_pipes(self._process)
            self._process.wait()
            self._process = None

    @staticmethod
    def _close_pipes(process: subprocess.Popen[bytes]) -> None:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def stop(self) -> None:
        """Close the pipes, and end the process if it does not go by itself."""
        if self._process is not None:
            self._close_pipes(self._process)
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


class EmbeddedGrid(Grid):
    """Flower's Grid over worker processes.

    Args:
        hospitals: the hospitals' folders; hospital i is node `FIRST_NODE + i`, always served by worker i mod n.
        workers: worker processes.
    """

    def __init__(self, hospitals: Sequence[Path], *, workers: int) -> None:
        take_identity(node_id=SERVER_NODE)
        self._folders = {FIRST_NODE + i: folder for i, folder in enumerate(hospitals)}
        count = max(1, min(workers, len(hospitals)))
        self._workers = [Worker() for _ in range(count)]
        self._queues = [ThreadPoolExecutor(1) for _ in range(count)]
        self._pending: dict[str, Future[Message]] = {}
        self._sent = 0

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        return list(self._folders)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        return [self._push(message) for message in messages]

    def _push(self, message: Message) -> str:
        self._sent += 1
        message.metadata.__dict__["_message_id"] = identity = f"message-{self._sent}"
        node = message.metadata.dst_node_id
        lane = (node - FIRST_NODE) % len(self._workers)
        self._pending[identity] = self._queues[lane].submit(self._exchange, lane, message)
        return identity

    def _exchange(self, lane: int, message: Message) -> Message:
        folder = self._folders[message.metadata.dst_node_id]
        body = self._workers[lane].ask(folder, message_to_proto(message).SerializeToString())
        if body is None:
            return Message(Error(WORKER_LOST, "lost"), reply_to=message)
        return message_from_proto(ProtoMessage.FromString(body))

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        ready = [i for i in message_ids if i in self._pending and self._pending[i].done()]
        return [self._pending.pop(i).result() for i in ready]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        identities = self.push_messages(messages)
        for identity in identities:
            with contextlib.suppress(TimeoutError):
                self._pending[identity].exception(timeout)
        return self.pull_messages(identities)

    def close(self) -> None:
        """End all workers."""
        for queue in self._queues:
            queue.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.stop()

    def __enter__(self) -> EmbeddedGrid:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def mapping(names: Sequence[str]) -> Mapping[int, str]:
    """Hospital name by node id, in the order of the folders."""
    return {FIRST_NODE + i: name for i, name in enumerate(names)}
