"""Who takes part in one secure sum: fresh X25519 keys (RFC 7748), each signed by a hospital's identity.

An offer holds for one step of one plan, and a roster is the list of offers that one sum uses. Offers travel through the
coordinator, who is not trusted: each is signed by the hospital's Ed25519 identity, which peers have in their policies.

Promised: a `Roster` from `Roster.agreed` holds only offers that participants of the plan signed for this very step, no
hospital and no key twice, and as many trusted hospitals as the quorum asks. Not promised: that a hospital behind a key
is honest; and nothing here remembers anything. Whoever stores a private key deletes it once its step is answered.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from manikin.common.errors import ProtocolViolation
from manikin.common.keys import SigningKey, holds
from manikin.common.wire import request_digest

KEY_BYTES = 32
SIGNATURE_BYTES = 64
NAME_LENGTH_MAX = 200
HOSPITALS_MIN = 2  # a sum of one hides nothing
_FIELD_PRIME = 2**255 - 19  # a canonical key is below it: one point, one encoding
_OFFER = b"manikin secure sum offer v1\n"  # what is signed can be taken for nothing else
_PROBE = X25519PrivateKey.from_private_bytes(bytes(KEY_BYTES))  # finds points of low order; protects nothing


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    hospital: str = Field(min_length=1, max_length=NAME_LENGTH_MAX)
    public: Annotated[str, Field(pattern=f"^[0-9a-f]{{{2 * KEY_BYTES}}}$")]
    signature: Annotated[str, Field(pattern=f"^[0-9a-f]{{{2 * SIGNATURE_BYTES}}}$")]


@dataclass(frozen=True)
class Offer:
    """One hospital's fresh key for one step.

    Args:
        hospital: its name in the plan.
        public: X25519, 32 raw bytes, canonical and not of low order.
        signature: by the hospital's identity; Ed25519, over plan, step, hospital and key.

    Raises:
        ProtocolViolation: not such a key, or no name. The signature is checked by `check_offer`.
    """

    hospital: str
    public: bytes
    signature: bytes

    def __post_init__(self) -> None:
        if not 0 < len(self.hospital) <= NAME_LENGTH_MAX:
            raise _refused("A hospital's name is empty or too long.")
        if len(self.public) != KEY_BYTES or int.from_bytes(self.public, "little") >= _FIELD_PRIME:
            raise _refused("A key is not a canonical X25519 key.")
        try:
            _PROBE.exchange(X25519PublicKey.from_public_bytes(self.public))
        except ValueError:  # the shared secret is zero for everybody (RFC 7748, section 6.1)
            raise _refused("A key is a point of low order, whose masks anyone could compute.") from None

    def as_json(self) -> dict[str, str]:
        """For a task's or a reply's parameters; `from_json` reads it."""
        return {"hospital": self.hospital, "public": self.public.hex(), "signature": self.signature.hex()}

    @classmethod
    def from_json(cls, value: object) -> Offer:
        """Read what `as_json` made.

        Raises:
            ProtocolViolation: a field is missing, unknown, of another type or length, or the key is refused.
        """
        try:
            entry = _Entry.model_validate(value)
        except ValidationError:
            raise _refused("It is not three fields of the right types and lengths.") from None
        return cls(entry.hospital, bytes.fromhex(entry.public), bytes.fromhex(entry.signature))


def make_offer(signing_key: SigningKey, *, hospital: str, plan: str, step: int) -> tuple[bytes, Offer]:
    """A fresh key pair for one step: the private key, 32 raw bytes to be kept and destroyed, and the signed offer."""
    private = X25519PrivateKey.generate().private_bytes_raw()
    return private, sign_offer(signing_key, private, hospital=hospital, plan=plan, step=step)


def sign_offer(signing_key: SigningKey, private: bytes, *, hospital: str, plan: str, step: int) -> Offer:
    """The offer of a private key that is there already; the same bytes every time."""
    public = public_of(private)
    return Offer(hospital, public, signing_key.sign(_signed(hospital, public, plan=plan, step=step)))


def check_offer(offer: Offer, identity: bytes, *, plan: str, step: int) -> None:
    """Whether the hospital of this identity offered this key for this step of this plan.

    Args:
        offer: what came.
        identity: the hospital's Ed25519 public key, from the plan or the policy and not from the message.
        plan: digest of the plan, hex.
        step: position in the plan.

    Raises:
        ProtocolViolation: the signature does not hold.
    """
    if not holds(identity, offer.signature, _signed(offer.hospital, offer.public, plan=plan, step=step)):
        raise _refused(f"It is not signed by {offer.hospital!r} for this step of this plan.")


@dataclass(frozen=True)
class Roster:
    """The offers of one sum, sorted by name. Make it with `agreed`; made directly, no signature was checked.

    Raises:
        ProtocolViolation: fewer than two hospitals, or a hospital or key twice.
    """

    plan: str
    step: int
    offers: tuple[Offer, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "offers", tuple(sorted(self.offers, key=lambda offer: offer.hospital)))
        if len(self.offers) < HOSPITALS_MIN:
            raise _refused(f"A sum needs {HOSPITALS_MIN} hospitals or more, not {len(self.offers)}.")
        if len(set(self.names)) < len(self.offers):
            raise _refused("The roster names a hospital twice.")
        if len({offer.public for offer in self.offers}) < len(self.offers):
            raise _refused("Two hospitals of the roster offer the same key.")

    @classmethod
    def agreed(
        cls,
        offers: Iterable[Offer],
        *,
        identities: Mapping[str, bytes],
        counted: Collection[str],
        quorum: int,
        plan: str,
        step: int,
    ) -> Roster:
        """A roster that a hospital may mask for: every offer signed for this step, enough of them trusted.

        Args:
            offers: in any order.
            identities: Ed25519 public key of each participant of the plan, by name.
            counted: the participants whose keys this party has verified, itself among them; only they count.
            quorum: least number of counted hospitals, from the plan.
            plan: digest of the plan, hex.
            step: position in the plan.

        Raises:
            ProtocolViolation: a hospital that is no participant, a signature that does not hold, a hospital or key
                twice, or fewer counted hospitals than the quorum.
        """
        roster = cls(plan, step, tuple(offers))
        for offer in roster.offers:
            if offer.hospital not in identities:
                raise _refused(f"{offer.hospital!r} does not take part in the plan.")
            check_offer(offer, identities[offer.hospital], plan=plan, step=step)
        trusted = len(set(roster.names) & set(counted))
        if trusted < quorum:
            raise _refused(f"The roster has {trusted} hospitals whose keys were verified; the quorum is {quorum}.")
        return roster

    @property
    def names(self) -> tuple[str, ...]:
        """The hospitals, sorted."""
        return tuple(offer.hospital for offer in self.offers)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over plan, step and every offer; the same for every order in which they came."""
        offers = [offer.as_json() for offer in self.offers]
        return request_digest({"plan": self.plan, "step": self.step, "offers": offers})

    def peers(self, own: str, private: bytes) -> tuple[Offer, ...]:
        """The offers of the others, once it is clear that this private key belongs to the own one.

        Raises:
            ProtocolViolation: the own offer is missing or another than the hospital made.
        """
        if own not in self.names:
            raise _refused(f"The roster does not name {own!r}, which was asked to answer.")
        if self.offers[self.names.index(own)].public != public_of(private):
            raise _refused(f"The key under the name {own!r} is not the one that it offered.")
        return tuple(offer for offer in self.offers if offer.hospital != own)


def public_of(private: bytes) -> bytes:
    """32 raw bytes: the public half of an X25519 private key."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def _signed(hospital: str, public: bytes, *, plan: str, step: int) -> bytes:
    return _OFFER + request_digest({"plan": plan, "step": step, "hospital": hospital, "public": public.hex()})


def _refused(why: str) -> ProtocolViolation:
    return ProtocolViolation("A secure sum was refused.", why, "Ask the coordinator whom it asked, and for which step.")
