"""How a hospital joins: it verifies a coordinator and its peers by voice, pins their keys, and introduces itself.

    gateway/               all that the gateway's user needs, and nothing of patients: node.key, node.pub, ca.pem,
                           trusted-entities.yaml, superlink.json, coordinator.dsse.json, home/, inbox/, outbox/;
                           what is put out lies in outbox/ by the coordinator that it is for
    enrolment.dsse.json    to be sent to the coordinator and to peers
    keys/former.json       public keys that the vault had before, oldest first: ledger heads were signed with them

A document shows who holds a key; only the fingerprint that its owner reads out shows whose it is, and nothing is pinned
without one, but a new key that a pinned key signed. Rotation destroys the old private key. One gateway leads to one
coordinator: the one that was enrolled with last.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from manikin.client import policy as rules
from manikin.client.cohort.hospital import Hospital, key_path
from manikin.client.egress import EgressLog
from manikin.client.policy import Pin, Policy
from manikin.common import agreements
from manikin.common.agreements import Card, Enrolment
from manikin.common.certificates import check_authority, new_node_key, reviewer_id
from manikin.common.errors import Misconfigured, PolicyRefusal, VerificationFailed
from manikin.common.files import write_atomically
from manikin.common.keys import SigningKey, matches
from manikin.common.registry import outbox

ENROLMENT = "enrolment.dsse.json"
PLACES = {"home": 0o770, "inbox": 0o770, "outbox": 0o750}  # what the gateway's group may do there


def enroll(
    folder: Path, card: bytes, said: Sequence[str], *, until: datetime.date | None = None, group: str | None = None
) -> Card:
    """Pin a coordinator, fill the gateway's folder, and write this hospital's enrolment.

    Args:
        folder: the hospital's.
        card: the coordinator's.
        said: the fingerprint that the coordinator read out.
        until: the last day on which the pin counts.
        group: the gateway's user is in it, and may read the gateway's key.

    Raises:
        VerificationFailed: the card is not signed by the key that it names, or that key is not the one read out.
        PolicyRefusal: the key is revoked in the policy.
        Misconfigured: the folder is no hospital, its name cannot be enrolled, its policy is damaged, or the last day
            is over.
        StorageFailure: the disk is full or not writable.
    """
    _refuse_past(until)
    hospital = Hospital.open(folder)
    known = agreements.introduced_by(card, Card)
    check_authority(known.ca.encode())
    _check_said(known.name, known.key, said)
    _refuse_unfit_name(hospital)
    pin = rules.pin_lines("coordinator", known.name, known.key, until)
    if not (folder / rules.FILE).exists():
        rules.write_first(folder, pin)
    else:
        own = Policy.load(folder)
        _refuse_revoked(own, known.name, known.key)
        if not _pinned(own.coordinators, known.name, known.key, until):
            rules.add(folder, pin)
    _fill_gateway(folder / "gateway", known, card, group)
    introduce(hospital)
    return known


def introduce(hospital: Hospital, *, former: SigningKey | None = None, key: SigningKey | None = None) -> Path:
    """Write this hospital's enrolment, entered in the egress log first; its file."""
    key = key or hospital.signing_key
    enrolment = Enrolment(
        name=hospital.name,
        key=key.public_key.hex(),
        node_key=(hospital.folder / "gateway" / "node.pub").read_text().strip(),
        replaces=former.public_key.hex() if former else None,
    )
    content = agreements.write(enrolment, key, *([former] if former else []))
    log = EgressLog(hospital.folder / "egress.sqlite", signer=former or key)
    log.record(kind="enrolment", plan="", step=-1, tensors=[], content=content, epsilon=None)
    write_atomically(hospital.folder / ENROLMENT, content)
    card = hospital.folder / "gateway" / "coordinator.dsse.json"
    if card.exists():
        put_out(hospital.folder / "gateway", agreements.introduced_by(card.read_bytes(), Card).key, ENROLMENT, content)
    return hospital.folder / ENROLMENT


def put_out(gateway: Path, coordinator: str, name: str, content: bytes) -> None:
    """Leave a document for the gateway to send to the coordinator of this key, and to no other."""
    place = outbox(gateway, coordinator)
    place.mkdir(parents=True, exist_ok=True)
    place.chmod(0o755)  # the outbox itself keeps others out
    write_atomically(place / name, content)


def rotate(folder: Path) -> SigningKey:
    """Give the vault a new key, and write an enrolment that the old and the new one sign; the new key.

    Run again after a crash, it goes on with the key that it had begun with.

    Raises:
        Misconfigured: this hospital never enrolled.
        StorageFailure: the disk is full or not writable.
    """
    hospital = Hospital.open(folder)
    if not (folder / ENROLMENT).exists():
        raise Misconfigured("This hospital never enrolled.", "There is nothing to renew.", "Enrol it first.")
    old, path = hospital.signing_key, folder / "keys" / "vault-next.pem"
    if not path.exists():
        SigningKey.generate().save(path)
    new = SigningKey.load(path)
    former = [*former_keys(folder), old.public_key]
    lines = json.dumps([key.hex() for key in dict.fromkeys(former)], indent=2)
    write_atomically(folder / "keys" / "former.json", lines.encode(), mode=0o600)
    introduce(hospital, former=old, key=new)
    os.replace(path, key_path(folder))
    return new


def former_keys(folder: Path) -> tuple[bytes, ...]:
    """Public keys that the vault had before, oldest first.

    Raises:
        Misconfigured: the list is damaged.
    """
    file = folder / "keys" / "former.json"
    if not file.exists():
        return ()
    try:
        return tuple(bytes.fromhex(key) for key in json.loads(file.read_bytes()))
    except (ValueError, TypeError):
        raise Misconfigured("keys/former.json is damaged.", "", "Restore it from your backup.") from None


