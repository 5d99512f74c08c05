"""A case of the audit benchmark: what must be reached, and a function that measures it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Measured = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Args:
        number: of the acceptance number it belongs to.
        name: what is done.
        must_reach: in words.
        measure: given whether the run is a quick one, the numbers and whether they are reached; None: not built yet.
    """

    number: int
    name: str
    must_reach: str
    measure: Callable[[bool], tuple[bool, Measured]] | None = None

    @property
    def title(self) -> str:
        """Number and name."""
        return f"{self.number}. {self.name}"


def share(hits: int, of: int) -> float:
    """A share, rounded for a table."""
    return round(hits / of, 4)
