"""`manikin hospital ledger` and `egress`, as a privacy officer reads them."""

import contextlib
import json
import sqlite3

import numpy as np
import pytest

from manikin.client.cohort import Hospital, create_hospital, import_source
from manikin.client.cohort.store import Store
from manikin.client.egress import EgressLog
from manikin.client.enrolment import rotate
from manikin.client.policy import Policy, write_first
from manikin.privacy.accounting import Mechanism
from manikin.privacy.ledger import Charge, Ledger

PLAN = "ab" * 32


@pytest.fixture
def home(tmp_path):
    """A hospital of six patients that answered two steps of a plan, and sent both replies."""
    folder = tmp_path / "north"
    create_hospital(folder, "North")
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "scans.npz", images=images, axes="NHW", labels=np.arange(6) % 2, patients=np.arange(6))
    import_source(tmp_path / "scans.npz", folder)
    return folder


@pytest.fixture
def book(home):
    hospital = Hospital.open(home)
    return Ledger(home / "ledger.sqlite", hospital="North", signer=hospital.signing_key)


@pytest.fixture
def log(home):
    return EgressLog(home / "egress.sqlite", signer=Hospital.open(home).signing_key)


def patients(home):
    with Store.open(Hospital.open(home).database) as store:
        return sorted({patient for patient, *_ in store.tally()})


def answer(home, book, log, step, plan=PLAN):
    charge = Charge(patients(home)[:4], epsilon=1.5, delta=1e-6, limit_epsilon=10.0, limit_delta=1e-4)
    book.commit(book.reserve(plan, step, bytes(32), Mechanism(3.73), charge=charge), b"reply")
    tensors = [{"name": "sum", "shape": [2, 3], "dtype": "float64"}]
    log.record(kind="release", plan=plan, step=step, tensors=tensors, content=b"frame", epsilon=1.5)


def edit(path, statement):
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute(statement)


def last_line(out):
    return json.loads(out.splitlines()[-1])


def test_the_ledger_says_what_is_spent_what_is_left_and_where_it_stands(manikin, home, book, log):
    answer(home, book, log, 0)
    book.reserve(PLAN, 1, bytes(32), Mechanism(3.73))
    code, out, _ = manikin("hospital", "ledger", "--hospital", home, "--verify", "--json")
    assert code == 0
    result = last_line(out)
    row = {"plan": PLAN, "steps": 2, "unfinished": 1, "patients": 4, "epsilon": 1.5, "delta": 1e-6}
    assert (result["plans"], result["verified"]) == ([row], True)
    assert (result["charged"], result["left"]) == ({"epsilon": 1.5, "delta": 1e-6}, None)
    assert result["head"] == book.latest()
    assert "Verified: 3 entries" in out
    assert "Head: entry 3" in out


def test_what_is_left_of_a_lifetime_is_the_policys_limit_less_what_was_charged(manikin, home, book, log):
    write_first(home, "")
    limits = Policy.load(home).limits
    answer(home, book, log, 0)
    result = last_line(manikin("hospital", "ledger", "--hospital", home, "--json")[1])
    assert result["left"] == {"epsilon": max(0.0, limits.epsilon - 1.5), "delta": limits.delta - 1e-6}


def test_looking_at_a_hospital_that_did_nothing_makes_no_ledger(manikin, home):
    for command in ("ledger", "egress"):
        assert manikin("hospital", command, "--hospital", home)[0] == 0
    assert not (home / "ledger.sqlite").exists()
    assert not (home / "egress.sqlite").exists()


def test_a_plan_charged_to_another_cohort_costs_this_one_nothing(manikin, home, book):
    charge = Charge(["somebody else"], 1.0, 1e-6, 10.0, 1e-4)
    book.reserve(PLAN, 0, bytes(32), Mechanism(3.73), charge=charge)
    result = last_line(manikin("hospital", "ledger", "--hospital", home, "--json")[1])
    assert result["charged"] == {"epsilon": 0.0, "delta": 0.0}


@pytest.mark.parametrize("form", ["envelope", "peer", "coordinator", "release"])
def test_an_anchor_is_read_as_its_holder_keeps_it_and_finds_a_cut(manikin, home, book, log, tmp_path, form):
    answer(home, book, log, 0)
    answer(home, book, log, 1)
    head = book.head(PLAN, 1)
    kept = {
        "envelope": head,
        "peer": json.dumps({"head": head}),
        "coordinator": json.dumps({"North": head}),
        "release": json.dumps({"plan": PLAN, "step": 1, "heads": {"North": head}, "missed": []}),
    }[form]
    (tmp_path / "anchor").write_text(kept)
    command = ("hospital", "ledger", "--hospital", home, "--verify", "--anchor", tmp_path / "anchor", "--json")
    assert manikin(*command)[0] == 0
    edit(home / "ledger.sqlite", "DELETE FROM event WHERE step = 1")
    code, out, err = manikin(*command)
    assert (code, last_line(out)["verified"]) == (17, False)
    assert "rolled back or cut" in err


