"""Tasks and replies as bytes: one safetensors blob each, with the head as JSON in its metadata.

A frame is what travels, whatever carries it: gateway and transports never look inside. Reading a frame checks its
size, its head and every array before anything is done with it; no pickle, no code, nothing but numbers and JSON.

>>> task = Task("ab" * 32, 1, "release", arrays={"w": np.zeros(2, np.float32)})
>>> decode_task(encode_task(task)).digest == task.digest
True

safetensors: https://github.com/huggingface/safetensors, format: header length, JSON header, bytes.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from manikin.common.errors import ProtocolViolation
from manikin.common.wire import ARRAYS_BYTES_MAX, Arrays, RefusalCode, Refused, Reply, Task, check_arrays

HEAD_BYTES_MAX = 16 << 20  # a plan of some hundred hospitals, and their ledger heads of some hundred rounds
STEPS_MAX = 1 << 31
FRAME_BYTES_MAX = ARRAYS_BYTES_MAX + HEAD_BYTES_MAX
LENGTH_BYTES = 8
_KEY = "manikin"

Shape = TypeVar("Shape", bound=BaseModel)


class _Head(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _TaskHead(_Head):
    plan: str = Field(pattern="^[0-9a-f]{64}$")
    step: int = Field(ge=0, lt=STEPS_MAX)
    action: str = Field(max_length=32)
    parameters: dict[str, Any]
    signature: str


class _ReplyHead(_Head):
    name: str = Field(default="", max_length=200)
    head: str = ""
    signature: str = ""
    offer: dict[str, str] | None = None
    refused: str | None = None


def encode_task(task: Task) -> bytes:
    """A task as a frame.

    Raises:
        ProtocolViolation: it is larger than a frame may be.
    """
    head = {
        "plan": task.plan_digest,
        "step": task.step,
        "action": task.action,
        "parameters": dict(task.parameters),
        "signature": task.signature.hex(),
    }
    return _encode(head, task.arrays)


def decode_task(frame: bytes) -> Task:
    """The task in a frame; its signature is not checked here.

    Raises:
        ProtocolViolation: malformed, oversize, or with arrays that `check_arrays` refuses.
    """
    raw, arrays = _decode(frame)
    head = _parse(_TaskHead, raw)
    return Task(head.plan, head.step, head.action, head.parameters, arrays, _signature(head.signature))


def encode_reply(reply: Reply | Refused) -> bytes:
    """A reply or a refusal as a frame."""
    if isinstance(reply, Refused):
        return _encode({"refused": reply.code}, {})
    offer = None if reply.offer is None else dict(reply.offer)
    head = {"name": reply.name, "head": reply.head, "signature": reply.signature.hex(), "offer": offer}
    return _encode(head, reply.arrays)


def decode_reply(frame: bytes) -> Reply | Refused:
    """The reply or refusal in a frame; a reply's signature is not checked here.

    Raises:
        ProtocolViolation: malformed, oversize, or with arrays that `check_arrays` refuses.
    """
    raw, arrays = _decode(frame)
    head = _parse(_ReplyHead, raw)
    if head.refused is None:
        return Reply(arrays, head.name, head.head, _signature(head.signature), head.offer)
    codes: tuple[RefusalCode, ...] = get_args(RefusalCode)
    for code in codes:
        if head.refused == code:
            return Refused(code)
    raise _malformed("It refuses for no reason that is known.")


def _encode(head: dict[str, Any], arrays: Arrays) -> bytes:
    dense = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}
    frame: bytes = save(dense, {_KEY: json.dumps(head, allow_nan=False)})
    if len(frame) > FRAME_BYTES_MAX:
        raise _malformed(f"It would be larger than {FRAME_BYTES_MAX} bytes.")
    return frame


def _decode(frame: bytes) -> tuple[Any, dict[str, NDArray[Any]]]:
    if len(frame) > FRAME_BYTES_MAX:
        raise _malformed(f"It is larger than {FRAME_BYTES_MAX} bytes.")
    size = int.from_bytes(frame[:LENGTH_BYTES], "little")
    if size > min(HEAD_BYTES_MAX, len(frame) - LENGTH_BYTES):
        raise _malformed("Its head is cut off or too large.")
    try:
        header = json.loads(frame[LENGTH_BYTES : LENGTH_BYTES + size])
        head = json.loads(header["__metadata__"][_KEY])
        arrays = load(frame)  # copies of their own: they outlive the frame
    except (KeyError, TypeError, ValueError, RecursionError, SafetensorError):
        raise _malformed("It is not a frame.") from None
    check_arrays(arrays)
    return head, arrays


def _parse(shape: type[Shape], raw: Any) -> Shape:
    try:
        return shape.model_validate(raw)
    except ValidationError as error:
        where = ", ".join(".".join(map(str, e["loc"])) for e in error.errors())
        raise _malformed(f"Its head does not fit: {where}.") from None


def _signature(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise _malformed("Its signature is not hexadecimal.") from None


def _malformed(why: str) -> ProtocolViolation:
    return ProtocolViolation("A message was refused.", why, "Ask the sender which version it runs.")
