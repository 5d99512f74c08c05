"""The gate signs nothing that lacks an audit, ledger heads or an officer's word; and says what is missing."""

import pytest

from manikin.common import generators
from manikin.common.errors import AuditFailed, Misconfigured, PolicyRefusal, StorageFailure, VerificationFailed
from manikin.common.release import open_candidate, verify_bundle
from manikin.server import agreements
from manikin.server.agreements import create_coordinator
from manikin.server.gate import issue
from manikin.server.releasing import prepare


@pytest.fixture
def home(consortium, tmp_path):
    """A coordinator's folder; its key is the consortium's coordinator's."""
    home = create_coordinator(tmp_path / "home", "Study", "127.0.0.1:8443")
    consortium.keys["coordinator"] = home.signing_key
    return home


def run_of(home, plan):
    return home.plan_folder(plan.digest) / "run"


@pytest.fixture
def candidate(consortium, home):
    folder = run_of(home, consortium.plan())
    folder.mkdir(parents=True)
    return consortium.candidate(folder / "candidate")


@pytest.fixture
def give(consortium, home, candidate):
    """Give decisions to the gate."""

    def give(*said, **choices):
        envelopes = [consortium.decision(candidate, name, choice) for name, choice in choices.items()]
        return issue(home, consortium.plan(), [*said, *envelopes])

    give.released = lambda: (candidate.parent / "release").exists()
    return give


def test_enough_approvals_make_a_release_that_verifies(give, candidate):
    release, trust = give(Ada="approve", Bo="approve")
    assert release.folder == candidate.parent / "release"
    again = verify_bundle(release.folder, trust)
    assert (again.digest, [d.officer for d in again.decisions]) == (release.digest, ["Ada", "Bo"])
    for file in (path for path in candidate.rglob("*") if path.is_file() and path.name != "candidate.dsse.json"):
        assert (release.folder / file.relative_to(candidate)).read_bytes() == file.read_bytes()
    assert give(Ada="approve", Bo="approve")[0].digest == release.digest


def test_decisions_need_not_come_together(give):
    with pytest.raises(PolicyRefusal, match="1 officers"):
        give(Ada="approve")
    give(Bo="approve")
    assert give.released()


@pytest.mark.parametrize("choices", [{}, {"Ada": "approve"}, {"Bo": "approve", "Cy": "approve"}], ids=len)
def test_too_few_approvals_make_none(give, choices):
    with pytest.raises(PolicyRefusal, match="approved"):
        give(**choices)
    assert not give.released()


def test_a_refusal_is_final_and_nothing_undoes_it(give, home, consortium):
    with pytest.raises(PolicyRefusal, match="does not approve") as refused:
        give(Ada="approve", Bo="approve", Cy="refuse")
    assert "as Cy sees it" in refused.value.why
    for choices in ({"Ada": "approve", "Bo": "approve"}, {"Ada": "approve", "Bo": "approve", "Cy": "approve"}):
        with pytest.raises(PolicyRefusal, match="does not approve"):
            give(**choices)
    agreements.revoke_key(home, consortium.keys["Cy"].public_key.hex())
    with pytest.raises(PolicyRefusal, match="does not approve"):
        give(Ada="approve", Bo="approve")
    assert not give.released()


def test_who_asked_for_more_can_approve_later(give):
    with pytest.raises(PolicyRefusal, match="does not approve"):
        give(Ada="approve", Bo="ask-more")
    with pytest.raises(PolicyRefusal, match="does not approve"):
        give(Cy="approve")
    give(Bo="approve")
    assert give.released()


def test_a_revoked_officer_counts_no_more(give, home, consortium):
    with pytest.raises(PolicyRefusal, match="1 officers"):
        give(Ada="approve")
    agreements.revoke_key(home, consortium.keys["Ada"].public_key.hex())
    with pytest.raises(PolicyRefusal, match="approved"):
        give(Bo="approve", Cy="approve")
    with pytest.raises(VerificationFailed):
        give(Ada="approve", Bo="approve")
    assert not give.released()


def test_a_decision_on_another_candidate_is_refused_and_not_kept(give, consortium, tmp_path):
    older = consortium.candidate(tmp_path / "older", seed=1)
    with pytest.raises(VerificationFailed, match="Ada"):
        give(consortium.decision(older, "Ada"), Bo="approve")
    give(Ada="approve", Bo="approve")


