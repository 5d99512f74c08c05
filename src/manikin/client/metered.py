"""Ports around a port: one that logs what goes through, at both ends of the socket; one that counts it, at the gateway.

Neither looks into a frame. Each of the gateway's messages is relayed by a process of its own, so counts are added up in
a file. Standard library only: such a process lives for one message.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from manikin.client.port import Port
from manikin.common.errors import ManikinError
from manikin.common.files import write_atomically

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

TALLY = "relayed.json"  # in the gateway's FLWR_HOME, which every process of the gateway knows
FAILURES = ("transport-failure", "protocol-violation", "misconfigured", "error")


class Tally:
    """Sums that several processes add to, in one small file.

    Args:
        path: the file; made when something is first added.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, float]:
        """The sums; nothing if the file is missing or torn."""
        try:
            raw = json.loads(self.path.read_bytes())
            return {str(name): float(value) for name, value in raw.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def add(self, **numbers: float) -> None:
        """Add to the sums. A disk that is full costs a count, never a message."""
        with contextlib.suppress(OSError, ManikinError), self._locked():
            sums = self.read()
            for name, number in numbers.items():
                sums[name] = sums.get(name, 0.0) + number
            sums["last"] = time.time()
            write_atomically(self.path, json.dumps(sums, sort_keys=True).encode(), mode=0o600)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self.path.with_name(f"{self.path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class Metered:
    """A port that counts what goes through another one; it looks into no frame.

    Args:
        port: the vault's socket.
        tally: where the sums are kept.
    """

    def __init__(self, port: Port, tally: Tally) -> None:
        self._port, self._tally = port, tally

    def exchange(self, frame: bytes) -> bytes:
        """Hand the frame on, and count it; whatever the other port raises passes."""
        started = time.monotonic()
        counts = {"messages": 1.0, "to_vault": float(len(frame))}
        try:
            answer = self._port.exchange(frame)
            counts["from_vault"] = float(len(answer))
            return answer
        except Exception as error:
            code = error.code if isinstance(error, ManikinError) and error.code in FAILURES else "error"
            counts[f"failed {code}"] = 1.0
            raise
        finally:
            self._tally.add(seconds=time.monotonic() - started, **counts)


class Counted(Port, Protocol):
    """A port that has counters: the vault, or its socket."""

    def counters(self) -> dict[str, float]: ...


class Logged:
    """A vault, or the way to it, that logs what goes through: bytes and seconds, or the code of a failure.

    Args:
        port: the vault, or its socket.
        log: of the program that this runs in.
    """

    def __init__(self, port: Counted, log: FilteringBoundLogger) -> None:
        self._port, self._log = port, log

    def counters(self) -> dict[str, float]:
        """The vault's."""
        return self._port.counters()

    def exchange(self, frame: bytes) -> bytes:
        """Hand the frame on, and log it; whatever the other port raises passes."""
        started = time.monotonic()
        try:
            answer = self._port.exchange(frame)
        except Exception as error:
            self._log.error("failed", code=error.code if isinstance(error, ManikinError) else "error", exc_info=error)
            raise
        spent = round(time.monotonic() - started, 3)
        self._log.info("answered", bytes_in=len(frame), bytes_out=len(answer), seconds=spent)
        return answer
