"""What an officer is shown is what is signed, and a decision that makes no sense is not made."""

import shutil

import pytest

from manikin.common import generators
from manikin.common.documents import sign
from manikin.common.errors import AuditFailed, Misconfigured, PolicyRefusal, VerificationFailed
from manikin.common.keys import SigningKey
from manikin.common.release import decide, open_candidate, write_bundle
from manikin.common.release.bundle import write_candidate
from manikin.common.release.evidence import read_decision
from manikin.common.release.facts import CANDIDATE_FILE, CANDIDATE_TYPE
from manikin.common.release.reading import read_listed


@pytest.fixture
def folder(consortium, tmp_path):
    return consortium.candidate(tmp_path / "candidate")


def test_a_candidate_says_what_it_is_on(consortium, folder):
    opened = open_candidate(folder)
    assert opened.plan == consortium.plan()
    assert (opened.audit.verdict, set(opened.evidence.heads)) == ("pass", {"north", "south"})


@pytest.mark.parametrize("choice", ["approve", "refuse", "ask-more"])
def test_a_decision_names_this_candidate_and_the_officer(consortium, folder, choice):
    opened = open_candidate(folder)
    content = decide(opened, consortium.keys["Bo"], decision=choice, reason="read it all")
    about = opened.evidence.about(opened.facts, opened.digest)
    decision = read_decision(content, opened.plan.officers, about=about)
    assert (decision.officer, decision.decision, decision.reason) == ("Bo", choice, "read it all")
    assert content == decide(opened, consortium.keys["Bo"], decision=choice, reason="read it all")


@pytest.mark.parametrize("name", ["north", "coordinator"])
def test_a_key_that_the_plan_names_as_no_officer_decides_nothing(consortium, folder, name):
    with pytest.raises(PolicyRefusal, match="decides on nothing"):
        decide(open_candidate(folder), consortium.keys[name], decision="approve", reason="why not")


def test_what_an_audit_failed_is_not_approved_and_can_be_refused(consortium, tmp_path):
    opened = open_candidate(consortium.candidate(tmp_path / "leaky", verdict="fail"))
    for waiver in ("", "never mind"):
        with pytest.raises(AuditFailed, match="cannot be approved"):
            decide(opened, consortium.keys["Ada"], decision="approve", reason="good", waiver=waiver)
    decide(opened, consortium.keys["Ada"], decision="refuse", reason="it leaks")


def test_what_an_audit_left_open_is_approved_with_a_waiver_only(consortium, tmp_path):
    opened = open_candidate(consortium.candidate(tmp_path / "open", verdict="inconclusive"))
    with pytest.raises(AuditFailed, match="without a waiver"):
        decide(opened, consortium.keys["Ada"], decision="approve", reason="good")
    decide(opened, consortium.keys["Ada"], decision="approve", reason="good", waiver="too few patients to tell")
    with pytest.raises(Misconfigured, match="nothing to waive"):
        decide(opened, consortium.keys["Ada"], decision="refuse", reason="bad", waiver="and yet")


def test_there_is_nothing_to_waive_in_a_pass(consortium, folder):
    with pytest.raises(Misconfigured, match="nothing to waive"):
        decide(open_candidate(folder), consortium.keys["Ada"], decision="approve", reason="good", waiver="so what")


@pytest.mark.parametrize("reason", ["", " ", "two\nlines", "x" * 2001], ids=["none", "blank", "lines", "long"])
def test_a_reason_is_one_line_of_words(consortium, folder, reason):
    with pytest.raises(Misconfigured, match="one line"):
        decide(open_candidate(folder), consortium.keys["Ada"], decision="approve", reason=reason)


@pytest.mark.parametrize(
    "name", ["generator.safetensors", "PRIVACY.md", "plan.json", "audit/report.json", "ledger-heads.json"]
)
def test_a_changed_candidate_is_not_decided_on(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(VerificationFailed):
        open_candidate(folder)


def test_a_candidate_that_the_plans_coordinator_did_not_sign_is_refused(folder):
    statement, _ = read_listed(folder, None, envelope=CANDIDATE_FILE, predicate_type=CANDIDATE_TYPE)
    (folder / CANDIDATE_FILE).write_bytes(sign(statement, SigningKey.generate()))
    with pytest.raises(VerificationFailed, match="signed document"):
        open_candidate(folder)


def test_a_release_is_no_candidate(consortium, folder, tmp_path):
    said = {name: consortium.decision(folder, name) for name in ("Ada", "Bo")}
    with pytest.raises(VerificationFailed, match="not a candidate"):
        open_candidate(consortium.release(tmp_path / "release", folder, said))


def test_neither_is_written_in_place_of_the_other(consortium, folder, tmp_path):
    opened, signer = open_candidate(folder), consortium.keys["coordinator"]
    generator = generators.create(opened.plan.generator_spec())
    with pytest.raises(Misconfigured, match="not signed yet"):
        write_bundle(tmp_path / "b", generator=generator, facts=opened.facts, signer=signer)
    facts = consortium.facts(consortium.plan(needed=0))
    with pytest.raises(Misconfigured, match="Nobody would decide"):
        write_candidate(tmp_path / "b", generator=generator, facts=facts, signer=signer, extra={})
    with pytest.raises(Misconfigured, match="cannot hold"):
        consortium.candidate(tmp_path / "c", replaced={"decisions/x.dsse.json": b""})
    with pytest.raises(Misconfigured, match="exists"):
        consortium.release(shutil.copytree(folder, tmp_path / "taken"), folder, {})
    assert not (tmp_path / "b").exists()
