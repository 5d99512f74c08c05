"""Processes that are kept alive, and ended with everything they began."""

import os
import sys
import time
from pathlib import Path

import pytest

from manikin.common.errors import Misconfigured, TransportFailure
from manikin.common.processes import (
    LOOPBACK,
    Supervised,
    flower_environment,
    flower_executor,
    only_one,
    split_address,
    supervising,
    wait_until,
)

SLEEP = "import time; print('up', flush=True); time.sleep(60)"
BEGETS = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEP!r}]).wait()"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"


def python(code, log, **options):
    return Supervised("child", [sys.executable, "-c", code], log, **options)


def is_up(process):
    return lambda: process.log.exists() and "up" in process.log.read_text()


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_process_that_dies_is_started_again(tmp_path):
    process = python(SLEEP, tmp_path / "log")
    with supervising([process]):
        process.start()
        wait_until(is_up(process), [process], timeout_s=20, what="Starting")
        first = process.pid
        os.kill(first, 9)
        wait_until(lambda: process.starts == 2, [process], timeout_s=20, what="Starting again")
        assert process.pid != first
    assert process.ended() is not None


def test_what_a_process_began_ends_with_it(tmp_path):
    process = python(BEGETS, tmp_path / "log")
    with supervising([process]):
        process.start()
        wait_until(is_up(process), [process], timeout_s=20, what="Starting")
        (task,) = Path(f"/proc/{process.pid}/task").iterdir()
        (child,) = map(int, (task / "children").read_text().split())
        assert alive(child)
    deadline = time.monotonic() + 5
    while alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_process_that_does_not_listen_is_killed_after_its_grace(tmp_path):
    process = python(DEAF, tmp_path / "log", grace_s=0.3)
    with supervising([process]):
        process.start()
        wait_until(is_up(process), [process], timeout_s=20, what="Starting")
    assert process.ended() == -9


def test_the_end_of_one_that_is_not_to_be_restarted_is_said(tmp_path):
    process = python("print('sorry')", tmp_path / "log", restart=False)
    with supervising([process]):
        process.start()
        with pytest.raises(TransportFailure, match="child ended"):
            wait_until(lambda: False, [process], timeout_s=20, what="Starting")
    assert process.last_words() == "sorry"


def test_waiting_ends(tmp_path):
    with pytest.raises(TransportFailure, match="more than"):
        wait_until(lambda: False, [], timeout_s=0.1, what="Waiting")


def test_flower_gets_no_settings_of_whoever_starts_it_and_calls_nobody(tmp_path, monkeypatch):
    monkeypatch.setenv("FLWR_SUPERGRID_API_URL", "http://elsewhere")
    found = flower_environment(tmp_path)
    assert "FLWR_SUPERGRID_API_URL" not in found
    assert found["FLWR_TELEMETRY_ENABLED"] == "0"
    assert found["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert found["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert found["FLWR_HOME"] == str(tmp_path)


@pytest.mark.parametrize("ca", [None, "ca.pem"])
def test_an_executor_shows_its_secret_and_speaks_plain_only_where_no_certificate_is_given(tmp_path, ca):
    paths = {"secret": tmp_path / "secret", "log": tmp_path / "log", "home": tmp_path}
    process = flower_executor("x", "gateway", port=9999, **paths, ca=ca and tmp_path / ca)
    line = " ".join(process.command)
    assert f"--runtime-api-address {LOOPBACK}:9999 --superexec-auth-secret-file {tmp_path}/secret" in line
    assert ("--insecure" in line) == (ca is None)
    assert (f"--root-certificates {tmp_path}/ca.pem" in line) == (ca is not None)
    assert process.environment["FLWR_HOME"] == str(tmp_path)


def test_two_at_once_are_refused(tmp_path):
    refused = pytest.raises(Misconfigured, match="A study is running already")
    with only_one(tmp_path / "lock", "A study"), refused, only_one(tmp_path / "lock", "A study"):
        pass
    with only_one(tmp_path / "lock", "A study"):
        pass


@pytest.mark.parametrize("address", ["", "host", "host:", ":1", "host:0", "host:65536", "host:port"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(Misconfigured):
        split_address(address)


def test_addresses_are_split():
    assert split_address("study.example.org:8443") == ("study.example.org", 8443)
    assert split_address("[::1]:8443") == ("::1", 8443)
