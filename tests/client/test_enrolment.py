"""A hospital pins only what was read out, fills its gateway's folder, and renews its key with the old one's word."""

import datetime
import json
import os
import stat

import pytest

from manikin.client.cohort import Hospital, create_hospital
from manikin.client.egress import EgressLog
from manikin.client.enrolment import enroll, former_keys, pin_peer, revoke_pin, rotate
from manikin.client.policy import Policy
from manikin.common.agreements import Card, Enrolment, introduced_by, write
from manikin.common.certificates import Authority, new_node_key, new_reviewer_key
from manikin.common.errors import Misconfigured, PolicyRefusal, VerificationFailed
from manikin.common.keys import SigningKey, fingerprint

TODAY = datetime.datetime.now(datetime.UTC).date()
AUTHORITY = Authority.create("Study")


class Coordinator:
    def __init__(self):
        self.key = SigningKey.generate()
        self.said = [fingerprint(self.key.public_key)[:19]]

    def card(self, **changes):
        values = {
            "name": "Study",
            "key": self.key.public_key.hex(),
            "address": "127.0.0.1:8443",
            "registry": "",
            "ca": AUTHORITY.certificate.decode(),
            "reviewer": new_reviewer_key().public.decode(),
        }
        return write(Card(**(values | changes)), self.key)


@pytest.fixture
def coordinator():
    return Coordinator()


@pytest.fixture
def north(tmp_path):
    return create_hospital(tmp_path / "north", "North").folder


@pytest.fixture
def enrolled(north, coordinator):
    enroll(north, coordinator.card(), coordinator.said)
    return north


@pytest.fixture
def south(tmp_path, coordinator):
    folder = create_hospital(tmp_path / "south", "South").folder
    enroll(folder, coordinator.card(), coordinator.said)
    return folder


def said_by(folder):
    return [fingerprint(Hospital.open(folder).signing_key.public_key)]


def sent_by(folder):
    return (folder / "enrolment.dsse.json").read_bytes()


def test_joining_pins_the_coordinator_fills_the_gateway_and_introduces_the_hospital(enrolled, coordinator):
    assert [pin.key for pin in Policy.load(enrolled).coordinators] == [coordinator.key.public_key.hex()]
    own = introduced_by(sent_by(enrolled), Enrolment)
    assert (own.name, own.replaces) == ("North", None)
    assert bytes.fromhex(own.key) == Hospital.open(enrolled).signing_key.public_key
    gateway = enrolled / "gateway"
    assert own.node_key == (gateway / "node.pub").read_text().strip()
    assert (gateway / "ca.pem").read_bytes() == AUTHORITY.certificate
    assert json.loads((gateway / "superlink.json").read_text()) == {"address": "127.0.0.1:8443"}
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in gateway.iterdir()} == {
        "ca.pem": 0o644,
        "coordinator.dsse.json": 0o644,
        "home": 0o770,
        "inbox": 0o770,
        "outbox": 0o750,
        "node.key": 0o640,
        "node.pub": 0o644,
        "superlink.json": 0o644,
        "trusted-entities.yaml": 0o644,
    }
    assert stat.S_IMODE((enrolled / "policy.toml").stat().st_mode) == 0o600


def test_no_private_key_of_the_vault_is_in_the_gateways_folder(enrolled):
    secrets = [(enrolled / "keys" / "vault.pem").read_bytes(), (enrolled / "secret.key").read_bytes()]
    for file in (enrolled / "gateway").rglob("*"):
        assert not any(file.is_file() and secret in file.read_bytes() for secret in secrets)


def test_trusted_entities_are_what_flower_reads(enrolled):
    import yaml
    from flwr.supernode.cli.flower_supernode import _validate_public_keys_ed25519

    entities = yaml.safe_load((enrolled / "gateway" / "trusted-entities.yaml").read_text())
    _validate_public_keys_ed25519(entities)
    assert len(entities) == 1


def test_a_coordinator_that_was_not_read_out_leaves_no_trace(north, coordinator):
    before = sorted(north.rglob("*"))
    for said in ([], [fingerprint(SigningKey.generate().public_key)]):
        with pytest.raises(VerificationFailed):
            enroll(north, coordinator.card(), said)
    forged = write(introduced_by(coordinator.card(), Card), SigningKey.generate())
    with pytest.raises(VerificationFailed):
        enroll(north, forged, coordinator.said)
    with pytest.raises(VerificationFailed, match="authority"):
        enroll(north, coordinator.card(ca="junk"), coordinator.said)
    assert sorted(north.rglob("*")) == before


