"""A hospital on one machine is started once, and only its own vault counts as the one that answers."""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from manikin.client.gateway import NEEDED
from manikin.client.service import SocketPort
from manikin.client.starting import start_hospital, start_vault
from manikin.common.errors import Misconfigured, TransportFailure
from manikin.common.files import write_atomically
from manikin.common.processes import Supervised, only_one, supervising, wait_until

STAND_IN = Path(__file__).parent / "service" / "stand_in.py"


class Ended(Supervised):
    """A process that has ended as soon as it is started."""

    def start(self):
        super().start()
        self._process.wait()


@pytest.fixture
def hospital(tmp_path):
    """A folder with a gateway, and no vault that could start."""
    for name in NEEDED:
        write_atomically(tmp_path / "h" / "gateway" / name, b"", mode=0o600)
    write_atomically(tmp_path / "h" / "gateway" / "superlink.json", json.dumps({"address": "h:1"}).encode())
    return tmp_path / "h"


def start(hospital):
    start_hospital(hospital, group=None, gateway_user=None, network=False, say=lambda text: None)


def test_a_hospital_that_is_running_is_not_started_again(hospital):
    with (
        only_one(hospital / "start.lock", "x"),
        pytest.raises(Misconfigured, match="This hospital is running already") as refused,
    ):
        start(hospital)
    assert refused.value.exit_code == 10
    assert not (hospital / "logs").exists()


def test_what_is_no_hospital_is_left_as_it_is(tmp_path):
    with pytest.raises(Misconfigured, match="not ready"):
        start(tmp_path / "typo")
    assert not (tmp_path / "typo").exists()


def test_a_vault_that_ended_does_not_count_because_another_answers(tmp_path):
    folder = Path(tempfile.mkdtemp(prefix="mk-"))  # short enough for a socket's name
    socket = folder / "run" / "vault.sock"
    other = Supervised("other", [sys.executable, str(STAND_IN), str(socket), "{}"], tmp_path / "other.log")
    with supervising([other]):
        other.start()
        wait_until(socket.exists, [other], timeout_s=20, what="Starting")
        SocketPort(socket, connect_s=5.0).ready()
        with pytest.raises(TransportFailure, match="Opening the vault failed"):
            start_vault(Ended("vault", ["false"], tmp_path / "vault.log"), socket)
    shutil.rmtree(folder)
