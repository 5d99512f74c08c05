"""`metrics` of both roles, as processes that Prometheus asks, and that end when told."""

import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest


@pytest.fixture
def watched():
    """Starts `manikin ARGUMENTS` and gives its process and its page; ends it by SIGTERM."""
    running = []

    def start(*arguments):
        command = [sys.executable, "-P", "-m", "manikin", *map(str, arguments), "--listen", "127.0.0.1:0"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        running.append(process)
        address = re.search("http://[^ ]+", process.stdout.readline()).group().strip()
        return urllib.request.urlopen(address, timeout=30).read().decode()

    yield start
    for process in running:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        process.stdout.close()


def test_a_hospital_whose_vault_is_away_shows_that(watched, tmp_path):
    page = watched("hospital", "metrics", "--gateway", tmp_path, "--socket", tmp_path / "none.sock")
    assert "manikin_vault_up 0.0" in page
    assert "manikin_gateway_messages_total 0.0" in page


def test_a_coordinator_without_plans_shows_a_page(watched, tmp_path):
    assert "# TYPE manikin_run_state gauge" in watched("coordinator", "metrics", "--coordinator", tmp_path)


@pytest.mark.parametrize(
    "command", [["hospital", "--gateway", "g", "--socket", "s"], ["coordinator", "--coordinator", "c"]]
)
def test_an_address_that_is_taken_is_named(manikin, command):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, _, err = manikin(command[0], "metrics", *command[1:], "--listen", address)
    assert code == 10
    assert address in err


class Vault:
    """Stands behind the real service; the vault itself is not what is tested here."""

    def exchange(self, frame):
        return frame

    def counters(self):
        return {"answered_train": 2.0, "plans_charged": 1.0}


def test_the_vaults_counters_come_over_its_socket_into_a_file(manikin, tmp_path):
    from manikin.client.service.server import VaultService

    service = VaultService(Vault(), tmp_path / "v.sock")
    service.start()
    try:
        code, _, err = manikin(
            "hospital",
            "metrics",
            "--gateway",
            tmp_path,
            "--socket",
            tmp_path / "v.sock",
            "--textfile",
            tmp_path / "m.prom",
        )
    finally:
        service.stop()
    assert (code, err) == (0, "")
    assert 'manikin_vault_answered_total{action="train"} 2.0' in Path(tmp_path / "m.prom").read_text()


@pytest.mark.parametrize("listen", ["9465", "localhost:", "localhost:x", "localhost:70000"])
def test_an_address_that_is_none_is_refused(manikin, tmp_path, listen):
    code, _, err = manikin("hospital", "metrics", "--gateway", tmp_path, "--socket", tmp_path / "s", "--listen", listen)
    assert code == 2
    assert "HOST:PORT" in err
