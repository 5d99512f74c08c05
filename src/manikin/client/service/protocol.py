"""What gateway and vault say to each other on the socket: one frame each way, in bounded chunks.

A stream is first the frame's size (8 bytes, big-endian), then its bytes in chunks of at most `CHUNK_BYTES`. The reader
checks the size that is declared before it reads on, and what has arrived at every chunk, so that it never holds more
than the bound and one chunk.

>>> [len(message) for message in chunks(bytes(CHUNK_BYTES + 1))]
[8, 1048576, 1]
>>> collect(chunks(b"a frame"))
b'a frame'
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator

from manikin.common.errors import Misconfigured, ProtocolViolation

SERVICE = "manikin.Vault"
EXCHANGE, COUNTERS, READY = "Exchange", "Counters", "Ready"

CHUNK_BYTES = 1 << 20
FRAME_BYTES_MAX = (1 << 30) + (16 << 20)  # as in manikin.common.frames, which a gateway cannot import without numpy
SIZE_BYTES = 8
SOCKET_PATH_BYTES_MAX = 107  # sockaddr_un holds 108 with the closing zero

OPTIONS = (
    ("grpc.max_receive_message_length", CHUNK_BYTES),
    ("grpc.max_send_message_length", CHUNK_BYTES),
    ("grpc.enable_http_proxy", 0),
)


def chunks(frame: bytes) -> Iterator[bytes]:
    """The messages that carry one frame."""
    yield len(frame).to_bytes(SIZE_BYTES, "big")
    for start in range(0, len(frame), CHUNK_BYTES):
        yield frame[start : start + CHUNK_BYTES]


def collect(messages: Iterable[bytes], *, frame_bytes_max: int = FRAME_BYTES_MAX) -> bytes:
    """The frame that the messages carry; stops reading at the first one that is wrong.

    Raises:
        ProtocolViolation: it is larger than the bound or than was declared, empty, or cut off.
    """
    remaining = iter(messages)
    size = _declared(next(remaining, b""), frame_bytes_max)
    frame, arrived = io.BytesIO(), 0
    for chunk in remaining:
        arrived += len(chunk)
        if arrived > size or not 0 < len(chunk) <= CHUNK_BYTES:
            raise _violation("It brought more than it declared, or a chunk of a size that is not allowed.")
        frame.write(chunk)
    if arrived != size:
        raise _violation(f"It is cut off: {arrived} of {size} bytes arrived.")
    return frame.getvalue()


def _declared(first: bytes, frame_bytes_max: int) -> int:
    if len(first) != SIZE_BYTES:
        raise _violation("It does not begin with its size.")
    size = int.from_bytes(first, "big")
    if not 0 < size <= frame_bytes_max:
        raise _violation(f"It declares {size} bytes, and 1 to {frame_bytes_max} are allowed.")
    return size


def check_address(path: str) -> None:
    """Refuse a path that no Unix socket can have.

    Raises:
        Misconfigured: it is too long for the system.
    """
    length = len(path.encode())
    if length > SOCKET_PATH_BYTES_MAX:
        raise Misconfigured(
            f"The socket's path is {length} bytes long.",
            f"The system allows {SOCKET_PATH_BYTES_MAX}.",
            "Give a shorter one with --socket, for instance below /run.",
        )


def _violation(why: str) -> ProtocolViolation:
    return ProtocolViolation(
        "A message on the vault's socket was refused.", why, "Check that both sides run one version."
    )
