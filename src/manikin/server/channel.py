"""How the coordinator reaches hospitals: one call, whatever carries it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from manikin.common.wire import Reply, Task


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
