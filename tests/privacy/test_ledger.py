"""The ledger: charged before it is done, done once, the same bytes again, whatever dies in between."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manikin.common.errors import Misconfigured, ProtocolViolation, StorageFailure
from manikin.privacy.accounting import Mechanism, epsilon
from manikin.privacy.ledger import Ledger

RELEASE = Mechanism(3.73)
ROUND = Mechanism(2.3, 0.15, 10)
FIRST, OTHER = bytes(32), bytes([1]) * 32

CRASHING = """
import os, signal, sys
from pathlib import Path
from manikin.privacy.accounting import Mechanism
from manikin.privacy.ledger import Ledger

ledger = Ledger(Path(sys.argv[1]))
ledger.commit(ledger.reserve("plan", 0, bytes(32), Mechanism(3.73)), b"sent")
ledger.reserve("plan", 1, bytes(32), Mechanism(2.3, 0.15, 10))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "hospital" / "ledger.sqlite")


def states(ledger: Ledger) -> list[tuple[int, bool]]:
    return [(entry.step, entry.done) for spending in ledger.spent() for entry in spending.entries]


def test_a_step_is_charged_when_reserved_and_done_when_its_reply_is_kept(ledger):
    reservation = ledger.reserve("plan", 0, FIRST, RELEASE)
    assert (reservation.state, reservation.reply, states(ledger)) == ("new", None, [(0, False)])
    ledger.commit(reservation, b"reply")
    assert states(ledger) == [(0, True)]
    again = ledger.reserve("plan", 0, FIRST, RELEASE)
    assert (again.state, again.reply, states(ledger)) == ("done", b"reply", [(0, True)])


def test_after_a_kill_between_reserve_and_commit_the_same_request_goes_on_and_no_other(tmp_path):
    path = tmp_path / "ledger.sqlite"
    killed = subprocess.run([sys.executable, "-c", CRASHING, str(path)], check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    ledger = Ledger(path)
    assert states(ledger) == [(0, True), (1, False)]
    assert ledger.reserve("plan", 0, FIRST, RELEASE).reply == b"sent"
    with pytest.raises(ProtocolViolation):
        ledger.reserve("plan", 1, OTHER, ROUND)
    pending = ledger.reserve("plan", 1, FIRST, ROUND)
    assert (pending.state, pending.reply) == ("pending", None)
    ledger.commit(pending, b"second")
    assert Ledger(path).reserve("plan", 1, FIRST, ROUND).reply == b"second"
    assert states(ledger) == [(0, True), (1, True)]


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize(
    ("request_digest", "mechanism"), [(OTHER, RELEASE), (FIRST, Mechanism(3.0)), (FIRST, ROUND), (b"", RELEASE)]
)
def test_the_same_step_with_any_other_content_is_refused_and_changes_nothing(ledger, done, request_digest, mechanism):
    reservation = ledger.reserve("plan", 0, FIRST, RELEASE)
    if done:
        ledger.commit(reservation, b"reply")
    before = ledger.spent()
    with pytest.raises(ProtocolViolation, match="another request"):
        ledger.reserve("plan", 0, request_digest, mechanism)
    assert ledger.spent() == before


def test_steps_go_forward_only_but_a_missed_one_may_be_skipped(ledger):
    ledger.reserve("plan", 1, FIRST, RELEASE)
    ledger.reserve("plan", 4, FIRST, ROUND)
    with pytest.raises(ProtocolViolation, match="in order"):
        ledger.reserve("plan", 3, FIRST, ROUND)
    assert ledger.reserve("plan", 1, FIRST, RELEASE).state == "pending"
    assert [step for step, _ in states(ledger)] == [1, 4]


def test_plans_do_not_disturb_each_other(ledger):
    ledger.reserve("second", 5, FIRST, ROUND)
    ledger.reserve("first", 0, OTHER, RELEASE)
    assert [(s.plan, len(s.entries)) for s in ledger.spent()] == [("first", 1), ("second", 1)]


def test_another_reply_for_the_same_request_is_refused(ledger):
    reservation = ledger.reserve("plan", 0, FIRST, RELEASE)
    ledger.commit(reservation, b"reply")
    ledger.commit(reservation, b"reply")
    with pytest.raises(ProtocolViolation, match="Another reply"):
        ledger.commit(reservation, b"other noise")
    assert ledger.reserve("plan", 0, FIRST, RELEASE).reply == b"reply"


def test_only_what_was_reserved_can_be_committed(ledger):
    reservation = ledger.reserve("plan", 0, FIRST, RELEASE)
    for forged in ({"step": 1}, {"plan": "other"}, {"request": OTHER}):
        with pytest.raises(ProtocolViolation, match="never reserved"):
            ledger.commit(dataclasses.replace(reservation, **forged), b"reply")
    assert states(ledger) == [(0, False)]


def test_an_empty_reply_is_a_reply(ledger):
    ledger.commit(ledger.reserve("plan", 0, FIRST, RELEASE), b"")
    assert ledger.reserve("plan", 0, FIRST, RELEASE).state == "done"


def test_what_is_spent_is_composed_from_all_steps_finished_or_not(ledger):
    ledger.commit(ledger.reserve("plan", 0, FIRST, RELEASE), b"reply")
    for step in (1, 2):
        ledger.reserve("plan", step, FIRST, dataclasses.asdict(ROUND))
    spending = ledger.spent()[0]
    assert [entry.mechanism for entry in spending.entries] == [RELEASE, ROUND, ROUND]
    assert spending.epsilon(delta=1e-5) == epsilon([RELEASE, ROUND, ROUND], delta=1e-5)


def test_a_cost_that_means_nothing_is_refused_and_not_charged(ledger):
    with pytest.raises(Misconfigured):
        ledger.reserve("plan", 0, FIRST, {"noise_multiplier": float("nan")})
    assert ledger.spent() == []


def test_of_two_at_the_same_time_one_is_new(ledger):
    found = []
    barrier = threading.Barrier(4)

    def ask() -> None:
        barrier.wait()
        found.append(ledger.reserve("plan", 0, FIRST, RELEASE).state)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["new", "pending", "pending", "pending"]


def test_a_damaged_file_stops_everything(tmp_path):
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"this is not a ledger" * 100)
    with pytest.raises(StorageFailure, match="cannot be used"):
        Ledger(path)


