"""The real vault in a process of its own: what a hospital starts, and what a gateway meets."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import pytest

from manikin.client import isolation
from manikin.client.cohort import Hospital
from manikin.client.policy import pin_lines
from manikin.client.service import SocketPort, access
from manikin.client.vault import Vault
from manikin.common import agreements, frames, generators
from manikin.common.agreements import Approval
from manikin.common.errors import Misconfigured, TransportFailure
from manikin.common.faults import Point
from manikin.common.keys import SigningKey
from manikin.common.plan import Party
from manikin.common.study import parse_study
from manikin.common.wire import Refused, Task
from manikin.privacy.ledger import Ledger
from manikin.server.asking import to_numpy
from manikin.server.planning import propose

COORDINATOR = SigningKey.generate()
TRAIN = 1


@pytest.fixture
def tmp_path(short_folder):
    """Hospitals are made in a folder whose path leaves room for a socket's name."""
    return short_folder


@pytest.fixture
def hospital(make_hospital):
    return make_hospital("north")


@pytest.fixture
def start():
    """Start the vault of a hospital as its engineer does; wait until it listens or has ended."""
    started = []

    def begin(folder, *options, **environment):
        command = [sys.executable, "-m", "manikin", "hospital", "vault", "--hospital", folder, *options]
        vault = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | environment
        )
        started.append(vault)
        vault.socket, lines = folder / "run" / "vault.sock", []
        for line in vault.stdout:
            lines.append(line)
            if "listening" in line:
                break
        vault.said = "".join(lines)
        return vault

    yield begin
    for vault in started:
        vault.kill()
        vault.communicate()


@pytest.fixture
def plan(study_dict, hospital, policy_text):
    """A plan whose one training step takes a second or more, approved by the hospital and allowed by its policy."""
    study_dict["federation"]["quorum"] = 1
    pretrain, _, train = study_dict["stage"]
    study_dict["stage"] = [pretrain, train | {"steps": 25, "rounds": 1, "epsilon_share": 0.9}]
    own = Hospital.open(hospital)
    parties = [Party(own.name, own.signing_key.public_key.hex())]
    plan = propose(parse_study(study_dict)).agreed(Party("consortium", COORDINATOR.public_key.hex()), parties)
    (hospital / "policy.toml").write_text(
        policy_text(quorum_min=1) + pin_lines("coordinator", "consortium", COORDINATOR.public_key.hex())
    )
    place = hospital / "agreements" / plan.digest
    place.mkdir(parents=True)
    (hospital / "agreements").chmod(0o700)
    approval = agreements.write(Approval(plan=plan.digest, hospital=own.name), own.signing_key)
    (place / "approval.dsse.json").write_bytes(approval)
    return plan


def opening(plan):
    task = Task(plan.digest, 0, "open", {"plan": plan.to_dict(), "heads": {}})
    return frames.encode_task(task.signed(COORDINATOR))


def training(plan):
    arrays = to_numpy(generators.create(plan.generator_spec()).state())
    return frames.encode_task(Task(plan.digest, TRAIN, "train", {"heads": {}}, arrays).signed(COORDINATOR))


def the_step(folder, plan):
    """The training step in the hospital's ledger; None before it is reserved."""
    spent = Ledger(folder / "ledger.sqlite").spent()
    return next((e for p in spent if p.plan == plan.digest for e in p.entries if e.step == TRAIN), None)


