"""DICOM files are marked as synthetic, keep geometry and values, and satisfy an independent validator."""

import io
import re
import shutil
import subprocess

import numpy as np
import pydicom
import pytest

from manikin.common.errors import Misconfigured
from manikin.common.export import dicom

KINDS = {
    "radiograph": {"modality": "CR", "window": (0.0, 255.0), "spacing": (2.0, 1.5)},
    "mr slice of three channels": {"modality": "MR", "channels": 3},
    "photograph": {"modality": "OT", "window": (0.0, 1.0)},
    "mr": {"modality": "MR", "shape": (4, 6, 5), "spacing": (1.0, 1.5, 2.5)},
    "mr in native numbers": {"modality": "MR", "shape": (4, 6, 5), "window": (0.0, 5000.0)},
    "mr in small numbers": {"modality": "MR", "shape": (4, 6, 5), "window": (0.0, 100.0)},
    "mr of two channels": {"modality": "MR", "shape": (4, 6, 5), "channels": 2},
    "ct": {"modality": "CT", "shape": (4, 6, 5), "spacing": (1.0, 1.5, 2.5), "window": (-1000.0, 1000.0)},
    "ct without window": {"modality": "CT", "shape": (4, 6, 5)},
}
NOT_SYNTHETIC_TAG = re.compile(r"^Error(?!.*\(0008,001c\))")  # a dictionary from before 2023 does not know the tag


@pytest.fixture(params=KINDS)
def source(request, make_source):
    return make_source("dicom", **KINDS[request.param])


def opened(source, batch):
    return {name: pydicom.dcmread(io.BytesIO(file)) for name, file in dicom.encode(source, batch).items()}


def slices_of(files, channel_suffix=""):
    return [image for name, image in files.items() if name.startswith(f"synth-000000{channel_suffix}/")]


def test_every_instance_says_that_it_is_synthetic(source, make_batch):
    for image in opened(source, make_batch(source)).values():
        assert image.SyntheticData == "YES"
        assert image.ImageType[:2] == ["DERIVED", "SECONDARY"]
        assert source.request.release_digest in image.DerivationDescription
        assert image.PatientID.startswith("SYNTH-")
        assert (image.PatientIdentityRemoved, image.BurnedInAnnotation) == ("YES", "NO")
        assert image.ContributingEquipmentSequence[0].Manufacturer == "Manikin"
        assert image.PatientBirthDate == image.PatientSex == ""


def test_files_have_the_names_that_labels_give_them(source, make_batch):
    expected = [name for index in range(4) for name in dicom.names(source, index)]
    assert list(dicom.encode(source, make_batch(source))) == expected


def test_uids_are_valid_and_unique(source, make_batch):
    files = opened(source, make_batch(source))
    uids = [image.SOPInstanceUID for image in files.values()]
    assert len(set(uids)) == len(uids)
    assert all(uid.is_valid for uid in uids)
    assert len({image.StudyInstanceUID for image in files.values()}) == 4
    assert len({image.SeriesInstanceUID for image in files.values()}) == 4 * source.spec.channels


def test_the_same_batch_gives_the_same_bytes(source, make_batch):
    assert dicom.encode(source, make_batch(source)) == dicom.encode(source, make_batch(source))


def test_the_only_date_is_that_of_the_release(source, make_batch):
    for image in opened(source, make_batch(source)).values():
        dates = {str(element.value) for element in image.iterall() if element.VR in ("DA", "DT")}
        assert dates <= {"20260102", ""}


def test_values_return_to_native_units(source, make_batch):
    batch = make_batch(source)
    for image in opened(source, batch).values():
        native = image.pixel_array * float(image.get("RescaleSlope", 1)) + float(image.get("RescaleIntercept", 0))
        low, high = source.picture.window or (0, 4095)
        assert low - 1e-6 <= native.min()
        assert native.max() <= high + 1e-6
        assert image.pixel_array.max() < 1 << image.BitsStored


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy, Debian package dicom3tools")
def test_dciodvfy_finds_no_error(source, make_batch, tmp_path):
    path = tmp_path / "image.dcm"
    path.write_bytes(next(iter(dicom.encode(source, make_batch(source)).values())))
    report = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, check=False)
    lines = (report.stdout + report.stderr).splitlines()
    assert any(line in ("SCImage", "MRImage", "CTImage") for line in lines), lines
    assert [line for line in lines if NOT_SYNTHETIC_TAG.match(line)] == []


def test_2d_pixels_keep_their_place_and_spacing(make_source, make_batch):
    source = make_source("dicom", **KINDS["radiograph"])
    batch = make_batch(source)
    image = opened(source, batch)["synth-000000.dcm"]
    assert np.abs(image.pixel_array / 2047.5 - 1 - batch.images[0, 0]).max() < 1 / 2047
    assert [float(spacing) for spacing in image.PixelSpacing] == [2.0, 1.5]
    assert (image.Modality, image.ConversionType, list(image.PatientOrientation)) == ("CR", "SYN", ["L", "F"])


def test_each_channel_is_a_series(make_source, make_batch):
    source = make_source("dicom", **KINDS["mr slice of three channels"])
    files = opened(source, make_batch(source))
    assert [files[f"synth-000000-{channel}.dcm"].SeriesNumber for channel in range(3)] == [1, 2, 3]


def test_slices_put_every_voxel_where_it_belongs(make_source, make_batch):
    source = make_source("dicom", **KINDS["mr"])
    batch = make_batch(source)
    volume, spacing = batch.images[0, 0], np.array(source.picture.spacing)
    centre = (np.array(volume.shape) - 1) / 2
    for image in slices_of(opened(source, batch)):
        corner, orientation = np.array(image.ImagePositionPatient), np.array(image.ImageOrientationPatient)
        for row, column in ((0, 0), (5, 3), (2, 1)):
            step = orientation[:3] * column * image.PixelSpacing[1] + orientation[3:] * row * image.PixelSpacing[0]
            left, back, head = corner + step
            voxel = np.rint(np.array([-left, -back, head]) / spacing + centre).astype(int)
            assert image.pixel_array[row, column] / 2047.5 - 1 == pytest.approx(volume[tuple(voxel)], abs=1e-3)


def test_slices_are_numbered_and_as_far_apart_as_they_are_thick(make_source, make_batch):
    source = make_source("dicom", **KINDS["ct"])
    images = slices_of(opened(source, make_batch(source)))
    assert [image.InstanceNumber for image in images] == [1, 2, 3, 4, 5]
    assert np.diff([image.ImagePositionPatient[2] for image in images]).tolist() == [2.5] * 4
    assert {float(image.SliceThickness) for image in images} == {2.5}
    assert len({image.FrameOfReferenceUID for image in images}) == 1


def test_ct_numbers_are_hounsfield_units(make_source, make_batch):
    source = make_source("dicom", **KINDS["ct"])
    image = slices_of(opened(source, make_batch(source)))[0]
    assert (image.RescaleType, float(image.RescaleIntercept)) == ("HU", -1000)


def test_volumes_of_other_modalities_are_refused_with_a_hint(make_source):
    with pytest.raises(Misconfigured, match="--format nifti"):
        dicom.check(make_source("dicom", (4, 6, 5), modality="OT"))


def test_class_names_cannot_break_a_header(make_source, make_batch):
    source = make_source("dicom", labels=("größer\\als\n5 mm", "x" * 200))
    files = list(opened(source, make_batch(source)).values())
    assert files[0].ImageComments == "class: größer als 5 mm"
    assert len(files[1].SeriesDescription) == 64
