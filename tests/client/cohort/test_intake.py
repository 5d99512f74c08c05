"""The import: what is on disk after it, after it twice, after it was killed, and what never is."""

import json
import os
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manikin.client.cohort import Cohort, Hospital, create_hospital, import_source
from manikin.client.cohort.store import Store
from manikin.common.errors import BadData, Misconfigured, StorageFailure

IMPORT = "import sys; from pathlib import Path; from manikin.client.cohort import import_source\n"


def layouts_of(hospital):
    with Store.open(Hospital.open(hospital).database) as store:
        return store.layouts()


def run(program, *arguments):
    command = [sys.executable, "-c", IMPORT + program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_importing_again_changes_nothing(hospital, write_npz):
    source = write_npz()
    first = import_source(source, hospital)
    before = layouts_of(hospital)
    second = import_source(source, hospital)
    assert (first.added, first.patients, first.images) == (40, 10, 40)
    assert (second.added, second.present, second.patients, second.images) == (0, 40, 10, 40)
    assert layouts_of(hospital) == before
    assert second.labels == {"a": {"patients": 10, "images": 20}, "b": {"patients": 10, "images": 20}}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(12)), cut=st.integers(0, 12))
def test_neither_order_nor_parts_matter(tmp_path_factory, write_npz, order, cut):
    """One import, or two of overlapping parts in another order, give the same cohort."""
    folder = tmp_path_factory.mktemp("order")
    create_hospital(folder / "h", "h")
    images = np.random.default_rng(0).integers(0, 256, (12, 4, 4))
    whole = {"images": images, "labels": np.arange(12) % 2, "patients": np.arange(12) // 3}

    def part(name, indices):
        return write_npz(name, **{key: value[indices] for key, value in whole.items()})

    import_source(part("whole.npz", np.arange(12)), folder / "h")
    expected = Cohort.open(folder / "h").commitment()
    (folder / "h" / "cohort" / "cohort.sqlite").unlink()
    Store.create(folder / "h" / "cohort" / "cohort.sqlite")
    for indices in (order[: cut + 1], order[max(0, cut - 1) :]):
        if indices:
            import_source(part("part.npz", np.array(indices)), folder / "h")
    assert Cohort.open(folder / "h").commitment() == expected


def test_a_killed_import_is_completed_by_the_next(hospital, write_npz):
    """SIGKILL after 700 of 1,000 images: two batches of 256 are there, none of them half, and the rest follows."""
    source = write_npz(count=1000)
    program = (
        "import os, signal\nn = 0\n"
        "def progress(k):\n    global n; n += k\n    if n == 700: os.kill(os.getpid(), signal.SIGKILL)\n"
        "import_source(Path(sys.argv[1]), Path(sys.argv[2]), progress=progress)"
    )
    assert run(program, source, hospital).returncode == -signal.SIGKILL
    assert len(layouts_of(hospital)) == 512
    report = import_source(source, hospital)
    assert (report.present, report.added, report.images) == (512, 488, 1000)


def test_an_error_in_a_batch_leaves_the_batches_before(hospital, write_npz):
    class StopError(Exception):
        pass

    done = []

    def progress(units):
        done.append(units)
        if len(done) == 300:
            raise StopError

    with pytest.raises(StopError):
        import_source(write_npz(count=400), hospital, progress=progress)
    assert len(layouts_of(hospital)) == 256


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs a limit on file sizes")
def test_a_full_disk_is_one_sentence_and_the_next_import_goes_on(hospital, write_npz):
    """A limit on the size of files stands in for a full disk: the database's write fails half way."""
    source = write_npz(count=3000, shape=(32, 32))
    program = (
        "import resource\nfrom manikin.common.errors import StorageFailure\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))\n"
        "try:\n    import_source(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "except StorageFailure as error:\n    print(error)"
    )
    done = run(program, source, hospital)
    assert "what was imported is kept" in done.stdout, done.stderr
    assert done.stderr == ""
    kept = len(layouts_of(hospital))
    assert 0 < kept < 3000
    report = import_source(source, hospital)
    assert (report.present, report.images) == (kept, 3000)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount a small disk")
def test_a_disk_that_is_really_full(tmp_path, write_npz):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("may not mount")
    try:
        create_hospital(disk / "h", "h")
        with pytest.raises(StorageFailure, match="Free space"):
            import_source(write_npz(count=3000, shape=(32, 32)), disk / "h")
        assert 0 < len(layouts_of(disk / "h")) < 3000
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_names_and_ids_are_nowhere_in_the_hospital(hospital, write_dicom, write_npz, tmp_path):
    write_dicom(tmp_path / "scans" / "kowalski.dcm", PatientBirthDate="19410506", AccessionNumber="ACC-90210")
    (tmp_path / "scans" / "labels.csv").write_text("file,patient,label\nkowalski.dcm,PLANTED-ID,ill\n")
    import_source(tmp_path / "scans", hospital)
    import_source(write_npz(), hospital)
    # Long enough that hex digits and compressed bytes do not hold one by chance.
    planted = [b"Planted", b"MRN-4711", b"PLANTED-ID", b"19410506", b"ACC-90210", b"kowalski", b"1.2.3.4"]
    files = [path for path in hospital.rglob("*") if path.is_file()]
    assert any(path.name == "cohort.sqlite" for path in files)
    for path in files:
        content = path.read_bytes()
        assert not [word for word in planted if word in content], path.name


def test_the_report_is_saved_with_the_names_of_refused_files(hospital, write_nifti, tmp_path):
    good = np.arange(8.0, dtype=np.float32).reshape(2, 2, 2)
    write_nifti(tmp_path / "s" / "good.nii.gz", good)
    write_nifti(tmp_path / "s" / "twin.nii.gz", good)
    write_nifti(tmp_path / "s" / "nan.nii.gz", np.where(good == 3, np.nan, good))
    write_nifti(tmp_path / "s" / "flat.nii.gz", np.ones((2, 2, 2), np.float32))
    (tmp_path / "s" / "labels.csv").write_text(
        "file,patient,label\ngood.nii.gz,1,x\ntwin.nii.gz,1,x\nnan.nii.gz,2,x\nflat.nii.gz,3,x\n"
    )
    import_source(tmp_path / "s", hospital)
    saved = json.loads((hospital / "cohort" / "import-report.json").read_text())
    refused = {entry["file"]: entry["reason"] for entry in saved["refused"]}
    assert refused == {"nan.nii.gz": "not finite", "flat.nii.gz": "constant", "twin.nii.gz": "duplicate"}


def test_a_nifti_with_nan_alone_is_bad_data(hospital, write_nifti, tmp_path):
    path = write_nifti(tmp_path / "a.nii", np.full((2, 2, 2), np.nan, np.float32))
    with pytest.raises(BadData, match="Nothing was imported"):
        import_source(path, hospital)
    assert layouts_of(hospital) == []


def test_a_folder_of_junk_is_bad_data(hospital, tmp_path):
    (tmp_path / "junk").mkdir()
    for i in range(5):
        (tmp_path / "junk" / f"{i}.txt").write_bytes(os.urandom(300))
    (tmp_path / "junk" / "x.dcm").write_bytes(os.urandom(300))
    with pytest.raises(BadData, match="5 not images") as caught:
        import_source(tmp_path / "junk", hospital)
    assert "1 refused (unreadable)" in str(caught.value)
    assert layouts_of(hospital) == []


def test_labels_that_name_no_file_stop_the_import(hospital, write_nifti, tmp_path):
    write_nifti(tmp_path / "s" / "a.nii", np.arange(8).reshape(2, 2, 2).astype(np.int16))
    (tmp_path / "s" / "labels.csv").write_text("file,label\na.nii,x\ntypo.nii,x\n")
    with pytest.raises(BadData, match="line 3"):
        import_source(tmp_path / "s", hospital)
    assert layouts_of(hospital) == []


def test_duplicates_across_patients_are_kept_and_counted(hospital, write_npz):
    images = np.random.default_rng(0).integers(0, 256, (4, 4, 4))
    images[3] = images[0]
    report = import_source(write_npz(count=4, images=images, patients=np.arange(4)), hospital)
    assert (report.images, report.duplicates_across_patients, report.refused) == (4, 2, [])


def test_equal_images_without_patients_stay_apart_and_stay_put(hospital, write_npz):
    images = np.random.default_rng(0).integers(0, 256, (4, 4, 4))
    images[3] = images[0]
    source = write_npz(count=4, images=images, patients=None)
    assert import_source(source, hospital).patients == 4
    again = import_source(source, hospital)
    assert (again.patients, again.added, again.unit) == (4, 0, "image")


def test_one_image_without_a_patient_makes_the_cohort_a_cohort_of_images(hospital, write_npz):
    assert import_source(write_npz(), hospital).unit == "patient"
    assert import_source(write_npz("b.npz", count=1, seed=9, patients=None), hospital).unit == "image"


def test_labels_may_come_later(hospital, write_npz):
    import_source(write_npz(labels=None), hospital)
    report = import_source(write_npz(), hospital)
    assert (report.added, report.labelled, report.images) == (0, 40, 40)
    assert set(report.labels) == {"a", "b"}


def test_a_folder_that_is_no_hospital_is_refused(tmp_path, write_npz):
    with pytest.raises(Misconfigured):
        import_source(write_npz(), tmp_path)
