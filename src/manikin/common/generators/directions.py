"""Principal directions of public images: where an image lies along them, bounded, and how to move it.

Directions are found among the low cosine coefficients, so that volumes cost no more than slices. Coordinates are scaled
between white and as they are: a direction of more public variance keeps more of the norm, and so less of the noise.

>>> directions = Directions(1, (8, 8), 3)
>>> directions.measure(torch.zeros(2, 1, 8, 8)).shape
torch.Size([2, 3])

Pearson, "On lines and planes of closest fit to systems of points in space", 1901.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from manikin.common.generators.features import TEXTURE_POWER, cut
from manikin.common.generators.transforms import CosineBasis

COSINES = 4  # low cosine coefficients among which directions are found, per direction
WHITENING = 0.5  # power of the public standard deviation that coordinates are divided by
REACH = 1.4  # norm at which coordinates are cut, in units of the public images' rms


class Directions:
    """`count` orthonormal directions, a public centre and public scales."""

    def __init__(self, channels: int, shape: tuple[int, ...], count: int) -> None:
        voxels = channels * math.prod(shape)
        self.count = min(count, voxels)
        self.basis = CosineBasis(channels, shape, min(COSINES * self.count, voxels))
        self.tensors = self._from_shape()

    def _from_shape(self) -> dict[str, Tensor]:
        """Before any public image is known: the lowest cosines, power falling with frequency."""
        radius = self.basis.radius
        falloff = (radius + 0.5 / max(self.basis.shape)).pow(-1.3)
        power = falloff.square() * TEXTURE_POWER * len(radius) / falloff.square().sum()
        vectors = torch.eye(len(self.basis.low), self.count)
        return self._scaled(torch.zeros(len(radius)), vectors, power[self.basis.low][: self.count])

    def _scaled(self, centre: Tensor, vectors: Tensor, power: Tensor) -> dict[str, Tensor]:
        scale = power.double().clamp_min(1e-8).pow(0.5 * WHITENING)
        scale *= REACH * (power.double() / scale.square()).sum().sqrt()
        tensors = {"centre": centre, "vectors": vectors, "scale": scale, "variance": power.double() / scale.square()}
        return {name: tensor.float().contiguous() for name, tensor in tensors.items()}

    def learn(self, images: Tensor) -> None:
        """Take directions, centre and scales from public images (n, c, *spatial)."""
        spectrum = self.basis.spectrum(images.float())
        centre = spectrum.mean(0)
        away = (spectrum - centre)[:, self.basis.low].double()
        values, vectors = torch.linalg.eigh(away.T @ away / len(away))
        best = vectors.flip(1)[:, : self.count]
        self.tensors = self._scaled(centre, best, values.flip(0)[: self.count].clamp_min(1e-6))

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = {name: tensors[name].clone() for name in self.tensors}

    @property
    def variance(self) -> Tensor:
        """Variance (k,) of the public images along each direction, float64; their sum is 1 / REACH^2."""
        return self.tensors["variance"].double()

    def places(self, images: Tensor) -> Tensor:
        """Coordinates (n, k), float64, of images (n, c, *spatial), not cut."""
        away = (self.basis.spectrum(images.float()) - self.tensors["centre"])[:, self.basis.low].double()
        return away @ self.tensors["vectors"].double() / self.tensors["scale"].double()

    def measure(self, images: Tensor) -> Tensor:
        """Coordinates of norm at most 1."""
        return cut(self.places(images))

    def shifted(self, images: Tensor, change: Tensor) -> Tensor:
        """Images (n, c, *spatial), float32, moved by a change (n, k) of their coordinates."""
        spectrum = torch.zeros(len(images), len(self.tensors["centre"]))
        vectors = (self.tensors["vectors"] * self.tensors["scale"]).double()
        spectrum[:, self.basis.low] = (change @ vectors.T).float()
        return images + self.basis.image(spectrum)

    def part(self, images: Tensor) -> Tensor:
        """What the directions span of images or differences of images (n, c, *spatial)."""
        low = self.basis.forward(images)
        spectrum = torch.zeros(len(images), len(self.tensors["centre"]))
        spectrum[:, self.basis.low] = low @ self.tensors["vectors"] @ self.tensors["vectors"].T
        return self.basis.image(spectrum)

    def centre(self, count: int) -> Tensor:
        """The public mean image, `count` times."""
        return self.basis.image(self.tensors["centre"][None]).expand(count, -1, *self.basis.shape)
