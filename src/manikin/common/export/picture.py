"""What the numbers of a generated image mean: modality, spacing, window; and their way back to native units.

Image axes are those of an imported cohort: in 2D rows from the top and columns from the left, in 3D the patient's
right, front and head. A generator works in [-1, 1]; if the study windowed native values, [-1, 1] maps back to that
window, otherwise there is no native scale to return to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manikin.common.errors import VerificationFailed
from manikin.common.images import Float32Array


@dataclass(frozen=True)
class Picture:
    """Public facts about every image of a study.

    Args:
        modality: DICOM's code, such as CR, DX, MR, CT, OT.
        spatial_dims: 2 or 3.
        spacing_mm: one positive number a spatial axis, or None if fields of view were resized.
        window: native values of -1 and 1, or None if each image was windowed by its own percentiles.
    """

    modality: str
    spatial_dims: int
    spacing_mm: tuple[float, ...] | None
    window: tuple[float, float] | None

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Picture:
        """From a study's data section, as a release carries it.

        Raises:
            VerificationFailed: spacing or window make no sense.
        """
        spatial_dims, spacing, window = int(data["spatial_dims"]), data.get("spacing_mm"), data.get("window")
        picture = cls(
            str(data["modality"]),
            spatial_dims,
            tuple(float(s) for s in spacing) if spacing else None,
            (float(window[0]), float(window[1])) if window else None,
        )
        fits = picture.spacing_mm is None or (
            len(picture.spacing_mm) == spatial_dims and all(math.isfinite(s) and s > 0 for s in picture.spacing_mm)
        )
        low, high = picture.window or (0.0, 1.0)
        if not (fits and math.isfinite(low) and math.isfinite(high) and low < high):
            raise VerificationFailed(
                "The release is refused.", "Its spacing or window make no sense.", "Fetch it again."
            )
        return picture

    @property
    def spacing(self) -> tuple[float, ...]:
        """Spacing in mm; 1 on every axis where it is unknown, for formats that must state one."""
        return self.spacing_mm or (1.0,) * self.spatial_dims

    @property
    def units(self) -> str:
        """What values of `native` mean, in words."""
        if self.window is None:
            return "[-1, 1]: each image was scaled by its own percentiles, so there is no native scale"
        return f"native units of the study; its window was [{self.window[0]:g}, {self.window[1]:g}]"

    def native(self, images: Float32Array) -> Float32Array:
        """Values in native units if the study has a window, else in [-1, 1]; float32, same shape."""
        if self.window is None:
            return images
        low, high = self.window
        return (low + (images.astype(np.float64) + 1) / 2 * (high - low)).astype(np.float32)


def quantise(images: Float32Array, top: int) -> NDArray[np.uint16]:
    """[-1, 1] to whole numbers 0 to `top`.

    >>> quantise(np.array([-1, 0, 1], np.float32), 255).tolist()
    [0, 128, 255]
    """
    return np.floor((images.astype(np.float64) + 1) / 2 * top + 0.5).astype(np.uint16)
