"""The coordinator's folder: its keys, who is enrolled, which plans it proposed, and what hospitals said to them.

    coordinator.toml              schema, name, address, registry
    keys/coordinator.pem          Ed25519: signs the card, plans and tasks
    keys/reviewer                 ssh-ed25519: signs the bundle for gateways
    superexec.secret              shared by the SuperLink and its executor
    tls/                          own authority, and the server's certificate
    coordinator.dsse.json         the public card
    hospitals/NAME.dsse.json      enrolments that were accepted, and NAME.client.pem for the registry
    officers/NAME.dsse.json       cards of officers that were accepted (`officers`)
    revoked.json                  keys that count no more
    lock                          held while an enrolment, a revocation or an answer is looked up and written
    plans/DIGEST/plan.dsse.json   and approvals/NAME.dsse.json, an approval or a refusal

`coordinator.toml` is written last, so that a folder either is a coordinator's or is not one. A hospital is accepted by
the fingerprint that it read out, or by the key that was accepted before.
"""

from __future__ import annotations

import fcntl
import functools
import ipaddress
import json
import os
import re
import secrets
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from pydantic import ValidationError

from manikin.common import agreements
from manikin.common.agreements import Approval, Card, Enrolment, PlanDocument, Refusal
from manikin.common.certificates import Authority, host_of, new_reviewer_key
from manikin.common.documents import canonical_json
from manikin.common.errors import Misconfigured, PolicyRefusal, VerificationFailed
from manikin.common.files import storage_errors, write_atomically
from manikin.common.keys import SigningKey, matches
from manikin.common.processes import split_address

if TYPE_CHECKING:
    from manikin.common.officers import Officer
    from manikin.common.plan import Party, Plan
    from manikin.common.study import Study

SCHEMA = 1
SUFFIX = ".dsse.json"
_HEX = re.compile("[0-9a-f]{64}")

Arguments = ParamSpec("Arguments")
Done = TypeVar("Done")
_HOST = re.compile(r"(?:(?!-)[A-Za-z0-9-]{1,63}(?<!-)(?:\.|$))+")


@dataclass(frozen=True)
class Coordinator:
    """An initialised coordinator's folder.

    Args:
        folder: the folder.
        name: what hospitals call the coordinator.
        address: host:port that gateways connect to.
        registry: host:port of the registry; "" if there is none.
    """

    folder: Path
    name: str
    address: str
    registry: str = ""

    @classmethod
    def open(cls, folder: Path) -> Coordinator:
        """Read a coordinator's folder.

        Raises:
            Misconfigured: it is none.
        """
        file = folder / "coordinator.toml"
        try:
            raw = tomllib.loads(file.read_text(encoding="utf-8"))
            if raw.pop("schema") != SCHEMA or not all(isinstance(value, str) for value in raw.values()):
                raise ValueError("another schema")
            return cls(folder, **raw)
        except (FileNotFoundError, NotADirectoryError):
            raise Misconfigured(
                f"{folder} is not a coordinator's folder.",
                "It has no coordinator.toml.",
                "Make it with `manikin coordinator init`.",
            ) from None
        except (KeyError, TypeError, ValueError):
            raise Misconfigured(
                "coordinator.toml cannot be read.", "", f"It needs schema = {SCHEMA}, name, address and registry."
            ) from None

    @property
    def signing_key(self) -> SigningKey:
        """The key that signs plans and tasks.

        Raises:
            Misconfigured: it is missing, or readable by others.
        """
        return SigningKey.load(self.folder / "keys" / "coordinator.pem")

    @property
    def card(self) -> Path:
        return self.folder / f"coordinator{SUFFIX}"

    def plan_folder(self, digest: str) -> Path:
        """Where a plan, its approvals and its run lie.

        Raises:
            Misconfigured: that is no plan's digest.
        """
        if not _HEX.fullmatch(digest):
            raise Misconfigured(f"{digest!r} is no plan's digest.", "", "Give the 64 hex digits that `propose` prints.")
        return self.folder / "plans" / digest


