"""How the coordinator reaches hospitals: one call, whatever carries it; and a log of who was asked and who answered."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from manikin.common.wire import Reply, Task

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger


@dataclass(frozen=True)
class Missing:
    """A hospital that did not answer, and the code of the reason: a refusal's code, `lost` or `deadline`."""

    code: str


class Channel(Protocol):
    """Hospitals by name, in a fixed order; and the bytes of frames that came from them and went to them."""

    names: tuple[str, ...]
    bytes_in: int
    bytes_out: int

    def ask(self, tasks: Mapping[str, Task], *, deadline_s: float) -> Iterable[tuple[str, Reply | Missing]]:
        """One answer for each hospital asked, as they come; never raises for a hospital's sake.

        A model may be large and hospitals many: a channel holds no answer that it has given, and its caller none that
        it has done with.
        """
        ...


class Logged:
    """A channel that logs each step: what was asked, who did not answer and why, bytes and seconds.

    Args:
        channel: the hospitals.
        log: of the program that this runs in; it names these hospitals and no others.
    """

    def __init__(self, channel: Channel, log: FilteringBoundLogger) -> None:
        self._channel, self._log = channel, log
        self.names = channel.names
        self.bytes_in, self.bytes_out = channel.bytes_in, channel.bytes_out

    def ask(self, tasks: Mapping[str, Task], *, deadline_s: float) -> Iterator[tuple[str, Reply | Missing]]:
        started, before = time.monotonic(), (self.bytes_in, self.bytes_out)
        task = next(iter(tasks.values()))  # the same for all
        log = self._log.bind(plan=task.plan_digest, step=task.step, action=task.action)
        log.info("asking")
        for name, answer in self._channel.ask(tasks, deadline_s=deadline_s):
            if isinstance(answer, Missing):
                log.warning("missed", hospital=name, code=answer.code)
            yield name, answer
            del answer  # before the next one comes
        self.bytes_in, self.bytes_out = self._channel.bytes_in, self._channel.bytes_out
        log.info(
            "answered",
            bytes_in=self.bytes_in - before[0],
            bytes_out=self.bytes_out - before[1],
            seconds=round(time.monotonic() - started, 3),
        )
