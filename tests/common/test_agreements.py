"""Documents open for the keys asked for, and for nothing but what they are."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manikin.common.agreements import (
    Approval,
    Card,
    Enrolment,
    OfficerCard,
    PlanDocument,
    Refusal,
    agreed_plan,
    claimed,
    introduced_by,
    read,
    write,
)
from manikin.common.certificates import new_node_key, new_reviewer_key
from manikin.common.documents import PREDICATE_PREFIX, Statement, Subject, sign
from manikin.common.errors import VerificationFailed
from manikin.common.keys import SigningKey
from manikin.common.plan import Party, Plan
from manikin.common.study import parse_study

OLD, KEY, OTHER = (SigningKey.generate() for _ in range(3))
NODE, REVIEWER = new_node_key().public.decode(), new_reviewer_key().public.decode()
APPROVAL = Approval(plan="a" * 64, hospital="North")


def enrolment(**changes):
    values = {"name": "North", "key": KEY.public_key.hex(), "node_key": NODE, "replaces": None}
    return Enrolment(**(values | changes))


def officer(**changes):
    return OfficerCard(**({"name": "Ada", "institution": "North Clinic", "key": KEY.public_key.hex()} | changes))


def card(**changes):
    values = {"name": "Study", "key": KEY.public_key.hex(), "address": "[::1]:8443", "registry": "", "ca": "PEM"}
    return Card(**(values | {"reviewer": REVIEWER} | changes))


@pytest.fixture
def plan(study_dict):
    parties = [Party(name, key.public_key.hex()) for name, key in (("North", OLD), ("South", OTHER))]
    draft = Plan(parse_study(study_dict), (None, 5.0, 2.5))
    return draft.agreed(Party("Study", KEY.public_key.hex()), parties)


def plan_document(plan, *signers):
    return write(PlanDocument(plan=plan.to_dict()), *signers)


@pytest.mark.parametrize(
    "document", [enrolment(), card(), officer(), APPROVAL, Refusal(plan="b" * 64, hospital="Süd", reason="not now")]
)
def test_a_document_comes_back_for_a_key_that_signed_it(document):
    content = write(document, KEY)
    assert read(content, type(document), [OTHER.public_key, KEY.public_key]) == document
    assert claimed(content) == document
    assert write(document, KEY) == content


def test_a_document_of_a_stranger_is_refused():
    for keys in ([], [OTHER.public_key]):
        with pytest.raises(VerificationFailed):
            read(write(APPROVAL, KEY), Approval, keys)


def test_no_kind_can_be_taken_for_another():
    refusal = Refusal(plan="a" * 64, hospital="North", reason="no")
    with pytest.raises(VerificationFailed, match="refusal"):
        read(write(refusal, KEY), Approval, [KEY.public_key])


@pytest.mark.parametrize(
    "predicate",
    [
        {"plan": "a" * 64},
        {"plan": "a" * 64, "hospital": "North", "noise": 0},
        {"plan": "A" * 64, "hospital": "North"},
        {"plan": "a" * 64, "hospital": "../North"},
        {"plan": "a" * 64, "hospital": ".North"},
        {"plan": "a" * 64, "hospital": "No\nrth"},
        {"plan": "a" * 64, "hospital": "North\n"},
        {"plan": "a" * 64, "hospital": "N" * 65},
    ],
)
def test_documents_of_another_shape_are_refused_though_signed(predicate):
    with pytest.raises(VerificationFailed, match="missing, unknown or out of range"):
        read(sign(Statement(Approval.PREDICATE, (), predicate), KEY), Approval, [KEY.public_key])


@pytest.mark.parametrize("reason", ["", "two\nlines", "\x1b[2J", "x" * 2001])
def test_a_reason_is_one_printable_line(reason):
    predicate = {"plan": "a" * 64, "hospital": "North", "reason": reason}
    with pytest.raises(VerificationFailed, match="reason"):
        read(sign(Statement(Refusal.PREDICATE, (), predicate), KEY), Refusal, [KEY.public_key])


def test_a_refusal_of_a_document_repeats_no_control_characters():
    content = sign(Statement(Approval.PREDICATE, (), {"\x1b[2J": 1}), KEY)
    with pytest.raises(VerificationFailed) as refused:
        read(content, Approval, [KEY.public_key])
    assert str(refused.value).isprintable()


def test_a_document_speaks_of_no_files():
    statement = Statement(Approval.PREDICATE, (Subject.of("a", b"a"),), APPROVAL.model_dump())
    with pytest.raises(VerificationFailed, match="files"):
        read(sign(statement, KEY), Approval, [KEY.public_key])


def test_an_unknown_kind_is_named_none():
    with pytest.raises(VerificationFailed, match="no document of a kind"):
        claimed(sign(Statement(PREDICATE_PREFIX + "other:v1", (), {}), KEY))


def test_an_introduction_holds_only_with_the_key_that_it_names():
    assert introduced_by(write(enrolment(), KEY), Enrolment) == enrolment()
    assert introduced_by(write(card(), KEY), Card) == card()
    assert introduced_by(write(officer(), KEY), OfficerCard) == officer()
    for document in (enrolment(), card(), officer()):
        with pytest.raises(VerificationFailed):
            introduced_by(write(document, OTHER), type(document))


def test_a_new_key_replaces_an_old_one_only_with_both_signatures():
    rotated = enrolment(replaces=OLD.public_key.hex())
    assert introduced_by(write(rotated, KEY, OLD), Enrolment) == rotated
    for signers in ([KEY], [OLD], [KEY, OTHER]):
        with pytest.raises(VerificationFailed):
            introduced_by(write(rotated, *signers), Enrolment)


@pytest.mark.parametrize("address", ["", "host", "host:", "host:port", "ho st:1", "host:1/x", "::1:80", "host:123456"])
def test_an_address_is_a_host_and_a_port(address):
    with pytest.raises(ValueError):
        card(address=address)


def test_a_plan_comes_back_with_its_digest(plan):
    read_again = agreed_plan(plan_document(plan, KEY))
    assert read_again == plan
    assert read_again.digest == plan.digest


def test_a_plan_counts_only_with_the_signature_of_the_coordinator_that_it_names(plan):
    with pytest.raises(VerificationFailed):
        agreed_plan(plan_document(plan, OTHER))
    with pytest.raises(VerificationFailed, match="names no coordinator"):
        agreed_plan(plan_document(replace(plan, coordinator=None), KEY))


@pytest.mark.parametrize(
    "changes",
    [
        {"noise_multipliers": [None, 5.0]},
        {"noise_multipliers": [None, 0, 2.5]},
        {"noise_multipliers": [None, True, 2.5]},
        {"noise_multipliers": 5},
        {"coordinator": "Study"},
        {"coordinator": {"name": "Study", "key": "short"}},
        {"participants": [{"name": "North"}]},
        {"participants": 5},
        {"participants": [{"name": "No\x1b[2Jrth", "key": "a" * 64}]},
        {"study": {}},
        {"more": 1},
        {"code_version": 1},
    ],
)
def test_what_is_not_exactly_a_plan_is_refused_though_signed(plan, changes):
    content = sign(Statement(PlanDocument.PREDICATE, (), {"plan": plan.to_dict() | changes}), KEY)
    with pytest.raises(VerificationFailed):
        agreed_plan(content)


@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_no_single_flipped_bit_makes_another_approval(position, bit):
    content = bytearray(write(APPROVAL, KEY))
    content[position % (len(content) - 1)] ^= 1 << bit
    try:
        assert read(bytes(content), Approval, [KEY.public_key]) == APPROVAL
    except VerificationFailed:
        return


def test_envelopes_are_json_that_other_tools_read():
    envelope = json.loads(write(APPROVAL, KEY))
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
