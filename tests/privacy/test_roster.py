"""Offers are a hospital's own, for one step; a roster has each once, and enough that this party verified."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from manikin.common.errors import ProtocolViolation
from manikin.common.keys import SigningKey
from manikin.common.wire import request_digest
from manikin.privacy.roster import Offer, Roster, check_offer, make_offer, public_of, sign_offer

PLAN, OTHER_PLAN, STEP = "ab" * 32, "cd" * 32, 7
NAMES = ("north", "south", "west")
KEYS = {name: SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([i]) * 32)) for i, name in enumerate(NAMES)}
IDENTITIES = {name: key.public_key for name, key in KEYS.items()}
PRIVATE = {name: bytes([64 + i]) * 32 for i, name in enumerate(NAMES)}
PRIME = 2**255 - 19


def offer_of(name, *, plan=PLAN, step=STEP, key=None, private=None):
    return sign_offer(key or KEYS[name], private or PRIVATE[name], hospital=name, plan=plan, step=step)


OFFERS = [offer_of(name) for name in NAMES]


def agree(offers, **changes):
    known = {"identities": IDENTITIES, "counted": NAMES, "quorum": 3, "plan": PLAN, "step": STEP}
    return Roster.agreed(offers, **(known | changes))


def test_an_offer_is_fresh_signed_and_comes_back_from_json():
    (one, first), (two, second) = (make_offer(KEYS["north"], hospital="north", plan=PLAN, step=STEP) for _ in range(2))
    assert one != two
    assert first.public == public_of(one) != second.public
    check_offer(first, IDENTITIES["north"], plan=PLAN, step=STEP)
    assert Offer.from_json(first.as_json()) == first
    assert sign_offer(KEYS["north"], one, hospital="north", plan=PLAN, step=STEP) == first


@pytest.mark.parametrize(
    "offer",
    [
        offer_of("north", plan=OTHER_PLAN),
        offer_of("north", step=STEP + 1),
        offer_of("north", key=KEYS["south"]),
        Offer("north", OFFERS[1].public, OFFERS[0].signature),
        Offer("north", OFFERS[1].public, OFFERS[1].signature),
        Offer("north", OFFERS[0].public, offer_of("northern", key=KEYS["north"], private=PRIVATE["north"]).signature),
        Offer("north", OFFERS[0].public, bytes(64)),
        Offer("north", OFFERS[0].public, b""),
    ],
    ids=[
        "another plan",
        "another step",
        "another signer",
        "changed key",
        "renamed",
        "another name of one key",
        "no signature",
        "empty signature",
    ],
)
def test_a_forged_replayed_or_swapped_offer_is_refused(offer):
    with pytest.raises(ProtocolViolation, match="not signed by 'north'"):
        check_offer(offer, IDENTITIES["north"], plan=PLAN, step=STEP)
    with pytest.raises(ProtocolViolation, match="not signed by 'north'"):
        agree([offer, OFFERS[2]], quorum=2)


def test_an_offers_signature_is_not_one_of_anything_else():
    """What is signed begins with a domain of its own: a signature of the bare digest does not count."""
    said = {"plan": PLAN, "step": STEP, "hospital": "north", "public": OFFERS[0].public.hex()}
    for prefix in (b"", b"manikin task v1\n", b"manikin reply v1\n"):
        signature = KEYS["north"].sign(prefix + request_digest(said))
        with pytest.raises(ProtocolViolation, match="not signed"):
            check_offer(Offer("north", OFFERS[0].public, signature), IDENTITIES["north"], plan=PLAN, step=STEP)


@settings(deadline=None)
@given(st.integers(0, 95), st.integers(0, 7))
def test_no_bit_of_key_or_signature_can_be_turned(place, bit):
    raw = bytearray(OFFERS[0].public + OFFERS[0].signature)
    raw[place] ^= 1 << bit
    with pytest.raises(ProtocolViolation):
        check_offer(Offer("north", bytes(raw[:32]), bytes(raw[32:])), IDENTITIES["north"], plan=PLAN, step=STEP)


LOW = [
    bytes(32),
    (1).to_bytes(32, "little"),
    (PRIME - 1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
]


@pytest.mark.parametrize("public", LOW, ids=["0", "1", "-1", "order 8", "order 8, the other"])
def test_points_of_low_order_are_refused(public):
    """All five encodings of points whose shared secret is zero with everybody (RFC 7748, section 6.1)."""
    with pytest.raises(ProtocolViolation, match="low order"):
        Offer("north", public, bytes(64))


@pytest.mark.parametrize(
    "public",
    [
        OFFERS[0].public[:31],
        OFFERS[0].public + b"\0",
        (PRIME + 9).to_bytes(32, "little"),
        (int.from_bytes(OFFERS[0].public, "little") | 1 << 255).to_bytes(32, "little"),
    ],
    ids=["short", "long", "not reduced", "top bit"],
)
def test_a_point_has_one_encoding(public):
    with pytest.raises(ProtocolViolation, match="canonical"):
        Offer("north", public, bytes(64))


def test_a_name_is_there_and_not_endless():
    for name in ("", "n" * 201):
        with pytest.raises(ProtocolViolation, match="name"):
            Offer(name, OFFERS[0].public, bytes(64))
    assert Offer("n" * 200, OFFERS[0].public, bytes(64)).hospital == "n" * 200


GOOD = OFFERS[0].as_json()


@pytest.mark.parametrize(
    "value",
    [
        None,
        [GOOD],
        {},
        {k: v for k, v in GOOD.items() if k != "signature"},
        GOOD | {"extra": 1},
        GOOD | {"hospital": 3},
        GOOD | {"hospital": ""},
        GOOD | {"hospital": "\ud800"},
        GOOD | {"public": GOOD["public"].upper()},
        GOOD | {"public": GOOD["public"] + "\n"},
        GOOD | {"public": " " + GOOD["public"][1:]},
        GOOD | {"public": bytes(32)},
        GOOD | {"public": "00" * 32},
        GOOD | {"signature": GOOD["signature"][2:]},
    ],
    ids=lambda value: "",
)
def test_parsing_is_closed(value):
    with pytest.raises(ProtocolViolation):
        Offer.from_json(value)


def test_a_roster_is_the_same_in_every_order_and_another_with_any_other_content():
    rosters = [agree(OFFERS), agree(OFFERS[::-1])]
    assert rosters[0] == rosters[1]
    assert rosters[0].names == NAMES
    others = [
        agree(OFFERS[:2], quorum=2),
        agree([offer_of(name, step=STEP + 1) for name in NAMES], step=STEP + 1),
        agree([offer_of(name, plan=OTHER_PLAN) for name in NAMES], plan=OTHER_PLAN),
        agree([*OFFERS[:2], offer_of("west", private=b"p" * 32)]),
    ]
    unchecked = [Roster(OTHER_PLAN, STEP, tuple(OFFERS)), Roster(PLAN, STEP + 1, tuple(OFFERS))]
    assert len({roster.digest for roster in (*rosters, *others, *unchecked)}) == 7


@pytest.mark.parametrize("offers", [[], OFFERS[:1]], ids=["none", "one"])
def test_a_sum_of_one_is_refused(offers):
    with pytest.raises(ProtocolViolation, match="needs 2 hospitals"):
        agree(offers, quorum=0)


def test_names_and_keys_come_once():
    with pytest.raises(ProtocolViolation, match="twice"):
        agree([*OFFERS, offer_of("north", private=b"p" * 32)])
    with pytest.raises(ProtocolViolation, match="same key"):
        agree([*OFFERS[:2], offer_of("west", private=PRIVATE["north"])])


def test_only_participants_belong_and_only_verified_ones_count():
    with pytest.raises(ProtocolViolation, match="'west' does not take part"):
        agree(OFFERS, identities={name: IDENTITIES[name] for name in NAMES[:2]}, quorum=2)
    with pytest.raises(ProtocolViolation, match="has 2 hospitals whose keys were verified; the quorum is 3"):
        agree(OFFERS, counted=["north", "south", "elsewhere"])
    assert agree(OFFERS, counted=["north", "south"], quorum=2).names == NAMES
    with pytest.raises(ProtocolViolation, match="quorum is 3"):
        agree(OFFERS[:2])


def test_a_hospital_answers_only_where_its_own_offer_stands():
    roster = agree(OFFERS)
    assert [offer.hospital for offer in roster.peers("south", PRIVATE["south"])] == ["north", "west"]
    with pytest.raises(ProtocolViolation, match="does not name 'south'"):
        agree([OFFERS[0], OFFERS[2]], quorum=2).peers("south", PRIVATE["south"])
    with pytest.raises(ProtocolViolation, match="not the one that it offered"):
        roster.peers("south", PRIVATE["north"])
