"""Named points at which a test may kill the process, to see that nothing is lost and nothing is done twice.

Set MANIKIN_KILL_AT to a point's name, and the process kills itself there as `kill -9` would: no clean-up, no flush.
With MANIKIN_KILL_ONCE naming a file, only while that is absent; it is made first, so that a restarted process goes on.
Whoever can set a process's environment can kill it anyway. Without the variable a point costs one dictionary look-up.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Literal

Point = Literal[
    "vault: task read",
    "vault: step reserved",
    "vault: step computed",
    "vault: step committed",
    "vault: reply entered",
    "gateway: task received",
    "gateway: reply received",
    "coordinator: step to be asked",
    "coordinator: step answered",
    "coordinator: move done",
    "coordinator: checkpoint saved",
]


def reach(point: Point) -> None:
    """Die here if asked to."""
    if os.environ.get("MANIKIN_KILL_AT") != point:
        return
    once = os.environ.get("MANIKIN_KILL_ONCE")
    if once is not None:
        try:
            Path(once).touch(exist_ok=False)
        except FileExistsError:
            return
    os.kill(os.getpid(), signal.SIGKILL)
