"""How a study is agreed on, as both sides type it."""

import datetime
import json
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from manikin.common.keys import key_digest
from manikin.server.agreements import Coordinator


@pytest.fixture
def coordinator(manikin, tmp_path):
    """A coordinator's folder, and the fingerprint that it reads out."""
    code, out, _ = manikin("coordinator", "init", tmp_path / "c", "--name", "Study", "--address", "h:1", "--json")
    assert code == 0
    return tmp_path / "c", json.loads(out.splitlines()[-1])["fingerprint"][:19]


@pytest.fixture
def join(manikin, coordinator, make_hospital):
    """A hospital with a cohort that enrolled; its folder, and the fingerprint that it reads out."""

    def join(name):
        folder = make_hospital(name)
        card = coordinator[0] / "coordinator.dsse.json"
        code, out, _ = manikin(
            "hospital", "enroll", "--hospital", folder, "--coordinator", card, "--fingerprint", coordinator[1], "--json"
        )
        assert code == 0
        return folder, json.loads(out.splitlines()[-1])["fingerprint"][:19]

    return join


def accept(manikin, coordinator, hospitals):
    said = [part for _, fingerprint in hospitals for part in ("--fingerprint", fingerprint)]
    files = [folder / "enrolment.dsse.json" for folder, _ in hospitals]
    assert manikin("coordinator", "enroll", *files, "--coordinator", coordinator[0], *said)[0] == 0


def test_the_whole_journey_with_files_alone(manikin, coordinator, join, tmp_path, release_study):
    home = coordinator[0]
    north, south = join("north"), join("south")
    accept(manikin, coordinator, [north, south])
    (tmp_path / "study.toml").write_text(release_study(patients_min=50))
    code, out, _ = manikin("coordinator", "propose", tmp_path / "study.toml", "--coordinator", home, "--json")
    assert code == 0
    proposed = json.loads(out.splitlines()[-1])
    assert (proposed["participants"], proposed["rounds"], proposed["messages"]) == (["north", "south"], 0, 3)
    assert 0 < proposed["epsilon"] <= 3
    assert (proposed["officers"], proposed["officers_needed"]) == ([], 0)
    assert "No officer decides on the release" in out
    plan = proposed["file"]

    code, out, err = manikin("hospital", "review", plan, "--hospital", north[0], "--json")
    assert code == 12
    assert "verified hospitals, quorum" in err
    assert out.count("REFUSED") == 2
    assert manikin("hospital", "approve", plan, "--hospital", north[0])[0] == 12

    peer = ["--peer", south[0] / "enrolment.dsse.json", "--fingerprint", south[1]]
    assert manikin("hospital", "enroll", "--hospital", north[0], *peer)[0] == 0
    policy = north[0] / "policy.toml"
    policy.write_text(policy.read_text().replace("quorum_min = 3", "quorum_min = 2"))
    code, out, _ = manikin("hospital", "review", plan, "--hospital", north[0], "--json")
    assert code == 0
    seen = json.loads(out.splitlines()[-1])
    assert seen["allowed"]
    assert seen["life"] == {"spent": [0.0, 0.0], "after": [3.0, 1e-5], "limit": [3.0, 1e-5]}
    assert [(part["times"], part["size_bytes"] > 0) for part in seen["leaves"]] == [(1, True)]

    code, out, _ = manikin("hospital", "approve", plan, "--hospital", north[0], "--json")
    assert code == 0
    approval = json.loads(out.splitlines()[-1])["approval"]
    code, out, _ = manikin("hospital", "refuse", plan, "--hospital", south[0], "--reason", "not yet", "--json")
    assert code == 0
    refusal = json.loads(out.splitlines()[-1])["refusal"]
    code, out, _ = manikin("coordinator", "collect", approval, refusal, "--coordinator", home, "--json")
    assert code == 0
    assert "north: approves" in out
    assert "south: refuses: not yet" in out
    assert json.loads(out.splitlines()[-1])["plans"] == {proposed["plan"]: {"approved": ["north"], "ready": False}}


def test_a_wrong_fingerprint_is_refused_on_both_sides(manikin, coordinator, join, make_hospital):
    other = make_hospital("other")
    card = coordinator[0] / "coordinator.dsse.json"
    wrong = ["--fingerprint", "0123 4567 89ab cdef"]
    code, _, err = manikin("hospital", "enroll", "--hospital", other, "--coordinator", card, *wrong)
    assert code == 17
    assert "read out" in err
    assert not (other / "policy.toml").exists()
    folder, _ = join("north")
    enrolment = folder / "enrolment.dsse.json"
    assert manikin("coordinator", "enroll", enrolment, "--coordinator", coordinator[0], *wrong)[0] == 17
    assert manikin("coordinator", "enroll", enrolment, "--coordinator", coordinator[0])[0] == 17
    assert manikin("coordinator", "enroll", enrolment, "--coordinator", coordinator[0], "--fingerprint", "01")[0] == 10


