"""kill -9 at every named point of vault, gateway and coordinator: the same generator, and nothing charged twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file

from manikin.client.cohort import Hospital
from manikin.common.faults import Point
from manikin.common.study import parse_study
from manikin.embedded.federation import coordinator_key, federate
from manikin.privacy.ledger import Ledger


def worlds(tmp_path, make_hospital, study_dict):
    """A study file, two hospitals, and their twins with the same secrets and empty ledgers, under one coordinator."""
    study_dict["stage"][0]["count"] = 8
    folders = [make_hospital(name, patients=30, seed=i) for i, name in enumerate(("north", "south"))]
    coordinator_key(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    twins = [Path(shutil.copytree(f, tmp_path / "twin" / f.name)) for f in folders]
    return folders, twins


def command(study, folders, out):
    hospitals = [part for folder in folders for part in ("--hospital", str(folder))]
    return [sys.executable, "-P", "-m", "manikin", "federate", str(study), *hospitals, "--out", str(out), "--resume"]


def to_toml(value):
    """Enough TOML for a study."""
    lines = [f"{k} = {json.dumps(v)}" for k, v in value.items() if not isinstance(v, dict) and k != "stage"]
    for name, table in value.items():
        if isinstance(table, dict):
            lines.append(f"[{name}]")
            for key, entry in table.items():
                text = json.dumps(entry)
                if isinstance(entry, dict):
                    text = "{" + ", ".join(f"{k} = {json.dumps(v)}" for k, v in entry.items()) + "}"
                lines.append(f"{key} = {text}")
    for stage in value["stage"]:
        lines += ["[[stage]]", *(f"{k} = {json.dumps(v)}" for k, v in stage.items())]
    return "\n".join(lines)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("point", get_args(Point))
def test_killed_at_a_named_point_the_run_ends_as_if_it_had_not_been(
    point, make_hospital, study_dict, tmp_path, private_cache
):
    folders, twins = worlds(tmp_path, make_hospital, study_dict)
    federate(parse_study(study_dict), folders, tmp_path / "whole", resume=True)
    (tmp_path / "study.toml").write_text(to_toml(study_dict))
    once = tmp_path / "killed"
    environment = {**os.environ, "MANIKIN_KILL_AT": point, "MANIKIN_KILL_ONCE": str(once), "OMP_NUM_THREADS": "1"}
    run = command(tmp_path / "study.toml", twins, tmp_path / "cut")
    first = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=400)
    assert once.exists(), f"the point was never reached: {first.stderr}"
    if point.startswith("coordinator"):
        assert first.returncode == -signal.SIGKILL
        second = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=400)
        assert second.returncode == 0, second.stderr
    else:
        assert first.returncode == 0, first.stderr
    whole, cut = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    for folder, twin in zip(folders, twins, strict=True):
        heads = [Ledger(f / "ledger.sqlite", signer=Hospital.open(f).signing_key).latest() for f in (folder, twin)]
        assert heads[0] == heads[1]
