"""Processes that are kept alive: started, watched, started again when they die, and ended with everything they began.

Each has a session of its own, so that Ctrl-C at a terminal reaches only the supervisor, which then ends them in
order; on Linux they get SIGTERM when the supervisor itself is killed. What they print goes to a file.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import pwd
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from manikin.common import launching
from manikin.common.errors import Misconfigured, TransportFailure
from manikin.common.logs import Part

LOOPBACK = "127.0.0.1"
PR_SET_PDEATHSIG = 1
GRACE_S = 8.0
BACKOFF_S = (0.5, 1.0, 2.0, 5.0)
CALM_S = 60.0  # a process that lived this long starts again at the shortest pause
WATCH_S = 0.2

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def flower_environment(home: Path) -> dict[str, str]:
    """The environment of any Flower process: no telemetry, no update check, nothing installed, its own home."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLWR_")}
    scripts = str(Path(sys.executable).parent)
    return kept | {
        "PATH": scripts + os.pathsep + os.environ.get("PATH", os.defpath),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        "OMP_NUM_THREADS": "1",
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
    }


def script(name: str) -> str:
    """A console script of this very installation."""
    return str(Path(sys.executable).parent / name)


def free_port() -> int:
    """A loopback port that is free at this moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def accepts(host: str, port: int) -> bool:
    """Whether something listens there."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`.

    Raises:
        Misconfigured: it is neither.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise Misconfigured(f"{address!r} is no address.", "It is not HOST:PORT.", "Correct the address.")
    return host.strip("[]"), int(port)


@contextlib.contextmanager
def only_one(file: Path, what: str) -> Iterator[None]:
    """Hold a lock file; a process that dies lets go of it.

    Raises:
        Misconfigured: another process holds it.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Misconfigured(f"{what} is running already.", "", "End it first, or wait until it ends.") from None
        yield
    finally:
        os.close(descriptor)


@dataclass
class Supervised:
    """One process that is kept alive.

    Args:
        name: what a person calls it.
        command: program and arguments.
        log: file that gets what it prints.
        environment: its whole environment; the supervisor's if None.
        restart: start it again when it ends; otherwise its end is left to be seen.
        user, group: who it runs as, if the supervisor is root; with a user, no other groups.
        grace_s: how long it may take to end by itself.
    """

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] | None = None
    restart: bool = True
    user: str | None = None
    group: str | int | None = None
    grace_s: float = GRACE_S
    starts: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _started: float = field(default=0.0, repr=False)
    _again: float = field(default=0.0, repr=False)
    _failures: int = field(default=0, repr=False)
    _told: bool = field(default=False, repr=False)

    def start(self) -> None:
        """Start it now."""
        self.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 (our own commands)
                list(self.command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=None if self.environment is None else dict(self.environment),
                start_new_session=True,
                preexec_fn=_end_with_parent,
                user=self.user,
                group=self._own_group(),
                extra_groups=None if self.user is None else [],
            )
        self._started, self._told = time.monotonic(), False
        self.starts += 1

    def _own_group(self) -> str | int | None:
        """The group that is named, or the user's own: never the supervisor's for another user."""
        if self.group is not None or self.user is None:
            return self.group
        return pwd.getpwnam(self.user).pw_gid

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def ended(self) -> int | None:
        """Its exit status, None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def watch(self) -> bool:
        """Start it again if it died and its pause is over; whether that was now."""
        if self._process is None or self.ended() is None or not self.restart:
            return False
        now = time.monotonic()
        if self._again == 0.0:
            self._sweep(signal.SIGKILL)
            self._failures = 0 if now - self._started > CALM_S else self._failures
            self._again = now + BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
            self._failures += 1
        elif now >= self._again:
            self._again = 0.0
            self.start()
            return True
        return False

    def terminate(self) -> None:
        """Tell it to end, once; it is not started again."""
        if self._process is not None and self.ended() is None and not self._told:
            self._told = True
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    def stop(self) -> None:
        """SIGTERM, a while to go, then SIGKILL, for it and everything it started."""
        if self._process is None:
            return
        self.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(self.grace_s)
        self._sweep(signal.SIGKILL)
        self._process.wait()

    def _sweep(self, number: signal.Signals) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def last_words(self, lines: int = 5) -> str:
        """The end of what it printed."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return " | ".join(line.strip() for line in text.splitlines()[-lines:] if line.strip())


def flower_executor(
    name: str, part: Part, *, port: int, secret: Path, log: Path, home: Path, ca: Path | None = None
) -> Supervised:
    """Flower's process that runs apps for a SuperLink or a SuperNode on a loopback port, not started.

    Args:
        name: what a person calls it.
        part: whose log it speaks through.
        port: where the SuperLink or SuperNode gives out tasks.
        secret: file that shows it to be ours.
        log: file that gets what it prints.
        home: Flower's own folder.
        ca: who signs the certificate of the other side; None: it speaks plain, inside one machine.
    """
    command = launching.command(part, launching.EXECUTOR)
    command += ["--root-certificates", str(ca)] if ca else ["--insecure"]
    command += ["--runtime-api-address", f"{LOOPBACK}:{port}", "--superexec-auth-secret-file", str(secret)]
    return Supervised(name, command, log, flower_environment(home))


def _end_with_parent() -> None:
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@contextlib.contextmanager
def supervising(processes: list[Supervised]) -> Iterator[list[Supervised]]:
    """Processes added to the list are told to end at the end of the block, and then ended, whatever happens."""
    try:
        yield processes
    finally:
        for process in processes:
            process.terminate()
        for process in reversed(processes):
            process.stop()


def wait_until(condition: Callable[[], bool], processes: Sequence[Supervised], *, timeout_s: float, what: str) -> None:
    """Watch over processes until a condition holds.

    Raises:
        TransportFailure: it does not hold in time, or a process that is not to be restarted has ended.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        for process in processes:
            process.watch()
            if not process.restart and process.ended() is not None:
                raise TransportFailure(f"{what} failed.", f"{process.name} ended.", f"Read {process.log}.")
        if time.monotonic() > deadline:
            logs = ", ".join(str(process.log) for process in processes)
            raise TransportFailure(f"{what} took more than {timeout_s:g} s.", "", f"Read {logs}.")
        time.sleep(WATCH_S)


@contextlib.contextmanager
def ending_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM sets; Ctrl-C is KeyboardInterrupt as ever. The main thread only."""
    ending = threading.Event()

    def end(*_: object) -> None:
        ending.set()
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGTERM, end)
    try:
        yield ending
    finally:
        signal.signal(signal.SIGTERM, former)
