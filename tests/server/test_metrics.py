"""The coordinator's metrics: what the files of its runs say, as the modules that run a study write them."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import torch
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from manikin.common.agreements import PlanDocument, write
from manikin.common.errors import TransportFailure
from manikin.common.keys import SigningKey
from manikin.common.plan import Party, Plan
from manikin.common.study import parse_study
from manikin.server import networked, rounds
from manikin.server.channel import Missing
from manikin.server.checkpoints import Checkpoint, Checkpoints
from manikin.server.metrics import OTHER, phase_of, read_runs, registry_of, serve
from manikin.server.networked import Status


@pytest.fixture
def plan(study_dict):
    parties = [Party(name, SigningKey.generate().public_key.hex()) for name in ("coordinator", "north", "south")]
    return Plan(parse_study(study_dict), (None, 1.0, 1.0), coordinator=parties[0], participants=tuple(parties[1:]))


@pytest.fixture
def run(tmp_path, plan):
    folder = tmp_path / "plans" / plan.digest
    (folder / "run").mkdir(parents=True)
    (folder / "plan.dsse.json").write_bytes(write(PlanDocument(plan=plan.to_dict()), SigningKey.generate()))
    return folder / "run"


def shown(text):
    families = text_string_to_metric_families(text)
    samples = [sample for family in families for sample in family.samples]
    order = ("hospital", "code", "kind", "phase", "state", "direction", "verdict")
    return {(s.name, *[s.labels[name] for name in order if name in s.labels]): s.value for s in samples}


def scraped(folder):
    return shown(generate_latest(registry_of(folder)).decode())


def test_a_plan_that_was_only_proposed_costs_nothing(tmp_path, run):
    values = scraped(tmp_path)
    assert values["manikin_run_state", "proposed"] == 1
    assert values["manikin_run_moves", "train"] == 2
    assert values["manikin_run_epsilon_planned",] == 8
    assert values["manikin_run_epsilon_charged",] == 0
    assert values["manikin_run_hospitals",] == 2


def test_a_run_under_way(tmp_path, run, plan):
    attendance = {"2": {"south": "policy-refusal"}, "3": {"south": "deadline", "stranger": "lost"}}
    checkpoint = Checkpoint(done=3, state={"w": torch.zeros(3)}, attendance=attendance)
    Checkpoints(run, plan.digest).save(checkpoint)
    status = Status(run / "status.json")
    for number in (1, 2):
        with status.phase(f"Hospitals train privately, round {number} of 2", None):
            pass
    (run / "link.json").write_text(json.dumps({"state": "running", "online": ["north", "stranger"]}))
    values = scraped(tmp_path)
    assert values["manikin_run_state", "running"] == 1
    assert values["manikin_run_moves_done_total", "train"] == 1
    assert values["manikin_run_epsilon_charged",] == 8
    assert values["manikin_run_phase_seconds_count", "train"] == 2
    assert values["manikin_run_answers_total", "north"] == 2
    assert values["manikin_run_answers_total", "south"] == 1
    assert values["manikin_run_missed_total", "south", "deadline"] == 1
    assert values["manikin_run_missed_total", "north", "deadline"] == 0
    assert values["manikin_run_refusals_total", "policy-refusal"] == 1
    assert values["manikin_run_hospital_online", "north"] == 1
    assert values["manikin_run_hospital_online", "south"] == 0
    assert values["manikin_run_changed_timestamp_seconds",] == pytest.approx(os.stat(run / "status.json").st_mtime)
    assert "stranger" not in str(values)


@pytest.mark.parametrize(
    ("title", "charged"),
    [("Hospitals check the plan", 0), ("Hospitals answer a canary", 0), ("Hospitals release one", 8)],
)
def test_nothing_is_charged_before_a_charged_step_is_asked(tmp_path, run, title, charged):
    status = Status(run / "status.json")
    with status.phase(title, None):
        assert scraped(tmp_path)["manikin_run_epsilon_charged",] == charged
    assert scraped(tmp_path)["manikin_run_epsilon_charged",] == charged


def test_how_a_run_ends(tmp_path, run):
    status = Status(run / "status.json")
    status.update(state="failed", error={"code": "transport-failure", "what": "…"}, bytes={"in": 5, "out": 7})
    values = scraped(tmp_path)
    assert values["manikin_run_error", "transport-failure"] == 1
    assert values["manikin_run_bytes_total", "out"] == 7
    status.update(state="finished")
    values = scraped(tmp_path)
    assert values["manikin_run_audit", "kept"] == 1
    assert not any(key[0] == "manikin_run_error" for key in values)


def test_a_run_tells_bytes_and_who_missed_what_as_it_goes(tmp_path, run, plan, monkeypatch):
    """`conduct` itself, over hospitals that never answer: the first quorum is missed."""

    class Silent:
        names, bytes_in, bytes_out = ("north", "south"), 0, 11

        def ask(self, tasks, *, deadline_s):
            self.bytes_out += 100
            return {"north": Missing("deadline"), "south": Missing("policy-refusal")}.items()

    (run / "nodes.json").write_text("{}")
    keys = type("Keys", (), {"signing_key": None, "folder": tmp_path})
    monkeypatch.setattr(networked.Coordinator, "open", lambda _: keys)
    monkeypatch.setattr(networked, "load_plan", lambda *_: plan)
    monkeypatch.setattr(networked, "require_approvals", lambda *_: ())
    with pytest.raises(TransportFailure):
        networked.conduct(run, lambda *_: Silent())
    values = scraped(tmp_path)
    assert values["manikin_run_error", "transport-failure"] == 1
    assert values["manikin_run_bytes_total", "out"] == 111
    assert values["manikin_run_missed_total", "north", "deadline"] == 1
    assert values["manikin_run_refusals_total", "policy-refusal"] == 1


def test_words_that_are_not_listed_are_other(tmp_path, run):
    Status(run / "status.json").update(state="failed", error={"code": "Mustermann"}, seconds={"Mustermann": [1.0]})
    values = scraped(tmp_path)
    assert values["manikin_run_error", OTHER] == 1
    assert values["manikin_run_phase_seconds_sum", OTHER] == 1
    assert "Mustermann" not in str(values)


@pytest.mark.parametrize("spoilt", ["plan", "status", "checkpoint"])
def test_a_run_that_cannot_be_read_is_left_out_and_the_others_stay(tmp_path, run, spoilt):
    files = {
        "plan": run.parent / "plan.dsse.json",
        "status": run / "status.json",
        "checkpoint": run / "checkpoint.safetensors",
    }
    assert len(read_runs(tmp_path)) == 1
    files[spoilt].write_bytes(b"\xff" * 20)
    assert read_runs(tmp_path) == []
    assert generate_latest(registry_of(tmp_path))


def test_every_phase_of_the_rounds_has_its_word(plan, run):
    """The titles are read by people and may be reworded: then this asks for the list to follow."""
    titles = []

    class Nobody:
        names = ("north", "south")

        def ask(self, tasks, *, deadline_s):
            return dict.fromkeys(tasks, Missing("lost")).items()

    conducted = rounds.Rounds(plan, Nobody(), Checkpoints(run, plan.digest), phase=rounds.silent)
    titles += [conducted.asking._title(step) for step in plan.steps()]
    source = (rounds.__file__, sys.modules["manikin.server.networked"].__file__)
    for file in source:
        text = Path(file).read_text()
        titles += [line.split('phase("')[1].split('"')[0] for line in text.splitlines() if 'phase("' in line]
    assert len(titles) >= 8
    assert [title for title in titles if phase_of(title) == OTHER] == []


def test_it_is_served_on_loopback_and_needs_no_torch(tmp_path, run):
    stop, port = serve(tmp_path, 0)
    try:
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    finally:
        stop()
    assert shown(page)["manikin_run_state", "proposed"] == 1
    check = "import sys, manikin.server.metrics; sys.exit(any(m in sys.modules for m in ('torch', 'flwr', 'monai')))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
