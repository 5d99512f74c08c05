"""Structured logs that cannot carry patient data: a closed list of events, and a closed list of fields with their form.

One line an event, JSON or plain. What is not on the lists is dropped before it is written, and the line says how many
fields were; text of exceptions, warnings and other libraries' log lines is replaced by its kind, since it may quote
a file name or a header. A log line says what happened, never to whom. Not promised: a program that prints past this.
What Flower says at a gateway or a coordinator, where no patient's data are, is kept as it is: one text a line, marked
`"source": "flower"`. The vault's log has no such lines, whoever asks for them.

>>> import io
>>> stream = io.StringIO()
>>> open_log("vault", stream=stream).info("refused", code="policy-refusal", patient="Doe^Jane")
>>> json.loads(stream.getvalue())["code"], "Doe" in stream.getvalue()
('policy-refusal', False)
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import threading
from collections.abc import Callable, Collection, MutableMapping
from types import TracebackType
from typing import Any, Literal, TextIO, get_args

import structlog

from manikin.common.errors import ManikinError

Part = Literal["vault", "gateway", "coordinator"]
Event = Literal[
    "starting",
    "ready",
    "answered",
    "refused",
    "failed",
    "stopping",
    "stopped",
    "restarting",
    "waiting",
    "connected",
    "disconnected",
    "asking",
    "missed",
    "moved",
    "resumed",
    "prepared",
    "released",
    "crashed",
    "library",
]
Program = Literal["gateway", "supernode", "superexec", "clientapp", "coordinator", "superlink", "serverapp"]
FLOWER = "flower"
TEXT_MAX = 2000  # characters of Flower's words that one line keeps
OTHER = "other"
LEVEL = logging.INFO
_SOURCES = ("asyncio", "flwr", "grpc", "httpx", "monai", "opacus", "py", "pydicom", "torch", "uvicorn")

EventDict = MutableMapping[str, Any]
Check = Callable[[object], bool]


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53


def _digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{12}|[0-9a-f]{64}", value) is not None


def _one_of(*words: str) -> Check:
    return lambda value: isinstance(value, str) and value in words


_LOST = ("error", "unavailable", "lost", "deadline", "forged", "malformed")
CODES = (*sorted({kind.code for kind in ManikinError.__subclasses__()}), *_LOST)
FIELDS: dict[str, Check] = {
    "program": _one_of(*get_args(Program)),
    "plan": _digest,
    "step": _count,
    "round": _count,
    "action": _one_of("open", "release", "train", "audit", "canary"),
    "code": _one_of(*CODES),
    "library": _one_of(*_SOURCES, OTHER),
    "bytes_in": _count,
    "bytes_out": _count,
    "seconds": _number,
    "epsilon": _number,
    "attempt": _count,
    "exit_code": _number,
    "port": _count,
    "at": lambda value: isinstance(value, str) and re.fullmatch(r"[a-z_]{1,40}\.py:\d{1,6}", value) is not None,
}


class Quoted(str):
    """Words of Flower's own, which a line of a gateway or a coordinator may carry."""


class Allowed:
    """The processor that every line goes through: only listed events, and listed fields of the listed form.

    Args:
        part: which program speaks.
        hospitals: names of hospitals that a line may name; no other name gets through.
    """

    def __init__(self, part: Part, hospitals: Collection[str] = ()) -> None:
        self._part = part
        self._fields = FIELDS | {"hospital": _one_of(*hospitals)}

    def __call__(self, logger: object, level: str, event: EventDict) -> EventDict:
        del logger
        name = event.pop("event", None)
        error = event.pop("exc_info", None)
        kept = {key: value for key, value in event.items() if key in self._fields and self._fields[key](value)}
        line: EventDict = {"level": level, "part": self._part, "event": name if name in get_args(Event) else OTHER}
        if self._part != "vault" and isinstance(name, Quoted):
            line.update(source=FLOWER, event=str(name)[:TEXT_MAX])
        line.update(kept)
        if error:
            line["error"] = _kind(error)
        if len(kept) < len(event):
            line["dropped"] = len(event) - len(kept)
        return line


def _kind(error: object) -> str:
    """The class of an exception and nothing of its text."""
    if error is True:
        error = sys.exc_info()[0]
    if isinstance(error, tuple):
        error = error[0]
    kind = error if isinstance(error, type) else type(error)
    return kind.__name__ if issubclass(kind, BaseException) else OTHER


def open_log(
    part: Part, *, plain: bool | None = None, stream: TextIO | None = None, hospitals: Collection[str] = ()
) -> structlog.typing.FilteringBoundLogger:
    """A logger of one program.

    Args:
        part: which program speaks.
        plain: words for a person, or one JSON object a line; None chooses by whether `stream` is a terminal.
        stream: where to; the process's own standard error if None.
        hospitals: names of hospitals that a line may name.
    """
    target = stream or sys.__stderr__ or sys.stderr  # also where a program has put something else in its place
    words = target.isatty() if plain is None else plain
    logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        structlog.WriteLogger(target),  # one write a line, since processes share a file
        processors=[
            Allowed(part, hospitals),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "part", "event"])
            if words
            else structlog.processors.JSONRenderer(serializer=json.dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVEL),
    )
    return logger


def take_over(log: structlog.typing.FilteringBoundLogger) -> None:
    """Send other libraries' lines, Python's warnings and uncaught exceptions through `log`: their kind, not their text.

    For a process of its own, once, at its start.
    """
    root = logging.getLogger()
    root.handlers[:] = [_Libraries(log)]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)

    def crashed(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        del error, trace
        log.error("crashed", exc_info=kind)

    sys.excepthook = crashed
    threading.excepthook = lambda args: crashed(args.exc_type, args.exc_value, args.exc_traceback)


class _Libraries(logging.Handler):
    """Says which library had something to say."""

    def __init__(self, log: structlog.typing.FilteringBoundLogger) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        source = record.name.partition(".")[0]
        fields: dict[str, Any] = {"library": source if source in _SOURCES else OTHER}
        if record.exc_info and record.exc_info[0]:
            fields["exc_info"] = record.exc_info[0]
        self._log.log(min(record.levelno, logging.ERROR), "library", **fields)
