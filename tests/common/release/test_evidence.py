"""A release with officers is refused unless audit, ledger heads and decisions are all about it, and enough."""

import json

import pytest

from manikin.common.decisions import AuditReport, AuditTest, Decision
from manikin.common.errors import AuditFailed, PolicyRefusal, VerificationFailed
from manikin.common.keys import SigningKey
from manikin.common.release import open_candidate
from manikin.common.release.evidence import heads_file, require_decisions, signatories

DIGEST = "a" * 64


def decide(consortium, folder, *envelopes, trust=None):
    opened = open_candidate(folder)
    trust = trust or signatories(opened.plan)
    return require_decisions(opened.facts, opened.evidence, opened.digest, envelopes, trust)


@pytest.fixture
def candidate(consortium, tmp_path):
    return consortium.candidate(tmp_path / "candidate")


@pytest.fixture
def doubtful(consortium, tmp_path):
    return consortium.candidate(tmp_path / "doubtful", verdict="inconclusive")


def test_k_officers_of_two_institutions_suffice(consortium, candidate):
    both = [consortium.decision(candidate, name) for name in ("Bo", "Ada")]
    assert [decision.officer for decision in decide(consortium, candidate, *both)] == ["Ada", "Bo"]


@pytest.mark.parametrize("names", [(), ("Ada",), ("Bo", "Cy")], ids=["nobody", "one", "one-institution"])
def test_fewer_officers_or_one_institution_do_not(consortium, candidate, names):
    with pytest.raises(PolicyRefusal, match="approved"):
        decide(consortium, candidate, *(consortium.decision(candidate, name) for name in names))


def test_as_many_as_the_plan_needs(consortium, tmp_path):
    folder = consortium.candidate(tmp_path / "three", plan=consortium.plan(needed=3))
    said = [consortium.decision(folder, name) for name in consortium.officers]
    with pytest.raises(PolicyRefusal, match="2 officers of 2"):
        decide(consortium, folder, *said[:2])
    assert len(decide(consortium, folder, *said)) == 3


@pytest.mark.parametrize("choice", ["refuse", "ask-more"])
def test_one_officer_against_outweighs_all_others(consortium, candidate, choice):
    said = [consortium.decision(candidate, name) for name in ("Ada", "Bo")]
    with pytest.raises(PolicyRefusal) as refused:
        decide(consortium, candidate, *said, consortium.decision(candidate, "Cy", choice))
    assert "as Cy sees it" in refused.value.why


def test_a_failed_audit_cannot_be_overridden(consortium, tmp_path):
    folder = consortium.candidate(tmp_path / "leaky", verdict="fail")
    with pytest.raises(AuditFailed, match="failed") as refused:
        decide(
            consortium,
            folder,
            *(consortium.decision(folder, name, waiver="we do not mind") for name in consortium.officers),
        )
    assert "copies: none of 100" in refused.value.why


def test_an_inconclusive_audit_needs_a_waiver_of_everyone_whom_the_plan_names(consortium, doubtful):
    def said(*names, waived=()):
        return [consortium.decision(doubtful, n, waiver="too few patients" if n in waived else "") for n in names]

    for given in (
        said("Ada", "Bo"),
        said("Ada", "Bo", waived=("Ada", "Bo")),
        said("Ada", "Bo", "Cy", waived=("Ada", "Bo")),
    ):
        with pytest.raises(AuditFailed, match="inconclusive") as refused:
            decide(consortium, doubtful, *given)
        assert "Cy (South Clinic)" in refused.value.why
    assert len(decide(consortium, doubtful, *said("Ada", "Bo", "Cy", waived=consortium.officers))) == 3


def test_an_officer_counts_once(consortium, candidate):
    twice = [consortium.decision(candidate, "Ada"), consortium.decision(candidate, "Ada", reason="again")]
    with pytest.raises(VerificationFailed, match="decisions are refused"):
        decide(consortium, candidate, *twice)


