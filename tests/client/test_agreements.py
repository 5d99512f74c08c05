"""A vault follows what its own hospital approved, and approval is given to what its policy allows."""

import datetime
import json
import math
import shutil

import pytest

from manikin.client.agreements import approve, refuse, require_approval, review
from manikin.client.cohort import Cohort, Hospital
from manikin.client.egress import EgressLog
from manikin.client.policy import pin_lines, revoked_lines
from manikin.common import generators
from manikin.common.agreements import Approval, PlanDocument, Refusal, read, write
from manikin.common.errors import BudgetExhausted, Misconfigured, PolicyRefusal, VerificationFailed
from manikin.common.keys import SigningKey
from manikin.common.plan import Party, Plan
from manikin.common.study import parse_study
from manikin.privacy.accounting import Mechanism
from manikin.privacy.ledger import Charge, Ledger

TODAY = datetime.date(2026, 11, 22)
STUDY, SOUTH = SigningKey.generate(), SigningKey.generate()


@pytest.fixture
def north(make_hospital, policy_text):
    folder = make_hospital("north")
    limits = policy_text(epsilon=8.0, delta=2e-5, quorum_min=2, rounds_max=3, bytes_out_max=1_000_000)
    pins = pin_lines("coordinator", "Study", STUDY.public_key.hex()) + pin_lines(
        "peer", "South", SOUTH.public_key.hex()
    )
    (folder / "policy.toml").write_text(limits + pins)
    return folder


@pytest.fixture
def make_plan(study_dict, north):
    def make(noise=5.0, epsilon=4.0, name="small"):
        study_dict["privacy"]["epsilon"], study_dict["name"] = epsilon, name
        own = Hospital.open(north)
        parties = [Party("north", own.signing_key.public_key.hex()), Party("South", SOUTH.public_key.hex())]
        draft = Plan(parse_study(study_dict), (None, noise, noise))
        return draft.agreed(Party("Study", STUDY.public_key.hex()), parties)

    return make


def document(plan, key=STUDY):
    return write(PlanDocument(plan=plan.to_dict()), key)


def charge(north, plan):
    """Spend a plan on every patient, as the vault does."""
    patients = [patient.key for patient in Cohort.open(north).load(plan.study.data)["train"]]
    ledger = Ledger(north / "ledger.sqlite", hospital="north", signer=Hospital.open(north).signing_key)
    privacy = plan.study.privacy
    cost = Charge(patients, privacy.epsilon, privacy.delta, 8.0, 2e-5)
    ledger.reserve(plan.digest, 1, bytes(32), Mechanism(5.0), charge=cost)


def test_a_person_may_look_at_a_plan_that_the_policy_refuses_and_nothing_of_its_size_is_made(
    north, make_plan, monkeypatch
):
    monkeypatch.setattr(generators, "create", lambda spec: pytest.fail("a generator was made"))
    file = north / "policy.toml"
    file.write_text(file.read_text().replace("[[8, 8]]", "[[7, 7]]"))
    held = review(north, document(make_plan()), today=TODAY)
    assert "shape of images" in [ruling.rule for ruling in held.rulings if not ruling.holds]
    assert {part.size_bytes for part in held.leaves} == {math.inf}


def test_a_vault_follows_a_plan_once_it_is_approved(north, make_plan):
    plan = make_plan()
    with pytest.raises(PolicyRefusal, match="not approved"):
        require_approval(north, plan)
    file = approve(north, document(plan), today=TODAY)
    require_approval(north, plan)
    own = Hospital.open(north).signing_key.public_key
    assert read(file.read_bytes(), Approval, [own]) == Approval(plan=plan.digest, hospital="north")
    assert [message.kind for message in EgressLog(north / "egress.sqlite").messages()] == ["approval"]


def test_a_plan_changed_after_approval_is_not_approved(north, make_plan):
    plan, other = make_plan(), make_plan(noise=2.5)
    approve(north, document(plan), today=TODAY)
    with pytest.raises(PolicyRefusal, match="not approved"):
        require_approval(north, other)
    shutil.copytree(north / "agreements" / plan.digest, north / "agreements" / other.digest)
    with pytest.raises(PolicyRefusal, match="not approved"):
        require_approval(north, other)


