"""From a candidate to a release, as officers and coordinator type it."""

import json

import pytest

from manikin.common import agreements, generators
from manikin.common.keys import SigningKey
from manikin.server.agreements import Coordinator
from manikin.server.releasing import prepare

APPROVE = ("--decision", "approve", "--reason", "the report is sound")


@pytest.fixture
def officers(consortium, tmp_path):
    """Each officer's key file."""
    for name in consortium.officers:
        consortium.keys[name].save(tmp_path / f"{name}.pem")
    return {name: tmp_path / f"{name}.pem" for name in consortium.officers}


@pytest.fixture
def place(manikin, consortium, tmp_path):
    """A coordinator's folder and a plan in it, whose run has ended with a candidate."""
    home = tmp_path / "home"
    manikin("coordinator", "init", home, "--name", "Study", "--address", "h:1")
    consortium.keys["coordinator"] = SigningKey.load(home / "keys" / "coordinator.pem")
    plan = consortium.plan()
    opened = Coordinator.open(home)
    folder = opened.plan_folder(plan.digest)
    (folder / "run").mkdir(parents=True)
    document = agreements.PlanDocument(plan=plan.to_dict())
    (folder / "plan.dsse.json").write_bytes(agreements.write(document, consortium.keys["coordinator"]))
    candidate, spent = prepare(
        folder / "run",
        plan=plan,
        generator=generators.create(plan.generator_spec()),
        hospitals=consortium.hospitals,
        heads={"1": consortium.heads(plan)},
        created="2026-01-02T03:04:05+00:00",
        audit_statement="See audit/report.json.",
        key=consortium.keys["coordinator"],
    )
    said = {"state": "finished", "candidate": str(candidate), "epsilon": spent.value}
    (folder / "run" / "status.json").write_text(json.dumps(said))
    return home, plan, candidate


def signed(manikin, candidate, key, *options):
    code, out, err = manikin("release", "sign", candidate, "--key", key, *options, "--json")
    return (code, json.loads(out.splitlines()[-1]), out) if code == 0 else (code, err, out)


def test_from_a_candidate_to_a_release_that_says_who_decided(manikin, place, officers):
    home, plan, candidate = place
    command = ("coordinator", "release", "--coordinator", home, "--plan", plan.digest[:16])
    code, out, _ = manikin("coordinator", "resume", "--coordinator", home, "--plan", plan.digest[:16])
    assert (code, "Not released yet" in out, "manikin coordinator release" in out) == (0, True, True)
    assert manikin("coordinator", "status", "--coordinator", home, "--json")[1].count("officers decide") == 1
    files = []
    for name, key in officers.items():
        code, said, out = signed(manikin, candidate, key, *APPROVE, "--waiver", "too few patients to tell")
        assert code == 0, said
        assert (said["officer"], said["verdict"], said["plan"]) == (name, "inconclusive", plan.digest)
        for shown in (plan.digest, said["generator"], said["report"], said["candidate"], "Audit: inconclusive"):
            assert out.index(shown) < out.index("Signed by")
        assert "is right about at most" in out
        files += ["--decision", said["file"]]
    code, _, err = manikin(*command, *files[:4])
    assert (code, "Cy (South Clinic)" in err) == (15, True)
    code, out, err = manikin(*command, *files, "--json")
    assert code == 0, err
    done = json.loads(out.splitlines()[-1])
    assert done["approved"] == ["Ada", "Bo", "Cy"]
    code, out, _ = manikin("release", "verify", done["release"], "--trust", done["trust"], "--json")
    assert code == 0
    assert "Approved by Ada (North Clinic): the report is sound" in out
    assert "Accepts that the audit is inconclusive: too few patients to tell" in out
    seen = json.loads(out.splitlines()[-1])
    assert (seen["audit_verdict"], len(seen["decisions"])) == ("inconclusive", 3)
    code, out, _ = manikin("coordinator", "resume", "--coordinator", home, "--plan", plan.digest[:16])
    assert (code, "Released:" in out) == (0, True)


def test_what_cannot_be_signed_is_not(manikin, place, officers, tmp_path, consortium):
    _, _, candidate = place
    assert signed(manikin, candidate, officers["Ada"], *APPROVE)[0] == 15  # inconclusive, and no waiver
    assert signed(manikin, candidate, tmp_path / "nobody.pem", *APPROVE)[0] == 10
    consortium.keys["north"].save(tmp_path / "north.pem")
    assert signed(manikin, candidate, tmp_path / "north.pem", *APPROVE)[0] == 12
    assert signed(manikin, candidate, officers["Ada"], "--decision", "maybe", "--reason", "x")[0] == 2
    assert signed(manikin, tmp_path, officers["Ada"], *APPROVE)[0] == 17
    for inside in (candidate / "decision.dsse.json", candidate):
        options = ("--decision", "refuse", "--reason", "no", "--out", inside)
        assert signed(manikin, candidate, officers["Ada"], *options)[0] == 10
    (candidate / "PRIVACY.md").write_text("ε = 0.1")
    code, _, out = signed(manikin, candidate, officers["Ada"], "--decision", "refuse", "--reason", "no")
    assert (code, "Signed" in out) == (17, False)
    assert not list(tmp_path.rglob("decision*"))


def test_a_claim_below_what_the_plan_spends_is_not_signed(manikin, consortium, officers, tmp_path):
    rosy = consortium.candidate(tmp_path / "rosy", epsilon=0.01, accountants={"pld": 0.01})
    code, err, _ = signed(manikin, rosy, officers["Ada"], *APPROVE)
    assert code == 17
    assert "its plan spends" in err


def test_a_refusal_stops_the_release_with_its_reason(manikin, place, officers):
    home, plan, candidate = place
    code, said, _ = signed(manikin, candidate, officers["Bo"], "--decision", "refuse", "--reason", "copies seen")
    assert code == 0
    command = ("coordinator", "release", "--coordinator", home, "--plan", plan.digest)
    code, _, err = manikin(*command, "--decision", said["file"])
    assert (code, "Bo refuses: copies seen" in err) == (12, True)
    assert not (candidate.parent / "release").exists()
    assert manikin(*command)[0] == 12


def test_a_plan_without_officers_says_so(manikin, bundle, trust):
    _, out, _ = manikin("release", "verify", bundle, "--trust", trust, "--json")
    assert "No officer decided on this release: its plan names none." in out
    assert json.loads(out.splitlines()[-1])["decisions"] == []