def test_a_ledger_that_vanished_is_not_begun_anew(ledger):
    ledger.reserve("plan", 0, FIRST, RELEASE)
    for file in ledger.path.parent.iterdir():
        file.unlink()
    with pytest.raises(StorageFailure):
        ledger.reserve("plan", 0, OTHER, RELEASE)
    assert not ledger.path.exists()


def test_only_its_owner_can_read_it(ledger):
    assert ledger.path.stat().st_mode & 0o077 == 0


OPERATION = st.tuples(st.sampled_from(["reserve", "commit", "reopen"]), st.integers(0, 3), st.integers(0, 1))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=st.lists(OPERATION, max_size=10))
def test_any_history_leaves_what_a_simple_model_says(tmp_path_factory, operations):
    ledger = Ledger(tmp_path_factory.mktemp("ledger") / "ledger.sqlite")
    kept: dict[int, int] = {}
    open_reservations, replies = {}, {}
    for name, step, content in operations:
        request = bytes([content]) * 32
        if name == "reopen":
            ledger = Ledger(ledger.path)
        elif name == "commit" and step in open_reservations:
            ledger.commit(open_reservations[step], bytes([step]))
            replies[step] = bytes([step])
        elif name == "reserve":
            allowed = kept[step] == content if step in kept else step > max(kept, default=-1)
            if allowed:
                open_reservations[step] = ledger.reserve("plan", step, request, RELEASE)
                assert open_reservations[step].reply == replies.get(step)
                kept[step] = content
            else:
                with pytest.raises(ProtocolViolation):
                    ledger.reserve("plan", step, request, RELEASE)
    assert states(ledger) == [(step, step in replies) for step in sorted(kept)]
