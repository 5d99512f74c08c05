"""Native images: what a source holds, before any study has said how it wants them.

Intensities are the scanner's (after the modality's own rescale), never windowed. What is stored is small and
exact: whole numbers in the smallest fitting integer type, everything else as float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

UNLABELLED = "unlabelled"
MAX_IMAGE_BYTES = 800 << 20  # one sqlite value holds at most 10**9 bytes
INTEGER_TYPES = (np.uint8, np.int16, np.uint16)

NativeArray = NDArray[Any]
Axes = Literal["HW", "DHW", "RAS"]


@dataclass(frozen=True, eq=False)
class NativeImage:
    """One image as its scanner made it.

    Args:
        pixels: (channels, *spatial), uint8, int16, uint16 or float32.
        axes: what the spatial axes are. "HW": rows from the top, columns from the left. "RAS": a volume whose
            axes run to the patient's right, front and head. "DHW": a volume taken as it came, slices first.
        spacing_mm: one number for each spatial axis, or None where the source does not say.
        modality: DICOM's code, or "" where the source does not say.
        mask: (*spatial) of whole numbers, if the source brings one; kept, and read by no generator yet.
    """

    pixels: NativeArray
    axes: Axes
    spacing_mm: tuple[float, ...] | None = None
    modality: str = ""
    mask: NativeArray | None = None

    @property
    def spatial_dims(self) -> int:
        return self.pixels.ndim - 1


@dataclass(frozen=True, eq=False)
class Scan:
    """An image with what its source says about it. `patient_id` is plain text and must never be stored."""

    image: NativeImage
    file: str
    label: str = UNLABELLED
    patient_id: str | None = None
    site: str = ""


class UnusableError(Exception):
    """An image that is refused; `reason` is one of the report's, the text is ours and carries no header value."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def canonical(pixels: NativeArray) -> NativeArray:
    """The same values in the smallest type that holds them exactly (or float32).

    Raises:
        UnusableError: complex or non-numeric, not finite, constant, or larger than a cohort can hold.

    >>> canonical(np.array([[[0.0, 300.0]]])).dtype, canonical(np.array([[[0.5, 300.0]]])).dtype
    (dtype('int16'), dtype('float32'))
    """
    if pixels.dtype.kind not in "buif":
        raise UnusableError("unsupported", "the pixels are not plain numbers")
    if pixels.size == 0:
        raise UnusableError("constant", "it has no pixels")
    if pixels.dtype.kind == "f":
        pixels = pixels.astype(np.float32, copy=False)
        if not np.isfinite(pixels).all():
            raise UnusableError("not finite")
    low, high = pixels.min(), pixels.max()
    if low == high:
        raise UnusableError("constant")
    pixels = np.ascontiguousarray(pixels.astype(_smallest_type(pixels, float(low), float(high)), copy=False))
    if pixels.nbytes > MAX_IMAGE_BYTES:
        raise UnusableError("too large", f"more than {MAX_IMAGE_BYTES >> 20} MiB")
    return pixels


def _smallest_type(pixels: NativeArray, low: float, high: float) -> type[np.generic]:
    if pixels.dtype.kind == "f" and not np.array_equal(pixels, np.rint(pixels)):
        return np.float32
    for candidate in INTEGER_TYPES:
        if np.iinfo(candidate).min <= low and high <= np.iinfo(candidate).max:
            return candidate
    return np.float32


def luminance(colour: NativeArray) -> NativeArray:
    """Grey values of RGB (..., 3), in the same integer type: ITU-R BT.601.

    >>> int(luminance(np.array([255, 0, 0], np.uint8)))
    76
    """
    grey = colour[..., :3].astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    result: NativeArray = np.rint(grey).astype(colour.dtype) if colour.dtype.kind in "iu" else grey.astype(np.float32)
    return result