def wait_until(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.slow
def test_a_step_cut_off_by_kill_9_gives_the_bytes_of_an_undisturbed_run(start, hospital, plan, tmp_path):
    twin = tmp_path / "twin"
    shutil.copytree(hospital, twin)
    request = training(plan)
    undisturbed = Vault(twin)
    assert not isinstance(frames.decode_reply(undisturbed.exchange(opening(plan))), Refused)
    expected = undisturbed.exchange(request)
    assert frames.decode_reply(expected).arrays

    vault = start(hospital)
    port = SocketPort(vault.socket)
    port.exchange(opening(plan))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(port.exchange, request)
        wait_until(lambda: the_step(hospital, plan))
        vault.kill()
        with pytest.raises(TransportFailure):
            asked.result(10)
    assert not the_step(hospital, plan).done
    again = SocketPort(start(hospital).socket)
    assert again.exchange(request) == expected
    assert again.exchange(request) == expected
    assert len(Ledger(hospital / "ledger.sqlite").spent()[0].entries) == 1


@pytest.mark.slow
@pytest.mark.parametrize("point", [point for point in get_args(Point) if point.startswith("vault: ")])
def test_a_vault_killed_at_any_named_point_loses_nothing_and_charges_once(start, hospital, plan, tmp_path, point):
    twin = tmp_path / "twin"
    shutil.copytree(hospital, twin)
    undisturbed = Vault(twin)
    requests = [opening(plan), training(plan)]
    expected = [undisturbed.exchange(request) for request in requests]

    died = tmp_path / "died"
    deadly = {"MANIKIN_KILL_AT": point, "MANIKIN_KILL_ONCE": str(died)}
    vault, answers = start(hospital, **deadly), []
    while len(answers) < len(requests):
        try:
            answers.append(SocketPort(vault.socket).exchange(requests[len(answers)]))
        except TransportFailure:
            assert vault.wait(10) == -signal.SIGKILL
            vault = start(hospital, **deadly)
    assert died.exists()
    assert answers == expected
    spent = Ledger(hospital / "ledger.sqlite").spent()
    assert [(p.charged, len(p.entries)) for p in spent] == [((8.0, 1e-5), 1)]


@pytest.mark.slow
def test_sigterm_during_a_step_ends_at_once_and_loses_nothing(start, hospital, plan):
    vault = start(hospital)
    port = SocketPort(vault.socket)
    port.exchange(opening(plan))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(port.exchange, training(plan))
        wait_until(lambda: the_step(hospital, plan))
        vault.terminate()
        assert vault.wait(2) == 0
        with pytest.raises(TransportFailure):
            asked.result(10)
    assert not the_step(hospital, plan).done
    assert not isinstance(frames.decode_reply(SocketPort(start(hospital).socket).exchange(training(plan))), Refused)


@pytest.mark.slow
def test_counters_and_ready_answer_while_a_step_is_done(start, hospital, plan):
    port = SocketPort(start(hospital).socket)
    port.exchange(opening(plan))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(port.exchange, training(plan))
        wait_until(lambda: the_step(hospital, plan))
        assert port.ready()["version"]
        assert port.counters()["steps_charged"] == 1
        assert not asked.done()
        asked.result()


def test_a_vault_from_start_to_ctrl_c(start, hospital, plan):
    vault = start(hospital)
    if "cannot be cut off" in vault.said:
        pytest.skip("this system does not let us make a network namespace")
    assert vault.said.startswith("No network.\n")
    assert isolation.interfaces(Path(f"/proc/{vault.pid}/net/dev").read_text()) == []

    port = SocketPort(vault.socket)
    for frame in (b"\0", b"garbage" * 1000, b"\xff" * 8 + b"{}", bytes(3_000_000)):
        assert frames.decode_reply(port.exchange(frame)) == Refused("protocol-violation")
    assert not isinstance(frames.decode_reply(port.exchange(opening(plan))), Refused)
    assert port.counters()["refused_protocol-violation"] == 4

    assert json.loads((hospital / "last-refusal.json").read_text())["code"] == "protocol-violation"
    access.check_private(hospital)

    os.kill(vault.pid, signal.SIGINT)
    assert vault.wait(5) == 0
    assert not vault.socket.exists()


@pytest.mark.skipif(isolation.isolated(), reason="this machine has no network to leave")
def test_where_it_cannot_be_cut_off_it_does_not_start_unless_told_to(start, hospital, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    refused = start(hospital)
    assert refused.wait(10) == Misconfigured.exit_code
    assert "--network" in refused.said
    assert not refused.socket.exists()
    assert start(hospital, "--network").said.startswith("This vault has a network")


def test_it_does_not_answer_before_its_cohort_is_open(start, hospital):
    (hospital / "cohort" / "cohort.sqlite").write_bytes(b"junk")
    vault = start(hospital)
    assert vault.wait(30) != 0
    assert "Traceback" not in vault.said
    assert not vault.socket.exists()


def test_what_others_could_read_is_refused_with_the_command_that_closes_it(start, hospital):
    (hospital / "ledger.sqlite").touch()
    (hospital / "ledger.sqlite").chmod(0o644)
    vault = start(hospital)
    assert vault.wait(30) == Misconfigured.exit_code
    assert f"chmod -R go= {hospital}/ledger.sqlite" in vault.said


def test_a_folder_that_is_no_hospital_is_left_as_it_was(start, tmp_path):
    (tmp_path / "empty").mkdir()
    vault = start(tmp_path / "empty")
    assert vault.wait(30) == Misconfigured.exit_code
    assert not list((tmp_path / "empty").iterdir())
