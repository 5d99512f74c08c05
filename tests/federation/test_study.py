"""Whole studies with every process apart on loopback, disturbed and undisturbed, as hospitals and coordinator do."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from manikin.common.agreements import OfficerCard, write
from manikin.common.errors import PolicyRefusal
from manikin.common.keys import SigningKey, fingerprint
from manikin.common.plan import Plan
from manikin.common.processes import LOOPBACK, free_port, supervising
from manikin.common.release import decide, open_candidate, verify_bundle
from manikin.common.study import parse_study
from manikin.embedded.loopback import agree, coordinator_process, federate_over_loopback, hospital_process, introduce
from manikin.privacy.ledger import Ledger
from manikin.server import officers
from manikin.server.agreements import Coordinator, create_coordinator
from manikin.server.gate import issue
from manikin.server.running import Study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.usefixtures("private_cache")]

NAMES = ("north", "south", "coast")


@pytest.fixture
def study(study_dict, request):
    study_dict["privacy"]["epsilon"] = 3.0
    study_dict["data"]["patients_min"] = 50
    study_dict["federation"]["quorum"] = 3
    study_dict["stage"][2]["rounds"] = 4
    if getattr(request, "param", "local") == "distributed":
        study_dict["federation"] |= {"mode": "distributed", "collusion": 1}
        study_dict["stage"][2]["steps"] = 4
    return parse_study(study_dict)


@pytest.fixture
def hospitals(make_hospital):
    return {name: make_hospital(name, patients=100, seed=seed) for seed, name in enumerate(NAMES)}


class Place:
    """A coordinator's folder and hospitals' folders that agreed on a plan, and the processes of one run."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder = folder
        self.study = Study(Coordinator.open(folder / "coordinator"), plan)
        self.parties = {name: hospital_process(folder / name) for name in NAMES}
        self.coordinator = coordinator_process(self.study.home, plan)

    def start(self) -> None:
        for process in (self.coordinator, *self.parties.values()):
            process.start()

    def wait(self, condition, timeout_s: float = 300.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, (self.study.said(), self.coordinator.last_words())
            time.sleep(0.1)

    def reached(self, title: str) -> bool:
        said = self.study.said()
        return title in said.get("phase", "") or any(title in done for done in said.get("seconds", {}))

    def weights(self) -> dict[str, torch.Tensor]:
        return load_file(self.study.folder / "checkpoint.safetensors")


@pytest.fixture
def places(study, hospitals, tmp_path):
    """Two copies of everything as it was before the run, so that two runs draw the very same noise."""
    first = tmp_path / "a"
    first.mkdir()
    for name, folder in hospitals.items():
        shutil.move(folder, first / name)
    home = create_coordinator(first / "coordinator", "coordinator", f"{LOOPBACK}:{free_port()}")
    folders = {name: first / name for name in NAMES}
    introduce(home, folders)
    plan = agree(home, study, folders)
    shutil.copytree(first, tmp_path / "b")
    return Place(first, plan), Place(tmp_path / "b", plan)


def children(pid: int) -> list[int]:
    """All processes that a process began, and those began."""
    with contextlib.suppress(OSError):
        own = [int(c) for task in Path(f"/proc/{pid}/task").iterdir() for c in (task / "children").read_text().split()]
        return own + [below for child in own for below in children(child)]
    return []


def find(root: int, word: str) -> int:
    """A process below another one whose command line holds a word."""
    found = [pid for pid in children(root) if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert found, f"no {word} below {root}"
    return found[0]


def living(folder: Path) -> list[str]:
    """Command lines of processes that speak of a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            if str(folder).encode() in line and state != "Z" and int(entry.name) != os.getpid():
                found.append(line.replace(b"\0", b" ").decode())
    return found


@pytest.mark.parametrize("study", ["local", "distributed"], indirect=True)
def test_a_study_whose_every_process_was_killed_ends_with_the_same_weights(places):
    whole, killed = places
    with supervising([*whole.parties.values(), whole.coordinator]):
        whole.start()
        whole.wait(lambda: whole.coordinator.ended() is not None)
    assert whole.study.said()["state"] == "finished", whole.study.said()
    seconds = [s for title, spent in whole.study.said()["seconds"].items() if "train" in title for s in spent]
    assert statistics.median(seconds) <= 13, seconds

    with supervising([*killed.parties.values(), killed.coordinator]) as processes:
        killed.start()
        killed.wait(lambda: killed.reached("release one noisy sum"))
        os.kill(find(killed.coordinator.pid, "manikin.server.flower"), signal.SIGKILL)
        killed.wait(lambda: killed.reached("round 1 of 4"))
        os.kill(find(killed.parties["north"].pid, "vault"), signal.SIGKILL)
        killed.wait(lambda: killed.reached("round 2 of 4"))
        os.kill(find(killed.parties["south"].pid, "flower-supernode"), signal.SIGKILL)
        killed.wait(lambda: killed.reached("round 3 of 4"))
        os.kill(killed.coordinator.pid, signal.SIGKILL)
        killed.coordinator.stop()
        killed.wait(lambda: not living(killed.folder / "coordinator"), 30)
        again = coordinator_process(killed.study.home, killed.study.plan, "resume")
        processes.append(again)
        again.start()
        killed.wait(lambda: again.ended() is not None)
    said = killed.study.said()
    assert said["state"] == "finished", (said, again.last_words(20))
    assert said["attendance"] == {}
    mine, theirs = killed.weights(), whole.weights()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    verify_bundle(Path(said["release"]), Path(said["trust"]))
    assert not living(killed.folder)


def test_a_study_with_officers_ends_with_a_candidate_and_is_released_by_their_decisions(study, hospitals, tmp_path):
    for name, folder in hospitals.items():
        shutil.move(folder, tmp_path / name)
    home = create_coordinator(tmp_path / "coordinator", "coordinator", f"{LOOPBACK}:{free_port()}")
    folders = {name: tmp_path / name for name in NAMES}
    introduce(home, folders)
    keys = {name: SigningKey.generate() for name in ("Ada", "Bo")}
    for name, key in keys.items():
        card = OfficerCard(name=name, institution=f"{name} Clinic", key=key.public_key.hex())
        officers.accept(home, write(card, key), [fingerprint(key.public_key)])
    deciders = tuple(officers.known(home).values())
    place = Place(tmp_path, agree(home, study, folders, officers=deciders, officers_needed=2))
    with supervising([*place.parties.values(), place.coordinator]):
        place.start()
        place.wait(lambda: place.coordinator.ended() is not None)
    said = place.study.said()
    assert (said["state"], "release" in said) == ("finished", False), said
    candidate = open_candidate(Path(said["candidate"]))
    assert set(candidate.evidence.heads) == set(NAMES)
    approve = {"decision": "approve", "reason": "read", "waiver": "the hospitals' verdicts stay at home"}
    decisions = [decide(candidate, key, **approve) for key in keys.values()]
    with pytest.raises(PolicyRefusal):
        issue(home, place.study.plan, decisions[:1])
    release, trust = issue(home, place.study.plan, decisions)
    assert [decision.officer for decision in verify_bundle(release.folder, trust).decisions] == ["Ada", "Bo"]


def test_a_canary_round_goes_through_and_the_study_is_still_to_be_run(places):
    place, _ = places
    canary = coordinator_process(place.study.home, place.study.plan, "run", "--canary")
    with supervising([*place.parties.values(), canary]):
        canary.start()
        for party in place.parties.values():
            party.start()
        place.wait(lambda: canary.ended() is not None)
    assert canary.ended() == 0, canary.last_words(20)
    assert not place.study.started
    for name in NAMES:
        assert not Ledger(place.folder / name / "ledger.sqlite").spent()


def test_a_hospital_that_never_comes_costs_the_run_only_its_quorum(places):
    place, _ = places
    del place.parties["coast"]
    with supervising([*place.parties.values(), place.coordinator]):
        place.start()
        place.wait(lambda: place.coordinator.ended() is not None)
    assert place.coordinator.ended() == 16
    words = place.coordinator.last_words(10)
    assert "2 of 3 hospitals are connected" in words
    assert "coast" in words


def test_ctrl_c_ends_every_process(study, hospitals, tmp_path):
    code = (
        "import sys, json; from pathlib import Path\n"
        "from manikin.common.study import parse_study\n"
        "from manikin.embedded.loopback import federate_over_loopback\n"
        "study = parse_study(json.loads(sys.argv[1]))\n"
        "federate_over_loopback(study, [Path(p) for p in sys.argv[3:]], Path(sys.argv[2]))\n"
    )
    text = json.dumps(study.model_dump(mode="json", by_alias=True))
    out = tmp_path / "run"
    command = [sys.executable, "-c", code, text, str(out), *map(str, hospitals.values())]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 200
    while not any("supernode" in line for line in living(tmp_path)):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert any("hospital vault" in line.replace("\0", " ") for line in living(tmp_path))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=100)
    assert process.returncode != 0
    assert not living(tmp_path)


def test_a_killed_supervisor_leaves_nobody_behind(places):
    place, _ = places
    party = place.parties["north"]
    with supervising([party]):
        party.start()
        place.wait(lambda: any("supernode" in line for line in living(place.folder)), 100)
        os.kill(party.pid, signal.SIGKILL)
        place.wait(lambda: not living(place.folder), 60)


def test_a_plan_that_a_policy_refuses_is_never_approved(study_dict, hospitals, tmp_path):
    study_dict["privacy"]["epsilon"] = 8.0  # the template allows 3
    study_dict["data"]["patients_min"] = 50
    study_dict["federation"]["quorum"] = 3
    with pytest.raises(PolicyRefusal, match="ε"):
        federate_over_loopback(parse_study(study_dict), list(hospitals.values()), tmp_path / "run")
    assert not living(tmp_path)
