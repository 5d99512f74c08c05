"""The officers whom a coordinator accepted: by their card, and the fingerprint that they read out.

A plan takes them from here. An officer has no successor key: one whose key is lost is revoked, and comes again with a
new card, for new plans.
"""

from __future__ import annotations

from collections.abc import Sequence

from manikin.common import agreements
from manikin.common.agreements import OfficerCard
from manikin.common.errors import Misconfigured, PolicyRefusal, VerificationFailed
from manikin.common.files import write_atomically
from manikin.common.keys import matches
from manikin.common.officers import Officer
from manikin.server.agreements import SUFFIX, Coordinator, enrolled, one_at_a_time, revoke_key, revoked_keys


@one_at_a_time
def accept(coordinator: Coordinator, content: bytes, said: Sequence[str]) -> OfficerCard:
    """Accept an officer.

    Args:
        coordinator: where.
        content: the officer's card.
        said: fingerprints, as officers read them out; one must be of the card's key, unless this very card was accepted
            before.

    Raises:
        VerificationFailed: the card is not signed by its key, the key is revoked, or nobody read it out.
        PolicyRefusal: somebody else has that name or that key.
    """
    # (1) Whoever sent it holds the key.
    card = agreements.introduced_by(content, OfficerCard)
    # (2) The key was not revoked, and neither key nor name belongs to somebody else.
    if card.key in revoked_keys(coordinator):
        raise _refused(card, "Its key was revoked here.")
    others = known(coordinator)
    same = others.pop(card.name, None)
    hospitals = enrolled(coordinator)
    taken = {o.key for o in others.values()} | {e.key for e in hospitals.values()}
    taken.add(coordinator.signing_key.public_key.hex())
    if card.key in taken or card.name in hospitals or (same is not None and same != _officer(card)):
        raise PolicyRefusal(
            f"{card.name} is not accepted as an officer.",
            "Somebody else has that name or that key here.",
            "Choose another name; if a key was lost, revoke the officer first, with --revoke NAME.",
        )
    # (3) It is the officer: by the fingerprint.
    if same is None and not any(matches(bytes.fromhex(card.key), text) for text in said):
        raise _refused(card, "None of the fingerprints given is that of its key.")
    write_atomically(coordinator.folder / "officers" / f"{card.name}{SUFFIX}", content)
    return card


def known(coordinator: Coordinator) -> dict[str, Officer]:
    """The officers who are accepted and not revoked, by name, in order.

    Raises:
        VerificationFailed: a card on disk was changed.
    """
    revoked, found = revoked_keys(coordinator), {}
    for file in sorted((coordinator.folder / "officers").glob(f"*{SUFFIX}")):
        card = agreements.introduced_by(file.read_bytes(), OfficerCard)
        if card.key not in revoked:
            found[card.name] = _officer(card)
    return found


@one_at_a_time
def revoke(coordinator: Coordinator, name: str) -> str:
    """From now on an officer's key counts for nothing here, also in plans that name it; the key.

    Raises:
        Misconfigured: there is no such officer.
    """
    everybody = known(coordinator)
    if name not in everybody:
        raise Misconfigured(
            f"{name} is no officer here.", f"Officers: {', '.join(everybody) or 'nobody'}.", "Name one."
        )
    revoke_key(coordinator, everybody[name].key)
    return everybody[name].key


def _officer(card: OfficerCard) -> Officer:
    return Officer(card.name, card.key, card.institution)


def _refused(card: OfficerCard, why: str) -> VerificationFailed:
    return VerificationFailed(
        f"{card.name} is not accepted as an officer.",
        why,
        "Call the officer on a number that you know, have the fingerprint read out, and give it as --fingerprint.",
    )
