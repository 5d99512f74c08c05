"""A program of Flower's, run in this process, whose log lines and prints go through Manikin's own log.

    python -P -m manikin.common.launching PART PROGRAM [ARGUMENTS]

PROGRAM is a console script of this installation, by name. Its logger's lines, those of its HTTP server and whatever it
prints become lines of `logs`, one JSON object each, with Flower's words as `event` and `"source": "flower"`. The apps
that its executor starts are launched the same way. Not promised: what the interpreter or a C library writes when it
dies goes past this.
"""

from __future__ import annotations

import importlib
import logging
import subprocess
import sys
import threading
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

from structlog.typing import FilteringBoundLogger

from manikin.common.logs import Part, Program, Quoted, open_log, take_over

EXECUTOR = "flower-superexec"
STARTER = "flwr.supercore.superexec.executor.subprocess_executor"
SPEAKERS = ("flwr", "uvicorn")  # Flower, and the server that answers its calls


def command(part: Part, program: str, *arguments: str) -> list[str]:
    """The command line that launches a program of Flower's as a part of Manikin.

    >>> command("gateway", "flower-supernode", "--help")[1:]
    ['-P', '-m', 'manikin.common.launching', 'gateway', 'flower-supernode', '--help']
    """
    return [sys.executable, "-P", "-m", "manikin.common.launching", part, program, *arguments]


def program_of(script: str) -> Program:
    """What logs call a console script of Flower's: its own name, without Flower's before it.

    >>> program_of("flwr-clientapp"), program_of("flower-superexec")
    ('clientapp', 'superexec')
    """
    name = Path(script).name.removeprefix("flwr-").removeprefix("flower-")
    if name not in get_args(Program):
        raise ValueError(f"{script!r} is no program that logs know")
    return cast(Program, name)


def speak_through(log: FilteringBoundLogger) -> None:
    """Send Flower's lines of this process through `log`; call it when Flower is imported.

    Other libraries' lines, warnings and uncaught exceptions go there by their kind, as `logs.take_over` does it.
    """
    take_over(log)
    for name in SPEAKERS:
        speaker = logging.getLogger(name)
        speaker.handlers[:] = [_Words(log)]
        speaker.propagate = False
    for name in ("error", "access", "asgi"):
        logging.getLogger(f"uvicorn.{name}").handlers[:] = []
    with_handlers: Any = importlib.import_module("uvicorn.config").LOGGING_CONFIG  # what its servers set otherwise
    with_handlers["handlers"].clear()
    with_handlers["loggers"].clear()


class _Words(logging.Handler):
    """Hands on what Flower says, and of an exception its kind and where it was raised."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        super().__init__(logging.INFO)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        words = record.getMessage().strip()
        fields: dict[str, Any] = {}
        if record.exc_info and record.exc_info[0]:
            fields["exc_info"] = record.exc_info[0]
            trace = record.exc_info[2]
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            if trace is not None:
                fields["at"] = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        if words:
            self._log.log(min(record.levelno, logging.ERROR), Quoted(words), **fields)


class _Printed:
    """Stands in for a standard stream: each line that is printed becomes a line of the log."""

    encoding, errors = "utf-8", "replace"

    def __init__(self, log: FilteringBoundLogger, level: int) -> None:
        self._log, self._level, self._rest = log, level, ""
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        with self._lock:
            *lines, self._rest = (self._rest + text).split("\n")
        for line in filter(None, (line.strip() for line in lines)):
            self._log.log(self._level, Quoted(line))
        return len(text)

    def flush(self) -> None:
        """Nothing waits but an unfinished line."""

    def isatty(self) -> bool:
        return False


def _launch_children(part: Part) -> None:
    """Have the executor start its apps by `command`: it knows them by bare names, and has no setting for it.

    It would throw away what a ServerApp says; here both apps write to the executor's own log.
    """
    starter: Any = importlib.import_module(STARTER)

    def start(arguments: list[str], **settings: object) -> subprocess.Popen[bytes]:
        del settings
        return subprocess.Popen(command(part, *arguments))  # noqa: S603 (Flower's own apps)

    starter.subprocess = SimpleNamespace(Popen=start, DEVNULL=subprocess.DEVNULL)


def launch(part: Part, program: str, arguments: list[str]) -> object:
    """Run a program in this process, to its end.

    Returns:
        Its exit status, as `sys.exit` takes it.
    """
    log = open_log(part).bind(program=program_of(program))
    sys.stdout, sys.stderr = cast(Any, _Printed(log, logging.INFO)), cast(Any, _Printed(log, logging.WARNING))
    sys.argv = [program, *arguments]
    (script,) = entry_points(group="console_scripts", name=program)
    run = script.load()
    speak_through(log)
    if program == EXECUTOR:
        _launch_children(part)
    status: object = run()
    return status


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("gateway", "coordinator"):
        raise SystemExit("launching PART PROGRAM [ARGUMENTS]; PART is gateway or coordinator")
    sys.exit(cast(Any, launch(cast(Part, sys.argv[1]), sys.argv[2], sys.argv[3:])))
