"""The supervisor's log of a run: what starts, who comes and goes, how it ends."""

import json
import sys

from manikin.common.processes import Supervised
from manikin.server.flower import LinkStatus
from manikin.server.journal import FILE, Journal


def lines(folder):
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


def test_each_change_is_a_line_and_what_stays_is_none(tmp_path):
    with Journal.open(tmp_path, ["north", "south"]) as journal:
        journal.started(1)
        for online in ((), ("north",), ("north",), ("north", "south"), ("south",)):
            journal.see(LinkStatus(state="gathering", online=list(online)))
        journal.see(LinkStatus(state="running", run=7, online=["south"]))
        journal.restarted(Supervised("serverapp", [sys.executable], tmp_path / "x", starts=2))
        journal.see(LinkStatus(state="finished", run=7, outcome="completed"))
    assert [(line["event"], line.get("hospital", line.get("attempt"))) for line in lines(tmp_path)] == [
        ("starting", 1),
        ("waiting", None),
        ("connected", "north"),
        ("connected", "south"),
        ("disconnected", "north"),
        ("ready", None),
        ("restarting", 2),
        ("stopped", None),
    ]


def test_a_run_that_failed_says_so_without_flowers_words(tmp_path):
    with Journal.open(tmp_path, []) as journal:
        journal.see(LinkStatus(state="finished", outcome="failed", details="Doe^Jane"))
    (line,) = lines(tmp_path)
    assert (line["event"], line["level"], line["code"]) == ("failed", "error", "transport-failure")
    assert "Doe" not in json.dumps(line)
