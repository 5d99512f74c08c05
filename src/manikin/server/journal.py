"""What the coordinator's supervisor logs of a run: processes that start, hospitals that come and go, how it ended.

One file beside the logs of SuperLink and ServerApp, `RUN/logs/coordinator.log`, one JSON object a line. It names
hospitals of the plan and nothing else that is not a fixed word or a number.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from manikin.common.logs import open_log
from manikin.common.processes import Supervised

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from manikin.server.flower import LinkStatus

FILE = "coordinator.log"
SAID = {"gathering": "waiting", "running": "ready", "finished": "stopped"}


class Journal:
    """The log of one run's supervisor.

    Args:
        log: names the plan's hospitals.
    """

    def __init__(self, log: FilteringBoundLogger) -> None:
        self._log = log
        self._state, self._online = "", frozenset[str]()

    @classmethod
    @contextlib.contextmanager
    def open(cls, logs: Path, hospitals: Collection[str]) -> Iterator[Journal]:
        """Add to the file in a run's folder of logs.

        Args:
            logs: the folder; made if it is not there.
            hospitals: that lines may name.
        """
        logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (logs / FILE).open("a", encoding="utf-8") as file:
            log = open_log("coordinator", plain=False, stream=file, hospitals=hospitals)
            yield cls(log.bind(program="coordinator"))

    def started(self, attempt: int) -> None:
        """The processes are being started, for the first time or again."""
        self._state, self._online = "", frozenset()
        self._log.info("starting", attempt=attempt)

    def restarted(self, process: Supervised) -> None:
        """A process that had died was started again."""
        self._log.warning("restarting", program=process.name, attempt=process.starts)

    def see(self, status: LinkStatus) -> None:
        """Write down what has changed since the last look at the SuperLink."""
        online = frozenset(status.online)
        if status.state == "finished":  # a run that has ended no longer says who is there
            online = self._online
        for name in sorted(online - self._online):
            self._log.info("connected", hospital=name)
        for name in sorted(self._online - online):
            self._log.warning("disconnected", hospital=name)
        if status.state != self._state:
            if status.state == "finished" and status.outcome != "completed":
                self._log.error("failed", code="transport-failure")
            else:
                self._log.info(SAID.get(status.state, "other"))
        self._state, self._online = status.state, online
