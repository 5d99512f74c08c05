"""The cohort as the vault sees it: what it refuses, and that nobody moves anybody."""

import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manikin.client.cohort import Cohort, Hospital, create_hospital, import_source
from manikin.common.errors import BadData, Misconfigured


def flat(split):
    return {patient.key: (part, patient) for part, patients in split.items() for patient in patients}


def test_patients_come_whole_sorted_and_labelled(hospital, write_npz, make_data):
    sites = np.array(["n"] * 30 + ["s"] * 10)
    import_source(write_npz(sites=sites), hospital)
    cohort = Cohort.open(hospital)
    split = cohort.load(make_data())
    assert list(split) == ["train", "holdout", "calibration"]
    patients = [patient for part in split.values() for patient in part]
    assert len(patients) == 10
    for patient in patients:
        assert patient.images.shape == (4, 1, 8, 8)
        assert patient.images.dtype == np.float32
        assert sorted(patient.labels) == [0, 0, 1, 1]
        assert patient.labels.dtype == np.int64
        assert patient.site in ("n", "s")
    for part in split.values():
        assert [patient.key for patient in part] == sorted(patient.key for patient in part)
    assert cohort.counts() == {
        "unit": "patient",
        "patients": 10,
        "images": 40,
        "labels": {"a": {"patients": 10, "images": 20}, "b": {"patients": 10, "images": 20}},
        "sites": {"n": {"patients": 8, "images": 30}, "s": {"patients": 3, "images": 10}},
    }
    assert cohort.name == "Test hospital"
    assert cohort.secret == Hospital.open(hospital).secret


def test_labels_and_images_stay_together(hospital, write_npz, make_data):
    """Every image says its own label in its first pixel."""
    labels = np.arange(40) % 2
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8)).astype(np.uint8)
    images[:, 0, 0] = labels * 255
    import_source(write_npz(images=images, labels=labels), hospital)
    for _, patient in flat(Cohort.open(hospital).load(make_data(labels=("b", "a")))).values():
        np.testing.assert_array_equal(patient.images[:, 0, 0, 0] > 0, patient.labels == 0)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(removed=st.integers(0, 9))
def test_removing_a_patient_moves_nobody(tmp_path_factory, write_npz, make_data, removed):
    folder = tmp_path_factory.mktemp("move")
    patients = np.array([f"MRN-{i // 4}" for i in range(40)])
    images = np.random.default_rng(0).integers(0, 256, (40, 9, 7)).astype(np.uint8)
    images[5] = images[9]  # two patients share an image
    create_hospital(folder / "all", "h")
    create_hospital(folder / "fewer", "h")
    (folder / "fewer" / "secret.key").write_bytes((folder / "all" / "secret.key").read_bytes())
    import_source(write_npz("all.npz", images=images, patients=patients), folder / "all")
    stay = patients != f"MRN-{removed}"
    source = write_npz("few.npz", images=images[stay], patients=patients[stay], labels=(np.arange(40) % 2)[stay])
    import_source(source, folder / "fewer")
    data = make_data(window=None, window_percentiles=(1, 99))
    everybody, fewer = (flat(Cohort.open(folder / name).load(data)) for name in ("all", "fewer"))
    assert len(everybody) == len(fewer) + 1
    for key, (part, patient) in fewer.items():
        assert everybody[key][0] == part
        np.testing.assert_array_equal(everybody[key][1].images, patient.images)
        np.testing.assert_array_equal(everybody[key][1].labels, patient.labels)


def test_loading_twice_gives_the_same_bytes(hospital, write_npz, make_data):
    import_source(write_npz(shape=(9, 7)), hospital)
    one, two = (flat(Cohort.open(hospital).load(make_data())) for _ in range(2))
    assert list(one) == list(two)
    assert all(one[key][1].images.tobytes() == two[key][1].images.tobytes() for key in one)


def test_other_labels_are_left_out(hospital, write_npz, make_data):
    import_source(write_npz(), hospital)
    patients = flat(Cohort.open(hospital).load(make_data(labels=("b", "c"))))
    assert {len(patient) for _, patient in patients.values()} == {2}
    with pytest.raises(BadData, match="at least 1"):
        Cohort.open(hospital).load(make_data(labels=("c",)))


