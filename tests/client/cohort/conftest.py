"""Sources that tests write: DICOM slices, NIfTI volumes, npz files, and an empty hospital."""

import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from manikin.client.cohort import create_hospital
from manikin.common.study import Data

IMAGE_LABELS = ("a", "b")


@pytest.fixture
def hospital(tmp_path):
    """An empty hospital folder."""
    create_hospital(tmp_path / "hospital", "Test hospital")
    return tmp_path / "hospital"


@pytest.fixture
def make_data():
    """The `[data]` section of a study."""

    def make(shape=(8, 8), **changes) -> Data:
        values = {
            "modality": "OT",
            "spatial_dims": len(shape),
            "shape": shape,
            "window": (0, 255),
            "labels": IMAGE_LABELS,
            "patients_min": 1,
            "split": {"train": 0.8, "holdout": 0.1, "calibration": 0.1},
        }
        return Data.model_validate(values | changes)

    return make


@pytest.fixture
def write_npz(tmp_path):
    """An npz of small random images, four a patient unless told otherwise."""

    def write(name="source.npz", *, count=40, shape=(8, 8), seed=0, **changes) -> Path:
        rng = np.random.default_rng(seed)
        arrays = {
            "images": rng.integers(0, 256, (count, *shape)).astype(np.uint8),
            "axes": "NHW",
            "labels": np.arange(count) % 2,
            "class_names": np.array(IMAGE_LABELS),
            "patients": np.array([f"MRN-{i // 4}" for i in range(count)]),
        } | changes
        path = tmp_path / name
        np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
        return path

    return write


@pytest.fixture
def write_dicom():
    """One DICOM slice; keyword arguments replace or remove (None) elements."""

    def write(path: Path, pixels=None, **changes) -> Path:
        if pixels is None:
            pixels = np.random.default_rng(zlib.crc32(path.name.encode())).integers(0, 1000, (6, 4)).astype(np.uint16)
        header = Dataset()
        values = {
            "SOPClassUID": CTImageStorage,
            "SOPInstanceUID": generate_uid(),
            "StudyInstanceUID": "1.2.3",
            "SeriesInstanceUID": "1.2.3.4",
            "Modality": "CT",
            "PatientID": "MRN-4711",
            "PatientName": "Planted^Name",
            "InstanceNumber": 1,
            "Rows": pixels.shape[-2],
            "Columns": pixels.shape[-1],
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": 16,
            "BitsStored": 16,
            "HighBit": 15,
            "PixelRepresentation": 0,
            "PixelSpacing": [0.5, 0.8],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "ImagePositionPatient": [0.0, 0.0, 0.0],
            "PixelData": pixels.tobytes(),
        } | changes
        for keyword, value in values.items():
            if value is not None:
                setattr(header, keyword, value)
        header.file_meta = FileMetaDataset()
        header.file_meta.MediaStorageSOPClassUID = values["SOPClassUID"]
        header.file_meta.MediaStorageSOPInstanceUID = values["SOPInstanceUID"]
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path.parent.mkdir(parents=True, exist_ok=True)
        header.save_as(path, enforce_file_format=True)
        return path

    return write


@pytest.fixture
def write_series(write_dicom):
    """A series of slices along the head axis, 2 mm apart, written in an order that is not theirs."""

    def write(folder: Path, pixels: np.ndarray, **changes) -> list[Path]:
        order = np.random.default_rng(1).permutation(len(pixels))
        return [
            write_dicom(
                folder / f"{position}.dcm",
                pixels[k],
                ImagePositionPatient=[0.0, 0.0, 2.0 * int(k)],
                InstanceNumber=int(k) + 1,
                **changes,
            )
            for position, k in enumerate(order)
        ]

    return write


@pytest.fixture
def write_nifti():
    """A NIfTI volume, RAS with 1 mm unless an affine is given."""

    def write(path: Path, pixels, affine=None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(pixels, np.eye(4) if affine is None else affine), path)
        return path

    return write