def test_keys_are_renewed_and_revoked_on_both_sides(manikin, coordinator, join):
    north, south = join("north"), join("south")
    accept(manikin, coordinator, [north, south])
    peer = ["--peer", south[0] / "enrolment.dsse.json", "--fingerprint", south[1], "--until", "2999-12-31"]
    assert manikin("hospital", "enroll", "--hospital", north[0], *peer)[0] == 0
    code, out, _ = manikin("hospital", "enroll", "--hospital", south[0], "--rotate", "--json")
    assert code == 0
    assert json.loads(out.splitlines()[-1])["fingerprint"][:19] != south[1]
    enrolment = south[0] / "enrolment.dsse.json"
    code, out, _ = manikin("coordinator", "enroll", enrolment, "--coordinator", coordinator[0], "--json")
    assert code == 0
    key = json.loads(out.splitlines()[-1])["hospitals"]["south"]
    assert not key_digest(bytes.fromhex(key)).startswith(south[1].replace(" ", ""))
    assert manikin("hospital", "enroll", "--hospital", north[0], "--peer", enrolment)[0] == 0
    assert manikin("hospital", "enroll", "--hospital", north[0], "--revoke", "south")[0] == 0
    assert (north[0] / "policy.toml").read_text().count("[[revoked]]\nkey") == 2
    assert manikin("hospital", "enroll", "--hospital", north[0], "--revoke", "south")[0] == 10
    code, out, _ = manikin("coordinator", "enroll", "--revoke", "south", "--coordinator", coordinator[0])
    assert code == 0
    assert "Enrolled: north." in out
    assert manikin("coordinator", "enroll", enrolment, "--coordinator", coordinator[0])[0] == 17


@pytest.mark.parametrize("extra", [[], ["--rotate", "--revoke", "x"]])
def test_one_thing_at_a_time(manikin, tmp_path, extra):
    code, _, err = manikin("hospital", "enroll", "--hospital", tmp_path, *extra)
    assert code == 10
    assert "--coordinator" in err


@pytest.mark.parametrize(
    "extra",
    [
        ["--rotate", "--until", "2999-12-31"],
        ["--revoke", "x", "--fingerprint", "0123 4567 89ab cdef"],
        ["--peer", "x", "--group", "y"],
    ],
)
def test_an_option_of_another_act_is_refused(manikin, tmp_path, extra):
    code, _, err = manikin("hospital", "enroll", "--hospital", tmp_path, *extra)
    assert code == 10
    assert "does not belong" in err


def test_what_is_no_document_is_refused_and_a_missing_file_named(manikin, coordinator, join, tmp_path):
    north = join("north")[0]
    (tmp_path / "junk").write_bytes(b"junk")
    for command in (["review"], ["approve"], ["refuse", "--reason", "x"]):
        code, _, err = manikin("hospital", command[0], tmp_path / "junk", "--hospital", north, *command[1:])
        assert code == 17
        assert "Traceback" not in err
    assert manikin("coordinator", "collect", tmp_path / "junk", "--coordinator", coordinator[0])[0] == 17
    code, _, err = manikin("hospital", "review", tmp_path / "none", "--hospital", north)
    assert code == 10
    assert "none" in err
    code, _, err = manikin("hospital", "review", tmp_path, "--hospital", north)
    assert code == 10
    assert "folder" in err


def test_nobody_is_enrolled_when_a_file_is_missing(manikin, coordinator, join, tmp_path):
    (north, said), home = join("north"), coordinator[0]
    files = [north / "enrolment.dsse.json", tmp_path / "nothere"]
    assert manikin("coordinator", "enroll", *files, "--coordinator", home, "--fingerprint", said)[0] == 10
    assert not (home / "hospitals").exists()


def test_a_registry_listens_at_no_address_that_is_none(manikin, coordinator):
    code, _, err = manikin("coordinator", "registry", "--coordinator", coordinator[0], "--listen", "foo")
    assert code == 10
    assert "'foo' is no address" in err