def create_coordinator(folder: Path, name: str, address: str, registry: str = "") -> Coordinator:
    """Make a coordinator's folder with fresh keys, an authority, a server certificate and a card.

    Raises:
        Misconfigured: the folder is one already or holds other files, or the name or an address is not one.
        StorageFailure: the disk is full or not writable.
    """
    _refuse_taken(folder)
    for place in filter(None, (address, registry)):
        _check_address(place)
    key, reviewer, authority = SigningKey.generate(), new_reviewer_key(), Authority.create(name)
    try:
        card = Card(
            name=name,
            key=key.public_key.hex(),
            address=address,
            registry=registry,
            ca=authority.certificate.decode(),
            reviewer=reviewer.public.decode(),
        )
    except ValidationError as error:
        raise Misconfigured(
            f"This cannot be a coordinator's {error.errors()[0]['loc'][0]}.",
            "A name is up to 64 letters, digits and spaces; an address is host:port.",
            "Correct --name, --address or --registry.",
        ) from None
    server = authority.issue_server([host_of(address), *([host_of(registry)] if registry else [])])
    for part in ("keys", "tls"):
        (folder / part).mkdir(parents=True, mode=0o700)
    key.save(folder / "keys" / "coordinator.pem")
    private = {
        "keys/reviewer": reviewer.private,
        "superexec.secret": secrets.token_hex(32).encode(),
        "tls/ca.key": authority.key,
        "tls/server.key": server.private,
    }
    public = {
        "tls/ca.pem": authority.certificate,
        "tls/server.pem": server.public,
        "keys/reviewer.pub": reviewer.public,
    }
    for path, content in {**private, **public}.items():
        write_atomically(folder / path, content, mode=0o600 if path in private else 0o644)
    coordinator = Coordinator(folder, name, address, registry)
    write_atomically(coordinator.card, agreements.write(card, key))
    lines = [f"schema = {SCHEMA}", *(f"{k} = {_toml(v)}" for k, v in _settings(coordinator).items()), ""]
    write_atomically(folder / "coordinator.toml", "\n".join(lines).encode())
    return coordinator


def one_at_a_time(
    act: Callable[Concatenate[Coordinator, Arguments], Done],
) -> Callable[Concatenate[Coordinator, Arguments], Done]:
    """What one process or thread reads and then writes, no other changes in between."""

    @functools.wraps(act)
    def alone(coordinator: Coordinator, /, *args: Arguments.args, **settings: Arguments.kwargs) -> Done:
        file = coordinator.folder / "lock"
        with storage_errors(file):
            descriptor = os.open(file, os.O_RDONLY | os.O_CREAT, 0o644)  # another user of the folder locks it too
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            return act(coordinator, *args, **settings)
        finally:
            os.close(descriptor)

    return alone


@one_at_a_time
def enroll(coordinator: Coordinator, content: bytes, said: Sequence[str] = ()) -> Enrolment:
    """Accept a hospital, or its new key.

    Args:
        coordinator: where.
        content: the hospital's enrolment.
        said: fingerprints, as hospitals read them out; one must be of the enrolment's key, unless the key that was
            accepted before signed it.

    Raises:
        VerificationFailed: the enrolment is not signed as it must be, its key is revoked, or nobody read it out.
        PolicyRefusal: another hospital of that name, or with that key, is enrolled.
    """
    # (1) Whoever sent it holds the key, and the key that it replaces.
    enrolment = agreements.introduced_by(content, Enrolment)
    # (2) The key was not revoked, and belongs to nobody else.
    revoked, others = revoked_keys(coordinator), enrolled(coordinator)
    known = others.pop(enrolment.name, None)
    if enrolment.key in revoked:
        raise _not_enrolled(enrolment, "Its key was revoked here.")
    if any({e.key, e.node_key} & {enrolment.key, enrolment.node_key} for e in others.values()):
        raise PolicyRefusal(
            f"{enrolment.name} is not enrolled.", "Another hospital has its key.", "Ask both hospitals who they are."
        )
    # (3) It is the hospital: by the key that was accepted before, or by its fingerprint.
    if known is not None and known.key not in (enrolment.key, enrolment.replaces):
        raise PolicyRefusal(
            f"{enrolment.name} is enrolled with another key.",
            "A new key must be signed by the former one.",
            "Ask for an enrolment made with --rotate; if the former key is lost, revoke the hospital first.",
        )
    public = bytes.fromhex(enrolment.key)
    if known is None and not any(matches(public, text) for text in said):
        raise _not_enrolled(enrolment, "None of the fingerprints given is that of its key.")
    _keep(coordinator, enrolment, content)
    return enrolment


