"""Officers at a coordinator: who read a fingerprint out counts, and nobody counts twice."""

import pytest

from manikin.common.agreements import Enrolment, OfficerCard, agreed_plan, write
from manikin.common.certificates import new_node_key
from manikin.common.errors import Misconfigured, PolicyRefusal, VerificationFailed
from manikin.common.keys import SigningKey, fingerprint
from manikin.common.officers import Officer
from manikin.common.plan import Plan
from manikin.common.study import parse_study
from manikin.server import agreements, planning
from manikin.server.agreements import create_coordinator
from manikin.server.officers import accept, known, revoke


@pytest.fixture
def coordinator(tmp_path):
    return create_coordinator(tmp_path / "study", "Study", "127.0.0.1:8443")


def card(name="Ada", institution="North Clinic", key=None, signer=None):
    key = key or SigningKey.generate()
    document = OfficerCard(name=name, institution=institution, key=key.public_key.hex())
    return write(document, signer or key), key, [fingerprint(key.public_key)[:19]]


def enroll_hospital(coordinator, name, key=None):
    key = key or SigningKey.generate()
    node = new_node_key().public.decode()
    content = write(Enrolment(name=name, key=key.public_key.hex(), node_key=node, replaces=None), key)
    agreements.enroll(coordinator, content, [fingerprint(key.public_key)])
    return key


def test_an_officer_counts_once_the_fingerprint_was_read_out(coordinator):
    content, key, said = card()
    for wrong in ([], [fingerprint(SigningKey.generate().public_key)]):
        with pytest.raises(VerificationFailed, match="not accepted"):
            accept(coordinator, content, wrong)
    assert known(coordinator) == {}
    accept(coordinator, content, said)
    assert known(coordinator) == {"Ada": Officer("Ada", key.public_key.hex(), "North Clinic")}
    accept(coordinator, content, [])  # the same card again


def test_a_card_that_another_key_signed_is_refused(coordinator):
    content, _, said = card(signer=SigningKey.generate())
    with pytest.raises(VerificationFailed):
        accept(coordinator, content, said)


def test_nobody_takes_a_name_or_a_key_that_is_taken(coordinator):
    hospital = enroll_hospital(coordinator, "north")
    content, key, said = card()
    accept(coordinator, content, said)
    for other in (
        card(institution="Else"),
        card(key=key, institution="Else"),
        card("Bo", key=key),
        card("Bo", key=hospital),
        card("north"),
        card("Bo", key=coordinator.signing_key),
    ):
        with pytest.raises(PolicyRefusal, match="not accepted"):
            accept(coordinator, other[0], other[2])
    assert set(known(coordinator)) == {"Ada"}


def test_a_revoked_officer_counts_no_more_and_does_not_come_back_with_that_key(coordinator):
    content, key, said = card()
    accept(coordinator, content, said)
    assert revoke(coordinator, "Ada") == key.public_key.hex()
    assert known(coordinator) == {}
    with pytest.raises(VerificationFailed, match="not accepted"):
        accept(coordinator, content, said)
    again, _, said = card()
    accept(coordinator, again, said)
    with pytest.raises(Misconfigured, match="no officer"):
        revoke(coordinator, "Bo")


def test_a_card_changed_on_disk_is_refused(coordinator):
    content, _, said = card()
    accept(coordinator, content, said)
    file = coordinator.folder / "officers" / "Ada.dsse.json"
    file.write_bytes(content.replace(b'"sig":"', b'"sig":"AAAA'))
    with pytest.raises(VerificationFailed):
        known(coordinator)


def test_a_plan_takes_its_officers_from_the_folder(coordinator, study_dict, monkeypatch):
    draft = Plan(parse_study(study_dict), (None, 5.0, 2.5))
    monkeypatch.setattr(planning, "propose", lambda study: draft)
    for name in ("north", "south"):
        enroll_hospital(coordinator, name)
    for name, institution in (("Ada", "North Clinic"), ("Bo", "South Clinic")):
        content, _, said = card(name, institution)
        accept(coordinator, content, said)
    officers = tuple(known(coordinator).values())
    plan, file = agreements.propose(coordinator, draft.study, officers=officers, officers_needed=2)
    assert (plan.officers, plan.officers_needed) == (officers, 2)
    assert agreed_plan(file.read_bytes()) == plan
    with pytest.raises(Misconfigured):
        agreements.propose(coordinator, draft.study, officers=officers, officers_needed=1)
