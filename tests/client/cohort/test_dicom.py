"""DICOM folders: pixels, mixtures of series, labels, and every way in which a file can be bad."""

import tempfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from manikin.client.cohort.dicom import DicomFolder, read_planes
from manikin.client.cohort.labels import Labels
from manikin.client.cohort.native import UnusableError
from manikin.client.cohort.report import REASONS, ImportReport
from manikin.common.errors import BadData

RAMP = np.arange(24, dtype=np.uint16).reshape(6, 4)
NO_PLACE = {"ImageOrientationPatient": None, "ImagePositionPatient": None}


def scans_of(folder, labels=None):
    report, steps = ImportReport(), []
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    source = DicomFolder(folder, files, labels or Labels.none())
    scans = list(source.read(report, steps.append))
    assert sum(steps) == source.total
    return scans, report


def volume_of(count=4, seed=0):
    return np.random.default_rng(seed).integers(0, 3000, (count, 6, 4)).astype(np.uint16)


def test_a_series_becomes_a_volume(write_series, tmp_path):
    """Axial slices: columns run to the left and rows to the back, so that both are turned round."""
    pixels = volume_of()
    write_series(tmp_path, pixels)
    (scan,), report = scans_of(tmp_path)
    expected = np.stack([plane.T[::-1, ::-1] for plane in pixels], axis=-1)
    np.testing.assert_array_equal(scan.image.pixels[0], expected)
    assert scan.image.spacing_mm == pytest.approx((0.8, 0.5, 2.0))
    assert (scan.patient_id, scan.image.modality, report.refused) == ("MRN-4711", "CT", [])


def test_a_mixture_of_series_is_taken_apart(write_series, write_dicom, tmp_path):
    write_series(tmp_path / "x", volume_of(seed=1))
    write_series(tmp_path / "x" / "y", volume_of(3, seed=2), SeriesInstanceUID="1.2.3.5")
    write_dicom(tmp_path / "chest", RAMP, Modality="DX", SeriesInstanceUID="1.2.3.6", PatientID="other", **NO_PLACE)
    (tmp_path / "report.txt").write_text("not an image")
    scans, report = scans_of(tmp_path)
    assert sorted(scan.image.pixels.shape for scan in scans) == [(1, 4, 6, 3), (1, 4, 6, 4), (1, 6, 4)]
    assert report.non_images == 1


def test_rescale_inversion_and_sign(write_dicom, tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP, RescaleSlope="2", RescaleIntercept="-1024")
    np.testing.assert_array_equal(read_planes(path)[0], RAMP * 2.0 - 1024)
    path = write_dicom(tmp_path / "b.dcm", RAMP, PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(read_planes(path)[0], 4095 - RAMP.astype(int))
    signed = RAMP.astype(np.int16) - 10
    path = write_dicom(tmp_path / "c.dcm", signed, PhotometricInterpretation="MONOCHROME1", PixelRepresentation=1)
    np.testing.assert_array_equal(read_planes(path)[0], -1 - signed)


def test_colours_become_luminance(write_dicom, tmp_path):
    grey = np.arange(24, dtype=np.uint8).reshape(6, 4)
    colour = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    depth = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "Rows": 6, "Columns": 4}
    path = write_dicom(tmp_path / "a.dcm", np.stack([grey] * 3, -1), **colour, **depth)
    np.testing.assert_array_equal(read_planes(path)[0], grey)


def test_frames_without_places_are_single_images(write_dicom, tmp_path):
    frames = volume_of(3)
    write_dicom(tmp_path / "cine.dcm", frames, NumberOfFrames=3)
    scans, _ = scans_of(tmp_path)
    assert [scan.image.pixels.tolist() for scan in scans] == [[frame.tolist()] for frame in frames]


