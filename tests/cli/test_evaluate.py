"""`manikin evaluate`: numbers for the hospital's own eyes, kept in the hospital's folder."""

from __future__ import annotations

import json
import stat

import pytest

from manikin.common import generators
from manikin.common.errors import BadData, Misconfigured, VerificationFailed
from manikin.common.keys import SigningKey
from manikin.common.study import parse_study
from manikin.server.planning import propose
from manikin.server.releasing import release


@pytest.fixture
def published(tmp_path, study_dict):
    """A release of a generator that has seen nobody, as a federation writes it; and its trust file."""
    study_dict["generator"] = {"family": "moments", "coefficients": 4}
    study_dict["stage"] = [{"kind": "release", "family": "moments", "epsilon_share": 0.9}]
    plan = propose(parse_study(study_dict))
    generator = generators.create(plan.generator_spec())
    created = "2026-01-02T03:04:05+00:00"
    return release(
        tmp_path / "run",
        plan=plan,
        generator=generator,
        hospitals=2,
        created=created,
        audit_statement="None.",
        key=SigningKey.generate(),
    )[:2]


@pytest.fixture
def evaluate(manikin, published, make_hospital):
    def run(*more, patients=160, bundle=published[0]):
        return manikin("evaluate", bundle, "--hospital", make_hospital("north", patients=patients), *more)

    return run


def test_it_prints_a_table_and_keeps_a_private_file(evaluate, published):
    code, out, err = evaluate("--trust", published[1], "--count", 40, "--seeds", 1, "--json")
    assert (code, err) == (0, "")
    answer = json.loads(out.splitlines()[-1])
    assert "stay in the hospital" in out
    assert "WARNING" not in out
    assert "Fréchet" in out
    report = published[0].parents[1] / "north" / "evaluations" / answer["digest"][:12] / "evaluate.json"
    assert json.loads(report.read_text()) == answer
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    scores = answer["local_only"]
    assert scores["trained_on_real"]["auc"] > 0.9
    assert scores["likeness"]["synthetic"]["frechet"] > scores["likeness"]["real"]["frechet"]
    assert scores["counts"]["synthetic_images"] == 40


def test_without_a_trust_file_it_warns(evaluate):
    code, out, _ = evaluate("--count", 20, "--seeds", 1)
    assert code == 0
    assert "WARNING: the signature was NOT checked" in out


def test_a_changed_bundle_is_refused_before_a_patient_is_read(evaluate, published):
    (published[0] / "README.md").write_text("changed")
    code, _, err = evaluate("--trust", published[1])
    assert code == VerificationFailed.exit_code
    assert "README.md" in err


def test_a_folder_that_is_no_hospital_is_refused(manikin, published, tmp_path):
    code, _, err = manikin("evaluate", published[0], "--hospital", tmp_path / "nowhere")
    assert code == Misconfigured.exit_code
    assert "nowhere is not a hospital" in err


def test_a_hospital_with_too_few_patients_is_told(evaluate):
    code, _, err = evaluate("--count", 20, "--seeds", 1, patients=12)
    assert code == BadData.exit_code
    assert len(err.splitlines()) <= 3
