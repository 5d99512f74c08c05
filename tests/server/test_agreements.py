"""The coordinator's folder under hospitals that are right, changed, revoked, and not who they say."""

import fcntl
import json
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from manikin.common.agreements import Approval, Card, Enrolment, Refusal, agreed_plan, introduced_by, write
from manikin.common.certificates import certificate_key, new_node_key
from manikin.common.errors import Misconfigured, PolicyRefusal, VerificationFailed
from manikin.common.keys import SigningKey, fingerprint
from manikin.common.plan import Plan
from manikin.common.study import parse_study
from manikin.server import planning
from manikin.server.agreements import (
    Coordinator,
    answers,
    collect,
    create_coordinator,
    enroll,
    enrolled,
    load_plan,
    propose,
    require_approvals,
    revoke,
    revoked_keys,
)


class Hospital:
    """A hospital's side: its keys, and what it sends."""

    def __init__(self, name):
        self.name, self.key, self.node = name, SigningKey.generate(), new_node_key().public.decode()

    @property
    def fingerprint(self):
        return fingerprint(self.key.public_key)[:24]

    def enrolment(self, **changes):
        values = {"name": self.name, "key": self.key.public_key.hex(), "node_key": self.node, "replaces": None}
        return write(Enrolment(**(values | changes)), self.key)

    def rotated(self):
        """An enrolment with a new key, signed by both; from now on the hospital has that key."""
        old, self.key = self.key, SigningKey.generate()
        values = {"key": self.key.public_key.hex(), "node_key": self.node, "replaces": old.public_key.hex()}
        return write(Enrolment(name=self.name, **values), self.key, old)

    def approves(self, plan):
        return write(Approval(plan=plan.digest, hospital=self.name), self.key)

    def refuses(self, plan):
        return write(Refusal(plan=plan.digest, hospital=self.name, reason="not now"), self.key)


@pytest.fixture
def coordinator(tmp_path):
    return create_coordinator(tmp_path / "study", "Study", "127.0.0.1:8443")


@pytest.fixture
def hospitals(coordinator):
    both = [Hospital("South"), Hospital("North")]
    for hospital in both:
        enroll(coordinator, hospital.enrolment(), [hospital.fingerprint])
    return both


@pytest.fixture
def plan(coordinator, hospitals, study_dict, monkeypatch):
    draft = Plan(parse_study(study_dict), (None, 5.0, 2.5))
    monkeypatch.setattr(planning, "propose", lambda study: draft)  # solving the noise is tested where it is done
    return propose(coordinator, draft.study)[0]


def test_a_new_folder_is_private_where_it_must_be_and_opens_again(coordinator):
    assert Coordinator.open(coordinator.folder) == coordinator
    private = ["keys/coordinator.pem", "keys/reviewer", "superexec.secret", "tls/ca.key", "tls/server.key"]
    for path in private:
        assert stat.S_IMODE((coordinator.folder / path).stat().st_mode) == 0o600
    for folder in ("keys", "tls"):
        assert stat.S_IMODE((coordinator.folder / folder).stat().st_mode) == 0o700
    card = introduced_by(coordinator.card.read_bytes(), Card)
    assert (card.name, card.address) == ("Study", "127.0.0.1:8443")
    assert bytes.fromhex(card.key) == coordinator.signing_key.public_key
    for path in private:
        assert (coordinator.folder / path).read_bytes() not in coordinator.card.read_bytes()


def test_keys_are_never_overwritten(coordinator, tmp_path):
    before = (coordinator.folder / "keys" / "coordinator.pem").read_bytes()
    with pytest.raises(Misconfigured, match="not empty"):
        create_coordinator(coordinator.folder, "Study", "127.0.0.1:8443")
    assert (coordinator.folder / "keys" / "coordinator.pem").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "address", "registry"),
    [
        ("../x", "h:1", ""),
        ("", "h:1", ""),
        ("Study", "h", ""),
        ("Study", "h:1", "h"),
        ("Study", "h:1/x", ""),
        ("Study", "127.0.0.1:99999", ""),
        ("Study", "h:0", ""),
        ("Study", "..:443", ""),
        ("Study", "-h:443", ""),
        ("Study", "1.2.3.456:443", ""),
        ("Study", "[:::1:]:443", ""),
        ("Study", "h:1", "h:65536"),
        ("Study", "h:1", "..:443"),
    ],
)
def test_a_name_or_address_that_is_none_leaves_nothing_behind(tmp_path, name, address, registry):
    with pytest.raises(Misconfigured):
        create_coordinator(tmp_path / "new", name, address, registry)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "content", ["", "schema = 2", 'schema = 1\nname = "x"\nmore = "y"', "schema = 1\nname = 5", "["]
)
def test_a_damaged_coordinator_toml_says_so(coordinator, content):
    (coordinator.folder / "coordinator.toml").write_text(content)
    with pytest.raises(Misconfigured, match=r"coordinator\.toml"):
        Coordinator.open(coordinator.folder)


