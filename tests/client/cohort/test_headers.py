"""DICOM headers: what is an image, what forbids it, what identifies."""

from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from manikin.client.cohort import headers
from manikin.client.cohort.native import UnusableError


def header_of(path):
    return headers.read_header(path)


def test_files_that_are_not_dicom_are_skipped_unless_they_claim_to_be(tmp_path):
    (tmp_path / "notes.txt").write_text("hello " * 100)
    (tmp_path / "scan.dcm").write_text("hello " * 100)
    assert headers.read_header(tmp_path / "notes.txt") is None
    with pytest.raises(UnusableError):
        headers.read_header(tmp_path / "scan.dcm")


def test_reports_plans_and_segmentations_are_no_images():
    for name in ("rtplan.dcm", "rtdose.dcm", "test-SR.dcm", "DICOMDIR"):
        assert not headers.is_image(header_of(Path(get_testdata_file(name)))), name


def test_an_image_without_an_image_is_refused(write_dicom, tmp_path):
    header = header_of(write_dicom(tmp_path / "a.dcm", Rows=None))
    with pytest.raises(UnusableError) as caught:
        headers.is_image(header)
    assert caught.value.reason == "truncated"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"BurnedInAnnotation": "YES"}, "burnt in"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
    ],
)
def test_the_header_can_forbid(write_dicom, tmp_path, changes, reason):
    with pytest.raises(UnusableError) as caught:
        headers.check_header(header_of(write_dicom(tmp_path / "a.dcm", **changes)))
    assert caught.value.reason == reason


def test_burnt_in_no_is_fine(write_dicom, tmp_path):
    headers.check_header(header_of(write_dicom(tmp_path / "a.dcm", BurnedInAnnotation="NO", ImageType="ORIGINAL")))


def test_identifying_keywords_are_found_at_any_depth(write_dicom, tmp_path):
    inner = Dataset()
    inner.OperatorsName = "Hidden^Person"
    inner.PhysicalUnitsXDirection = 3
    path = write_dicom(
        tmp_path / "a.dcm",
        PatientBirthDate="19700101",
        PatientAddress="",
        StationName="CT1",
        KVP="120",
        RequestAttributesSequence=[inner],
    )
    with_private = pydicom.dcmread(path)
    with_private.private_block(0x0013, "Someone", create=True).add_new(1, "LO", "secret")
    with_private.save_as(path)
    keywords, private = headers.identifying(header_of(path))
    assert {"PatientName", "PatientID", "PatientBirthDate", "StationName", "OperatorsName"} <= keywords
    assert {"StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"} <= keywords
    assert not {"PatientAddress", "KVP", "Rows", "SOPClassUID", "Modality", "PhysicalUnitsXDirection", ""} & keywords
    assert private == 2


def test_an_implicit_syntax_hides_nothing():
    keywords, _ = headers.identifying(header_of(Path(get_testdata_file("MR_small_implicit.dcm"))))
    assert "PatientName" in keywords


@pytest.mark.parametrize("orientation", [[1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0], [2, 0, 0, 0, 1, 0], [1, 0, 0, 0, 1]])
def test_an_impossible_orientation_is_no_geometry(write_dicom, tmp_path, orientation):
    path = write_dicom(tmp_path / "a.dcm", ImageOrientationPatient=orientation)
    (only,) = headers.slices(header_of(path), path)
    assert only.orientation is None


def test_a_zero_spacing_is_unknown_and_the_detector_is_asked_second(write_dicom, tmp_path):
    path = write_dicom(tmp_path / "a.dcm", PixelSpacing=[0, 1])
    assert headers.slices(header_of(path), path)[0].spacing_mm is None
    path = write_dicom(tmp_path / "b.dcm", PixelSpacing=None, ImagerPixelSpacing=[0.1, 0.2])
    assert headers.slices(header_of(path), path)[0].spacing_mm == (0.1, 0.2)


def test_an_absurd_number_of_frames_is_refused(write_dicom, tmp_path):
    path = write_dicom(tmp_path / "a.dcm", NumberOfFrames=2**30)
    with pytest.raises(UnusableError):
        headers.slices(header_of(path), path)