def test_other_modalities_are_left_out(hospital, write_dicom, make_data, tmp_path):
    for i, modality in enumerate(("DX", "CR", "MR", "OT")):
        write_dicom(tmp_path / "s" / modality, Modality=modality, PatientID=modality, SeriesInstanceUID=f"1.{i}")
    import_source(tmp_path / "s", hospital)
    cohort = Cohort.open(hospital)
    labels = ("unlabelled",)
    assert len(flat(cohort.load(make_data(labels=labels, modality="DX")))) == 3
    assert len(flat(cohort.load(make_data(labels=labels, modality="MR")))) == 2
    assert len(flat(cohort.load(make_data(labels=labels, modality="OT")))) == 4


def test_too_few_patients_is_bad_data(hospital, write_npz, make_data):
    import_source(write_npz(), hospital)
    with pytest.raises(BadData, match="at least 11 patients, and this cohort has 10"):
        Cohort.open(hospital).load(make_data(patients_min=11))


def test_flat_images_cannot_be_brought_to_volumes(hospital, write_npz, make_data):
    import_source(write_npz(), hospital)
    with pytest.raises(BadData, match="cannot be brought"):
        Cohort.open(hospital).load(make_data((8, 8, 8)))


def test_missing_channels_are_bad_data(hospital, write_npz, make_data):
    import_source(write_npz(), hospital)
    with pytest.raises(BadData, match="channel 1"):
        Cohort.open(hospital).load(make_data(channels=(0, 1)))


def test_volumes_give_their_slices_to_a_flat_study(hospital, write_npz, make_data):
    images = np.random.default_rng(0).integers(0, 256, (6, 5, 8, 8)).astype(np.uint8)
    images[:, 2] = 17  # an empty slice
    images[5] = 17
    images[5, 0, 0, 0] = 18  # a patient who shows nothing at all
    import_source(write_npz(count=6, images=images, axes="NDHW", patients=np.arange(6)), hospital)
    patients = flat(Cohort.open(hospital).load(make_data()))
    assert len(patients) == 5
    assert {patient.images.shape for _, patient in patients.values()} == {(4, 1, 8, 8)}


def test_an_empty_cohort_is_bad_data(hospital, tmp_path):
    with pytest.raises(BadData, match="empty"):
        Cohort.open(hospital)
    with pytest.raises(Misconfigured):
        Cohort.open(tmp_path)


def test_commitments_are_keyed(tmp_path, write_npz):
    source = write_npz()
    commitments = set()
    for name in ("one", "two"):
        create_hospital(tmp_path / name, "h")
        import_source(source, tmp_path / name)
        commitments.add(Cohort.open(tmp_path / name).commitment())
    assert len(commitments) == 2


def test_progress_counts_every_image(hospital, write_npz, make_data):
    import_source(write_npz(), hospital)
    done = []
    Cohort.open(hospital).load(make_data(), progress=done.append)
    assert sum(done) == 40


def test_thousands_of_small_images_take_seconds(hospital, write_npz, make_data):
    source = write_npz(count=5000, shape=(32, 32))
    start = time.monotonic()
    import_source(source, hospital)
    imported = time.monotonic()
    Cohort.open(hospital).load(make_data((28, 28)))
    assert imported - start < 20
    assert time.monotonic() - imported < 20


@pytest.mark.data
def test_real_volumes_are_brought_to_the_study_of_the_benchmark(hospital, data_dir, make_data, tmp_path):
    files = sorted((data_dir / "msd_hippocampus" / "images").glob("*.nii.gz"))[:6]
    (tmp_path / "s").mkdir()
    for file in files:
        (tmp_path / "s" / file.name).symlink_to(file)
    report = import_source(tmp_path / "s", hospital)
    assert (report.patients, report.unit, report.refused) == (6, "image", [])
    data = make_data(
        (32, 48, 32),
        spacing_mm=(1, 1, 1),
        modality="MR",
        window=None,
        window_percentiles=(0.5, 99.5),
        labels=("unlabelled",),
    )
    for _, patient in flat(Cohort.open(hospital).load(data)).values():
        assert patient.images.shape == (1, 1, 32, 48, 32)
        assert patient.images.std() > 0.3
