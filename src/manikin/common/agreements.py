"""The documents that parties agree by: a hospital's enrolment, a coordinator's and an officer's card, plan, approval,
refusal.

Each is a closed value, signed as `documents` says, with a predicate type of its own, so that none can be taken for
another. They are files: how they travel does not matter. `read` gives a document back only if one of the keys asked
for signed exactly these bytes. An enrolment and the cards carry the key that signed them (`introduced_by`): that shows
who holds the key, and only a fingerprint read out over another line shows whose it is.

Not promised: that a document is recent. What an old one could do is bounded elsewhere: a revoked key stays revoked, a
plan is named by its digest, and a hospital's refusal outweighs its approval.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from manikin.common.documents import PREDICATE_PREFIX, OpenedStatement, Statement, open_envelope, sign
from manikin.common.errors import ManikinError, VerificationFailed
from manikin.common.keys import Role, SigningKey, TrustedKey

if TYPE_CHECKING:
    from manikin.common.plan import Plan

REASON_CHARACTERS_MAX = 2000
PEM_CHARACTERS_MAX = 8000


def printable(text: str) -> str:
    """The text, if it can be shown on one line.

    Raises:
        ValueError: it cannot.
    """
    if not text.isprintable():
        raise ValueError("must be one printable line")
    return text


Name = Annotated[str, Field(pattern=r"^\w[\w .,'()&-]{0,63}$")]  # also a file's name: no slash, no leading dot
Key = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]  # a raw Ed25519 public key
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
NodeKey = Annotated[str, Field(pattern=r"^ecdsa-sha2-nistp384 [A-Za-z0-9+/=]{100,400}$")]
ReviewerKey = Annotated[str, Field(pattern=r"^ssh-ed25519 [A-Za-z0-9+/=]{60,100}$")]
Address = Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:]{2,39}\]|[A-Za-z0-9.-]{1,253}):[0-9]{1,5}$")]


class Document(BaseModel):
    """Base of all: frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    PREDICATE: ClassVar[str]
    ROLE: ClassVar[Role]


class Enrolment(Document):
    """A hospital introduces itself; signed by its vault's key, and by the key that it replaces, if it replaces one.

    Args:
        name: the hospital.
        key: the vault's public key: approvals, replies and ledger heads are signed with it.
        node_key: the gateway's public key in OpenSSH form: opens a line, and vouches for nothing.
        replaces: the vault's former key, which counts no more.
    """

    PREDICATE: ClassVar[str] = PREDICATE_PREFIX + "enrolment:v1"
    ROLE: ClassVar[Role] = "hospital"

    name: Name
    key: Key
    node_key: NodeKey
    replaces: Key | None


class Card(Document):
    """A coordinator introduces itself; signed by its key.

    Args:
        name: the coordinator, as people call it.
        key: plans and tasks are signed with it.
        address: host:port that gateways connect to.
        registry: host:port of the registry of documents; "" if documents travel as files only.
        ca: certificate of the coordinator's own authority, PEM: gateways trust no other.
        reviewer: ssh-ed25519 public key that signs the bundle for gateways.
    """

    PREDICATE: ClassVar[str] = PREDICATE_PREFIX + "card:v1"
    ROLE: ClassVar[Role] = "coordinator"

    name: Name
    key: Key
    address: Address
    registry: Address | Annotated[str, Field(max_length=0)]
    ca: Annotated[str, Field(min_length=1, max_length=PEM_CHARACTERS_MAX)]
    reviewer: ReviewerKey


class OfficerCard(Document):
    """An officer introduces themselves; signed by their key.

    Args:
        name: the officer, as people call them.
        institution: for whom the officer speaks.
        key: decisions are signed with it.
    """

    PREDICATE: ClassVar[str] = PREDICATE_PREFIX + "officer:v1"
    ROLE: ClassVar[Role] = "officer"

    name: Name
    institution: Name
    key: Key


class PlanDocument(Document):
    """A plan, as its coordinator proposes it; `agreed_plan` reads it."""

    PREDICATE: ClassVar[str] = PREDICATE_PREFIX + "plan:v1"
    ROLE: ClassVar[Role] = "coordinator"

    plan: dict[str, Any]


class Approval(Document):
    """A hospital agrees to exactly one plan."""

    PREDICATE: ClassVar[str] = PREDICATE_PREFIX + "approval:v1"
    ROLE: ClassVar[Role] = "hospital"

    plan: Digest
    hospital: Name


