"""Public data sets as hospitals: nobody is in two of them, and the test is in none."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from manikin.client.cohort import Cohort
from manikin.common.errors import BadData
from manikin.common.study import load_study


@pytest.fixture
def bench():
    import data

    return data


def study_data(bench, name, **changes):
    return load_study(bench.STUDIES / f"{name}.toml").data.model_copy(update={"patients_min": 1, **changes})


def everyone(folder, data):
    return [patient for part in Cohort.open(folder).load(data).values() for patient in part]


def test_pneumonia_is_shuffled_over_three_hospitals_and_its_test_kept_aside(bench, stand_ins, tmp_path):
    hospitals = bench.prepare_hospitals("pneumonia", tmp_path / "work")
    data = study_data(bench, "pneumonia")
    assert [Cohort.open(folder).name for folder in hospitals] == ["hospital-1", "hospital-2", "hospital-3"]
    for folder in hospitals:
        labels = [int(patient.labels[0]) for patient in everyone(folder, data)]
        assert len(labels) == 30
        assert 5 < sum(labels) < 25
        assert Cohort.open(folder).unit == "image"
    images, labels = bench.load_test(tmp_path / "work", hospitals, data)
    assert images.shape == (24, 1, 28, 28)
    assert sorted(labels) == [0] * 12 + [1] * 12
    held = {image.tobytes() for image in images}
    trained = {p.images[0].tobytes() for folder in hospitals for p in everyone(folder, data)}
    assert len(trained) == 90
    assert not held & trained


def test_lgg_has_a_hospital_for_each_site_with_its_patients(bench, stand_ins, tmp_path):
    hospitals = bench.prepare_hospitals("lgg", tmp_path / "work")
    data = study_data(bench, "lgg")
    assert [folder.name for folder in hospitals] == ["CS", "DU", "FG", "HT"]
    cohort = Cohort.open(hospitals[1])
    assert (cohort.unit, cohort.counts()["patients"], cohort.counts()["images"]) == ("patient", 6, 12)
    assert Cohort.open(hospitals[0]).counts()["images"] == 7  # one was blank
    patient = everyone(hospitals[1], data)[0]
    assert patient.site == "DU"
    assert patient.images.shape == (2, 1, 64, 64)
    with np.load(stand_ins / "tcga_lgg_mri" / "lgg_slices64.npz") as file:
        flair = {image.tobytes() for image in file["images"][file["site"] == "DU"][..., 1]}
    assert np.round((patient.images[0, 0] + 1) * 127.5).astype(np.uint8).tobytes() in flair


def test_hippocampus_volumes_pass_through_nifti(bench, stand_ins, tmp_path):
    hospitals = bench.prepare_hospitals("hippocampus", tmp_path / "work")
    data = study_data(bench, "hippocampus")
    volumes = [patient for folder in hospitals for patient in everyone(folder, data)]
    assert len(volumes) == 7
    assert {patient.images.shape for patient in volumes} == {(1, 1, 32, 48, 32)}


def test_mednist_keeps_a_test_aside(bench, stand_ins, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "MEDNIST_TEST", 12)
    hospitals = bench.prepare_hospitals("mednist", tmp_path / "work")
    assert [Cohort.open(folder).counts()["images"] for folder in hospitals] == [16, 16, 16]
    assert Cohort.open(tmp_path / "work" / bench.TEST).counts()["images"] == 12


def test_what_was_made_is_taken_as_it_is_and_what_was_left_half_is_made_again(bench, stand_ins, tmp_path):
    work = tmp_path / "work"
    (work / "hospitals" / "hospital-1").mkdir(parents=True)
    (work / "mine").mkdir()
    first = bench.prepare_hospitals("pneumonia", work)
    secrets = [(folder / "secret.key").read_bytes() for folder in first]
    assert [(folder / "secret.key").read_bytes() for folder in bench.prepare_hospitals("pneumonia", work)] == secrets
    assert (work / "mine").is_dir()


def test_hospitals_are_made_from_the_command_line(bench, stand_ins, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["data.py", "hippocampus", "--work", str(tmp_path)])
    bench.main()
    assert capsys.readouterr().out.split() == [
        str(tmp_path / "hippocampus" / "hospitals" / f"hospital-{i}") for i in (1, 2, 3)
    ]


def test_missing_data_are_named(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("MANIKIN_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(BadData, match="MANIKIN_DATA"):
        bench.data_root()


@pytest.mark.data
def test_real_pneumonia_has_the_official_sizes(bench, data_dir, tmp_path):
    hospitals = bench.prepare_hospitals("pneumonia", tmp_path)
    assert sum(Cohort.open(folder).counts()["images"] for folder in hospitals) == 4708
    images, labels = bench.load_test(tmp_path, hospitals, study_data(bench, "pneumonia"))
    assert images.shape == (624, 1, 28, 28)
    assert np.bincount(labels).tolist() == [234, 390]
