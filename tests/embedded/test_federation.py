"""Whole federations on one machine: real Flower apps, worker processes, cohorts, ledgers, audits and a release."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from manikin.common.errors import Misconfigured, TransportFailure
from manikin.common.release import verify_bundle
from manikin.common.study import parse_study
from manikin.embedded import federation as module
from manikin.embedded.federation import federate

pytestmark = pytest.mark.usefixtures("private_cache")


@pytest.fixture
def hospitals(make_hospital):
    return [make_hospital("north", seed=1), make_hospital("south", seed=2)]


@pytest.fixture
def study(study_dict):
    return parse_study(study_dict)


def weights(run):
    return load_file(run / "checkpoint.safetensors")


def test_the_loop_ends_with_a_release_that_verifies_and_holds_no_count(study, hospitals, tmp_path):
    result = federate(study, hospitals, tmp_path / "run")
    assert verify_bundle(result.bundle, result.trust).spec.family == "diffusion"
    assert 0 < result.epsilon <= study.privacy.epsilon
    assert set(result.audits) == {"north", "south"}
    card = json.loads((result.bundle / "privacy.json").read_text())
    assert card["epsilon"] == result.epsilon
    everything = b"".join(f.read_bytes() for f in result.bundle.rglob("*") if f.is_file())
    assert b"verdict" not in everything.lower()


@pytest.fixture
def twin(hospitals, tmp_path):
    """The same federation once more: the same coordinator, and hospitals with the same secrets and empty ledgers."""
    module.coordinator_key(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    return [Path(shutil.copytree(folder, tmp_path / "twin" / folder.name)) for folder in hospitals]


def test_a_coordinator_killed_between_rounds_resumes_to_the_same_generator(
    study, hospitals, twin, tmp_path, monkeypatch
):
    federate(study, hospitals, tmp_path / "whole", resume=True)
    asked = []
    original = module.server_app.GridChannel.ask

    def dies(self, tasks, *, deadline_s):
        asked.append(next(iter(tasks.values())).step)
        if asked[-1] == 3:
            raise KeyboardInterrupt
        return original(self, tasks, deadline_s=deadline_s)

    with monkeypatch.context() as patch:
        patch.setattr(module.server_app.GridChannel, "ask", dies)
        with pytest.raises(KeyboardInterrupt):
            federate(study, twin, tmp_path / "cut", resume=True)
    federate(study, twin, tmp_path / "cut", resume=True)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_failing_hospital_is_named_with_its_own_words(study_dict, hospitals, make_hospital, tmp_path):
    study_dict["federation"]["quorum"] = 3
    few = make_hospital("coast", patients=4)
    with pytest.raises(TransportFailure) as failed:
        federate(parse_study(study_dict), [*hospitals, few], tmp_path / "run")
    assert "coast (unavailable)" in str(failed.value)
    assert "coast says" in str(failed.value)


def test_a_vault_killed_during_training_is_asked_again_and_the_generator_is_the_same(
    study, hospitals, twin, tmp_path, monkeypatch
):
    federate(study, hospitals, tmp_path / "whole", resume=True)
    original, kills = module.EmbeddedGrid.push_messages, []

    def push(self, messages):
        messages = list(messages)
        if messages[0].metadata.group_id == "2" and not kills:
            kills.append(self._workers[0]._process.pid)
            os.kill(kills[0], signal.SIGKILL)
        return original(self, messages)

    with monkeypatch.context() as patch:
        patch.setattr(module.EmbeddedGrid, "push_messages", push)
        result = federate(study, twin, tmp_path / "cut", resume=True)
    assert kills
    assert not result.attendance
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_run_folder_in_use_is_not_overwritten(study, hospitals, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("keep")
    with pytest.raises(Misconfigured, match="not empty"):
        federate(study, hospitals, tmp_path / "run")
    assert (tmp_path / "run" / "mine").read_text() == "keep"


def test_resuming_with_another_study_is_refused(study, study_dict, hospitals, tmp_path):
    module._keep_plan(tmp_path / "run", module.propose(study))
    study_dict["privacy"]["epsilon"] = 4.0
    with pytest.raises(Misconfigured, match="another plan"):
        federate(parse_study(study_dict), hospitals, tmp_path / "run", resume=True)


def test_hospitals_must_be_hospitals_and_have_names_of_their_own(study, hospitals, tmp_path):
    with pytest.raises(Misconfigured, match="not a hospital"):
        federate(study, [hospitals[0], tmp_path / "nowhere"], tmp_path / "run")
    with pytest.raises(Misconfigured, match="same name"):
        federate(study, [hospitals[0], hospitals[0]], tmp_path / "run")
    with pytest.raises(Misconfigured, match="quorum"):
        federate(study, hospitals[:1], tmp_path / "run")
