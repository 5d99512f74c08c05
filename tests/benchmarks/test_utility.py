"""The benchmark of usefulness: its studies are valid, its cases are told apart, and it goes on where it stopped."""

from __future__ import annotations

import json
import sys

import pytest

from manikin.common.study import load_study

STUDIES = ("pneumonia", "pneumonia_moments", "mednist", "lgg", "hippocampus", "hippocampus_diffusion")


@pytest.fixture
def utility():
    import utility

    return utility


@pytest.mark.parametrize("name", STUDIES)
def test_studies_are_valid(repository, name):
    study = load_study(repository / "benchmarks" / "studies" / f"{name}.toml")
    assert study.privacy.delta == 1e-5
    assert study.federation.quorum >= 3


def test_every_study_file_is_used(utility):
    used = {case.study for group in utility.GROUPS for case in utility.cases(group)}
    assert used | {"pneumonia_distributed"} == {path.stem for path in utility.STUDIES.glob("*.toml")}


def test_cases_have_names_of_their_own_and_cover_the_question(utility):
    cases = list(utility.cases("local"))
    every = [case for group in utility.GROUPS for case in utility.cases(group)]
    assert len({case.name for case in every}) == len(set(every))
    for epsilon in (1.0, 3.0):
        for family in ("moments", "diffusion", utility.DIRECT, utility.ALONE):
            runs = [c for c in cases if (c.dataset, c.family, c.epsilon) == ("pneumonia", family, epsilon)]
            assert sorted(case.seed for case in runs) == [0, 1, 2]
    for group in utility.GROUPS:
        assert set(utility.cases(group, quick=True)) <= set(utility.cases(group))


def test_each_federation_has_noise_of_its_own(utility):
    federations = [
        c
        for c in {c for g in utility.GROUPS for c in utility.cases(g)}
        if c.family not in (utility.REAL, utility.DIRECT, utility.PHANTOMS)
    ]
    names = [utility.case_study(case).name for case in federations]
    assert len(set(names)) == len(names)
    alone = next(c for c in federations if c.family == utility.ALONE)
    assert utility.case_study(alone).federation.quorum == 1
    assert utility.case_study(alone).privacy.epsilon == alone.epsilon


@pytest.fixture
def small(utility, stand_ins, tmp_path, monkeypatch, private_cache):
    """The same benchmark over a handful of made-up images."""
    studies = tmp_path / "studies"
    studies.mkdir()
    for path in utility.STUDIES.glob("*.toml"):
        text = path.read_text().replace("patients_min = 500", "patients_min = 5").replace("count = 4000", "count = 40")
        (studies / path.name).write_text(text.replace("synthetic = 1000", "synthetic = 40"))
    monkeypatch.setattr(utility, "STUDIES", studies)
    monkeypatch.setitem(utility.SYNTHETIC, "pneumonia", 60)
    monkeypatch.setattr(utility, "CLASSIFIERS", 1)
    monkeypatch.setattr(utility.results, "commit", lambda: "0123456789")

    def run(*arguments):
        monkeypatch.setattr(
            sys,
            "argv",
            ["utility.py", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "PAGE.md"), *arguments],
        )
        utility.main()

    return run


@pytest.mark.slow
def test_a_small_benchmark_runs_and_goes_on(small, tmp_path, capsys, utility, monkeypatch):
    small("--quick", "--only", "moments, ε = 3")
    first = capsys.readouterr().out
    line = json.loads(first.splitlines()[0])
    assert (line["case"], line["unit"], line["commit"]) == ("pneumonia: moments, ε = 3, run 1", "image", "0123456789")
    assert 0 <= line["auc"] <= 1
    assert line["spent"] <= 3
    assert (tmp_path / "work" / "contact" / "pneumonia-moments-3-0.png").exists()
    assert not (tmp_path / "work" / "runs" / "pneumonia-moments-3-0" / "hospitals").exists()
    monkeypatch.setattr(utility, "run_case", None)  # a second run must not need it
    small("--quick", "--only", "moments, ε = 3")
    assert capsys.readouterr().out == first
    assert not (tmp_path / "PAGE.md").exists()  # a quick run is no result


def test_a_reference_needs_no_federation(small, tmp_path, capsys):
    small("--only", "pneumonia: real images")
    line = json.loads(capsys.readouterr().out.splitlines()[0])
    assert line["epsilon"] is None
    assert line["auc"] > 0.9
    assert line["frechet"] > 0
    assert not (tmp_path / "PAGE.md").exists()


def test_the_page_is_written_when_one_commit_has_answered_every_case(small, utility, tmp_path, monkeypatch):
    def answer(case, work, *, commit):
        scores = {"auc": 0.9, "balanced_accuracy": 0.8, "frechet": 1.0, "seconds": 1.0, "unit": "image"}
        known = {"case": case.name, "dataset": case.dataset, "family": case.family, "epsilon": case.epsilon}
        return {**known, **scores, "commit": commit}

    monkeypatch.setattr(utility, "run_case", answer)
    small("--only", "pneumonia")
    assert not (tmp_path / "PAGE.md").exists()
    small()
    page = (tmp_path / "PAGE.md").read_text()
    assert "Commit 0123456789" in page
    assert f"| pneumonia | {utility.PHANTOMS} | 0 | image |" in page
    assert f"| pneumonia | {utility.REAL} | ∞ | image |" in page
    assert "| pneumonia | diffusion | 3 | image | 0.900 ± 0.000 |" in page


def test_an_area_of_zero_is_a_score(utility):
    assert utility._mean([0.0, 0.5]) == 0.25
    assert utility._mean([None, None]) is None