@pytest.mark.parametrize("signer", ["Bo", "coordinator", "north"])
def test_nobody_decides_for_an_officer(consortium, candidate, signer):
    with pytest.raises(VerificationFailed):
        decide(consortium, candidate, consortium.decision(candidate, "Ada", signer=signer))


def test_an_officer_of_no_plan_is_refused(consortium, candidate):
    consortium.keys["Eve"] = SigningKey.generate()
    with pytest.raises(VerificationFailed):
        decide(consortium, candidate, consortium.decision(candidate, "Eve"))


@pytest.mark.parametrize("part", ["plan", "generator", "report", "candidate"])
def test_a_decision_on_anything_else_is_refused(consortium, candidate, part):
    with pytest.raises(VerificationFailed, match="Ada"):
        decide(consortium, candidate, consortium.decision(candidate, "Ada", **{part: DIGEST}))


def test_an_older_decision_is_not_carried_over_to_another_generator(consortium, candidate, tmp_path):
    older = consortium.candidate(tmp_path / "older", seed=1)
    said = [consortium.decision(older, "Ada"), consortium.decision(candidate, "Bo")]
    with pytest.raises(VerificationFailed, match="Ada"):
        decide(consortium, candidate, *said)


def test_a_decision_covers_every_claim(consortium, candidate, tmp_path):
    rosier = consortium.candidate(tmp_path / "rosier", epsilon=2.6)
    with pytest.raises(VerificationFailed, match="Ada"):
        decide(consortium, rosier, consortium.decision(candidate, "Ada"))


WRONG_HEADS = {  # step, heads by hospital, who missed it; `c` is the consortium, `h` its right heads
    "none": lambda c, plan, h: (1, {}, ["north", "south", "west"]),
    "one-unaccounted-for": lambda c, plan, h: (1, {n: h[n] for n in ("north", "south")}, []),
    "fewer-than-quorum": lambda c, plan, h: (1, {"north": h["north"]}, ["south", "west"]),
    "both-there-and-missing": lambda c, plan, h: (1, {n: h[n] for n in ("north", "south")}, ["south"]),
    "stranger": lambda c, plan, h: (1, {"north": h["north"], "south": h["south"], "east": h["west"]}, []),
    "stranger-missed-it": lambda c, plan, h: (1, {n: h[n] for n in ("north", "south")}, ["east"]),
    "swapped": lambda c, plan, h: (1, h | {"north": h["south"], "south": h["north"]}, []),
    "other-signer": lambda c, plan, h: (1, h | {"south": c.head(plan, "south", signer="north")}, []),
    "other-name": lambda c, plan, h: (1, h | {"south": c.head(plan, "north", signer="south")}, []),
    "other-plan": lambda c, plan, h: (1, h | {"south": c.head(plan, "south", plan=DIGEST)}, []),
    "other-step": lambda c, plan, h: (1, h | {"south": c.head(plan, "south", step=2)}, []),
    "uncharged-step": lambda c, plan, h: (0, {n: c.head(plan, n, step=0) for n in h}, []),
    "audit-step": lambda c, plan, h: (2, {n: c.head(plan, n, step=2) for n in h}, []),
}


@pytest.mark.parametrize("name", WRONG_HEADS)
def test_ledger_heads_that_are_not_complete_are_refused(form_consortium, tmp_path, name):
    consortium = form_consortium("north", "south", "west")  # and a quorum of two
    plan = consortium.plan()
    file = heads_file(plan, *WRONG_HEADS[name](consortium, plan, consortium.heads(plan)))
    folder = consortium.candidate(tmp_path / "c", replaced={"ledger-heads.json": file})
    with pytest.raises(VerificationFailed):
        open_candidate(folder)


def test_ledger_heads_of_another_plan_or_none_are_refused(consortium, tmp_path):
    other = heads_file(consortium.plan(noise=6.0), 1, consortium.heads(consortium.plan()), [])
    for name, file in (("other", other), ("junk", b"[]"), ("deep", b"[" * 100_000)):
        folder = consortium.candidate(tmp_path / name, replaced={"ledger-heads.json": file})
        with pytest.raises(VerificationFailed):
            open_candidate(folder)