class Refusal(Document):
    """A hospital does not take part in a plan. `reason` is its engineer's own words, written to be read by others."""

    PREDICATE: ClassVar[str] = PREDICATE_PREFIX + "refusal:v1"
    ROLE: ClassVar[Role] = "hospital"

    plan: Digest
    hospital: Name
    reason: Annotated[str, Field(min_length=1, max_length=REASON_CHARACTERS_MAX), AfterValidator(printable)]


_NAME: TypeAdapter[str] = TypeAdapter(Name)
KINDS: tuple[type[Document], ...] = (Enrolment, Card, OfficerCard, PlanDocument, Approval, Refusal)
Kind = TypeVar("Kind", bound=Document)
Introduction = TypeVar("Introduction", Enrolment, Card, OfficerCard)


def write(document: Document, *signers: SigningKey) -> bytes:
    """The signed envelope of a document; the same document and keys give the same bytes."""
    return sign(Statement(document.PREDICATE, (), document.model_dump(mode="json")), *signers)


def read(content: bytes, kind: type[Kind], keys: Iterable[bytes]) -> Kind:
    """The document, if one of these keys signed it.

    Args:
        content: the envelope.
        kind: the only kind accepted.
        keys: raw Ed25519 public keys, any of which suffices.

    Raises:
        VerificationFailed: malformed, of another kind, or signed by none of the keys.
    """
    trusted = [TrustedKey(key.hex()[:16], kind.ROLE, key) for key in keys]
    return _parse(open_envelope(content, trusted, predicate_type=kind.PREDICATE, role=kind.ROLE), kind)


def introduced_by(content: bytes, kind: type[Introduction]) -> Introduction:
    """An enrolment or card, if the key that it names signed it, and the key that it replaces did too.

    Whoever holds a key can write one: compare the key's fingerprint with what its owner reads out.

    Raises:
        VerificationFailed: malformed, of another kind, or not signed so.
    """
    document = _parse(open_envelope(content, None, predicate_type=kind.PREDICATE), kind)
    read(content, kind, [bytes.fromhex(document.key)])
    replaced: str | None = getattr(document, "replaces", None)
    if replaced is not None:
        read(content, kind, [bytes.fromhex(replaced)])
    return document


def agreed_plan(content: bytes) -> Plan:
    """The plan of a plan document, signed by the coordinator that it names.

    Whether that coordinator may propose anything is for the reader's policy to say.

    Raises:
        VerificationFailed: malformed, not a plan of this version, or not signed by the plan's coordinator.
    """
    from manikin.common.plan import Plan

    raw = _parse(open_envelope(content, None, predicate_type=PlanDocument.PREDICATE), PlanDocument).plan
    try:
        noise = [float(n) if isinstance(n, int) else n for n in raw.get("noise_multipliers", ())]  # 5.0 travels as 5
        plan = Plan.from_dict({**raw, "noise_multipliers": noise})
        for party in (*plan.participants, *filter(None, [plan.coordinator])):
            _NAME.validate_python(party.name)
        for officer in plan.officers:
            _NAME.validate_python(officer.name)
            _NAME.validate_python(officer.institution)
    except (ManikinError, ValueError, TypeError) as error:
        raise _refused(f"It holds no plan that this version understands: {error}") from None
    if plan.coordinator is None:
        raise _refused("Its plan names no coordinator.")
    document = read(content, PlanDocument, [plan.coordinator.public_key])
    if Statement(PlanDocument.PREDICATE, (), document.model_dump(mode="json")).canonical != _statement(plan).canonical:
        raise _refused("Its plan says more or less than this version understands.")
    return plan


def claimed(content: bytes) -> Document:
    """What this claims to be and to say, of whatever kind; no signature is checked.

    Raises:
        VerificationFailed: of none of `KINDS`, or malformed.
    """
    for kind in KINDS:
        try:
            statement = open_envelope(content, None, predicate_type=kind.PREDICATE)
        except VerificationFailed:
            continue
        return _parse(statement, kind)
    raise _refused("It is no document of a kind that this version knows.")


def _statement(plan: Plan) -> Statement:
    return Statement(PlanDocument.PREDICATE, (), {"plan": plan.to_dict()})


def _parse(statement: OpenedStatement, kind: type[Kind]) -> Kind:
    if statement.subjects:
        raise _refused("It speaks of files.")
    try:
        return kind.model_validate(dict(statement.predicate))
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, e["loc"])) for e in error.errors())
        raise _refused(f"These parts of it are missing, unknown or out of range: {fields}.") from None


def _refused(why: str) -> VerificationFailed:
    why = "".join(c if c.isprintable() else "?" for c in why)  # it may repeat what a stranger wrote
    return VerificationFailed("A signed document was refused.", why, "Do not use it; ask its sender for it again.")
