"""Volumes as classic MR or CT slices with geometry: axial, feet first in number, centred on the scanner's origin."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

from manikin.common.export.dicom.instance import Instance, Scale, decimal, describe_values, mark
from manikin.common.images import Float32Array

SLICE_CLASSES = {"MR": MRImageStorage, "CT": CTImageStorage}


def slice_images(instance: Instance, volume: Float32Array) -> list[Dataset]:
    """One instance a slice.

    Args:
        instance: whose series it is.
        volume: float32 (right, front, head) in [-1, 1].
    """
    stored = (
        Scale.of(instance.source.picture).stored(volume)[::-1, ::-1].transpose(2, 1, 0)
    )  # slices; rows to the back; columns to the left
    return [
        _slice(instance, number, np.ascontiguousarray(pixels), volume.shape) for number, pixels in enumerate(stored)
    ]


def _slice(instance: Instance, number: int, pixels: NDArray[np.uint16], shape: tuple[int, ...]) -> Dataset:
    picture = instance.source.picture
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = SLICE_CLASSES[picture.modality]
    dataset.SOPInstanceUID = instance.instance_uid(number + 1)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = instance.study_uid, instance.series_uid
    dataset.Modality = picture.modality
    mark(dataset, instance, number + 1)
    _place(dataset, instance, number, shape)
    _acquisition(dataset, picture.modality)
    describe_values(dataset, Scale.of(picture))
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelData = pixels.astype("<u2").tobytes()
    return dataset


def _place(dataset: Dataset, instance: Instance, number: int, shape: tuple[int, ...]) -> None:
    """Where the slice lies. DICOM's axes run to the patient's left, back and head."""
    right, front, head = instance.source.picture.spacing
    dataset.FrameOfReferenceUID = instance.uid("frame", instance.index)
    dataset.PositionReferenceIndicator = ""
    dataset.PatientPosition = "HFS"
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    corner = (-(shape[0] - 1) / 2 * right, -(shape[1] - 1) / 2 * front, (number - (shape[2] - 1) / 2) * head)
    dataset.ImagePositionPatient = [decimal(value) for value in corner]
    dataset.SliceLocation = decimal(corner[2])
    dataset.PixelSpacing = [decimal(front), decimal(right)]
    dataset.SliceThickness = decimal(head)


def _acquisition(dataset: Dataset, modality: str) -> None:
    """How it was acquired: not at all, in the words that each class of images has for that."""
    dataset.AcquisitionNumber = 1
    dataset.ImageType = ["DERIVED", "SECONDARY", "AXIAL"] if modality == "CT" else ["DERIVED", "SECONDARY", "OTHER"]
    if modality == "CT":
        dataset.KVP = None
        return
    dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "RM", "NONE", ""
    dataset.MRAcquisitionType = "3D"
    dataset.RepetitionTime = dataset.EchoTime = dataset.EchoTrainLength = None
