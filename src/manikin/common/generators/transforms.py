"""Orthonormal cosine transform in any number of dimensions, and the order of its frequencies.

The n-D DCT-II splits an image into cosines; because it is orthonormal, squared errors of coefficients are squared
errors of pixels, and an image changed in a few coefficients stays as it was in all others.

>>> basis = CosineBasis(1, (4, 4), 3)
>>> low = basis.forward(torch.ones(1, 1, 4, 4))
>>> [round(x, 6) for x in low[0].tolist()]
[4.0, 0.0, 0.0]

Ahmed, Natarajan and Rao, "Discrete cosine transform", IEEE Trans. Computers, 1974.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor


@cache
def cosine_matrix(size: int) -> Tensor:
    """Orthonormal DCT-II of one axis, float32 (size, size): row k holds the k-th cosine."""
    k = torch.arange(size, dtype=torch.float64)[:, None]
    x = torch.arange(size, dtype=torch.float64)[None, :]
    rows = torch.cos(math.pi * (x + 0.5) * k / size) * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    return rows.float()


def cosine_transform(images: Tensor, *, inverse: bool = False) -> Tensor:
    """The DCT-II (or its inverse) of each spatial axis; shape (n, c, *spatial) in and out."""
    for axis in range(2, images.ndim):
        matrix = cosine_matrix(images.shape[axis])
        matrix = matrix.T if inverse else matrix
        images = torch.tensordot(images.movedim(axis, -1), matrix.T, dims=1).movedim(-1, axis)
    return images


def frequency_radius(shape: tuple[int, ...]) -> Tensor:
    """Half-cycles a sample of each coefficient, as a radius; float64 of the spatial shape."""
    axes = [torch.arange(n, dtype=torch.float64) / n for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()


class CosineBasis:
    """The `count` coefficients of lowest frequency of images (n, channels, *shape), over all channels together.

    Equal radii are ordered by index and then by channel, so that the order is the same everywhere.
    """

    def __init__(self, channels: int, shape: tuple[int, ...], count: int) -> None:
        self.channels, self.shape = channels, shape
        radius = frequency_radius(shape).flatten()
        order = torch.argsort(radius, stable=True)
        voxels = len(radius)
        flat = (order[:, None] + voxels * torch.arange(channels)[None, :]).flatten()
        self.low, self.high = flat[:count], flat[count:]
        self.radius = radius.repeat(channels)

    def forward(self, images: Tensor) -> Tensor:
        """Low coefficients (n, count) of images (n, channels, *shape)."""
        return self.spectrum(images)[:, self.low]

    def spectrum(self, images: Tensor) -> Tensor:
        """All coefficients (n, channels * voxels)."""
        return cosine_transform(images).flatten(1)

    def image(self, spectrum: Tensor) -> Tensor:
        """Images (n, channels, *shape) of all coefficients (n, channels * voxels)."""
        return cosine_transform(spectrum.reshape(len(spectrum), self.channels, *self.shape), inverse=True)

    def replace_low(self, images: Tensor, low: Tensor) -> Tensor:
        """The images with their low coefficients set to `low` (n, count) and all others as they were."""
        spectrum = self.spectrum(images)
        spectrum[:, self.low] = low.to(spectrum.dtype)
        return self.image(spectrum)

    def bands(self, count: int) -> Tensor:
        """Band of each high coefficient, int64, 0 for the lowest: none empty, equally wide in octaves."""
        octave = self.radius[self.high].log2()
        width = (octave.max() - octave.min()) / count if len(octave) else 1.0
        position = ((octave - octave.min()) / width).floor().clamp_max(count - 1) if len(octave) else octave
        band: Tensor = torch.unique(position, return_inverse=True)[1]
        return band
