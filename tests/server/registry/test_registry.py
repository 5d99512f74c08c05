"""The registry between real ends of a mutual TLS line: what it carries, and to whom it says nothing."""

import datetime
from dataclasses import replace

import grpc
import pytest

from manikin.client.agreements import approve, refuse
from manikin.client.cohort import Hospital, create_hospital
from manikin.client.enrolment import enroll as join
from manikin.client.enrolment import pin_peer, rotate
from manikin.client.registry import _caller, _channel, synchronise
from manikin.common.agreements import Approval, Card, PlanDocument, agreed_plan, introduced_by, write
from manikin.common.certificates import Authority, new_node_key, node_key_pem
from manikin.common.errors import Misconfigured, PolicyRefusal, ProtocolViolation, TransportFailure
from manikin.common.keys import fingerprint
from manikin.common.plan import Party, Plan
from manikin.common.registry import GET, LIST, MESSAGE_BYTES_MAX, PUT, Entry, decode_entries, decode_entry, encode_entry
from manikin.common.study import parse_study
from manikin.server import planning
from manikin.server.agreements import answers, create_coordinator, enroll, enrolled, propose, revoke
from manikin.server.registry import serve


class World:
    """A coordinator with its registry, and two hospitals that have a line to it."""

    def __init__(self, folder):
        self.coordinator = create_coordinator(folder / "study", "Study", "127.0.0.1:1", "127.0.0.1:1")
        self.server, self.port = serve(self.coordinator, "127.0.0.1:0")
        self.north, self.south = (self._hospital(folder / name, name) for name in ("north", "south"))

    def _hospital(self, folder, name):
        create_hospital(folder, name)
        key = self.coordinator.signing_key.public_key
        card = self.card()
        join(folder, card, [fingerprint(key)])
        said = [fingerprint(Hospital.open(folder).signing_key.public_key)]
        enroll(self.coordinator, (folder / "enrolment.dsse.json").read_bytes(), said)
        self.certify(folder, name)
        return folder

    def card(self):
        card = introduced_by(self.coordinator.card.read_bytes(), Card)
        return write(card.model_copy(update={"registry": f"127.0.0.1:{self.port}"}), self.coordinator.signing_key)

    def certify(self, folder, name):
        certificate = self.coordinator.folder / "hospitals" / f"{name}.client.pem"
        (folder / "gateway" / "client.pem").write_bytes(certificate.read_bytes())


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.server.stop(grace=0).wait()


@pytest.fixture
def plan(world, study_dict, monkeypatch):
    draft = Plan(parse_study(study_dict), (None, 5.0, 2.5))
    monkeypatch.setattr(planning, "propose", lambda study: draft)
    return propose(world.coordinator, draft.study)[0]


def call(folder, method, request):
    with _channel(folder / "gateway") as channel:
        return _caller(channel)(method, request)


def test_plans_come_and_answers_go_over_the_line(world, plan):
    received = {file.name for file in synchronise(world.north / "gateway").received}
    assert received == {f"plan-{plan.digest[:16]}.dsse.json", "enrolment-north.dsse.json", "enrolment-south.dsse.json"}
    content = (world.north / "gateway" / "inbox" / f"plan-{plan.digest[:16]}.dsse.json").read_bytes()
    assert agreed_plan(content) == plan
    refuse(world.north, content, "not yet")
    done = synchronise(world.north / "gateway")
    assert (done.sent, done.refused) == ([f"answer-{plan.digest[:16]}.dsse.json", "enrolment.dsse.json"], {})
    assert answers(world.coordinator, plan)["north"].reason == "not yet"
    listed = decode_entries(call(world.south, LIST, b""))
    assert Entry(kind="answer", plan=plan.digest, name="north") in listed
    assert synchronise(world.north / "gateway").sent == done.sent


def test_what_is_meant_for_one_coordinator_is_not_sent_to_another(world, plan, tmp_path):
    content = (world.coordinator.folder / "plans" / plan.digest / "plan.dsse.json").read_bytes()
    refuse(world.north, content, "not yet")
    (tmp_path / "b").mkdir()
    other = World(tmp_path / "b")
    try:
        join(world.north, other.card(), [fingerprint(other.coordinator.signing_key.public_key)])
        said = [fingerprint(Hospital.open(world.north).signing_key.public_key)]
        revoke(other.coordinator, "north")
        enroll(other.coordinator, (world.north / "enrolment.dsse.json").read_bytes(), said)
        other.certify(world.north, "north")
        done = synchronise(world.north / "gateway")
    finally:
        other.server.stop(grace=0).wait()
    assert (done.sent, done.refused) == (["enrolment.dsse.json"], {})


def test_a_peer_is_pinned_by_what_came_over_the_line(world, plan):
    synchronise(world.north / "gateway")
    content = (world.north / "gateway" / "inbox" / "enrolment-south.dsse.json").read_bytes()
    pin_peer(world.north, content, [fingerprint(Hospital.open(world.south).signing_key.public_key)])


def test_a_new_key_goes_over_the_line(world):
    new = rotate(world.north)
    assert synchronise(world.north / "gateway").refused == {}
    assert enrolled(world.coordinator)["north"].key == new.public_key.hex()


def test_a_hospital_adds_only_what_it_signed_for_itself(world, plan):
    key = Hospital.open(world.north).signing_key
    forged = write(Approval(plan=plan.digest, hospital="south"), key)
    others = (world.south / "enrolment.dsse.json").read_bytes()
    proposed = write(PlanDocument(plan=plan.to_dict()), key)
    south = write(Approval(plan=plan.digest, hospital="south"), Hospital.open(world.south).signing_key)
    unsigned = write(Approval(plan=plan.digest, hospital="north"), Hospital.open(world.south).signing_key)
    for content in (forged, others, proposed, south, unsigned, b"junk", b""):
        with pytest.raises(PolicyRefusal):
            call(world.north, PUT, content)
    assert answers(world.coordinator, plan) == {"north": None, "south": None}