def test_an_approval_by_any_other_key_counts_for_nothing(north, make_plan):
    plan = make_plan()
    file = approve(north, document(plan), today=TODAY)
    for content in (write(Approval(plan=plan.digest, hospital="north"), SOUTH), b"junk", b""):
        file.write_bytes(content)
        with pytest.raises(PolicyRefusal, match="not approved"):
            require_approval(north, plan)


def test_a_refusal_outweighs_an_approval_and_is_final(north, make_plan):
    plan = make_plan()
    approve(north, document(plan), today=TODAY)
    file = refuse(north, document(plan), "our ethics board has not met")
    own = Hospital.open(north).signing_key.public_key
    assert read(file.read_bytes(), Refusal, [own]).reason == "our ethics board has not met"
    with pytest.raises(PolicyRefusal, match="refused"):
        require_approval(north, plan)
    with pytest.raises(PolicyRefusal, match="final"):
        approve(north, document(plan), today=TODAY)


@pytest.mark.parametrize("reason", ["", "two\nlines", "x" * 2001])
def test_a_reason_is_one_line(north, make_plan, reason):
    with pytest.raises(Misconfigured, match="reason"):
        refuse(north, document(make_plan()), reason)
    assert not (north / "agreements").exists()


def test_what_the_policy_refuses_cannot_be_approved(north, make_plan):
    plan = make_plan()
    with (north / "policy.toml").open("a") as file:
        file.write(revoked_lines(SOUTH.public_key.hex()))
    held = review(north, document(plan), today=TODAY)
    assert {r.rule for r in held.rulings if not r.holds} == {"revoked keys", "verified hospitals"}
    with pytest.raises(PolicyRefusal, match="policy refuses"):
        approve(north, document(plan), today=TODAY)
    assert not (north / "agreements").exists()
    assert not (north / "egress.sqlite").exists()


def test_a_plan_that_spends_more_than_it_says_cannot_be_approved(north, make_plan):
    held = review(north, document(make_plan(noise=0.9)), today=TODAY)
    assert held.costs.value > 4.0
    with pytest.raises(PolicyRefusal, match="would spend"):
        held.require()


def test_a_plan_of_a_stranger_is_refused_by_signature_or_by_policy(north, make_plan):
    plan, stranger = make_plan(), SigningKey.generate()
    with pytest.raises(VerificationFailed):
        review(north, document(plan, stranger), today=TODAY)
    theirs = plan.agreed(Party("Study", stranger.public_key.hex()), plan.participants)
    with pytest.raises(PolicyRefusal, match="coordinator"):
        approve(north, document(theirs, stranger), today=TODAY)


def test_without_a_policy_nothing_is_approved(north, make_plan):
    plan = make_plan()
    (north / "policy.toml").unlink()
    with pytest.raises(PolicyRefusal, match="every plan is refused"):
        approve(north, document(plan), today=TODAY)


def test_the_budget_over_life_counts_earlier_plans_and_this_one_once(north, make_plan):
    first, second = make_plan(), make_plan(name="second")
    assert review(north, document(first), today=TODAY).life.after == (4.0, 1e-5)
    charge(north, first)
    assert review(north, document(first), today=TODAY).life.after == (4.0, 1e-5)
    assert review(north, document(second), today=TODAY).life.after == (8.0, 2e-5)
    charge(north, second)
    held = review(north, document(make_plan(name="third")), today=TODAY)
    assert held.life.spent == (8.0, 2e-5)
    with pytest.raises(BudgetExhausted, match="life of the cohort"):
        held.require()


def test_a_review_writes_nothing(north, make_plan):
    before = {path: path.stat().st_mtime_ns for path in north.rglob("*")}
    review(north, document(make_plan()), today=TODAY)
    assert {path: path.stat().st_mtime_ns for path in north.rglob("*")} == before


def test_what_is_written_is_private(north, make_plan):
    file = approve(north, document(make_plan()), today=TODAY)
    assert file.stat().st_mode & 0o077 == 0
    assert file.parent.stat().st_mode & 0o077 == 0
    assert json.loads(file.read_bytes())["payloadType"]
