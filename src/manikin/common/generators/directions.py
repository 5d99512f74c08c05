"""Principal directions of public images: where an image lies along them, bounded, and how to move it.

What directions leave of an image is told in a few bands of frequency: how strong each is beside public images.
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
RINGS, BANDS = 3, 4  # groups of later directions, and bands of frequency of what is left, whose strength is told
STRENGTH_REACH = 0.8  # root mean square deviation of strengths at which they are cut


class Directions:
    """`count` orthonormal directions, a public centre and public scales; those from `first` on are told in rings."""

    def __init__(self, channels: int, shape: tuple[int, ...], count: int, *, first: int = 0) -> None:
        voxels = channels * math.prod(shape)
        self.count = min(count, voxels)
        self.basis = CosineBasis(channels, shape, min(COSINES * self.count, voxels))
        self.ring = torch.arange(self.count - first) * RINGS // max(self.count - first, 1)
        self.rings = int(self.ring.max()) + 1 if len(self.ring) else 0
        octave = self.basis.radius.clamp_min(0.5 / max(shape)).log2()
        position = (octave - octave.min()) / (octave.max() - octave.min()) * BANDS
        self.band = torch.unique(position.floor().clamp_max(BANDS - 1), return_inverse=True)[1]
        self.first, self.strengths = first, self.rings + int(self.band.max()) + 1
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
        tensors["power"] = torch.ones(self.strengths)
        return {name: tensor.float().contiguous() for name, tensor in tensors.items()}

    def learn(self, images: Tensor) -> None:
        """Take directions, centre and scales from public images (n, c, *spatial)."""
        spectrum = self.basis.spectrum(images.float())
        centre = spectrum.mean(0)
        away = (spectrum - centre)[:, self.basis.low].double()
        values, vectors = torch.linalg.eigh(away.T @ away / len(away))
        best = vectors.flip(1)[:, : self.count]
        self.tensors = self._scaled(centre, best, values.flip(0)[: self.count].clamp_min(1e-6))
        self.tensors["power"] = self._powers(images).mean(0).clamp_min(1e-12).float()

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

    def strength(self, images: Tensor) -> Tensor:
        """Root mean square of each ring and band beside that of the public images (n, strengths), float64."""
        return (self._powers(images) / self.tensors["power"].double()).sqrt()

    def measure_strength(self, images: Tensor) -> Tensor:
        """Deviations of strengths from 1, scaled by `strength_scale`, of norm at most 1."""
        return cut((self.strength(images) - 1) * self.strength_scale)

    @property
    def strength_scale(self) -> float:
        """What a deviation by the public images' whole strength is told as."""
        return 1 / (STRENGTH_REACH * math.sqrt(self.strengths))

    def _powers(self, images: Tensor) -> Tensor:
        rest = self._rest(images).double().square()
        rings = self.places(images)[:, self.first :].square()
        return torch.cat(
            [_grouped(rings, self.ring, self.rings), _grouped(rest, self.band, self.strengths - self.rings)], 1
        )

    def _rest(self, images: Tensor) -> Tensor:
        """Spectrum (n, channels * voxels) of what the directions leave, the public mean taken off."""
        away = self.basis.spectrum(images.float()) - self.tensors["centre"]
        vectors, low = self.tensors["vectors"], self.basis.low
        away[:, low] -= away[:, low] @ vectors @ vectors.T
        return away

    def moved(self, images: Tensor, places: Tensor, gains: Tensor) -> Tensor:
        """Images (n, c, *spatial), float32, taken to places (n, k); what is left of them, times gains (n, bands)."""
        spectrum = self._rest(images) * gains.float()[:, self.band] + self.tensors["centre"]
        vectors = (self.tensors["vectors"] * self.tensors["scale"]).double()
        spectrum[:, self.basis.low] += (places @ vectors.T).float()
        return self.basis.image(spectrum)

    def part(self, images: Tensor) -> Tensor:
        """What the directions span of images or differences of images (n, c, *spatial)."""
        low = self.basis.forward(images)
        spectrum = torch.zeros(len(images), len(self.tensors["centre"]))
        spectrum[:, self.basis.low] = low @ self.tensors["vectors"] @ self.tensors["vectors"].T
        return self.basis.image(spectrum)

    def centre(self, count: int) -> Tensor:
        """The public mean image, `count` times."""
        return self.basis.image(self.tensors["centre"][None]).expand(count, -1, *self.basis.shape)


def _grouped(squares: Tensor, group: Tensor, count: int) -> Tensor:
    """Means (n, count) of the columns of each group."""
    members = torch.nn.functional.one_hot(group, count).double() if count else torch.zeros(len(group), 0).double()
    means: Tensor = squares @ (members / members.sum(0))
    return means
