"""NIfTI and BIDS: orientation, spacing, channels, labels, and broken files."""

import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manikin.client.cohort.labels import Labels
from manikin.client.cohort.native import UnusableError
from manikin.client.cohort.nifti import BidsFolder, NiftiFiles, anatomical_files, read_nifti
from manikin.client.cohort.report import ImportReport

VOLUME = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)


def scans_of(source):
    report = ImportReport()
    return list(source.read(report, lambda _: None)), report


def files_below(folder):
    return sorted(path for path in folder.rglob("*") if path.name.endswith((".nii", ".nii.gz")))


@settings(max_examples=20, deadline=None)
@given(order=st.permutations([0, 1, 2]), signs=st.tuples(*[st.sampled_from([-1, 1])] * 3))
def test_any_orientation_is_turned_to_ras(tmp_path_factory, order, signs):
    """The array is permuted and flipped, the affine says so, and the reader must undo both."""
    import nibabel

    stored = VOLUME.transpose(order)[:: signs[0], :: signs[1], :: signs[2]]
    affine = np.zeros((4, 4))
    for axis, (target, sign) in enumerate(zip(order, signs, strict=True)):
        affine[target, axis] = sign * (0.5, 1.0, 3.0)[target]
    affine[3, 3] = 1
    path = tmp_path_factory.mktemp("nifti") / "a.nii"
    nibabel.save(nibabel.Nifti1Image(stored, affine), path)
    image = read_nifti(path)
    np.testing.assert_array_equal(image.pixels, VOLUME[None])
    assert image.axes == "RAS"
    np.testing.assert_allclose(image.spacing_mm, (0.5, 1.0, 3.0), rtol=1e-5)


def test_the_last_axis_of_four_is_channels(write_nifti, tmp_path):
    pixels = np.stack([VOLUME, VOLUME + 100], axis=-1)
    image = read_nifti(write_nifti(tmp_path / "a.nii.gz", pixels))
    np.testing.assert_array_equal(image.pixels, np.stack([VOLUME, VOLUME + 100]))


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1)])
def test_one_slice_is_hung_front_up_and_right_on_the_left(write_nifti, tmp_path, shape):
    right_front = np.zeros((2, 3), np.uint8)
    right_front[1, 2] = 9  # the patient's right, in front
    affine = np.diag([0.5, 2.0, 1.0, 1.0])
    image = read_nifti(write_nifti(tmp_path / "a.nii", right_front.reshape(shape), affine))
    assert image.axes == "HW"
    assert image.pixels.shape == (1, 3, 2)
    assert image.pixels[0, 0, 0] == 9
    assert image.spacing_mm == (2.0, 0.5)


def test_scaled_values_and_units_are_understood(tmp_path):
    import nibabel

    image = nibabel.Nifti1Image(VOLUME, np.diag([500.0, 500.0, 500.0, 1.0]))
    image.header.set_xyzt_units("micron")
    image.header.set_slope_inter(2.0, -10.0)
    image.to_filename(tmp_path / "a.nii")
    read = read_nifti(tmp_path / "a.nii")
    assert read.spacing_mm == (0.5, 0.5, 0.5)
    np.testing.assert_allclose(read.pixels[0], nibabel.load(tmp_path / "a.nii").get_fdata())


@pytest.mark.parametrize("shape", [(2, 2, 2, 100), (2, 2, 2, 2, 2), (4,)])
def test_what_is_no_volume_is_refused(write_nifti, tmp_path, shape):
    with pytest.raises(UnusableError):
        read_nifti(write_nifti(tmp_path / "a.nii", np.zeros(shape, np.uint8)))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_cut_file_is_refused(write_nifti, tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 999, (8, 8, 8)).astype(np.int16)
    whole = write_nifti(tmp_path / f"a{suffix}", noise).read_bytes()
    for share in (0.0, 0.1, 0.5, 0.95):
        (tmp_path / f"cut{suffix}").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(UnusableError):
            read_nifti(tmp_path / f"cut{suffix}")


def test_a_file_that_is_gzip_of_something_else_is_refused(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(b"hello" * 200))
    with pytest.raises(UnusableError):
        read_nifti(tmp_path / "a.nii.gz")


def test_labels_may_know_patients(write_nifti, tmp_path):
    for name in ("a", "b", "c"):
        write_nifti(tmp_path / "x" / f"{name}.nii", VOLUME)
    files = files_below(tmp_path)
    scans, _ = scans_of(NiftiFiles(tmp_path, files, Labels.none()))
    assert [(scan.label, scan.patient_id) for scan in scans] == [("unlabelled", None)] * 3
    (tmp_path / "l.csv").write_text("file,patient,label\nx/a.nii,1,ill\nx/c.nii,1,\n")
    scans, report = scans_of(NiftiFiles(tmp_path, files, Labels.read(tmp_path / "l.csv")))
    assert [(scan.label, scan.patient_id) for scan in scans] == [("ill", "1"), ("unlabelled", "1")]
    assert [(refusal.file, refusal.reason) for refusal in report.refused] == [("x/b.nii", "no patient")]


@pytest.fixture
def bids(write_nifti, tmp_path):
    root = tmp_path / "bids"
    for name in (
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz",
        "sub-02/anat/sub-02_FLAIR.nii.gz",
        "sub-02/anat/sub-02_defacemask.nii.gz",
        "sub-02/func/sub-02_bold.nii.gz",
        "derivatives/sub-01/anat/sub-01_T1w.nii.gz",
    ):
        write_nifti(root / name, VOLUME)
    return root


@pytest.mark.parametrize("column", ["label", "diagnosis", "group"])
def test_participants_give_labels_and_sites(bids, column):
    (bids / "participants.tsv").write_text(
        f"participant_id\tage\t{column}\tsite\nsub-01\t50\till\tn\nsub-02\t1\tn/a\ts\n"
    )
    scans, report = scans_of(BidsFolder(bids, anatomical_files(bids), Labels.none()))
    assert [(scan.patient_id, scan.label, scan.site) for scan in scans] == [
        ("sub-01", "ill", "n"),
        ("sub-01", "ill", "n"),
        ("sub-02", "unlabelled", "s"),
    ]
    assert report.non_images == 1
    assert "2 T1w, 1 FLAIR" in report.notes[0]


def test_labels_may_name_participants_or_files(bids, tmp_path):
    (tmp_path / "l.csv").write_text("file,label\nsub-01,ill\nsub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz,healed\n")
    scans, _ = scans_of(BidsFolder(bids, anatomical_files(bids), Labels.read(tmp_path / "l.csv")))
    assert [(scan.patient_id, scan.label) for scan in scans] == [
        ("sub-01", "ill"),
        ("sub-01", "healed"),
        ("sub-02", "unlabelled"),
    ]