def test_joining_again_keeps_the_policy_and_the_gateways_key(enrolled, coordinator):
    (enrolled / "policy.toml").write_text((enrolled / "policy.toml").read_text() + "# ours\n")
    policy, key = ((enrolled / path).read_bytes() for path in ("policy.toml", "gateway/node.key"))
    enroll(enrolled, coordinator.card(address="192.0.2.1:8443"), coordinator.said)
    assert (enrolled / "policy.toml").read_bytes() == policy
    assert (enrolled / "gateway" / "node.key").read_bytes() == key
    assert "192.0.2.1" in (enrolled / "gateway" / "superlink.json").read_text()


def test_a_date_given_later_ends_the_pin(enrolled, coordinator):
    enroll(enrolled, coordinator.card(), coordinator.said, until=TODAY)
    (pin,) = Policy.load(enrolled).coordinators
    assert pin.until == TODAY


def test_nothing_is_pinned_until_a_day_that_is_over(enrolled, south, coordinator):
    before, over = (enrolled / "policy.toml").read_bytes(), TODAY - datetime.timedelta(days=1)
    with pytest.raises(Misconfigured, match="is over"):
        enroll(enrolled, coordinator.card(), coordinator.said, until=over)
    with pytest.raises(Misconfigured, match="is over"):
        pin_peer(enrolled, sent_by(south), said_by(south), until=over)
    assert (enrolled / "policy.toml").read_bytes() == before


def test_a_revoked_coordinator_cannot_be_joined(enrolled, coordinator):
    revoke_pin(enrolled, "Study")
    with pytest.raises(PolicyRefusal, match="revoked"):
        enroll(enrolled, coordinator.card(), coordinator.said)


def test_a_name_that_cannot_travel_is_refused_before_anything_is_written(tmp_path, coordinator):
    folder = create_hospital(tmp_path / "h", "North/East").folder
    with pytest.raises(Misconfigured, match="under this name"):
        enroll(folder, coordinator.card(), coordinator.said)
    assert not (folder / "policy.toml").exists()


def test_a_group_that_is_none_says_so(north, coordinator):
    with pytest.raises(Misconfigured, match="group"):
        enroll(north, coordinator.card(), coordinator.said, group="no-such-group-here")


@pytest.mark.parametrize("name", ["home", "outbox", "node.key"])
def test_a_link_in_the_gateways_folder_is_refused_and_not_followed(enrolled, coordinator, tmp_path, name):
    elsewhere = tmp_path / "elsewhere"
    (enrolled / "gateway" / name).rename(elsewhere)
    elsewhere.chmod(0o700)
    (enrolled / "gateway" / name).symlink_to(elsewhere)
    with pytest.raises(Misconfigured, match="is a link"):
        enroll(enrolled, coordinator.card(), coordinator.said)
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o700


