"""The vault's side of the socket: a gRPC service on a Unix domain socket, and on nothing else.

Three calls: Exchange (one frame each way), Counters (JSON of numbers), Ready. One exchange at a time is inside the
vault; a few others wait, each for a bounded time. A caller that goes away changes nothing: what was begun is finished
and kept in the ledger. Text of an error never crosses; who may connect is decided by the modes of the socket and its
folder, which the system enforces.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import re
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import grpc  # type: ignore[import-untyped]

from manikin import __version__
from manikin.client.service.protocol import (
    COUNTERS,
    EXCHANGE,
    FRAME_BYTES_MAX,
    OPTIONS,
    READY,
    SERVICE,
    check_address,
    chunks,
    collect,
)
from manikin.common.errors import Misconfigured, ProtocolViolation

TURN_S = 600.0  # how long an exchange may wait for the one before it
ARRIVAL_S = 120.0  # how long a frame may take to arrive: a gibibyte on a socket takes seconds
WORKERS = 8
DIRECTORY_MODE, SOCKET_MODE = 0o750, 0o660
COUNTER = re.compile(r"[a-z][a-z0-9_-]{0,99}")


class Serves(Protocol):
    """What stands behind the socket: `manikin.client.vault.Vault`."""

    def exchange(self, frame: bytes) -> bytes: ...

    def counters(self) -> dict[str, float]: ...


class VaultService:
    """The three calls, on one socket.

    Args:
        vault: answers frames; its cohort is open.
        path: the socket; `claim` holds its folder.
        frame_bytes_max: largest frame that is let in.
        turn_s: how long an exchange waits for its turn.
        arrival_s: how long a frame may take to arrive.
    """

    def __init__(
        self,
        vault: Serves,
        path: Path,
        *,
        frame_bytes_max: int = FRAME_BYTES_MAX,
        turn_s: float = TURN_S,
        arrival_s: float = ARRIVAL_S,
    ) -> None:
        self._vault, self._path = vault, path.absolute()
        self._frame_bytes_max, self._turn_s, self._arrival_s = frame_bytes_max, turn_s, arrival_s
        self._turn = threading.Lock()
        self._server = grpc.server(
            ThreadPoolExecutor(WORKERS, "vault"), options=OPTIONS, maximum_concurrent_rpcs=WORKERS
        )
        methods = {
            EXCHANGE: grpc.stream_stream_rpc_method_handler(self._exchange),
            COUNTERS: grpc.unary_unary_rpc_method_handler(self._counters),
            READY: grpc.unary_unary_rpc_method_handler(self._ready),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))

    def start(self) -> None:
        """Listen on the socket, open to this user and the group of its folder.

        Raises:
            Misconfigured: the socket cannot be made there, or not given to the group.
        """
        former = os.umask(0o777 & ~SOCKET_MODE)  # the socket is never open wider, not even for an instant
        try:
            self._server.add_insecure_port(f"unix://{quote(str(self._path))}")
        except RuntimeError:
            raise Misconfigured(f"No socket can be made at {self._path}.", "", "Give another --socket.") from None
        finally:
            os.umask(former)
        _give_to_group(self._path)
        self._server.start()

    def stop(self) -> None:
        """Stop listening at once and remove the socket; an exchange under way goes on in its thread."""
        self._server.stop(None)
        self._path.unlink(missing_ok=True)

    def _exchange(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        if not self._turn.acquire(timeout=self._turn_s):
            context.abort(grpc.StatusCode.UNAVAILABLE, "The vault is busy with another request.")
        try:
            frame = self._receive(messages, context)
            with _no_text(context):
                return chunks(self._vault.exchange(frame))
        finally:
            self._turn.release()

    def _receive(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        late = threading.Timer(self._arrival_s, context.cancel)
        late.daemon = True
        late.start()
        try:
            return collect(messages, frame_bytes_max=self._frame_bytes_max)
        except ProtocolViolation as error:
            refused = error.why
        finally:
            late.cancel()
        raise context.abort(grpc.StatusCode.INVALID_ARGUMENT, refused)

    def _counters(self, _: bytes, context: grpc.ServicerContext) -> bytes:
        with _no_text(context):
            return json.dumps(_numbers(self._vault.counters()), sort_keys=True, allow_nan=False).encode()

    def _ready(self, _: bytes, context: grpc.ServicerContext) -> bytes:
        del context
        return json.dumps({"version": __version__}).encode()


def serve(service: VaultService, *, ready: Callable[[], None]) -> None:
    """Answer until SIGTERM or Ctrl-C, then stop listening; call it in the main thread.

    A step under way is left where it stands: the ledger has it, and the same request gives the same bytes.
    """
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    service.start()
    ready()
    ended.wait()
    service.stop()


def _numbers(counters: dict[str, float]) -> dict[str, float]:
    """The counters as the vault gave them, if they are names and finite numbers: no text crosses this call."""
    if not all(COUNTER.fullmatch(name) and math.isfinite(value) for name, value in counters.items()):
        raise ValueError
    return counters


@contextlib.contextmanager
def _no_text(context: grpc.ServicerContext) -> Iterator[None]:
    """End a failed call with a code; gRPC would send the text of the exception."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 (whatever it is, its text goes no further)
        kind = type(error).__name__
    else:
        return
    print(f"A call failed inside the vault: {kind}", file=sys.stderr, flush=True)
    context.abort(grpc.StatusCode.INTERNAL, "The vault failed.")


def prepare_directory(path: Path, group: int | None = None) -> None:
    """Make the folder of a socket, open to this user and one group only.

    The folder carries the group's mark (set-group-ID), so that a socket made in it belongs to the group even where
    this process later runs in a user namespace that does not know the group.

    Raises:
        Misconfigured: the folder is open to others, or cannot be given to the group.
    """
    check_address(str(path.absolute()))
    folder = path.absolute().parent
    if not folder.exists():
        folder.mkdir(mode=0o700)
        folder.chmod(DIRECTORY_MODE)
    status = folder.stat()
    if group is not None and status.st_gid != group:
        _share(folder, group)
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o027:
        raise Misconfigured(
            f"The socket's folder {folder} is open to others.", "", f"Run: chmod {DIRECTORY_MODE:o} {folder}"
        )


def _share(folder: Path, group: int) -> None:
    try:
        os.chown(folder, -1, group)
        if os.getegid() != group:
            folder.chmod(stat.S_IMODE(folder.stat().st_mode) | stat.S_ISGID)
    except PermissionError:
        raise Misconfigured(
            f"{folder} cannot be given to the shared group.",
            "Only a member of the group can do that, and only for a folder of its own.",
            "Add the vault's user to the group, or start the vault with the group as its first.",
        ) from None


def _give_to_group(path: Path) -> None:
    group = path.parent.stat().st_gid
    try:
        if path.stat().st_gid != group:
            os.chown(path, -1, group)
    except OSError:
        path.unlink(missing_ok=True)
        raise Misconfigured(
            "The socket cannot be given to the group of its folder.", "", "Start the vault with --group."
        ) from None


@contextlib.contextmanager
def claim(path: Path) -> Iterator[None]:
    """Be the only vault here for as long as this lasts; a crash lets go, and a socket left behind is replaced.

    Raises:
        Misconfigured: another vault is alive here, or something that is no socket lies at `path`.
    """
    descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Misconfigured("Another vault is alive here.", "Its lock is held.", "Stop it first.") from None
        if path.exists() and not path.is_socket():
            raise Misconfigured(f"{path} is there and is no socket.", "", "Move it away, or give another --socket.")
        yield
    finally:
        os.close(descriptor)