def test_a_revoked_hospital_gets_nothing_from_that_moment_on(world, plan):
    with _channel(world.north / "gateway") as channel:
        asked = _caller(channel)
        assert decode_entries(asked(LIST, b""))
        revoke(world.coordinator, "north")
        with pytest.raises(PolicyRefusal, match="registry refused"):
            asked(LIST, b"")


def test_a_stranger_gets_nothing(world):
    target, authority = f"127.0.0.1:{world.port}", (world.coordinator.folder / "tls" / "ca.pem").read_bytes()
    node = new_node_key()
    foreign = Authority.create("Study").issue_client("north", node.public)
    unknown = Authority.load(world.coordinator.folder / "tls").issue_client("north", node.public)
    lines = {
        "none": grpc.ssl_channel_credentials(authority),
        "foreign": grpc.ssl_channel_credentials(authority, node_key_pem(node.private), foreign),
        "unknown": grpc.ssl_channel_credentials(authority, node_key_pem(node.private), unknown),
    }
    for kind, credentials in lines.items():
        with grpc.secure_channel(target, credentials) as channel, pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary("/manikin.Registry/List")(b"", timeout=10)
        denied = refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert denied == (kind == "unknown")
    with grpc.insecure_channel(target) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary("/manikin.Registry/List")(b"", timeout=10)


def test_a_registry_of_another_authority_gets_nothing(world):
    (world.north / "gateway" / "ca.pem").write_bytes(Authority.create("Study").certificate)
    with pytest.raises(TransportFailure):
        call(world.north, LIST, b"")


def test_a_hospital_reads_only_plans_that_name_it(world, plan, study_dict):
    others = replace(plan, participants=(plan.participants[1], Party("west", "a" * 64)))
    folder = world.coordinator.folder / "plans" / others.digest
    folder.mkdir()
    content = write(PlanDocument(plan=others.to_dict()), world.coordinator.signing_key)
    (folder / "plan.dsse.json").write_bytes(content)
    entry = Entry(kind="plan", plan=others.digest, name="")
    assert entry not in decode_entries(call(world.north, LIST, b""))
    assert entry in decode_entries(call(world.south, LIST, b""))
    with pytest.raises(PolicyRefusal, match="no such document"):
        call(world.north, GET, encode_entry(entry))


@pytest.mark.parametrize("request_", [b"", b"{}", b"[" * 5000, b'{"kind":"plan","plan":"../..","name":""}'])
def test_a_malformed_question_is_refused(world, request_):
    with pytest.raises(PolicyRefusal):
        call(world.north, GET, request_)
    with pytest.raises(ProtocolViolation):
        decode_entry(request_)


def test_messages_are_bounded_on_both_sides(world):
    with pytest.raises(TransportFailure, match="resource_exhausted"):
        call(world.north, PUT, bytes(MESSAGE_BYTES_MAX + 1))
    gateway = world.north / "gateway"
    authority, key, certificate = ((gateway / name).read_bytes() for name in ("ca.pem", "node.key", "client.pem"))
    credentials = grpc.ssl_channel_credentials(authority, node_key_pem(key), certificate)
    unbounded = [("grpc.max_send_message_length", -1)]
    with grpc.secure_channel(f"127.0.0.1:{world.port}", credentials, options=unbounded) as channel:
        for size, code in ((MESSAGE_BYTES_MAX, "PERMISSION_DENIED"), (MESSAGE_BYTES_MAX + 1, "RESOURCE_EXHAUSTED")):
            with pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary("/manikin.Registry/Put")(bytes(size), timeout=30)
            assert refused.value.code().name == code


def test_an_unknown_call_is_refused(world):
    with pytest.raises(TransportFailure, match="unimplemented"):
        call(world.north, "Delete", b"")


def test_what_is_missing_says_so(world):
    gateway = world.north / "gateway"
    certificate = (gateway / "client.pem").read_bytes()
    (gateway / "client.pem").write_bytes((world.south / "gateway" / "client.pem").read_bytes())
    with pytest.raises(Misconfigured, match="another gateway"):
        synchronise(gateway)
    (gateway / "client.pem").unlink()
    with pytest.raises(Misconfigured, match=r"client\.pem"):
        synchronise(gateway)
    (gateway / "client.pem").write_bytes(certificate)
    with pytest.raises(Misconfigured, match="no registry"):
        serve(replace(world.coordinator, registry=""))
    world.server.stop(grace=0).wait()
    with pytest.raises(TransportFailure):
        synchronise(gateway)


def test_an_approval_goes_by_the_outbox_too(world, plan):
    content = (world.coordinator.folder / "plans" / plan.digest / "plan.dsse.json").read_bytes()
    policy = world.north / "policy.toml"
    text = policy.read_text().replace("quorum_min = 3", "quorum_min = 1").replace("epsilon = 3.0", "epsilon = 8.0")
    policy.write_text(text.replace("patients_min = 50", "patients_min = 1"))
    pin_peer(
        world.north,
        (world.south / "enrolment.dsse.json").read_bytes(),
        [fingerprint(Hospital.open(world.south).signing_key.public_key)],
    )
    approve(world.north, content, today=datetime.date(2026, 11, 22))
    synchronise(world.north / "gateway")
    assert isinstance(answers(world.coordinator, plan)["north"], Approval)