def test_a_hospital_is_enrolled_by_the_fingerprint_that_it_read_out(coordinator):
    north, south = Hospital("North"), Hospital("South")
    enroll(coordinator, north.enrolment(), [south.fingerprint, north.fingerprint])
    assert list(enrolled(coordinator)) == ["North"]
    certificate = (coordinator.folder / "hospitals" / "North.client.pem").read_bytes()
    assert certificate_key(certificate).decode() == north.node


def test_a_hospital_that_nobody_vouched_for_is_not_enrolled(coordinator):
    north = Hospital("North")
    for said in ([], [Hospital("South").fingerprint]):
        with pytest.raises(VerificationFailed, match="fingerprints"):
            enroll(coordinator, north.enrolment(), said)
    assert enrolled(coordinator) == {}


def test_an_enrolment_signed_by_another_key_is_refused(coordinator):
    north, mallory = Hospital("North"), Hospital("Mallory")
    forged = write(
        Enrolment(name="North", key=north.key.public_key.hex(), node_key=mallory.node, replaces=None), mallory.key
    )
    with pytest.raises(VerificationFailed):
        enroll(coordinator, forged, [north.fingerprint])


def test_a_rotated_key_is_accepted_with_the_old_ones_signature_only(coordinator, hospitals):
    north = hospitals[1]
    impostor = Hospital("North")
    with pytest.raises(PolicyRefusal, match="another key"):
        enroll(coordinator, impostor.enrolment(), [impostor.fingerprint])
    old = north.key.public_key.hex()
    rotated = north.rotated()
    enroll(coordinator, rotated)
    assert enrolled(coordinator)["North"].key == north.key.public_key.hex()
    assert old in revoked_keys(coordinator)
    enroll(coordinator, rotated)  # sent twice


def test_an_old_enrolment_sent_again_does_not_bring_a_replaced_key_back(coordinator, hospitals):
    north = hospitals[1]
    first = north.enrolment()
    said = north.fingerprint
    enroll(coordinator, north.rotated())
    with pytest.raises(VerificationFailed, match="revoked"):
        enroll(coordinator, first, [said])


def test_a_new_key_signed_by_a_key_that_was_never_enrolled_is_refused(coordinator, hospitals):
    impostor = Hospital("North")
    with pytest.raises(PolicyRefusal, match="another key"):
        enroll(coordinator, impostor.rotated(), [impostor.fingerprint])


def test_a_gateway_may_change_its_key_with_the_vaults_signature(coordinator, hospitals):
    north = hospitals[1]
    node = new_node_key().public.decode()
    enroll(coordinator, north.enrolment(node_key=node))
    assert enrolled(coordinator)["North"].node_key == node


def test_nobody_takes_anothers_name_or_key(coordinator, hospitals):
    south, north = hospitals
    with pytest.raises(PolicyRefusal, match="Another hospital"):
        enroll(coordinator, north.enrolment(name="West"), [north.fingerprint])
    west = Hospital("West")
    with pytest.raises(PolicyRefusal, match="Another hospital"):
        enroll(coordinator, west.enrolment(node_key=south.node), [west.fingerprint])


def test_a_revoked_hospital_counts_no_more_and_comes_back_with_a_new_key_only(coordinator, hospitals):
    north = hospitals[1]
    revoke(coordinator, "North")
    assert list(enrolled(coordinator)) == ["South"]
    with pytest.raises(VerificationFailed, match="revoked"):
        enroll(coordinator, north.enrolment(), [north.fingerprint])
    with pytest.raises(Misconfigured, match="South"):
        revoke(coordinator, "North")
    rotated = north.rotated()  # whoever stole the key can write this, so the fingerprint is asked for again
    with pytest.raises(VerificationFailed, match="fingerprints"):
        enroll(coordinator, rotated)
    enroll(coordinator, rotated, [north.fingerprint])
    assert list(enrolled(coordinator)) == ["North", "South"]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"keys": [1]}', '{"keys": ["x"]}'])
def test_a_damaged_list_of_revoked_keys_stops_everything(coordinator, content):
    (coordinator.folder / "revoked.json").write_text(content)
    with pytest.raises(Misconfigured, match="revoked"):
        enrolled(coordinator)


