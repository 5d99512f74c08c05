"""DICOM: every instance says that it is synthetic, from which release, and that no patient stands behind it.

2D images are Secondary Capture (`secondary_capture`), volumes are classic MR or CT slices (`slices`); each channel is
a series of its own. No compression, explicit little endian.
"""

from __future__ import annotations

from manikin.common.errors import Misconfigured
from manikin.common.export.batch import Batch, Source, file_stem
from manikin.common.export.dicom.instance import Instance, part10
from manikin.common.export.dicom.secondary_capture import secondary_capture
from manikin.common.export.dicom.slices import SLICE_CLASSES, slice_images


def check(source: Source) -> None:
    """2D images of any modality, volumes of MR and CT.

    Raises:
        Misconfigured: a volume of another modality.
    """
    if source.spec.spatial_dims == 3 and source.picture.modality not in SLICE_CLASSES:
        raise Misconfigured(
            f"Volumes of modality {source.picture.modality!r} cannot be DICOM slices.",
            f"Slice images are made for {' and '.join(SLICE_CLASSES)}.",
            "Choose --format nifti, or npz.",
        )


def values(source: Source) -> str:
    """What the numbers mean."""
    if source.picture.window is None:
        return "stored numbers span [-1, 1] of the generator; there is no native scale"
    return f"after the rescale: {source.picture.units}"


def names(source: Source, index: int) -> list[str]:
    """One file for each channel of a 2D image, for each channel and slice of a volume."""
    channels = source.spec.channels
    series = [file_stem(index) + (f"-{channel}" if channels > 1 else "") for channel in range(channels)]
    if source.spec.spatial_dims == 2:
        return [f"{name}.dcm" for name in series]
    return [f"{name}/{number + 1:04d}.dcm" for name in series for number in range(source.spec.shape[2])]


def encode(source: Source, batch: Batch) -> dict[str, bytes]:
    """Part 10 files by name."""
    make = secondary_capture if source.spec.spatial_dims == 2 else slice_images
    files: dict[str, bytes] = {}
    for index, image, label in batch:
        datasets = [
            dataset
            for channel, pixels in enumerate(image)
            for dataset in make(Instance(source, index, channel, source.spec.labels[label]), pixels)
        ]
        files.update(zip(names(source, index), map(part10, datasets), strict=True))
    return files