def test_an_enhanced_object_is_a_volume(write_dicom, tmp_path):
    def frame(z, slope):
        place, value, group = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [0, 0, z]
        value.RescaleSlope, value.RescaleIntercept, value.RescaleType = slope, 0, "US"
        group.PlanePositionSequence, group.PixelValueTransformationSequence = [place], [value]
        return group

    plane, measures, shared = Dataset(), Dataset(), Dataset()
    plane.ImageOrientationPatient, measures.PixelSpacing = [1, 0, 0, 0, 1, 0], [0.5, 0.8]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [plane], [measures]
    pixels = volume_of(3)
    write_dicom(
        tmp_path / "a.dcm",
        pixels,
        NumberOfFrames=3,
        PixelSpacing=None,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=[frame(4, 1), frame(0, 2), frame(2, 3)],
        **NO_PLACE,
    )
    (scan,), _ = scans_of(tmp_path)
    expected = np.stack([pixels[1] * 2, pixels[2] * 3, pixels[0]]).astype(int)
    np.testing.assert_array_equal(scan.image.pixels[0], np.moveaxis(expected, 0, -1).swapaxes(0, 1)[::-1, ::-1])
    assert scan.image.spacing_mm == pytest.approx((0.8, 0.5, 2.0))


def test_a_truncated_slice_costs_its_series_and_no_other(write_series, write_dicom, tmp_path):
    paths = write_series(tmp_path / "a", volume_of())
    paths[1].write_bytes(paths[1].read_bytes()[:-10])
    write_series(tmp_path / "b", volume_of(seed=5), SeriesInstanceUID="1.2.3.5")
    scans, report = scans_of(tmp_path)
    assert [scan.file.split("/")[0] for scan in scans] == ["b"]
    assert report.refusals() == {"truncated": 4}


def test_a_burnt_in_slice_costs_its_series(write_series, write_dicom, tmp_path):
    write_series(tmp_path, volume_of())
    write_dicom(tmp_path / "last.dcm", RAMP, BurnedInAnnotation="YES", ImagePositionPatient=[0, 0, 8])
    scans, report = scans_of(tmp_path)
    assert scans == []
    assert report.refusals() == {"geometry": 4, "burnt in": 1}


def test_a_copy_of_a_file_is_a_duplicate_and_no_gap(write_series, tmp_path):
    paths = write_series(tmp_path, volume_of())
    (tmp_path / "copy.dcm").write_bytes(paths[0].read_bytes())
    scans, report = scans_of(tmp_path)
    assert len(scans) == 1
    assert report.refusals() == {"duplicate": 1}


def test_a_missing_slice_is_refused(write_series, tmp_path):
    paths = write_series(tmp_path, volume_of(5))
    next(p for p in paths if pydicom.dcmread(p).InstanceNumber == 3).unlink()
    scans, report = scans_of(tmp_path)
    assert scans == []
    assert report.refusals() == {"geometry": 4}


def test_an_image_of_nobody_is_refused_unless_the_labels_know(write_dicom, tmp_path):
    write_dicom(tmp_path / "s" / "a.dcm", PatientID=" ")
    scans, report = scans_of(tmp_path / "s")
    assert scans == []
    assert report.refusals() == {"no patient": 1}
    (tmp_path / "l.csv").write_text("file,patient,label\na.dcm,77,ill\n")
    (scan,), _ = scans_of(tmp_path / "s", Labels.read(tmp_path / "l.csv"))
    assert (scan.patient_id, scan.label) == ("77", "ill")


@pytest.mark.parametrize("name", ["MRN-4711", "1.2.3.4", "0.dcm"])
def test_labels_may_name_a_patient_a_series_or_a_file(write_series, tmp_path, name):
    write_series(tmp_path / "s", volume_of())
    (tmp_path / "l.csv").write_text(f"file,label\n{name},ill\n")
    (scan,), _ = scans_of(tmp_path / "s", Labels.read(tmp_path / "l.csv"))
    assert (scan.label, scan.patient_id, scan.image.spatial_dims) == ("ill", "MRN-4711", 3)


def test_slices_with_labels_of_their_own_are_single_images(write_series, tmp_path):
    write_series(tmp_path / "s", volume_of())
    (tmp_path / "l.csv").write_text("file,label\n0.dcm,ill\n1.dcm,well\n")
    scans, _ = scans_of(tmp_path / "s", Labels.read(tmp_path / "l.csv"))
    assert sorted((scan.label, scan.image.spatial_dims) for scan in scans) == [
        ("ill", 2),
        ("unlabelled", 2),
        ("unlabelled", 2),
        ("well", 2),
    ]