def test_what_leaves_is_in_the_egress_log_first(enrolled, monkeypatch):
    kinds = [message.kind for message in EgressLog(enrolled / "egress.sqlite").messages()]
    assert kinds == ["enrolment"]
    before = sent_by(enrolled)
    monkeypatch.setattr(EgressLog, "record", lambda self, **message: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        rotate(enrolled)
    assert sent_by(enrolled) == before


def test_a_new_key_is_signed_by_the_old_one_which_is_gone(enrolled):
    old = Hospital.open(enrolled).signing_key
    new = rotate(enrolled)
    own = introduced_by(sent_by(enrolled), Enrolment)
    assert (own.key, own.replaces) == (new.public_key.hex(), old.public_key.hex())
    assert Hospital.open(enrolled).signing_key.public_key == new.public_key
    assert former_keys(enrolled) == (old.public_key,)
    assert sorted(path.name for path in (enrolled / "keys").iterdir()) == ["former.json", "vault.pem"]
    assert EgressLog(enrolled / "egress.sqlite").verify(*former_keys(enrolled), new.public_key) == []


def test_a_rotation_cut_short_goes_on_with_the_key_that_it_began_with(enrolled, monkeypatch):
    old, rename = Hospital.open(enrolled).signing_key, os.replace

    def cut(source, target):
        if str(target).endswith("vault.pem"):
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", cut)
        with pytest.raises(KeyboardInterrupt):
            rotate(enrolled)
    assert Hospital.open(enrolled).signing_key.public_key == old.public_key
    sent = sent_by(enrolled)
    new = rotate(enrolled)
    assert sent_by(enrolled) == sent
    assert introduced_by(sent, Enrolment).key == new.public_key.hex()
    assert former_keys(enrolled) == (old.public_key,)


def test_a_hospital_that_never_enrolled_has_nothing_to_renew(north):
    with pytest.raises(Misconfigured, match="never enrolled"):
        rotate(north)


def test_a_peer_is_pinned_by_the_fingerprint_that_it_read_out(enrolled, south):
    with pytest.raises(VerificationFailed):
        pin_peer(enrolled, sent_by(south), [])
    with pytest.raises(VerificationFailed):
        pin_peer(enrolled, sent_by(south), said_by(enrolled))
    assert Policy.load(enrolled).peers == ()
    pin_peer(enrolled, sent_by(south), said_by(south), until=TODAY)
    (pin,) = Policy.load(enrolled).peers
    assert (pin.name, pin.until) == ("South", TODAY)


def test_pinning_a_peer_twice_writes_once(enrolled, south):
    for _ in range(2):
        pin_peer(enrolled, sent_by(south), said_by(south))
    assert (enrolled / "policy.toml").read_text().count("[[peer]]") == 1


def test_ones_own_enrolment_is_no_peer(enrolled):
    with pytest.raises(Misconfigured, match="own"):
        pin_peer(enrolled, sent_by(enrolled), said_by(enrolled))


def test_without_a_policy_no_peer_is_pinned(north, south):
    with pytest.raises(PolicyRefusal):
        pin_peer(north, sent_by(south), said_by(south))


def test_a_peers_new_key_follows_from_its_pinned_one_which_counts_no_more(enrolled, south):
    pin_peer(enrolled, sent_by(south), said_by(south))
    old = Hospital.open(south).signing_key.public_key.hex()
    first = sent_by(south)
    rotate(south)
    pin_peer(enrolled, sent_by(south), [])
    policy = Policy.load(enrolled)
    assert policy.peers[-1].key == Hospital.open(south).signing_key.public_key.hex()
    assert policy.revoked == {old}
    with pytest.raises(PolicyRefusal, match="revoked"):
        pin_peer(enrolled, first, [])


@pytest.mark.parametrize("state", ["unknown", "revoked", "expired", "renamed"])
def test_a_new_key_follows_from_nothing_but_a_key_that_counts(enrolled, south, state):
    if state != "unknown":
        pin_peer(enrolled, sent_by(south), said_by(south), until=TODAY if state == "expired" else None)
    if state == "expired":
        file = enrolled / "policy.toml"
        file.write_text(file.read_text().replace(f"until = {TODAY}", "until = 2020-01-01"))
    if state == "revoked":
        revoke_pin(enrolled, "South")
    if state == "renamed":
        file = enrolled / "policy.toml"
        file.write_text(file.read_text().replace('name = "South"', 'name = "West"'))
    rotate(south)
    with pytest.raises(VerificationFailed, match="No fingerprint"):
        pin_peer(enrolled, sent_by(south), [])


def test_revoking_is_by_name_or_key_and_says_who_is_pinned(enrolled, south):
    pin_peer(enrolled, sent_by(south), said_by(south))
    key = Hospital.open(south).signing_key.public_key.hex()
    with pytest.raises(Misconfigured, match=r"Pinned: Study, South\."):
        revoke_pin(enrolled, "West")
    assert [pin.key for pin in revoke_pin(enrolled, key)] == [key]
    assert Policy.load(enrolled).revoked == {key}
    with pytest.raises(Misconfigured):
        revoke_pin(enrolled, "South")


def test_a_peer_whose_enrolment_another_key_signed_is_refused(enrolled):
    known, other = SigningKey.generate(), SigningKey.generate()
    node = new_node_key().public.decode()
    forged = write(Enrolment(name="South", key=known.public_key.hex(), node_key=node, replaces=None), other)
    with pytest.raises(VerificationFailed):
        pin_peer(enrolled, forged, [fingerprint(known.public_key)])
