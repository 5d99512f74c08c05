"""A frame as small pieces, for a carrier that copies whole arrays.

Flower makes up to three copies of an array while it takes it in. Of small arrays these are small, so that the frame
itself is held once more, and not three times. Nothing here looks into a frame.

>>> join(cut(b"frame"))
b'frame'
"""

from __future__ import annotations

from collections.abc import Mapping

PIECE_BYTES = 4 << 20


def cut(frame: bytes) -> dict[str, bytes]:
    """Pieces of at most 4 MiB; their names sort in the frame's order."""
    return {f"{i:06d}": frame[i * PIECE_BYTES : (i + 1) * PIECE_BYTES] for i in range(-(-len(frame) // PIECE_BYTES))}


def join(pieces: Mapping[str, bytes]) -> bytes:
    """What was cut; a frame checks itself when it is decoded, whatever became of the pieces."""
    return b"".join(pieces[name] for name in sorted(pieces))
