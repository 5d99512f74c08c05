"""How a frame reaches the vault: one call, whatever carries it."""

from __future__ import annotations

from typing import Protocol


class Port(Protocol):
    """The vault, or a way to it."""

    def exchange(self, frame: bytes) -> bytes:
        """The reply's frame for a task's frame.

        Raises:
            TransportFailure: the vault cannot be reached now; the same frame may be given again.
        """
        ...