def test_an_officer_who_says_two_things_at_once_is_asked_which(give, consortium, candidate):
    with pytest.raises(VerificationFailed, match="Ada decided twice"):
        give(consortium.decision(candidate, "Ada", "ask-more"), Ada="approve", Bo="approve")
    assert not give.released()


@pytest.mark.parametrize("verdict", ["fail", "inconclusive"])
def test_without_a_passing_audit_there_is_no_release(consortium, home, verdict):
    plan = consortium.plan()
    run_of(home, plan).mkdir(parents=True)
    candidate = consortium.candidate(run_of(home, plan) / "candidate", verdict=verdict)
    said = [consortium.decision(candidate, name) for name in consortium.officers]
    with pytest.raises(AuditFailed):
        issue(home, plan, said)
    waived = [consortium.decision(candidate, name, waiver="we know") for name in consortium.officers]
    if verdict == "fail":
        with pytest.raises(AuditFailed):
            issue(home, plan, waived)
    else:
        assert len(issue(home, plan, waived)[0].decisions) == 3


@pytest.mark.parametrize("name", ["generator.safetensors", "audit.dsse.json", "ledger-heads.json", "PRIVACY.md"])
def test_a_candidate_that_was_changed_is_not_released(give, candidate, name):
    with pytest.raises(PolicyRefusal):
        give(Ada="approve")
    (candidate / name).write_bytes((candidate / name).read_bytes() + b" ")
    with pytest.raises(VerificationFailed):
        give(Bo="approve")
    assert not give.released()


def test_a_candidate_of_another_plan_is_not_released(consortium, home):
    plan = consortium.plan()
    run_of(home, plan).mkdir(parents=True)
    consortium.candidate(run_of(home, plan) / "candidate", plan=consortium.plan(noise=6.0))
    with pytest.raises(VerificationFailed, match="another plan"):
        issue(home, plan, [])


def test_without_a_candidate_or_officers_there_is_nothing_to_decide(consortium, home):
    with pytest.raises(Misconfigured, match="no candidate"):
        issue(home, consortium.plan(), [])
    with pytest.raises(Misconfigured, match="nothing to decide"):
        issue(home, consortium.plan(needed=0), [])


def test_a_full_disk_leaves_no_release(give, monkeypatch):
    def full(*_, **__):
        raise StorageFailure("full")

    with monkeypatch.context() as patch:
        patch.setattr("manikin.common.release.bundle.write_atomically", full)
        with pytest.raises(StorageFailure):
            give(Ada="approve", Bo="approve")
    assert not give.released()
    give(Ada="approve", Bo="approve")


def prepared(consortium, folder, plan, heads):
    return prepare(
        folder,
        plan=plan,
        generator=generators.create(plan.generator_spec()),
        hospitals=consortium.hospitals,
        heads=heads,
        created="2026-01-02T03:04:05+00:00",
        audit_statement="See audit/report.json.",
        key=consortium.keys["coordinator"],
    )


def test_a_run_ends_with_a_candidate_whose_audit_says_what_stayed_at_home(consortium, home):
    plan = consortium.plan()
    folder, spent = prepared(consortium, run_of(home, plan), plan, {"1": consortium.heads(plan)})
    opened = open_candidate(folder)
    assert opened.facts.epsilon == spent.value
    assert (opened.audit.verdict, len(opened.audit.tests)) == ("inconclusive", 1)
    assert "stay in the hospitals" in opened.audit.tests[0].finding
    assert not (folder.parent / "release").exists()
    assert prepared(consortium, run_of(home, plan), plan, {})[0] == folder  # a resumed run keeps it
    waived = [consortium.decision(folder, name, waiver="we know") for name in consortium.officers]
    assert issue(home, plan, waived)[0].audit == opened.audit


@pytest.mark.parametrize("heads", [{}, {"0": "all"}, {"1": "one"}], ids=["none", "of-an-earlier-step", "of-one"])
def test_a_run_without_complete_ledger_heads_ends_with_none(consortium, home, heads):
    plan, right = consortium.plan(), consortium.heads(consortium.plan())
    chosen = {"all": right, "one": {"north": right["north"]}}
    with pytest.raises(VerificationFailed):
        prepared(consortium, run_of(home, plan), plan, {step: chosen[name] for step, name in heads.items()})
    assert not (run_of(home, plan) / "candidate").exists()
