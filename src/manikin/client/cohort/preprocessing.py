"""From native images to a study's: window, resample, crop and pad, through MONAI.

Every step treats each image alone, so that no patient moves another one; images of one native layout go through
MONAI side by side, as channels of one array, which is what makes thousands of small images a matter of seconds. The
order in which a processor adds up may depend on what lies beside an image: hence float64, rounded to a grid of 2**-20
at the end, where such a difference (some 1e-16) is lost except about once in 10**9 pixels.

Order: channels are picked, intensities windowed to [-1, 1] and clipped, then space is changed. With `spacing_mm` and
a known native spacing: smooth against aliasing where it shrinks, resample, crop or pad (with -1) around the centre.
Else the field of view is resized to `shape`. A volume in a 2D study becomes its axial slices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from monai.data import MetaTensor
from monai.networks.layers import GaussianFilter
from monai.transforms import Resize, ResizeWithPadOrCrop, ScaleIntensityRange, SpatialResample

from manikin.client.cohort.native import Axes, NativeArray
from manikin.client.cohort.nifti import hang
from manikin.common.images import Float32Array
from manikin.common.study import Data
from manikin.common.windowing import by_percentiles

FLAT_SLICE_STD = 0.02  # of the range of 2: air, or less than a hundredth of the window
LEVELS = 2**20  # from 0 to 1
GAUSSIAN_REACH = 4.0  # standard deviations, where MONAI cuts its kernel
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
        images = by_percentiles(images, data.window_percentiles)
    scaled = ScaleIntensityRange(a_min=low, a_max=high, b_min=-1.0, b_max=1.0, clip=True)(images)
    return np.asarray(scaled, dtype=np.float32)


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
    stacked = torch.from_numpy(images.reshape(-1, *images.shape[2:]).astype(np.float64))
    if data.spacing_mm is not None and spacing_mm is not None:
        resampled = _resampled(stacked, spacing_mm, data.spacing_mm, data.shape)
        result = ResizeWithPadOrCrop(spatial_size=data.shape, mode="constant", value=-1.0)(resampled)
    else:
        factors = [old / new for old, new in zip(stacked.shape[1:], data.shape, strict=True)]
        resize = Resize(spatial_size=data.shape, mode=INTERPOLATION[data.spatial_dims], dtype=torch.float64)
        result = resize(_smoothed(stacked, factors))
    brought = (_plain(result).clamp(-1.0, 1.0) * LEVELS).round().div(LEVELS).to(torch.float32).numpy()
    return np.asarray(brought.reshape(*images.shape[:2], *data.shape))


def _resampled(
    stacked: torch.Tensor, old_mm: Sequence[float], new_mm: Sequence[float], shape: Sequence[int]
) -> torch.Tensor:
    """Images (k, *spatial) at another spacing, the middle of the field of view where it was.

    The number of pixels is even where the study's is, and odd where that is: cropping then moves nothing.
    """
    if np.allclose(old_mm, new_mm, rtol=1e-3):
        return stacked
    old, new = np.array(old_mm), np.array(new_mm)
    extent = np.array(stacked.shape[1:]) * old / new
    size = np.maximum(1, shape + 2 * np.rint((extent - shape) / 2)).astype(int)
    affine, target = np.eye(4), np.eye(4)
    spatial = range(len(old))
    affine[spatial, spatial], target[spatial, spatial] = old, new
    target[: len(old), 3] = ((np.array(stacked.shape[1:]) - 1) * old - (size - 1) * new) / 2
    smooth = MetaTensor(_smoothed(stacked, new / old), affine=torch.from_numpy(affine))
    resample = SpatialResample(mode="bilinear", padding_mode="border", dtype=torch.float64)
    return _plain(resample(smooth, dst_affine=torch.from_numpy(target), spatial_size=size.tolist()))


def _smoothed(stacked: torch.Tensor, factors: Sequence[float]) -> torch.Tensor:
    """Images (k, *spatial) without detail finer than the new pixels, which are `factors` times as far apart.

    MONAI's filter takes what lies beyond the border for 0, which is mid-grey here: the border is repeated first. The
    filter is used as a layer, since the transform around it would go back to float32.
    """
    sigmas = [max(0.0, (factor - 1.0) / 2.0) for factor in factors]
    if not any(sigmas):
        return stacked
    reach = [math.ceil(GAUSSIAN_REACH * sigma) for sigma in sigmas]
    margins = [margin for width in reversed(reach) for margin in (width, width)]
    padded = torch.nn.functional.pad(stacked[None], margins, mode="replicate")[0]
    inside = tuple(slice(width, width + size) for width, size in zip(reach, stacked.shape[1:], strict=True))
    smooth = GaussianFilter(len(sigmas), sigmas, truncated=GAUSSIAN_REACH)(padded[None])[0]
    return torch.as_tensor(smooth[(slice(None), *inside)])


def _plain(image: torch.Tensor) -> torch.Tensor:
    """The tensor without MONAI's metadata."""
    return image.as_tensor() if isinstance(image, MetaTensor) else image