def test_a_huge_file_is_not_read_to_its_end(manikin, join, tmp_path):
    north = join("north")[0]
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)
    code, _, err = manikin("hospital", "review", tmp_path / "huge", "--hospital", north)
    assert code == 17
    assert "larger" in err


def test_a_coordinators_folder_is_never_made_twice(manikin, coordinator):
    again = manikin("coordinator", "init", coordinator[0], "--name", "Other", "--address", "h:1")
    assert again[0] == 10
    assert Coordinator.open(coordinator[0]).name == "Study"
    assert manikin("coordinator", "propose", "study.toml", "--coordinator", coordinator[0] / "none")[0] == 10


def test_documents_travel_by_the_registry_where_there_is_a_line(manikin, make_hospital, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    home, north = tmp_path / "c", make_hospital("north")
    code, out, _ = manikin(
        "coordinator", "init", home, "--name", "Study", "--address", "h:1", "--registry", address, "--json"
    )
    assert code == 0
    said = json.loads(out.splitlines()[-1])["fingerprint"][:19]
    joining = ["--coordinator", home / "coordinator.dsse.json", "--fingerprint", said, "--json"]
    code, out, _ = manikin("hospital", "enroll", "--hospital", north, *joining)
    assert code == 0
    said = json.loads(out.splitlines()[-1])["fingerprint"][:19]
    enrolment = north / "enrolment.dsse.json"
    code, out, _ = manikin("coordinator", "enroll", enrolment, "--coordinator", home, "--fingerprint", said)
    assert code == 0
    assert "north.client.pem" in out
    sync = ["hospital", "sync", "--gateway", north / "gateway", "--json"]
    assert manikin(*sync)[0] == 10
    shutil.copy(home / "hospitals" / "north.client.pem", north / "gateway" / "client.pem")
    assert manikin(*sync)[0] == 16
    command = [sys.executable, "-m", "manikin", "coordinator", "registry", "--coordinator", str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as served:
        try:
            assert "listens" in served.stdout.readline()
            code, out, _ = manikin(*sync)
        finally:
            served.send_signal(signal.SIGINT)
        _, err = served.communicate(timeout=20)
    assert code == 0
    assert json.loads(out.splitlines()[-1])["sent"] == ["enrolment.dsse.json"]
    assert served.returncode == 0
    assert "Traceback" not in err


def test_a_servers_certificate_that_ends_is_said_by_run_and_renewed(
    manikin, coordinator, join, tmp_path, monkeypatch, release_study
):
    home = coordinator[0]
    accept(manikin, coordinator, [join("north"), join("south")])
    (tmp_path / "study.toml").write_text(release_study(patients_min=10))
    code, out, _ = manikin("coordinator", "propose", tmp_path / "study.toml", "--coordinator", home, "--json")
    run = ("coordinator", "run", "--coordinator", home, "--plan", json.loads(out.splitlines()[-1])["plan"])
    with monkeypatch.context() as patch:
        patch.setattr("manikin.common.certificates.SERVER_DAYS", 20)
        assert manikin("coordinator", "renew", "--coordinator", home)[0] == 0
    code, out, err = manikin(*run)
    assert (code, "Renew it: manikin coordinator renew" in out) == (12, True), err  # nobody approved
    with monkeypatch.context() as patch:
        patch.setattr("manikin.common.certificates.SERVER_DAYS", -1)
        patch.setattr("manikin.common.certificates.CLOCK_SLACK", datetime.timedelta(days=2))
        assert manikin("coordinator", "renew", "--coordinator", home)[0] == 0
    code, _, err = manikin(*run)
    assert (code, "has expired" in err) == (10, True)
    code, out, _ = manikin("coordinator", "renew", "--coordinator", home, "--json")
    assert datetime.datetime.fromisoformat(json.loads(out.splitlines()[-1])["valid_until"]).year > 2000
    assert "Renew it" not in manikin(*run)[1]


def test_a_check_without_a_coordinator_says_what_it_could_not_see_and_a_problem_gives_exit_code_10(manikin, join):
    folder, _ = join("north")
    code, out, _ = manikin("hospital", "check", "--hospital", folder, "--json")
    said = json.loads(out.splitlines()[-1])
    assert said["later"] == ["coordinator", "TLS", "clock"]
    assert set(said["problems"]) <= {"vault"}
    assert code == (10 if said["problems"] else 0)
    (folder / "policy.toml").unlink()
    code, out, _ = manikin("hospital", "check", "--hospital", folder, "--json")
    assert (code, "policy" in json.loads(out.splitlines()[-1])["problems"]) == (10, True)
