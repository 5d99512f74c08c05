"""The table of `manikin hospital check`: what is wrong is found, named, and nothing else fails with it."""

import contextlib
import datetime
import json
import os
import socket
import ssl
import threading
import time
from email.utils import formatdate

import pytest

from manikin.client import preflight as module
from manikin.client.enrolment import enroll
from manikin.client.preflight import preflight
from manikin.common import certificates
from manikin.common.certificates import Authority
from manikin.common.files import write_atomically
from manikin.common.keys import fingerprint
from manikin.common.processes import LOOPBACK, free_port
from manikin.server.agreements import create_coordinator


@pytest.fixture
def hospital(make_hospital, tmp_path):
    folder = make_hospital("north")
    home = create_coordinator(tmp_path / "coordinator", "coordinator", f"{LOOPBACK}:{free_port()}")
    enroll(folder, home.card.read_bytes(), [fingerprint(home.signing_key.public_key)])
    return folder


def states(folder):
    return {finding.subject: finding.state for finding in preflight(folder)}


def problems(folder):
    return {finding.subject: finding for finding in preflight(folder) if finding.state == "problem"}


def test_a_hospital_that_enrolled_is_ready_but_for_the_coordinator_that_is_not_running(hospital):
    assert set(problems(hospital)) <= {"vault"}  # where no process may give up its network, that is said
    assert states(hospital)["coordinator"] == "later"
    assert {"Python", "Flower", "permissions", "gateway key", "cohort", "policy", "disk"} <= set(states(hospital))


def test_clock_and_tls_have_lines_of_their_own_where_the_coordinator_is_not_reachable(hospital):
    found = {finding.subject: finding for finding in preflight(hospital)}
    assert "not reachable" in found["coordinator"].found
    assert "firewall" in found["coordinator"].fix
    assert {found[subject].state for subject in ("coordinator", "TLS", "clock")} == {"later"}
    assert found["certificate"].state == "ok"


def test_a_clock_behind_what_was_written_is_a_problem_without_the_coordinator(hospital):
    ahead = time.time() + 3600
    os.utime(hospital / "policy.toml", (ahead, ahead))
    clock = problems(hospital)["clock"]
    assert 3500 < float(clock.found.split()[0]) < 3700
    assert "NTP" in clock.fix


@pytest.mark.parametrize(
    ("days", "state", "word"), [(-1, "problem", "expired"), (20, "ok", "until"), (90, "ok", "until")]
)
def test_the_cards_authority_is_held_against_the_local_clock(hospital, monkeypatch, days, state, word):
    monkeypatch.setattr(certificates, "AUTHORITY_DAYS", days)
    monkeypatch.setattr(certificates, "CLOCK_SLACK", datetime.timedelta(days=2))
    write_atomically(hospital / "gateway" / "ca.pem", Authority.create("soon").certificate)
    found = {finding.subject: finding for finding in preflight(hospital)}["certificate"]
    assert (found.state, word in found.found) == (state, True)
    assert bool(found.fix) == (days < 30)


def test_what_is_no_authority_is_a_problem(hospital):
    leaf = Authority.create("x").issue_server([LOOPBACK]).public
    write_atomically(hospital / "gateway" / "ca.pem", leaf)
    assert "not that of one authority" in problems(hospital)["certificate"].found


def test_each_thing_that_is_wrong_is_named_with_what_to_do(hospital):
    os.chmod(hospital / "secret.key", 0o644)
    assert "chmod" in str(problems(hospital))
    os.chmod(hospital / "secret.key", 0o600)
    (hospital / "policy.toml").unlink()
    assert problems(hospital)["policy"].fix
    write_atomically(hospital / "gateway" / "node.pub", b"ecdsa-sha2-nistp384 AAAA")
    assert "gateway key" in problems(hospital)
    (hospital / "gateway" / "ca.pem").unlink()
    assert "ca.pem" in problems(hospital)["keys"].found


def test_a_folder_that_is_no_hospital_gives_problems_not_a_traceback(tmp_path):
    assert {"cohort", "policy", "keys"} <= set(problems(tmp_path))


def test_a_full_disk_is_named(hospital, monkeypatch):
    monkeypatch.setattr(module, "DISK_BYTES_MIN", 1 << 62)
    assert "disk" in problems(hospital)


@pytest.mark.parametrize(("off", "state"), [(0, "ok"), (30, "ok"), (-90, "problem"), (400, "problem")])
def test_the_clock_is_held_against_the_coordinators(off, state):
    now = time.time()
    assert module._clock(formatdate(now - off), now).state == state


def test_a_coordinator_that_gives_no_date_is_put_off():
    assert module._clock("", time.time()).state == "later"
    assert module._clock("yesterday", time.time()).state == "later"


@contextlib.contextmanager
def answering(hospital, tmp_path, server, times):
    """Something that holds the coordinator's address, and gives the time over TLS."""
    write_atomically(tmp_path / "server.pem", server.public)
    write_atomically(tmp_path / "server.key", server.private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    port = int(json.loads((hospital / "gateway" / "superlink.json").read_bytes())["address"].rpartition(":")[2])
    with socket.create_server((LOOPBACK, port)) as listening:

        def serve():
            for _ in range(times):
                line, _ = listening.accept()
                with contextlib.suppress(OSError), context.wrap_socket(line, server_side=True) as opened:
                    opened.recv(4096)
                    opened.sendall(f"HTTP/1.1 200 OK\r\ndate: {formatdate(usegmt=True)}\r\n\r\n".encode())

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join(10)


def test_an_answer_under_another_authority_is_a_problem(hospital, tmp_path):
    """A server that holds the address, with a certificate that nobody vouched for."""
    with answering(hospital, tmp_path, Authority.create("another").issue_server([LOOPBACK]), 2):
        found = {finding.subject: finding for finding in preflight(hospital)}
    assert found["coordinator"].state == "ok"
    assert (found["TLS"].state, "enrol again" in found["TLS"].fix) == ("problem", True)
    assert found["clock"].state == "later"


@pytest.mark.parametrize(("days", "state", "fix"), [(-1, "problem", True), (20, "ok", True), (90, "ok", False)])
def test_a_server_certificate_that_ends_soon_is_said_while_the_coordinator_answers(
    hospital, tmp_path, monkeypatch, days, state, fix
):
    monkeypatch.setattr(certificates, "SERVER_DAYS", days)
    monkeypatch.setattr(certificates, "CLOCK_SLACK", datetime.timedelta(days=2))
    with answering(hospital, tmp_path, Authority.load(tmp_path / "coordinator" / "tls").issue_server([LOOPBACK]), 2):
        found = {finding.subject: finding for finding in preflight(hospital)}
    assert found["TLS"].state == state
    assert ("manikin coordinator renew" in found["TLS"].fix) == fix
    assert found["clock"].state == ("later" if state == "problem" else "ok")
