"""NIfTI-1: float32 in native units (see `picture`), RAS, centred on the scanner's origin, spacing in mm.

2D images become one axial slice, hung so that an import gives the same rows and columns back. Channels are the
fourth axis.
"""

from __future__ import annotations

import gzip

import nibabel
import numpy as np

from manikin.common.export.batch import Batch, Source, file_stem
from manikin.common.images import Float32Array

COMPRESSION = 6


def check(source: Source) -> None:
    """Any image can be a NIfTI file."""
    del source


def values(source: Source) -> str:
    """What the numbers mean."""
    return source.picture.units


def names(source: Source, index: int) -> list[str]:
    """One file an image."""
    del source
    return [f"{file_stem(index)}.nii.gz"]


def encode(source: Source, batch: Batch) -> dict[str, bytes]:
    """Compressed files by name."""
    return {f"{file_stem(index)}.nii.gz": _nifti(source, image) for index, image, _ in batch}


def _nifti(source: Source, image: Float32Array) -> bytes:
    pixels, spacing = source.picture.native(image), source.picture.spacing
    if source.spec.spatial_dims == 2:
        pixels = pixels.swapaxes(-1, -2)[:, ::-1, ::-1, None]  # rows and columns to right and front
        spacing = (spacing[1], spacing[0], 1.0)
    volume = pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -(np.array(volume.shape[:3]) - 1) / 2 * spacing
    file = nibabel.Nifti1Image(np.ascontiguousarray(volume), affine)
    file.header.set_xyzt_units("mm" if source.picture.spacing_mm else "unknown")
    file.header["descrip"] = f"synthetic, release {source.request.release_digest[:16]}".encode()
    file.set_sform(affine, code=1)
    file.set_qform(affine, code=1)
    return gzip.compress(file.to_bytes(), COMPRESSION, mtime=0)