def pin_peer(folder: Path, content: bytes, said: Sequence[str], *, until: datetime.date | None = None) -> Enrolment:
    """Pin another hospital, so that it counts for this one's quorum.

    A key that a pinned one signed as its successor needs no fingerprint, and the former one is revoked.

    Raises:
        VerificationFailed: the enrolment is not signed as it must be, or its key is not one that was read out.
        PolicyRefusal: this hospital has no policy, or the key is revoked in it.
        Misconfigured: it is this hospital's own, the policy is damaged, or the last day is over.
        StorageFailure: the disk is full or not writable.
    """
    _refuse_past(until)
    policy = Policy.load(folder)
    peer = agreements.introduced_by(content, Enrolment)
    if peer.key == policy.own.key:
        raise Misconfigured("That is this hospital's own enrolment.", "", "Give another hospital's.")
    _refuse_revoked(policy, peer.name, peer.key)
    today = datetime.datetime.now(datetime.UTC).date()
    succeeds = peer.replaces is not None and peer.replaces not in policy.revoked and any(
        pin.name == peer.name and pin.key == peer.replaces and pin.counts(today) for pin in policy.peers
    )  # fmt: skip
    if not succeeds:
        _check_said(peer.name, peer.key, said)
    lines = (
        "" if _pinned(policy.peers, peer.name, peer.key, until) else rules.pin_lines("peer", peer.name, peer.key, until)
    )
    if succeeds and peer.replaces is not None:
        lines += "\n" + rules.revoked_lines(peer.replaces)
    if lines:
        rules.add(folder, lines)
    return peer


def revoke_pin(folder: Path, who: str) -> list[Pin]:
    """From now on the keys of a coordinator or peer count for nothing; what was pinned.

    Args:
        folder: the hospital's.
        who: name or key.

    Raises:
        Misconfigured: nobody of that name or key is pinned.
        PolicyRefusal: this hospital has no policy.
        StorageFailure: the disk is full or not writable.
    """
    policy = Policy.load(folder)
    pins = [pin for pin in (*policy.coordinators, *policy.peers) if pin.key not in policy.revoked]
    found = [pin for pin in pins if who in (pin.name, pin.key)]
    if not found:
        names = ", ".join(dict.fromkeys(pin.name for pin in pins)) or "nobody"
        raise Misconfigured(f"{who} is not pinned.", f"Pinned: {names}.", "Name one of them.")
    rules.add(folder, "\n".join(rules.revoked_lines(key) for key in dict.fromkeys(pin.key for pin in found)))
    return found


def _fill_gateway(gateway: Path, card: Card, content: bytes, group: str | None) -> None:
    _refuse_links(gateway, *(gateway / name for name in (*PLACES, "node.key", "node.pub")))
    for part, mode in {gateway: 0o750, **{gateway / name: mode for name, mode in PLACES.items()}}.items():
        part.mkdir(exist_ok=True)
        part.chmod(mode)
    if not (gateway / "node.key").exists():
        pair = new_node_key()
        write_atomically(gateway / "node.pub", pair.public + b"\n")
        write_atomically(gateway / "node.key", pair.private, mode=0o640)
    files = {
        "ca.pem": card.ca.encode(),
        "trusted-entities.yaml": f'{reviewer_id(card.reviewer)}: "{card.reviewer}"\n'.encode(),
        "superlink.json": json.dumps({"address": card.address}).encode() + b"\n",
        "coordinator.dsse.json": content,
    }
    for name, text in files.items():
        write_atomically(gateway / name, text)
    if group is not None:
        try:
            for path in (gateway, gateway / "node.key", *(gateway / name for name in PLACES)):
                shutil.chown(path, group=group)
        except (LookupError, PermissionError):
            raise Misconfigured(
                f"The gateway's folder cannot be given to the group {group!r}.",
                "There is no such group, or you are not in it.",
                "Make it, or leave --group out and hand DIR/gateway over yourself.",
            ) from None


def _refuse_past(until: datetime.date | None) -> None:
    if until is not None and until < datetime.datetime.now(datetime.UTC).date():
        raise Misconfigured(f"{until} is over.", "A key pinned until then would not count.", "Give a later day.")


def _refuse_links(*paths: Path) -> None:
    for path in paths:
        if path.is_symlink():
            raise Misconfigured(
                f"{path} is a link.", "Whoever made it may want another file changed.", "Find out who, and remove it."
            )


def _check_said(name: str, key: str, said: Sequence[str]) -> None:
    if not any(matches(bytes.fromhex(key), text) for text in said):
        raise VerificationFailed(
            f"This is not the key of {name} that was read out.",
            "Its fingerprint is another one, or none was given." if said else "No fingerprint was given.",
            "Call on a number that you know, let them read it out, and give it as --fingerprint.",
        )


def _refuse_revoked(policy: Policy, name: str, key: str) -> None:
    if key in policy.revoked:
        raise PolicyRefusal(
            f"The key of {name} is revoked in {rules.FILE}.", "", "Ask for an enrolment with a new key."
        )


def _refuse_unfit_name(hospital: Hospital) -> None:
    try:
        Pin(name=hospital.name, key="0" * 64)
    except ValidationError:
        raise Misconfigured(
            f"{hospital.name!r} cannot be enrolled under this name.",
            "A name is letters, digits, spaces and . , ' ( ) & -, and begins with a letter or digit.",
            "Change name in hospital.toml.",
        ) from None


def _pinned(pins: Sequence[Pin], name: str, key: str, until: datetime.date | None) -> bool:
    return Pin(name=name, key=key, until=until) in pins