def test_a_plan_is_between_the_coordinator_and_all_enrolled_hospitals(coordinator, plan, hospitals):
    assert [p.name for p in plan.participants] == ["North", "South"]
    file = coordinator.folder / "plans" / plan.digest / "plan.dsse.json"
    assert agreed_plan(file.read_bytes()) == plan == load_plan(coordinator, plan.digest)


def test_a_plan_needs_its_quorum_of_hospitals(coordinator, plan):
    revoke(coordinator, "North")
    with pytest.raises(Misconfigured, match="quorum"):
        propose(coordinator, plan.study)


def test_a_plan_in_anothers_place_is_refused(coordinator, plan, tmp_path):
    with pytest.raises(Misconfigured, match="no plan"):
        load_plan(coordinator, "0" * 64)
    with pytest.raises(Misconfigured, match="digest"):
        load_plan(coordinator, "../../etc")
    shutil.copytree(coordinator.folder / "plans" / plan.digest, coordinator.folder / "plans" / ("0" * 64))
    with pytest.raises(VerificationFailed, match="another one"):
        load_plan(coordinator, "0" * 64)


def test_answers_are_collected_and_counted_against_the_quorum(coordinator, plan, hospitals):
    south, north = hospitals
    assert answers(coordinator, plan) == {"North": None, "South": None}
    collect(coordinator, north.approves(plan))
    with pytest.raises(PolicyRefusal, match="South"):
        require_approvals(coordinator, plan)
    collect(coordinator, south.approves(plan))
    assert require_approvals(coordinator, plan) == plan.participants


def test_a_refusal_is_final(coordinator, plan, hospitals):
    south, north = hospitals
    for content in (north.approves(plan), south.approves(plan), north.refuses(plan)):
        collect(coordinator, content)
    with pytest.raises(PolicyRefusal, match="final"):
        collect(coordinator, north.approves(plan))
    with pytest.raises(PolicyRefusal, match="North"):
        require_approvals(coordinator, plan)


def test_an_approval_of_a_revoked_hospital_counts_no_more(coordinator, plan, hospitals):
    for hospital in hospitals:
        collect(coordinator, hospital.approves(plan))
    revoke(coordinator, "North")
    with pytest.raises(PolicyRefusal, match="North"):
        require_approvals(coordinator, plan)


def test_nobody_answers_for_another(coordinator, plan, hospitals):
    south, north = hospitals
    forged = write(Approval(plan=plan.digest, hospital="North"), south.key)
    west = Hospital("West")
    for content in (forged, west.approves(plan), north.enrolment()):
        with pytest.raises(VerificationFailed):
            collect(coordinator, content)


def test_an_approval_of_another_plan_put_in_its_place_is_refused(coordinator, plan, hospitals):
    north = hospitals[1]
    other = write(Approval(plan="0" * 64, hospital="North"), north.key)
    file = coordinator.folder / "plans" / plan.digest / "approvals" / "North.dsse.json"
    file.parent.mkdir()
    file.write_bytes(other)
    with pytest.raises(VerificationFailed, match="another plan"):
        answers(coordinator, plan)
    with pytest.raises(Misconfigured, match="no plan"):
        collect(coordinator, other)


def test_revocations_at_the_same_time_are_all_kept(coordinator):
    everybody = [Hospital(f"H{number}") for number in range(8)]
    for hospital in everybody:
        enroll(coordinator, hospital.enrolment(), [hospital.fingerprint])
    with ThreadPoolExecutor(len(everybody)) as threads:
        keys = set(threads.map(lambda hospital: revoke(coordinator, hospital.name), everybody))
    assert revoked_keys(coordinator) == keys


def test_an_enrolment_a_revocation_and_an_answer_wait_for_one_another(coordinator, plan, hospitals):
    south, north = hospitals
    acts = [
        lambda: collect(coordinator, north.refuses(plan)),
        lambda: enroll(coordinator, south.rotated()),
        lambda: revoke(coordinator, "North"),
    ]
    for act in acts:
        with ThreadPoolExecutor(1) as threads:
            with (coordinator.folder / "lock").open("a") as held:
                fcntl.flock(held, fcntl.LOCK_EX)
                waiting = threads.submit(act)
                with pytest.raises(TimeoutError):
                    waiting.result(timeout=0.3)
            waiting.result(timeout=30)


def test_the_list_of_revoked_keys_is_plain_json(coordinator, hospitals):
    key = revoke(coordinator, "North")
    assert json.loads((coordinator.folder / "revoked.json").read_text()) == {"keys": [key]}