def test_heads_are_of_the_last_charged_step_and_a_hospital_may_have_missed_it(form_consortium, tmp_path):
    consortium = form_consortium("north", "south", "west")
    consortium.study["stage"] *= 2
    plan = consortium.plan()

    def opened(name, step):
        heads = {n: consortium.head(plan, n, step=step) for n in ("north", "south")}
        file = heads_file(plan, step, heads, ["west"])
        return open_candidate(consortium.candidate(tmp_path / name, plan=plan, replaced={"ledger-heads.json": file}))

    assert opened("last", 2).evidence.missed == ("west",)
    with pytest.raises(VerificationFailed, match="bundle is refused"):
        opened("first", 1)


@pytest.mark.parametrize("missing", ["audit.dsse.json", "audit/report.json", "ledger-heads.json"])
def test_evidence_that_is_missing_is_missed(consortium, tmp_path, missing):
    with pytest.raises(VerificationFailed):
        open_candidate(consortium.candidate(tmp_path / "c", replaced={missing: None}))


@pytest.mark.parametrize(
    "changes",
    [
        {"generator": DIGEST},
        {"plan": DIGEST},
        {"files": {}},
        {"files": {"audit/report.json": DIGEST}},
        {"signer": "Ada"},
    ],
    ids=["generator", "plan", "no-files", "file", "signer"],
)
def test_an_audit_report_on_anything_else_is_refused(consortium, tmp_path, changes):
    right = consortium.candidate(tmp_path / "right")
    state = (right / "generator.safetensors").read_bytes()
    replaced = consortium.report(consortium.plan(), state, **changes)
    with pytest.raises(VerificationFailed):
        open_candidate(consortium.candidate(tmp_path / "wrong", replaced=replaced))


def test_a_file_that_the_report_does_not_name_is_refused(consortium, tmp_path):
    folder = consortium.candidate(tmp_path / "c", replaced={"audit/more.html": b"<p>all is well</p>"})
    with pytest.raises(VerificationFailed, match="bundle is refused"):
        open_candidate(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "pass"},
        {"verdict": "inconclusive"},
        {"tests": ()},
        {"files": {"README.md": DIGEST}},
        {"files": {"audit/../x": DIGEST}},
        {"generator": "x"},
    ],
    ids=json.dumps,
)
def test_a_report_is_no_better_than_its_tests_and_names_its_own_files_only(change):
    test = AuditTest(name="copies", verdict="fail", finding="found", ceiling="all")
    right = {"plan": DIGEST, "generator": DIGEST, "verdict": "fail", "tests": (test,), "files": {}}
    AuditReport(**right)
    with pytest.raises(ValueError):
        AuditReport(**(right | change))


def test_a_report_does_not_pass_by_tests_that_say_nothing():
    test = AuditTest(name="copies", verdict="inconclusive", finding="none", ceiling="none")
    with pytest.raises(ValueError):
        AuditReport(plan=DIGEST, generator=DIGEST, verdict="pass", tests=(test,), files={})


@pytest.mark.parametrize(
    "change",
    [
        {"reason": ""},
        {"reason": " "},
        {"reason": "two\nlines"},
        {"reason": "x" * 2001},
        {"waiver": "x" * 2001},
        {"waiver": " "},
        {"decision": "maybe"},
        {"decision": "refuse", "waiver": "still"},
        {"officer": "../Ada"},
        {"surprise": 1},
    ],
    ids=lambda change: "-".join(f"{k}={str(v)[:8]!r}" for k, v in change.items()),
)
def test_a_decision_is_closed_and_bounded(change):
    right = dict.fromkeys(("plan", "generator", "report", "candidate"), DIGEST)
    right |= {"officer": "Ada", "decision": "approve", "reason": "good", "waiver": ""}
    Decision(**right)
    with pytest.raises(ValueError):
        Decision(**(right | change))
