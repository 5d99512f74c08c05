"""From native images to a study's: window, resample, crop and pad, through MONAI.

Every step treats each image alone, so that no patient moves another one; images of one native layout go through
MONAI side by side, as channels of one array, which is what makes thousands of small images a matter of seconds.

Order: channels are picked, intensities windowed to [-1, 1] and clipped, then space is changed. With `spacing_mm` and
a known native spacing: smooth against aliasing where it shrinks, resample, crop or pad (with -1) around the centre.
Else the field of view is resized to `shape`. A volume in a 2D study becomes its axial slices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import GaussianSmooth, Resize, ResizeWithPadOrCrop, ScaleIntensityRange, Spacing

from manikin.client.cohort.native import Axes, NativeArray
from manikin.client.cohort.nifti import hang
from manikin.common.images import Float32Array
from manikin.common.study import Data

FLAT_SLICE_STD = 0.02  # of the range of 2: air, or less than a hundredth of the window
INTERPOLATION = {2: "bilinear", 3: "trilinear"}


def preprocess(
    pixels: NativeArray, data: Data, *, axes: Axes, spacing_mm: tuple[float, ...] | None
) -> list[Float32Array]:
    """Native images of one layout, brought to a study.

    Args:
        pixels: (n, channels, *spatial), n images of one layout.
        data: the study's `[data]`; its channels must exist.
        axes, spacing_mm: the layout.

    Returns:
        n arrays float32 (m, channels, *shape) in [-1, 1]; m is 1, except where a volume gave m axial slices.
    """
    images = windowed(pixels[:, list(data.channels)].astype(np.float32), data)
    if images.ndim - 2 == data.spatial_dims:
        return [image[None] for image in brought_to_shape(images, data, spacing_mm)]
    slices, in_plane_mm = axial_slices(images, axes, spacing_mm)
    count, depth = slices.shape[:2]
    flat = brought_to_shape(slices.reshape(-1, *slices.shape[2:]), data, in_plane_mm)
    return [volume[_varied(volume)] for volume in flat.reshape(count, depth, *flat.shape[1:])]


def windowed(images: Float32Array, data: Data) -> Float32Array:
    """Intensities (n, c, *spatial) mapped so that the window fills [-1, 1], and clipped.

    A window in percentiles is that of each image and channel. Where both percentiles are one value (a mostly black
    image), the image's full range takes their place.
    """
    low, high = data.window or (0.0, 1.0)
    if data.window_percentiles is not None:
        images = _by_percentiles(images, data.window_percentiles)
    scaled = ScaleIntensityRange(a_min=low, a_max=high, b_min=-1.0, b_max=1.0, clip=True)(images)
    return np.asarray(scaled, dtype=np.float32)


def _by_percentiles(images: Float32Array, percentiles: tuple[float, float]) -> Float32Array:
    flat = images.reshape(*images.shape[:2], -1)
    low, high = np.percentile(flat, percentiles, axis=-1)
    narrow = high <= low
    low, high = np.where(narrow, flat.min(axis=-1), low), np.where(narrow, flat.max(axis=-1), high)
    width = np.where(high > low, high - low, 1.0)
    relative = (flat - low[..., None]) / width[..., None]
    return np.asarray(relative.reshape(images.shape), dtype=np.float32)


def axial_slices(
    volumes: Float32Array, axes: Axes, spacing_mm: tuple[float, ...] | None
) -> tuple[Float32Array, tuple[float, ...] | None]:
    """Volumes (n, c, x, y, z) as slices (n, depth, c, rows, columns), and the spacing of rows and columns.

    A RAS volume is cut across its last axis and hung front up, the patient's right on the left; a volume taken as it
    came is cut across its first.
    """
    if axes == "RAS":
        slices = hang(np.moveaxis(volumes, -1, 1))
        return slices, None if spacing_mm is None else (spacing_mm[1], spacing_mm[0])
    return np.moveaxis(volumes, 2, 1), None if spacing_mm is None else spacing_mm[1:]


def _varied(slices: Float32Array) -> NativeArray:
    """Which slices (m, ...) show more than a nearly uniform field."""
    varied: NativeArray = slices.reshape(len(slices), -1).std(axis=1) > FLAT_SLICE_STD
    return varied


def brought_to_shape(images: Float32Array, data: Data, spacing_mm: tuple[float, ...] | None) -> Float32Array:
    """Images (n, c, *spatial) in [-1, 1] with the study's shape (n, c, *shape)."""
    stacked = np.ascontiguousarray(images.reshape(-1, *images.shape[2:]))
    if data.spacing_mm is not None and spacing_mm is not None:
        result = _resampled(stacked, spacing_mm, data.spacing_mm)
        result = ResizeWithPadOrCrop(spatial_size=data.shape, mode="constant", value=-1.0)(result)
    else:
        mode = INTERPOLATION[data.spatial_dims]
        result = Resize(spatial_size=data.shape, mode=mode, anti_aliasing=True)(torch.from_numpy(stacked))
    brought = _plain(result).clamp(-1.0, 1.0).to(torch.float32).numpy()
    return np.asarray(brought.reshape(*images.shape[:2], *data.shape))


def _resampled(stacked: Float32Array, old_mm: Sequence[float], new_mm: Sequence[float]) -> torch.Tensor:
    """Images (k, *spatial) at another spacing; smoothed before, as `Resize` does, on the axes that shrink."""
    tensor = torch.from_numpy(stacked)
    if np.allclose(old_mm, new_mm, rtol=1e-3):
        return tensor
    sigmas = [max(0.0, (new / old - 1.0) / 2.0) for old, new in zip(old_mm, new_mm, strict=True)]
    if any(sigmas):
        tensor = _plain(GaussianSmooth(sigma=sigmas)(tensor))
    affine = torch.diag(torch.tensor([*old_mm, *[1.0] * (4 - len(old_mm))], dtype=torch.float64))
    resample = Spacing(pixdim=tuple(new_mm), mode="bilinear", padding_mode="border")
    return _plain(resample(MetaTensor(tensor, affine=affine)))


def _plain(image: torch.Tensor) -> torch.Tensor:
    """The tensor without MONAI's metadata."""
    return image.as_tensor() if isinstance(image, MetaTensor) else image
