"""Ports around a port: counted across processes, logged without a word of the frame, and handed on as they are."""

import io
import json
import subprocess
import sys

import pytest

from manikin.client.metered import Logged, Metered, Tally
from manikin.common.errors import TransportFailure
from manikin.common.logs import open_log


class Echo:
    def exchange(self, frame):
        if frame == b"away":
            raise TransportFailure("No vault answers for Erika.")
        return frame * 2

    def counters(self):
        return {"answered_train": 1.0}


@pytest.fixture
def tally(tmp_path):
    return Tally(tmp_path / "relayed.json")


def test_a_metered_port_counts_and_hands_on(tally):
    port = Metered(Echo(), tally)
    assert port.exchange(b"abc") == b"abcabc"
    with pytest.raises(TransportFailure):
        port.exchange(b"away")
    sums = tally.read()
    assert sums.pop("last") > 1e9
    assert sums.pop("seconds") >= 0
    assert sums == {"messages": 2, "to_vault": 7, "from_vault": 6, "failed transport-failure": 1}


ADDS = """
import sys; from pathlib import Path; from manikin.client.metered import Tally
for _ in range(50): Tally(Path(sys.argv[1])).add(messages=1)
"""


def test_processes_add_to_one_tally_side_by_side(tally):
    running = [subprocess.Popen([sys.executable, "-c", ADDS, str(tally.path)]) for _ in range(2)]
    assert [process.wait(60) for process in running] == [0, 0]
    assert tally.read()["messages"] == 100


def test_a_torn_tally_begins_again_and_an_unwritable_one_costs_no_message(tally, tmp_path):
    tally.path.write_bytes(b"{")
    tally.add(messages=1)
    assert tally.read()["messages"] == 1
    assert Metered(Echo(), Tally(tmp_path / "nowhere" / "x.json")).exchange(b"a") == b"aa"


def test_a_logged_port_says_bytes_and_codes_and_nothing_else():
    written = io.StringIO()
    port = Logged(Echo(), open_log("vault", stream=written))
    assert port.exchange(b"Erika") == b"ErikaErika"
    with pytest.raises(TransportFailure):
        port.exchange(b"away")
    assert port.counters() == {"answered_train": 1.0}
    answered, failed = map(json.loads, written.getvalue().splitlines())
    assert (answered["event"], answered["bytes_in"], answered["bytes_out"]) == ("answered", 5, 10)
    assert (failed["event"], failed["code"], failed["error"]) == ("failed", "transport-failure", "TransportFailure")
    assert "Erika" not in written.getvalue()


def test_it_is_light_enough_for_a_process_that_lives_for_one_message():
    heavy = ("torch", "numpy", "structlog", "prometheus_client")
    check = f"import sys, manikin.client.metered; sys.exit(any(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
