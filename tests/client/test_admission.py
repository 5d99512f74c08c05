"""The door: who is let in, in which order things are looked at, and whose ledger heads count."""

import hashlib
from dataclasses import dataclass

import numpy as np
import pytest

from manikin.client import admission as module
from manikin.client import policy
from manikin.client.admission import Admission
from manikin.client.agreements import approve
from manikin.client.anchors import Anchors
from manikin.client.cohort import create_hospital
from manikin.client.egress import EgressLog
from manikin.client.policy import pin_lines
from manikin.common import generators
from manikin.common.agreements import PlanDocument, write
from manikin.common.errors import PolicyRefusal, ProtocolViolation
from manikin.common.keys import SigningKey
from manikin.common.plan import Party, Plan
from manikin.common.study import parse_study
from manikin.common.wire import Task
from manikin.privacy.accounting import Mechanism
from manikin.privacy.ledger import Ledger

COORDINATOR, SOUTH, WEST = (SigningKey.generate() for _ in range(3))
RELEASE, FIRST, SECOND = 1, 2, 3


@dataclass
class Site:
    """A hospital as its ledger shows it: what it was asked, and the heads that it signed."""

    name: str
    key: SigningKey
    ledger: Ledger

    def asked(self, plan, step, request="the same"):
        """Take a charged step with this request; the ledger head after it."""
        digest = hashlib.sha256(request.encode()).digest()
        self.ledger.commit(self.ledger.reserve(plan.digest, step, digest, Mechanism(5.0)), b"")
        return self.ledger.head(plan.digest, step)


@pytest.fixture
def north(tmp_path, policy_text):
    folder = tmp_path / "north"
    key = create_hospital(folder, "north").signing_key
    pins = pin_lines("coordinator", "Study", COORDINATOR.public_key.hex())
    pins += pin_lines("peer", "South", SOUTH.public_key.hex())
    (folder / "policy.toml").write_text(policy_text(quorum_min=2) + pins)
    return Site("north", key, Ledger(folder / "ledger.sqlite", hospital="north", signer=key))


@pytest.fixture
def south(tmp_path):
    return Site("South", SOUTH, Ledger(tmp_path / "south.sqlite", hospital="South", signer=SOUTH))


@pytest.fixture
def west(tmp_path):
    """Takes part, and is pinned by nobody."""
    return Site("West", WEST, Ledger(tmp_path / "west.sqlite", hospital="West", signer=WEST))


@pytest.fixture
def plan(study_dict, north, south, west):
    return agreed(study_dict, north, south, west)


def agreed(study_dict, *sites):
    draft = Plan(parse_study(study_dict), (None, 5.0, 2.5))
    parties = [Party(site.name, site.key.public_key.hex()) for site in sites]
    return draft.agreed(Party("Study", COORDINATOR.public_key.hex()), parties)


@pytest.fixture
def door(north):
    folder = north.ledger.path.parent
    anchors = Anchors(folder / "anchors", north.ledger, "north")
    own = Party("north", north.key.public_key.hex())
    return Admission(folder, own, "patient", north.ledger, EgressLog(folder / "egress.sqlite"), anchors)


def check_heads(door, plan, index, heads):
    """Knock with the ledger heads of earlier steps, by step and hospital."""
    step = plan.steps()[index]
    carried = {str(number): named for number, named in heads.items()}
    door.check_heads(plan, step, Task(plan.digest, index, step.action, {"heads": carried}))


