"""2D images as Secondary Capture, through highdicom, completed by what it does not set."""

from __future__ import annotations

from highdicom.sc import SCImage
from pydicom.dataset import Dataset

from manikin.common.export.dicom.instance import MANUFACTURER, Instance, Scale, decimal, describe_values, mark
from manikin.common.images import Float32Array

SYNTHETIC_IMAGE = "SYN"  # the conversion type of images that no device acquired
PROJECTIONS = ("CR", "DX")


def secondary_capture(instance: Instance, pixels: Float32Array) -> list[Dataset]:
    """One instance.

    Args:
        instance: whose it is.
        pixels: float32 (rows, columns) in [-1, 1].
    """
    picture = instance.source.picture
    scale = Scale.of(picture)
    columns_to, rows_to = "L", "F" if picture.modality in PROJECTIONS else "P"
    image = SCImage(
        scale.stored(pixels),
        photometric_interpretation="MONOCHROME2",
        bits_allocated=16,
        coordinate_system="PATIENT",
        study_instance_uid=instance.study_uid,
        series_instance_uid=instance.series_uid,
        series_number=instance.channel + 1,
        sop_instance_uid=instance.instance_uid(1),
        instance_number=1,
        manufacturer=MANUFACTURER,
        patient_orientation=(columns_to, rows_to),
    )
    mark(image, instance, 1)
    image.Modality = picture.modality
    image.ConversionType = SYNTHETIC_IMAGE
    image.DateOfSecondaryCapture, image.TimeOfSecondaryCapture = image.ContentDate, image.ContentTime
    describe_values(image, scale)
    if picture.spacing_mm:
        image.PixelSpacing = [decimal(spacing) for spacing in picture.spacing_mm]
    return [image]
