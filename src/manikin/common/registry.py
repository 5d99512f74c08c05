"""What a hospital and the coordinator's registry say to each other: documents, asked for by kind and plan.

Requests and answers are canonical JSON or a document's envelope, never above `MESSAGE_BYTES_MAX`. No transport here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from manikin.common.agreements import Digest, Name
from manikin.common.documents import ENVELOPE_BYTES_MAX, canonical_json
from manikin.common.errors import ProtocolViolation

SERVICE = "manikin.Registry"
PUT, LIST, GET = "Put", "List", "Get"
MESSAGE_BYTES_MAX = ENVELOPE_BYTES_MAX + 4096
ENTRIES_MAX = 10_000

OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.enable_http_proxy", 0),
)


def outbox(gateway: Path, coordinator: str) -> Path:
    """Where in a gateway's folder documents for the coordinator of this key, 64 hex digits, wait."""
    return gateway / "outbox" / coordinator[:16]


class Entry(BaseModel):
    """A document in the registry.

    Args:
        kind: what it is; "answer" is an approval or a refusal.
        plan: digest of the plan, or of the plan that it answers; "" for an enrolment.
        name: the hospital that it is of; "" for a plan.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kind: Literal["plan", "enrolment", "answer"]
    plan: Digest | Annotated[str, Field(max_length=0)]
    name: Name | Annotated[str, Field(max_length=0)]


_ENTRIES = TypeAdapter(Annotated[list[Entry], Field(max_length=ENTRIES_MAX)])


def encode_entry(entry: Entry) -> bytes:
    """An entry as it travels."""
    return canonical_json(entry.model_dump())


def decode_entry(content: bytes) -> Entry:
    """An entry that arrived.

    Raises:
        ProtocolViolation: it is none.
    """
    return _entries([_parse(content)])[0]


def encode_entries(entries: list[Entry]) -> bytes:
    """A list as it travels."""
    return canonical_json([entry.model_dump() for entry in entries])


def decode_entries(content: bytes) -> list[Entry]:
    """A list that arrived.

    Raises:
        ProtocolViolation: it is none.
    """
    return _entries(_parse(content))


def _parse(content: bytes) -> object:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise _refused() from None


def _entries(raw: object) -> list[Entry]:
    try:
        return _ENTRIES.validate_python(raw)
    except ValidationError:
        raise _refused() from None


def _refused() -> ProtocolViolation:
    return ProtocolViolation("A message of the registry was refused.", "It is not well-formed.", "Compare versions.")
