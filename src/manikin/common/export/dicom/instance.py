"""What all our DICOM instances share: who the patient is not, where the pixels come from, and what they measure.

UIDs are hashes of the data set, so that the same request gives the same bytes and no two data sets share one. The
only date is the release's.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid
from pydicom.valuerep import DSfloat

from manikin.common.export.batch import Source
from manikin.common.export.picture import Picture, quantise
from manikin.common.images import Float32Array

MANUFACTURER = "Manikin"
LONG_STRING = 64  # characters that a value of type LO holds
STORED_TOP = 4095  # 12 bits, as scanners store them
PURPOSE = ("109102", "DCM", "Processing Equipment")


@dataclass(frozen=True)
class Instance:
    """One channel of one image, about to become one instance or one series of them."""

    source: Source
    index: int
    channel: int
    label: str

    def uid(self, *parts: object) -> str:
        """A UID of our own: the same for the same data set and parts."""
        return str(generate_uid(entropy_srcs=[self.source.request.data_set_digest, *map(str, parts)]))

    @property
    def patient(self) -> str:
        return self.source.request.patient(self.index)

    @property
    def study_uid(self) -> str:
        return self.uid("study", self.index)

    @property
    def series_uid(self) -> str:
        return self.uid("series", self.index, self.channel)

    def instance_uid(self, number: int) -> str:
        return self.uid("instance", self.index, self.channel, number)


@dataclass(frozen=True)
class Scale:
    """How [-1, 1] is stored as whole numbers, and how those return to native units.

    Args:
        low, high: stored numbers of -1 and 1.
        slope, intercept: native = slope * stored + intercept.
        kind: DICOM's rescale type, or None where the object states no rescale.
    """

    low: int
    high: int
    slope: float
    intercept: float
    kind: str | None

    @classmethod
    def of(cls, picture: Picture) -> Scale:
        """12 bits with a rescale to native units; native numbers themselves for MR, whose objects have no rescale."""
        is_ct = picture.modality == "CT"
        if picture.window is None:
            return cls(0, STORED_TOP, 1.0, 0.0, "US" if is_ct and picture.spatial_dims == 3 else None)
        low, high = picture.window
        if picture.modality == "MR" and picture.spatial_dims == 3 and low >= 0 and high <= 65535 and high - low >= 255:
            return cls(round(low), round(high), 1.0, 0.0, None)
        return cls(0, STORED_TOP, (high - low) / STORED_TOP, low, "HU" if is_ct else "US")

    def stored(self, pixels: Float32Array) -> NDArray[np.uint16]:
        """[-1, 1] as stored numbers, same shape."""
        return (quantise(pixels, self.high - self.low) + self.low).astype(np.uint16)


def mark(dataset: Dataset, instance: Instance, number: int) -> None:
    """Say what the instance is: synthetic, derived from a release, of nobody."""
    source, released = instance.source, instance.source.released
    date, time = released.strftime("%Y%m%d"), released.strftime("%H%M%S")
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SyntheticData = "YES"
    dataset.InstanceCreationDate = dataset.StudyDate = dataset.ContentDate = date
    dataset.InstanceCreationTime = dataset.StudyTime = dataset.ContentTime = time
    dataset.InstanceNumber = number
    dataset.PatientName = f"{instance.patient}^SYNTHETIC"
    dataset.PatientID = instance.patient
    dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = "Synthetic: drawn from a generator, no patient exists"
    dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
    dataset.StudyID = str(instance.index)
    dataset.Laterality = ""  # which side a paired organ lies on is not known of an image of nobody
    dataset.SeriesNumber = instance.channel + 1
    dataset.SeriesDescription = f"Synthetic: {_plain(instance.label)}"[:LONG_STRING]
    dataset.ImageComments = f"class: {_plain(instance.label)}"
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = f"{source.spec.family} generator"[:LONG_STRING]
    dataset.SoftwareVersions = source.code_version
    dataset.DerivationDescription = f"Synthetic image. {_origin(source)}"
    dataset.ContributingEquipmentSequence = Sequence([_equipment(source)])


def _plain(label: str) -> str:
    """A class name without what DICOM's text does not hold: control characters, and the backslash between values."""
    return "".join(sign if sign.isprintable() and sign != "\\" else " " for sign in label)


def _origin(source: Source) -> str:
    request = source.request
    return f"Drawn from the release sha256:{request.release_digest} with seed {request.seed}; shows no patient."


def _equipment(source: Source) -> Dataset:
    purpose = Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = PURPOSE
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = Sequence([purpose])
    equipment.Manufacturer = MANUFACTURER
    equipment.ManufacturerModelName = f"{source.spec.family} generator"[:LONG_STRING]
    equipment.SoftwareVersions = source.code_version
    equipment.ContributionDescription = f"Synthesis. {_origin(source)}"
    return equipment


def describe_values(dataset: Dataset, scale: Scale) -> None:
    """Stored bits, the way back to native units, and the window to look through."""
    bits = 12 if scale.high <= STORED_TOP else 16
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits, bits - 1
    dataset.PixelRepresentation, dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 0, 1, "MONOCHROME2"
    if scale.kind:
        dataset.RescaleSlope, dataset.RescaleIntercept = decimal(scale.slope), decimal(scale.intercept)
        dataset.RescaleType = scale.kind
    width = scale.slope * (scale.high - scale.low)
    if width >= 1:  # narrower ones need another VOI function than viewers have
        dataset.WindowCenter = decimal(scale.slope * scale.low + scale.intercept + width / 2)
        dataset.WindowWidth = decimal(width)


def decimal(value: float) -> DSfloat:
    """A number in at most 16 characters, as DICOM wants it."""
    return DSfloat(float(value), auto_format=True)


def part10(dataset: Dataset) -> bytes:
    """The bytes of a DICOM file."""
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()