def test_labels_that_name_nothing_are_refused_before_any_image(write_dicom, tmp_path):
    write_dicom(tmp_path / "s" / "a.dcm")
    (tmp_path / "l.csv").write_text("file,label\na.dcm,ill\nb.dcm,ill\n")
    source = DicomFolder(tmp_path / "s", [tmp_path / "s" / "a.dcm"], Labels.read(tmp_path / "l.csv"))
    with pytest.raises(BadData, match="1 of 2 rows"):
        next(source.read(ImportReport(), lambda _: None))


def test_a_capture_that_does_not_say_whether_text_is_burnt_in_is_noted(write_dicom, tmp_path):
    write_dicom(tmp_path / "a.dcm", Modality="SC", SOPClassUID=SecondaryCaptureImageStorage, **NO_PLACE)
    _, report = scans_of(tmp_path)
    assert "look at them" in report.notes[0]


def test_a_broken_cine_is_refused_once(write_dicom, tmp_path):
    path = write_dicom(tmp_path / "cine.dcm", volume_of(3), NumberOfFrames=9, **NO_PLACE)
    _, report = scans_of(tmp_path)
    assert [(refusal.file, refusal.reason) for refusal in report.refused] == [(path.name, "truncated")]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_cut_and_no_flipped_byte_escapes_as_an_error(write_dicom, tmp_path, data):
    """Whatever happens to a file: it is taken, counted as no image, or refused for a known reason."""
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    path = write_dicom(
        folder / "a.dcm", RAMP, SOPInstanceUID="1.2.3.9", NumberOfFrames=1, RescaleSlope="1.5", RescaleIntercept="0"
    )
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(128, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    scans, report = scans_of(folder)
    assert len(scans) + report.non_images + len(report.refused) >= 1
    assert {refusal.reason for refusal in report.refused} <= set(REASONS)


@pytest.mark.parametrize(
    "syntax", ["RLE", "bigendian", "implicit", "expb", "jp2klossless", "jpeg_ls_lossless", "padded"]
)
def test_every_lossless_syntax_gives_the_same_pixels(syntax):
    (expected,) = read_planes(Path(get_testdata_file("MR_small.dcm")))
    (plane,) = read_planes(Path(get_testdata_file(f"MR_small_{syntax}.dcm")))
    np.testing.assert_array_equal(plane, expected)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("MR_truncated.dcm", "truncated"),
        ("SC_rgb_jpeg_gdcm.dcm", "unsupported"),
        ("JPGExtended.dcm", "unsupported"),
        ("badVR.dcm", "unreadable"),
        ("meta_missing_tsyntax.dcm", "unreadable"),
    ],
)
def test_known_bad_files_are_refused_for_their_reason(name, reason):
    with pytest.raises(UnusableError) as caught:
        read_planes(Path(get_testdata_file(name)))
    assert caught.value.reason == reason


def test_header_values_reach_no_log(tmp_path, write_dicom, caplog, capfd):
    """pydicom's own warnings would quote the value that it finds fault with."""
    path = write_dicom(tmp_path / "a.dcm", AccessionNumber="PLANTED-NUMBER")
    path.write_bytes(path.read_bytes().replace(b"1.2.3.4", b"KOWALSK"))
    scans, _ = scans_of(tmp_path)
    assert len(scans) == 1
    assert "KOWALSK" not in caplog.text + "".join(capfd.readouterr())
    assert "PLANTED" not in caplog.text


@pytest.mark.data
def test_real_series_become_volumes(data_dir):
    scans, report = scans_of(data_dir / "dicom_samples")
    volumes = [scan.image for scan in scans]
    assert sorted(image.pixels.shape[-1] for image in volumes) == [6, 6, 6, 6, 32, 35, 40]
    assert {scan.patient_id for scan in scans} == {"PGBM-002", "PGBM-003", "PGBM-006"}
    assert all(len(image.spacing_mm) == 3 for image in volumes)
    assert {"PatientName", "PatientAge", "PatientWeight", "StudyDate"} <= set(report.headers_dropped)
    assert report.private_tags_dropped > 0
