"""A worker process: the real ClientApp, one torch thread, messages as length-prefixed protobuf on its pipes."""

from __future__ import annotations

import os
import struct
import sys
from typing import IO

FRAME = struct.Struct("<Q")


def read_frame(stream: IO[bytes]) -> bytes | None:
    """One message's bytes, or None when the other side is gone."""
    head = stream.read(FRAME.size)
    if len(head) < FRAME.size:
        return None
    size = FRAME.unpack(head)[0]
    body = stream.read(size)
    return body if len(body) == size else None


def write_frame(stream: IO[bytes], body: bytes) -> None:
    """One message's bytes, flushed."""
    stream.write(FRAME.pack(len(body)))
    stream.write(body)
    stream.flush()


def serve() -> None:
    """Answer messages until the parent closes the pipe. The hospital's folder stands in front of each message."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not look like a message

    import torch
    from flwr.app import Context, RecordDict
    from flwr.common.serde import message_from_proto, message_to_proto
    from flwr.proto.message_pb2 import Message as ProtoMessage

    from manikin.client.app import app
    from manikin.embedded.grid import take_identity

    torch.set_num_threads(1)
    take_identity(node_id=0)
    while (folder := read_frame(sys.stdin.buffer)) is not None:
        body = read_frame(sys.stdin.buffer)
        if body is None:
            return
        message = message_from_proto(ProtoMessage.FromString(body))
        node = message.metadata.dst_node_id
        config: dict[str, bool | float | int | str] = {"hospital": folder.decode(), "embedded": True}
        context = Context(run_id=1, node_id=node, node_config=config, state=RecordDict(), run_config={})
        reply = app(message=message, context=context)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        write_frame(answers, message_to_proto(reply).SerializeToString())


if __name__ == "__main__":
    serve()
