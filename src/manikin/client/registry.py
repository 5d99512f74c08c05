"""The gateway's line to the coordinator's registry: it sends what the vault put out, and takes plans in.

    gateway/outbox/KEY/    signed answers and enrolments for the coordinator whose key begins so, written by the
                           vault's user after its egress log
    gateway/inbox/         plans that name this hospital, and the enrolments of others: to be reviewed, not trusted
    gateway/client.pem     the certificate that the coordinator issued for the gateway's key

It holds no key of the vault and sees no patient. What it takes in is checked by whoever uses it, as any file is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc  # type: ignore[import-untyped]

from manikin.common.agreements import Card, introduced_by
from manikin.common.certificates import certificate_key, node_key_pem
from manikin.common.errors import Misconfigured, PolicyRefusal, TransportFailure
from manikin.common.files import write_atomically
from manikin.common.registry import (
    GET,
    LIST,
    OPTIONS,
    PUT,
    SERVICE,
    Entry,
    decode_entries,
    encode_entry,
    outbox,
)

TIMEOUT_S = 30.0


@dataclass
class Exchanged:
    """What one `synchronise` did.

    Args:
        sent: names of files of the outbox that were accepted.
        refused: names of files that were not, and what the registry said.
        received: files of the inbox.
    """

    sent: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    received: list[Path] = field(default_factory=list)


def synchronise(gateway: Path) -> Exchanged:
    """Send what the outbox holds for this coordinator, and take in plans and enrolments. Again, it changes nothing.

    Raises:
        Misconfigured: the folder lacks a file, or the coordinator has no registry.
        TransportFailure: the registry did not answer, or is not the coordinator's.
        PolicyRefusal: this gateway is not enrolled, or no more.
    """
    done, card = Exchanged(), _card(gateway)
    with _channel(gateway) as channel:
        call = _caller(channel)
        entries = decode_entries(call(LIST, b""))
        for file in sorted(outbox(gateway, card.key).glob("*.dsse.json")):
            try:
                call(PUT, file.read_bytes())
                done.sent.append(file.name)
            except PolicyRefusal as refusal:
                done.refused[file.name] = refusal.why
        for entry in entries:
            if entry.kind != "answer":
                file = gateway / "inbox" / _file_name(entry)
                write_atomically(file, call(GET, encode_entry(entry)))
                done.received.append(file)
    return done


def _file_name(entry: Entry) -> str:
    return f"plan-{entry.plan[:16]}.dsse.json" if entry.kind == "plan" else f"enrolment-{entry.name}.dsse.json"


def _card(gateway: Path) -> Card:
    return introduced_by(_needed(gateway / "coordinator.dsse.json"), Card)


def _needed(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise Misconfigured(
            f"The gateway's folder has no {file.name}.",
            "",
            "Enrol first; put the certificate that the coordinator sends back there, as client.pem.",
        ) from None


def _channel(gateway: Path) -> grpc.Channel:
    card = _card(gateway)
    key, certificate, authority = (_needed(gateway / name) for name in ("node.key", "client.pem", "ca.pem"))
    own = _needed(gateway / "node.pub").strip()
    if not card.registry:
        raise Misconfigured("The coordinator has no registry.", "Its card names none.", "Send the files by hand.")
    if certificate_key(certificate) != own:
        raise Misconfigured("client.pem is for another gateway's key.", "", "Ask the coordinator for yours.")
    credentials = grpc.ssl_channel_credentials(authority, node_key_pem(key), certificate)
    return grpc.secure_channel(card.registry, credentials, options=OPTIONS)


def _caller(channel: grpc.Channel) -> Callable[[str, bytes], bytes]:
    def call(method: str, request: bytes) -> bytes:
        try:
            answer: bytes = channel.unary_unary(f"/{SERVICE}/{method}")(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            said = "".join(c if c.isprintable() else "?" for c in str(error.details()))
            if error.code() is grpc.StatusCode.PERMISSION_DENIED:
                raise PolicyRefusal("The registry refused.", said, "Ask the coordinator.") from None
            raise TransportFailure(
                "The registry did not answer.",
                f"{error.code().name.lower()}: {said}",
                "Check its address on the coordinator's card, the line and the clock; files work too.",
            ) from None
        return answer

    return call
