import copy

import pytest

from manikin.common.errors import Misconfigured
from manikin.common.study import load_study, parse_study


@pytest.fixture
def raw(study_dict):
    return copy.deepcopy(study_dict)


def test_a_complete_study_is_read(raw):
    study = parse_study(raw)
    assert study.data.shape == (8, 8)
    assert [stage.kind for stage in study.stage] == ["pretrain", "release", "train"]


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("privacy", "epsilon"),
        ("privacy", "delta"),
        ("privacy", "unit"),
        ("privacy", "multiplicity"),
        ("federation", "quorum"),
        ("federation", "round_deadline_s"),
        ("audit", "fpr"),
        ("audit", "alpha"),
        ("audit", "tpr_limit"),
        ("data", "patients_min"),
        ("data", "split"),
    ],
)
def test_nothing_about_privacy_quorum_or_audits_has_a_default(raw, section, key):
    del raw[section][key]
    with pytest.raises(Misconfigured, match=rf"{section}\.{key}"):
        parse_study(raw)


@pytest.mark.parametrize("section", ["data", "privacy", "federation", "audit"])
def test_unknown_keys_are_refused(raw, section):
    raw[section]["epsilonn"] = 1
    with pytest.raises(Misconfigured, match="epsilonn"):
        parse_study(raw)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf")])
def test_epsilon_is_positive_and_finite(raw, value):
    raw["privacy"]["epsilon"] = value
    with pytest.raises(Misconfigured, match=r"privacy\.epsilon"):
        parse_study(raw)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("data", "shape"), [8, 8, 8], "spatial_dims"),
        (("data", "window"), [1, 1], "below"),
        (("data", "labels"), ["a", "a"], "differ"),
        (("data", "split"), {"train": 0.9, "holdout": 0.2, "calibration": 0.1}, "sum to 1"),
        (("audit", "epsilon_share"), 0.6, "more than 1"),
        (("name",), "../escape", "name"),
        (("stage", 2), {"kind": "train", "steps": 1 << 40, "rounds": 1 << 40}, "rounds"),
        (("stage",), [{"kind": "release", "family": "moments", "epsilon_share": 0.01}] * 33, "at most 32"),
    ],
)
def test_contradictions_are_named(raw, path, value, says):
    target = raw
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(Misconfigured, match=says):
        parse_study(raw)


def test_a_missing_file_and_one_that_is_not_toml_are_one_sentence(tmp_path):
    with pytest.raises(Misconfigured, match="no study file"):
        load_study(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("= 3")
    with pytest.raises(Misconfigured, match="not TOML"):
        load_study(tmp_path / "bad.toml")