def _keep(coordinator: Coordinator, enrolment: Enrolment, content: bytes) -> None:
    folder = coordinator.folder / "hospitals"
    certificate = Authority.load(coordinator.folder / "tls").issue_client(enrolment.name, enrolment.node_key.encode())
    write_atomically(folder / f"{enrolment.name}.client.pem", certificate)
    write_atomically(folder / f"{enrolment.name}{SUFFIX}", content)
    if enrolment.replaces is not None:
        revoke_key(coordinator, enrolment.replaces)


def enrolled(coordinator: Coordinator) -> dict[str, Enrolment]:
    """The hospitals that are enrolled and not revoked, by name, in order.

    Raises:
        VerificationFailed: an enrolment on disk was changed.
    """
    revoked, found = revoked_keys(coordinator), {}
    for file in sorted((coordinator.folder / "hospitals").glob(f"*{SUFFIX}")):
        enrolment = agreements.introduced_by(file.read_bytes(), Enrolment)
        if enrolment.key not in revoked:
            found[enrolment.name] = enrolment
    return found


@one_at_a_time
def revoke(coordinator: Coordinator, name: str) -> str:
    """From now on a hospital's key counts for nothing; the key.

    Raises:
        Misconfigured: no such hospital is enrolled.
    """
    everybody = enrolled(coordinator)
    known = everybody.get(name)
    if known is None:
        raise Misconfigured(f"{name} is not enrolled.", f"Enrolled: {', '.join(everybody) or 'nobody'}.", "Name one.")
    revoke_key(coordinator, known.key)
    return known.key


