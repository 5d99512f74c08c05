"""The benchmark of the network: its studies are valid, and what it says of seconds, bytes and processes is so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from manikin.common import generators
from manikin.server.planning import propose

TITLE = "Hospitals train privately, round {} of 2"
HOLD = "import sys, torch; print(1, flush=True); sys.stdin.read()"


@pytest.fixture
def network():
    import network

    return network


@pytest.fixture
def watching():
    import watching

    return watching


def vault(kind_seconds):
    return [{"kind": kind, "in": 100, "out": 90, "seconds": seconds} for kind, seconds in kind_seconds]


def line(model, runtime, **changes):
    sizes = {"SuperNode": 142.0, "executor": 129.0, "ClientApp": 136.0}
    known = {"median_s": 8.0, "min_s": 7.0, "max_s": 9.0, "rounds": 6, "bytes_out": 291888, "bytes_in": 60000000}
    phases = {"asking": 6.0, "hospitals' work": 0.5, "aggregation": 0.02, "checkpoint": 0.01}
    once = {"open": 11.0, "audit": 8.0, "draw": 0.1}
    found = {"memory_mb": sizes, "torch_imports": {"vault": 3}, "phases": phases, "once": once}
    return {"model": model, "runtime": runtime} | known | found | changes


@pytest.mark.parametrize(("model", "size"), [("tiny", (5e4, 2e5)), ("20 MB", (19e6, 21e6))])
def test_a_study_has_a_charged_step_a_round_and_weights_of_the_size_named(network, model, size):
    plan = propose(network.study(model, 6))
    assert [step.action for step in plan.steps()] == ["open", *["train"] * 6, "audit"]
    state = generators.create(plan.generator_spec()).state()
    assert size[0] < sum(tensor.numel() * tensor.element_size() for tensor in state.values()) < size[1]


def test_a_round_is_from_question_to_question_and_its_parts_add_up(network):
    begun = {"": 0.0, "Hospitals check the plan": 5.0, TITLE.format(1): 10.0, TITLE.format(2): 18.0}
    took = {"Hospitals check the plan": 4.0, TITLE.format(1): 7.0, TITLE.format(2): 9.0}
    vaults = [
        vault([("open", 3.0), ("train", 1.0), ("train", 2.0), ("audit", 1.0)]),
        vault([("open", 3.0), ("train", 0.5), ("train", 5.0), ("audit", 1.0)]),
    ]
    found = network.manikin_rounds(begun, took, ended=30.0, spent=17.0, vaults=vaults)
    assert found["seconds"] == [8.0, 12.0]
    assert (found["median_s"], found["min_s"], found["max_s"], found["rounds"]) == (10.0, 8.0, 12.0, 2)
    # the slowest vault took 1 and 5 of 7 and 9 s; of 20 s in all, 16 were asking, 17 all but checkpoints
    assert found["phases"] == {"asking": 5.0, "hospitals' work": 3.0, "aggregation": 0.5, "checkpoint": 1.5}
    assert sum(found["phases"].values()) * 2 == 20
    assert (found["bytes_out"], found["bytes_in"]) == (200, 180)
    assert found["once"] == {"open": 4.0}


def test_a_round_that_was_not_seen_is_no_result(network):
    took = {TITLE.format(1): 7.0, TITLE.format(2): 9.0}
    with pytest.raises(SystemExit, match="1 rounds were seen, 2 asked, 2 worked on"):
        network.manikin_rounds(
            {TITLE.format(1): 1.0}, took, ended=30.0, spent=17.0, vaults=[vault([("train", 1.0), ("train", 1.0)])]
        )


def test_when_a_phase_began_is_when_its_file_was_written(network, tmp_path):
    file = tmp_path / "status.json"
    assert network.read_phase(file) == ("", 0.0)
    file.write_text(json.dumps({"phase": TITLE.format(1)}))
    title, moment = network.read_phase(file)
    assert title == TITLE.format(1)
    assert abs(moment - time.time()) < 5


def test_a_vaults_log_and_its_egress_log_are_one_story(network):
    entries = [SimpleNamespace(kind="open", size_bytes=10), SimpleNamespace(kind="train", size_bytes=90)]
    log = [
        "north: listening",
        '{"event": "starting"}',
        '{"event": "answered", "bytes_in": 5, "bytes_out": 10, "seconds": 0.5}',
        '{"event": "answered", "bytes_in": 80, "bytes_out": 90, "seconds": 1.5}',
    ]
    train = {"kind": "train", "in": 80, "out": 90, "seconds": 1.5}
    assert network.matched(entries, log)[1] == train
    with pytest.raises(SystemExit, match="do not tell the same"):
        network.matched(entries, log[:-1])


@pytest.mark.parametrize(
    ("command", "role"),
    [
        ("/v/bin/python /v/bin/flower-supernode --superlink a", "SuperNode"),
        ("/v/bin/python /v/bin/flower-superexec --insecure", "executor"),
        ("/v/bin/python /v/bin/flwr-clientapp --runtime-api-address a", "ClientApp"),
        ("/v/bin/python -P -m manikin.common.launching gateway flower-superexec --insecure", "executor"),
        ("/v/bin/python -P -m manikin hospital vault --hospital x", "vault"),
        ("/v/bin/python -P -m manikin hospital gateway --gateway x", "gateway's supervisor"),
        ("/v/bin/python -P -m manikin hospital start --hospital /x/vault", ""),
        ("/bin/sh -c true", ""),
    ],
)
def test_processes_are_told_by_their_command_lines(watching, command, role):
    assert watching.role(command.split()) == role


def test_a_process_is_seen_with_its_size_and_whether_it_loaded_torch(watching):
    def start(code):
        command = [sys.executable, "-c", code, "hospital", "vault"]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    heavy, light = start(HOLD), start(HOLD.replace(", torch", ""))
    try:
        assert heavy.stdout.read(1) == light.stdout.read(1) == b"1"
        watch = watching.Watch()
        watch.look([heavy.pid, light.pid])
        assert watch.facts()["processes"] == {}  # it may be one just forked
        watch.look([heavy.pid, light.pid])
        watch.look([heavy.pid, light.pid])
        facts = watch.facts()
        assert facts["processes"] == {"vault": 2}
        assert facts["torch_imports"] == {"vault": 1}
        assert 50 < facts["memory_mb"]["vault"] < 5000
        assert heavy.pid in watching.children(os.getpid())
    finally:
        for process in (heavy, light):
            process.communicate()


def test_the_page_holds_ratios_targets_and_what_is_too_large(network):
    large = {"SuperNode": 293.0, "executor": 129.0, "ClientApp": 150.0}
    lines = [
        line("tiny", network.MANIKIN),
        line("tiny", network.PLAIN, median_s=10.0, torch_imports={"ClientApp": 18}),
        line("20 MB", network.MANIKIN, median_s=18.5, memory_mb=large),
    ]
    text = network.page(lines)
    assert (
        "| tiny | Manikin | 8.0 (7.0 to 9.0) | 0.80 | 13, met | 6 | 291,888, 60,000,000 | 142 | 129 | 136 | – |" in text
    )
    assert "| – | 3 (vault) |" in text
    assert "| 1.00 | – | 6 |" in text
    assert "18 (ClientApp)" in text
    assert "| 20 MB | Manikin | 18.5 (7.0 to 9.0) | – | 18, missed |" in text
    assert "| tiny | 6.00 | 0.50 | 0.02 | 0.01 | 11.0 | 8.0 |" in text
    assert "150 MB or more: 20 MB: SuperNode 293 MB, 20 MB: ClientApp 150 MB." in text
    assert {row.count("|") for row in text.splitlines() if row.startswith("| tiny | M")} == {13}


def test_the_peer_carries_as_many_bytes_and_only_a_whole_run_is_a_result(network, tmp_path, monkeypatch, capsys):
    asked = []

    def answer(model, runtime, rounds, size):
        asked.append((model, runtime, rounds, size))
        return line(model, runtime)

    monkeypatch.setattr(network, "run_case", answer)
    monkeypatch.setattr(network.results, "commit", lambda: "0123456789")
    out = tmp_path / "PAGE.md"
    monkeypatch.setattr(sys, "argv", ["network.py", "--out", str(out), "--quick"])
    network.main()
    assert not out.exists()
    assert asked[0] == ("tiny", network.MANIKIN, 2, 0)
    assert asked[1] == ("tiny", network.PLAIN, 2, 20_000_000)
    assert json.loads(capsys.readouterr().out.splitlines()[0])["commit"] == "0123456789"
    monkeypatch.setattr(sys, "argv", ["network.py", "--out", str(out)])
    network.main()
    assert [case[2] for case in asked[4:]] == [6] * 4
    assert out.read_text().count("<!-- network:") == 2
    assert "Commit 0123456789" in out.read_text()
    assert len(network.results.read(tmp_path / "results.jsonl")) == 4
