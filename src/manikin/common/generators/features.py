"""What a `moments` release reads of an image, bounded: low and middle coefficients, and amplitudes of higher bands.

All scales are public: fixed by the shape alone, or by public images. Every vector is cut to norm 1, so that the
statistic built on it has a bound that no patient can move.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from manikin.common.generators.shrinkage import symmetric_power
from manikin.common.generators.transforms import CosineBasis

RIDGE = 0.2  # share of the diagonal in the public covariance that whitens
TEXTURE_POWER = 0.5  # mean square of a pixel before public images are known: wide, so that real images fit
LOW_REACH, MIDDLE_REACH, BAND_REACH = 1.4, 1.4, 0.8  # norm at which vectors are cut, in units of the public images' rms


@dataclass(frozen=True)
class Features:
    """Rows of norm at most 1, float64: low (n, k), middle (n, j), bands (n, b)."""

    low: Tensor
    middle: Tensor
    bands: Tensor


class FeatureMap:
    """Public centre and scale of every coefficient, and the features measured with them."""

    def __init__(self, basis: CosineBasis, *, middle: int, bands: int) -> None:
        self.basis = basis
        self.middle = basis.high[:middle]
        self.band_of = basis.bands(max(bands, 1))
        self.band_count = int(self.band_of.max()) + 1 if bands and len(basis.high) else 0
        self.tensors = self._from_shape()

    def _from_shape(self) -> dict[str, Tensor]:
        """Before any public image is known: zero mean, power falling with frequency."""
        radius = self.basis.radius
        falloff = (radius + 0.5 / max(self.basis.shape)).pow(-1.3)
        std = falloff * (TEXTURE_POWER * len(radius) / falloff.square().sum()).sqrt()
        spread = torch.full((self.band_count,), 0.3)
        return self._scales(torch.zeros(len(std)), std, torch.diag(std[self.basis.low].square()), spread)

    def _scales(self, mean: Tensor, std: Tensor, covariance: Tensor, band_std: Tensor) -> dict[str, Tensor]:
        """Whitened so that the public images vary alike in all low directions, mostly inside the unit ball."""
        scale = LOW_REACH * math.sqrt(max(len(self.basis.low), 1))
        return {
            "spectrum_mean": mean.float(),
            "spectrum_std": std.float(),
            "whiten": (symmetric_power(covariance.double(), -0.5) / scale).float(),
            "unwhiten": (symmetric_power(covariance.double(), 0.5) * scale).float(),
            "band_std": band_std.float(),
        }

    def learn(self, images: Tensor) -> None:
        """Take centre and scales from public images (n, c, *spatial)."""
        spectrum = self.basis.spectrum(images.float())
        mean, std = spectrum.mean(0), spectrum.std(0).clamp_min(1e-3)
        centred = (spectrum - mean)[:, self.basis.low].double()
        own = centred.T @ centred / len(centred)
        covariance = (1 - RIDGE) * own + RIDGE * torch.diag(own.diagonal().clamp_min(1e-6))
        self.tensors = self._scales(mean, std, covariance, torch.zeros(self.band_count))
        self.tensors["band_std"] = self.amplitudes(spectrum).std(0).clamp_min(1e-3).float()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = {name: tensors[name].clone() for name in self.tensors}

    @property
    def low_variance(self) -> float:
        """Variance of the public images in each whitened direction."""
        return 1 / (LOW_REACH**2 * len(self.basis.low))

    @property
    def middle_scale(self) -> float:
        """One standard deviation of a middle coefficient, in feature units."""
        return 1 / (MIDDLE_REACH * math.sqrt(max(len(self.middle), 1)))

    @property
    def band_scale(self) -> float:
        """A deviation by the public images' whole amplitude of a band, in feature units."""
        return 1 / (BAND_REACH * math.sqrt(max(self.band_count, 1)))

    def whiten(self, spectrum: Tensor) -> Tensor:
        """Whitened low coefficients (n, k), float64, not cut."""
        low = self.basis.low
        return (spectrum[:, low] - self.tensors["spectrum_mean"][low]).double() @ self.tensors["whiten"].double()

    def unwhiten(self, rows: Tensor) -> Tensor:
        """Low coefficients (n, k), float32, of whitened rows."""
        low = rows.double() @ self.tensors["unwhiten"].double()
        return low.float() + self.tensors["spectrum_mean"][self.basis.low]

    def amplitudes(self, spectrum: Tensor) -> Tensor:
        """Root mean square of each high band, relative to the public images' (n, bands), float64."""
        if not self.band_count:
            return torch.zeros(len(spectrum), 0).double()
        high = self.basis.high
        power = self.tensors["spectrum_mean"][high].square() + self.tensors["spectrum_std"][high].square()
        members = torch.nn.functional.one_hot(self.band_of, self.band_count).double()
        relative = spectrum[:, high].double().square() / power.double()
        return (relative @ (members / members.sum(0))).sqrt()

    def measure(self, images: Tensor) -> Features:
        """Bounded features of images (n, c, *spatial)."""
        spectrum = self.basis.spectrum(images.float())
        middle = (spectrum - self.tensors["spectrum_mean"])[:, self.middle] / self.tensors["spectrum_std"][self.middle]
        return Features(
            cut(self.whiten(spectrum)),
            cut(middle.double() * self.middle_scale),
            cut((self.amplitudes(spectrum) - 1) * self.band_scale),
        )


def cut(rows: Tensor) -> Tensor:
    """Rows scaled down to norm 1 where they exceed it."""
    shorter: Tensor = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(1.0)
    return shorter