def test_a_ledger_that_is_gone_is_found_by_its_anchor(manikin, home, book, log, tmp_path):
    answer(home, book, log, 0)
    (tmp_path / "anchor").write_text(book.latest())
    for file in home.glob("ledger.sqlite*"):
        file.unlink()
    assert manikin("hospital", "ledger", "--hospital", home, "--anchor", tmp_path / "anchor")[0] == 17


@pytest.mark.parametrize("damage", ["UPDATE event SET epsilon = 0.5", "UPDATE event SET mechanism = '{'"])
def test_an_edited_ledger_fails_with_17(manikin, home, book, log, damage):
    answer(home, book, log, 0)
    edit(home / "ledger.sqlite", damage)
    code, out, err = manikin("hospital", "ledger", "--hospital", home, "--verify")
    assert (code, "does not hold" in err, "Verified" in out) == (17, True, False)


def test_a_file_that_is_no_ledger_fails_with_17_when_asked_to_verify(manikin, home):
    (home / "ledger.sqlite").write_bytes(b"nothing" * 1000)
    assert manikin("hospital", "ledger", "--hospital", home, "--verify")[0] == 17
    assert manikin("hospital", "ledger", "--hospital", home)[0] == 18


def test_after_a_rotation_what_the_former_key_signed_still_holds(manikin, home, book, log):
    (home / "enrolment.dsse.json").touch()
    (home / "gateway").mkdir()
    (home / "gateway" / "node.pub").write_text("ecdsa-sha2-nistp384 " + "A" * 120)
    answer(home, book, log, 0)
    new = rotate(home)
    answer(
        home,
        Ledger(home / "ledger.sqlite", hospital="North", signer=new),
        EgressLog(home / "egress.sqlite", signer=new),
        1,
    )
    for command in (("ledger", "--verify"), ("egress",)):
        assert manikin("hospital", *command, "--hospital", home)[0] == 0
    (home / "keys" / "former.json").unlink()
    for command in (("ledger", "--verify"), ("egress",)):
        assert manikin("hospital", *command, "--hospital", home)[0] == 17


def test_counters_are_counted_and_not_listed(manikin, home, log):
    for _ in range(3):
        log.record(kind="counters", plan="", step=-1, tensors=[], content=b"{}", epsilon=None)
    code, out, _ = manikin("hospital", "egress", "--hospital", home, "--json")
    assert (code, "3 message(s) of counters" in out, "sha256" in out.splitlines()[0]) == (0, True, False)
    assert len(last_line(out)["messages"]) == 3


def test_junk_is_no_anchor(manikin, home, tmp_path):
    (tmp_path / "anchor").write_text("[1]")
    assert manikin("hospital", "ledger", "--hospital", home, "--anchor", tmp_path / "anchor")[0] == 10


def test_egress_lists_what_left(manikin, home, book, log):
    log.record(kind="open", plan=PLAN, step=0, tensors=[], content=b"ready", epsilon=None)
    answer(home, book, log, 1)
    code, out, _ = manikin("hospital", "egress", "--hospital", home, "--json")
    assert code == 0
    assert "sum 2×3" in out
    result = last_line(out)
    assert result["verified"] is True
    assert [(m["kind"], m["step"], m["epsilon"]) for m in result["messages"]] == [
        ("open", 0, None),
        ("release", 1, 1.5),
    ]
    assert result["messages"][1]["tensors"] == [{"name": "sum", "shape": [2, 3], "dtype": "float64"}]


def test_a_reply_without_a_ledger_entry_fails_with_17(manikin, home, book, log):
    answer(home, book, log, 0)
    log.record(kind="train", plan=PLAN, step=1, tensors=[], content=b"weights", epsilon=1.5)
    code, out, err = manikin("hospital", "egress", "--hospital", home, "--json")
    assert (code, last_line(out)["verified"]) == (17, False)
    assert "without an entry in the ledger" in err


def test_an_edited_egress_log_fails_with_17(manikin, home, book, log):
    answer(home, book, log, 0)
    edit(home / "egress.sqlite", "UPDATE message SET size_bytes = 4")
    assert manikin("hospital", "egress", "--hospital", home)[0] == 17


def test_a_reply_that_was_kept_and_not_sent_is_told(manikin, home, book, log):
    answer(home, book, log, 0)
    book.commit(book.reserve(PLAN, 1, bytes(32), Mechanism(3.73)), b"reply")
    code, out, _ = manikin("hospital", "egress", "--hospital", home, "--json")
    assert (code, last_line(out)["unsent"]) == (0, [[PLAN, 1]])