def revoked_keys(coordinator: Coordinator) -> frozenset[str]:
    """Keys that count no more, hex.

    Raises:
        Misconfigured: revoked.json is damaged.
    """
    file = coordinator.folder / "revoked.json"
    if not file.exists():
        return frozenset()
    try:
        keys = json.loads(file.read_bytes())["keys"]
        sound = all(_HEX.fullmatch(key) for key in keys)
    except (ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise Misconfigured("revoked.json is damaged.", "", "Restore it: without it revoked keys would count.")
    return frozenset(keys)


def revoke_key(coordinator: Coordinator, key: str) -> None:
    """Write down that a key counts no more; one after another, as `one_at_a_time` says."""
    keys = sorted(revoked_keys(coordinator) | {key})
    write_atomically(coordinator.folder / "revoked.json", canonical_json({"keys": keys}) + b"\n")


def propose(
    coordinator: Coordinator, study: Study, *, officers: Sequence[Officer] = (), officers_needed: int = 0
) -> tuple[Plan, Path]:
    """The plan of a study between this coordinator and all enrolled hospitals, in the order of their names; its file.

    Args:
        coordinator: who proposes.
        study: what is asked for.
        officers: who will decide on the release (`officers.known`); nobody if none.
        officers_needed: how many of them must approve.

    Raises:
        Misconfigured: a family cannot do what a stage asks, fewer hospitals than the quorum are enrolled, or so many of
            these officers cannot decide.
        BudgetExhausted: no noise meets the target.
    """
    from manikin.common.plan import Party
    from manikin.server import planning

    key = coordinator.signing_key
    hospitals = [Party(e.name, e.key) for e in enrolled(coordinator).values()]
    plan = planning.propose(study).agreed(
        Party(coordinator.name, key.public_key.hex()), hospitals, officers=officers, officers_needed=officers_needed
    )
    file = coordinator.plan_folder(plan.digest) / f"plan{SUFFIX}"
    write_atomically(file, agreements.write(PlanDocument(plan=plan.to_dict()), key))
    return plan, file


def load_plan(coordinator: Coordinator, digest: str) -> Plan:
    """A plan that this coordinator proposed.

    Raises:
        Misconfigured: it proposed no such plan.
        VerificationFailed: the file was changed.
    """
    file = coordinator.plan_folder(digest) / f"plan{SUFFIX}"
    if not file.exists():
        raise Misconfigured(f"There is no plan {digest[:16]}.", "", "Make it with `manikin coordinator propose`.")
    plan = agreements.agreed_plan(file.read_bytes())
    own = coordinator.signing_key.public_key
    if plan.digest != digest or plan.coordinator is None or plan.coordinator.public_key != own:
        raise VerificationFailed(
            f"The plan in {digest[:16]} is another one.", "A plan is never edited.", "Propose it again."
        )
    return plan


@one_at_a_time
def collect(coordinator: Coordinator, content: bytes) -> Approval | Refusal:
    """Keep a hospital's answer to a plan. A refusal is final: an older approval sent again does not undo it.

    Raises:
        VerificationFailed: it is no answer, or not signed by the participant that it names.
        PolicyRefusal: it approves what the hospital has refused.
        Misconfigured: this coordinator proposed no such plan.
    """
    claimed = agreements.claimed(content)
    if not isinstance(claimed, (Approval, Refusal)):
        raise VerificationFailed(
            "A document was refused.", "It is neither an approval nor a refusal.", "Give what a hospital answered."
        )
    answer = _checked(load_plan(coordinator, claimed.plan), content, claimed.hospital)
    file = _answer_file(coordinator, answer.plan, answer.hospital)
    if isinstance(answer, Approval) and file.exists() and isinstance(agreements.claimed(file.read_bytes()), Refusal):
        raise PolicyRefusal(
            f"{answer.hospital} has refused this plan.", "A refusal is final.", "Propose another plan to it."
        )
    write_atomically(file, content)
    return answer


def answers(coordinator: Coordinator, plan: Plan) -> dict[str, Approval | Refusal | None]:
    """What each participant of a plan said to it, in the plan's order; None if nothing yet. Signatures are checked.

    Raises:
        VerificationFailed: an answer on disk was changed.
    """
    found: dict[str, Approval | Refusal | None] = {}
    for party in plan.participants:
        file = _answer_file(coordinator, plan.digest, party.name)
        found[party.name] = _checked(plan, file.read_bytes(), party.name) if file.exists() else None
    return found


def require_approvals(coordinator: Coordinator, plan: Plan) -> tuple[Party, ...]:
    """The participants that approved a plan and are not revoked, if they are at least its quorum.

    Raises:
        PolicyRefusal: fewer approved, or the plan's coordinator is another; names those that are missing.
        VerificationFailed: an answer on disk was changed.
    """
    revoked, said = revoked_keys(coordinator), answers(coordinator, plan)
    approved = tuple(p for p in plan.participants if isinstance(said[p.name], Approval) and p.key not in revoked)
    quorum = plan.study.federation.quorum
    if len(approved) < quorum:
        missing = ", ".join(p.name for p in plan.participants if p not in approved)
        raise PolicyRefusal(
            f"{len(approved)} hospitals approved the plan, and its quorum is {quorum}.",
            f"Missing, refused or revoked: {missing}.",
            "Send them the plan, and `manikin coordinator collect` what they answer.",
        )
    return approved


def _checked(plan: Plan, content: bytes, name: str) -> Approval | Refusal:
    """An answer to this plan by the participant of this name."""
    keys = [party.public_key for party in plan.participants if party.name == name]
    refused = isinstance(agreements.claimed(content), Refusal)
    answer = agreements.read(content, Refusal, keys) if refused else agreements.read(content, Approval, keys)
    if answer.plan != plan.digest or answer.hospital != name:
        raise VerificationFailed("An answer was refused.", "It is to another plan.", "Ask the hospital for it again.")
    return answer


def _answer_file(coordinator: Coordinator, digest: str, name: str) -> Path:
    return coordinator.plan_folder(digest) / "approvals" / f"{name}{SUFFIX}"


def _settings(coordinator: Coordinator) -> dict[str, str]:
    return {"name": coordinator.name, "address": coordinator.address, "registry": coordinator.registry}


def _toml(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _refuse_taken(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Misconfigured(
            f"{folder} is not empty.", "Keys are never overwritten.", "Give the path of a new or empty folder."
        )


def _check_address(address: str) -> None:
    """A port that exists, and a host that is an IP address or a name."""
    host, _ = split_address(address)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if ":" in host or host.replace(".", "").isdigit() or not _HOST.fullmatch(host):
            raise Misconfigured(
                f"{address!r} is no address.", f"{host!r} is no host's name or IP address.", "Correct the address."
            ) from None


def _not_enrolled(enrolment: Enrolment, why: str) -> VerificationFailed:
    return VerificationFailed(
        f"{enrolment.name} is not enrolled.",
        why,
        "Call the hospital on a number that you know, let it read its fingerprint out, and give it as --fingerprint.",
    )
