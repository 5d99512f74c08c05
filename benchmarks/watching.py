"""Hospitals' processes while a benchmark runs, read from /proc: what they are, how large, and which loaded torch."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manikin.common.processes import Supervised

POLL_S, LIMIT_S = 0.1, 1800.0
Identity = tuple[int, int]


def role(words: Sequence[str]) -> str:
    """What a process is to a hospital or a coordinator, from its command line; "" if nothing of interest.

    >>> role(["python", "/venv/bin/flower-supernode", "--superlink", "x"])
    'SuperNode'
    """
    names = [Path(word).name for word in words[:6]]
    scripts = {"flower-supernode": "SuperNode", "flower-superexec": "executor", "flwr-clientapp": "ClientApp"}
    for name, following in zip(names, [*names[1:], ""], strict=True):
        if name in scripts:
            return scripts[name]
        if name == "hospital" and following in ("vault", "gateway"):
            return "vault" if following == "vault" else "gateway's supervisor"
    return ""


@dataclass
class Watch:
    """The processes of hospitals while they run, read from /proc.

    A process counts once it is seen twice: one just forked still bears the command line of its parent.

    peak: largest resident bytes by role; seen: processes by role, told apart by id and start time; torch: those of
    them that mapped libtorch.
    """

    peak: dict[str, int] = field(default_factory=dict)
    seen: set[tuple[str, Identity]] = field(default_factory=set)
    torch: set[tuple[str, Identity]] = field(default_factory=set)
    _met: set[tuple[str, Identity]] = field(default_factory=set)

    def look(self, roots: Iterable[int]) -> None:
        """Look at these processes and all below them, once."""
        for pid in {below for root in roots for below in [root, *children(root)]}:
            with contextlib.suppress(OSError, ValueError, IndexError):  # it ended meanwhile
                self._look(pid)

    def _look(self, pid: int) -> None:
        folder = Path(f"/proc/{pid}")
        kind = role((folder / "cmdline").read_bytes().decode(errors="replace").split("\0"))
        if not kind:
            return
        process = kind, (pid, int((folder / "stat").read_text().rpartition(")")[2].split()[19]))
        if process not in self._met:
            self._met.add(process)
            return
        self.seen.add(process)
        self.peak[kind] = max(self.peak.get(kind, 0), peak_resident((folder / "status").read_text()))
        if process not in self.torch and "libtorch" in (folder / "maps").read_text():
            self.torch.add(process)

    def facts(self) -> dict[str, Any]:
        """For the JSON line."""
        return {
            "memory_mb": {kind: round(size / 1e6, 1) for kind, size in sorted(self.peak.items())},
            "processes": dict(Counter(kind for kind, _ in self.seen)),
            "torch_imports": dict(Counter(kind for kind, _ in self.torch)),
        }


def peak_resident(status: str) -> int:
    """The largest resident size in bytes, from /proc/PID/status; 0 for a process that is ending.

    >>> peak_resident("Name: x\\nVmHWM:\\t  12 kB\\n")
    12288
    """
    found = [line.split() for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(found[0][1]) * 1024 if found else 0


def children(pid: int) -> list[int]:
    """All processes that a process began, and those began."""
    with contextlib.suppress(OSError):
        own = [int(c) for task in Path(f"/proc/{pid}/task").iterdir() for c in (task / "children").read_text().split()]
        return own + [below for child in own for below in children(child)]
    return []


def wait(condition: Callable[[], bool], processes: Sequence[Supervised]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        for process in processes:
            if process.ended() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{process.name} ended, or did not in time: {process.last_words(20)}")
        time.sleep(POLL_S)