class TestWhoseHeadsCount:
    def test_the_quorum_is_of_peers_that_this_hospital_pinned(self, door, plan, north, south, west):
        heads = {site.name: site.asked(plan, RELEASE) for site in (north, south, west)}
        with pytest.raises(ProtocolViolation, match="fewer ledger heads of step 1"):
            check_heads(door, plan, FIRST, {RELEASE: {name: heads[name] for name in ("north", "West")}})
        check_heads(door, plan, FIRST, {RELEASE: {name: heads[name] for name in ("north", "South")}})

    def test_a_stranger_that_was_asked_otherwise_stops_nobody(self, door, plan, north, south, west):
        heads = {site.name: site.asked(plan, RELEASE) for site in (north, south)}
        check_heads(door, plan, FIRST, {RELEASE: heads | {"West": west.asked(plan, RELEASE, "something else")}})

    def test_a_pinned_peer_that_was_asked_otherwise_does(self, door, plan, north, south, west):
        heads = {"north": north.asked(plan, RELEASE), "South": south.asked(plan, RELEASE, "something else")}
        with pytest.raises(ProtocolViolation, match="different things at step 1"):
            check_heads(door, plan, FIRST, {RELEASE: heads})


class TestStepsThatWereSkippedHere:
    """The coordinator left this hospital out of a step, and asks it the next one."""

    @pytest.fixture(autouse=True)
    def _pinned(self, door):
        policy.add(door.folder, pin_lines("peer", "West", WEST.public_key.hex()))

    def test_what_the_others_were_asked_meanwhile_is_compared(self, door, plan, north, south, west):
        heads = {RELEASE: {site.name: site.asked(plan, RELEASE) for site in (north, south, west)}}
        told = {"South": south.asked(plan, FIRST), "West": west.asked(plan, FIRST, "something else")}
        with pytest.raises(ProtocolViolation, match="different things at step 2"):
            check_heads(door, plan, SECOND, {**heads, FIRST: told})

    def test_and_must_be_shown(self, door, plan, north, south, west):
        heads = {RELEASE: {site.name: site.asked(plan, RELEASE) for site in (north, south, west)}}
        with pytest.raises(ProtocolViolation, match="fewer ledger heads of step 2"):
            check_heads(door, plan, SECOND, heads)
        told = {site.name: site.asked(plan, FIRST) for site in (south, west)}
        check_heads(door, plan, SECOND, {**heads, FIRST: told})

    def test_so_is_the_last_step_that_was_taken_here(self, door, plan, north, south, west):
        heads = {RELEASE: {site.name: site.asked(plan, RELEASE) for site in (south, west)}}
        heads[RELEASE]["north"] = north.asked(plan, RELEASE, "something else")
        told = {site.name: site.asked(plan, FIRST) for site in (south, west)}
        with pytest.raises(ProtocolViolation, match="different things at step 1"):
            check_heads(door, plan, SECOND, {**heads, FIRST: told})


class TestOrder:
    """A plan of absurd sizes costs memory only after a person has approved it, and a task only if it is signed."""

    @pytest.fixture(autouse=True)
    def _nothing_is_made(self, monkeypatch):
        monkeypatch.setattr(generators, "create", lambda spec: pytest.fail("a generator was made"))
        monkeypatch.setattr(policy, "what_leaves", lambda plan: pytest.fail("sizes were reckoned"))
        monkeypatch.setattr(module, "plan_epsilon", lambda plan: pytest.fail("the plan was accounted"))

    def opening(self, plan, key):
        return Task(plan.digest, 0, "open", {"plan": plan.to_dict(), "heads": {}}).signed(key)

    def test_a_stranger_costs_nothing(self, door, plan):
        with pytest.raises(ProtocolViolation, match="not signed"):
            door.admit(plan, self.opening(plan, SigningKey.generate()))

    def test_a_plan_that_nobody_approved_costs_nothing(self, door, plan):
        with pytest.raises(PolicyRefusal, match="not approved"):
            door.admit(plan, self.opening(plan, COORDINATOR))


def test_an_approved_plan_is_admitted_and_still_only_from_its_coordinator(door, plan):
    content = write(PlanDocument(plan=plan.to_dict()), COORDINATOR)
    approve(door.folder, content, today=door.today())
    task = Task(plan.digest, 0, "open", {"plan": plan.to_dict(), "heads": {}}, {"w": np.zeros(1)})
    door.admit(plan, task.signed(COORDINATOR))
    with pytest.raises(ProtocolViolation, match="not signed"):
        door.admit(plan, task.signed(SOUTH))
