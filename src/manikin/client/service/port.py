"""The gateway's side of the vault's socket: hand a frame over, get the vault's frame back.

Imports grpc and the standard library only, so that a gateway holds no torch and no numpy. A channel lives for one
call, so that a vault that was restarted in between is met at once. What is promised: bytes in, the vault's bytes out,
or an error that says which of the two could not be had; nothing is tried twice here, since the same request may be
asked again by whoever sent it.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import grpc  # type: ignore[import-untyped]

from manikin.client.service.protocol import COUNTERS, EXCHANGE, OPTIONS, READY, SERVICE, check_address, chunks, collect
from manikin.common.errors import Misconfigured, ProtocolViolation, TransportFailure

CONNECT_S = 10.0
CALL_S = 10.0  # Counters and Ready answer while a step is being done
POLL_S = 0.1
REFUSING = ("INVALID_ARGUMENT", "UNIMPLEMENTED")


class SocketPort:
    """A vault behind its socket.

    Args:
        path: the socket.
        connect_s: how long to wait for a vault that is not there (yet).
        timeout_s: how long one exchange may take; a step of training takes as long as it takes, so none by default.
    """

    def __init__(self, path: Path | str, *, connect_s: float = CONNECT_S, timeout_s: float | None = None) -> None:
        self.path, self.connect_s, self.timeout_s = str(Path(path).absolute()), connect_s, timeout_s
        check_address(self.path)

    def exchange(self, frame: bytes) -> bytes:
        """Hand one frame to the vault and return its answer.

        Raises:
            TransportFailure: no vault answers, or it ended before it had answered.
            ProtocolViolation: the vault refused the stream, or answered with one that breaks the bounds.
            Misconfigured: this user may not open the socket.
        """
        with self._channel() as channel:
            call = channel.stream_stream(f"/{SERVICE}/{EXCHANGE}")
            return collect(call(chunks(frame), timeout=self.timeout_s))

    def counters(self) -> dict[str, float]:
        """The vault's counters: numbers that no patient moves.

        Raises:
            TransportFailure: no vault answers.
        """
        return dict(json.loads(self._ask(COUNTERS)))

    def ready(self) -> dict[str, str]:
        """What the vault says of itself once its cohort is open: {"version": ...}.

        Raises:
            TransportFailure: no vault answers within `connect_s`.
        """
        return dict(json.loads(self._ask(READY)))

    def _ask(self, method: str) -> bytes:
        with self._channel() as channel:
            return bytes(channel.unary_unary(f"/{SERVICE}/{method}")(b"", timeout=CALL_S))

    @contextlib.contextmanager
    def _channel(self) -> Iterator[grpc.Channel]:
        wait_for(self.path, self.connect_s)
        try:
            with grpc.insecure_channel(f"unix://{quote(self.path)}", options=OPTIONS) as channel:
                yield channel
        except grpc.RpcError as error:
            raise _explained(error) from None


def wait_for(path: str, patience_s: float) -> None:
    """Return once something listens at the socket.

    Raises:
        TransportFailure: nothing does within the time.
        Misconfigured: this user may not open the socket.
    """
    until = time.monotonic() + patience_s
    while True:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.connect(path)
                return
        except PermissionError:
            raise Misconfigured(
                "The vault's socket may not be opened by this user.",
                "It is open to the vault's user and to one group.",
                "Add this user to the group that the vault was started with.",
            ) from None
        except OSError as error:
            if time.monotonic() >= until:
                raise TransportFailure(
                    "The vault does not answer.",
                    f"Its socket: {error.strerror or error}.",
                    "Start it with `manikin hospital vault`, or look at its log.",
                ) from None
        time.sleep(POLL_S)


def _explained(error: grpc.RpcError) -> ProtocolViolation | TransportFailure:
    code, details = error.code().name, str(error.details())
    if code in REFUSING:
        return ProtocolViolation(
            "The vault's service refused a call.", details, "Check that both sides run one version."
        )
    return TransportFailure(
        "The vault did not answer a call.",
        f"{code}: {details}",
        "Ask again: a step that was begun gives the same bytes.",
    )
