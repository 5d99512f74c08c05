"""A study that stops before its rounds: what is left of it, how one goes on, and what is never touched."""

import socket

import pytest

from manikin.cli import running as commands
from manikin.common.agreements import Approval, Enrolment, write
from manikin.common.certificates import new_node_key
from manikin.common.errors import Misconfigured, TransportFailure
from manikin.common.files import write_atomically
from manikin.common.keys import SigningKey, fingerprint
from manikin.common.plan import Plan
from manikin.common.processes import LOOPBACK, free_port, only_one
from manikin.common.study import parse_study
from manikin.server import planning
from manikin.server.agreements import collect, create_coordinator, enroll, propose
from manikin.server.running import Study, find_study, proposed


@pytest.fixture
def study(tmp_path, study_dict, monkeypatch):
    """A study that two hospitals approved, whose gateways never come."""
    study_dict["federation"]["round_deadline_s"] = 1
    home = create_coordinator(tmp_path / "c", "Study", f"{LOOPBACK}:{free_port()}")
    keys = {name: SigningKey.generate() for name in ("north", "south")}
    for name, key in keys.items():
        node = new_node_key().public.decode()
        enrolment = write(Enrolment(name=name, key=key.public_key.hex(), node_key=node, replaces=None), key)
        enroll(home, enrolment, [fingerprint(key.public_key)])
    draft = Plan(parse_study(study_dict), (None, 5.0, 2.5))
    monkeypatch.setattr(planning, "propose", lambda study: draft)  # solving the noise is tested where it is done
    plan, _ = propose(home, draft.study)
    for name, key in keys.items():
        collect(home, write(Approval(plan=plan.digest, hospital=name), key))
    return Study(home, plan)


def run(study, listen=None):
    return study.run(listen, watch=lambda link, said: None)


def test_after_a_failed_gathering_resume_goes_on_and_status_says_why(study, monkeypatch):
    assert commands._row(study)["state"] == "not started"
    with pytest.raises(TransportFailure, match="run failed") as failed:
        run(study)
    assert "0 of 2 hospitals are connected" in failed.value.why
    row = commands._row(study)
    assert row["state"] == "failed"
    assert "0 of 2 hospitals are connected" in row["error"]
    place = (study.home.folder, study.plan.digest)
    with pytest.raises(Misconfigured, match="started before"):
        commands.run(*place)
    with pytest.raises(TransportFailure, match="run failed"):
        commands.resume(*place)


@pytest.mark.parametrize("left", ["checkpoint.safetensors", "status.json", "link.json"])
def test_whatever_a_run_left_it_counts_as_started(study, left):
    assert not study.started
    write_atomically(study.folder / left, b"{}")
    assert study.started


@pytest.mark.parametrize("canary", [False, True])
def test_a_second_run_touches_nothing_of_the_first(study, canary):
    other = Study(study.home, study.plan, canary)
    files = {name: other.folder / name for name in ("status.json", "checkpoint.safetensors")}
    for name, file in files.items():
        write_atomically(file, name.encode())
    with only_one(study.home.folder / "superlink" / "lock", "x"), pytest.raises(Misconfigured, match="running already"):
        run(other)
    assert {name: file.read_bytes().decode() for name, file in files.items()} == {name: name for name in files}


def test_an_address_that_is_taken_is_said_at_once_and_leaves_the_study_unstarted(study):
    host, port = study.home.address.rsplit(":", 1)
    with socket.create_server((host, int(port))), pytest.raises(Misconfigured, match=port) as refused:
        run(study)
    assert "already in use" in refused.value.why
    assert "--listen" in refused.value.next_step
    assert not study.started


@pytest.mark.parametrize("host", ["192.0.2.1", "nowhere.invalid"])
def test_an_address_that_is_not_of_this_machine_names_the_option(study, host):
    with pytest.raises(Misconfigured, match=host) as refused:
        run(study, host)
    assert "--listen" in refused.value.next_step


def test_a_superlink_that_does_not_start_is_not_tried_again_and_gives_its_words(study):
    write_atomically(study.home.folder / "tls" / "server.pem", b"no certificate")
    with pytest.raises(TransportFailure, match="Starting the SuperLink failed") as failed:
        run(study)
    assert "Error" in failed.value.why


def test_stray_files_beside_plans_are_no_plans(study):
    plans, digest = study.home.folder / "plans", study.plan.digest
    (plans / ".DS_Store").touch()
    (plans / f"{digest[:16]}.bak").mkdir()
    (plans / ("0" * 64)).mkdir()
    write_atomically(plans / "copy" / "plan.dsse.json", (plans / digest / "plan.dsse.json").read_bytes())
    assert proposed(study.home) == [digest]
    assert find_study(study.home, digest[:16]).plan == study.plan
    commands.status(study.home.folder)
