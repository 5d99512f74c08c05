"""The `moments` family: per-class count, mean and covariance of low frequencies, from one noisy sum over patients.

What a small budget can buy of a class sits in a few low-frequency moments. A patient gives one bounded vector; the
noisy sum of all of them is fitted by shrinkage that knows the noise (`shrinkage.py`); samples are public images
(phantoms, or a random texture) moved onto the released moments. It promises nothing about structure that two moments
do not carry. Centre and scale are public: fixed by the spec, or by `set_prior` from public images, before any patient
is read.

>>> spec = GeneratorSpec("moments", 1, (8, 8), ("a", "b"), {"coefficients": 4, "bands": 2})
>>> Moments(spec).sample(torch.tensor([0, 1]), generator=torch.Generator().manual_seed(0)).shape
torch.Size([2, 1, 8, 8])

In the spirit of DP-MERF (Harder, Adamczewski and Park, 2021): one release, then only post-processing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manikin.common.errors import BadData
from manikin.common.generators.base import GeneratorSpec, check_state, read_options
from manikin.common.generators.shrinkage import (
    denoise_symmetric,
    gaussian_map,
    james_stein,
    positive_part,
    symmetric_power,
)
from manikin.common.generators.transforms import CosineBasis
from manikin.common.images import Patient

OPTIONS = {"coefficients": 49, "bands": 8, "bank": 512, "prior": "phantoms", "whitening": 0.5, "reach": 1.5}
# Shares of the squared norm bound: count, mean, second moment, band powers.
COUNT, MEAN, SECOND, BANDS = 0.06, 0.28, 0.6, 0.06
BANK_VOXELS = 1 << 22
BAND_REACH = 3.0
FRESH = 0.35


class Moments:
    """Class-conditional Gaussians over low cosine coefficients, completed by a public prior."""

    def __init__(self, spec: GeneratorSpec) -> None:
        self.spec = spec
        self.options = read_options(spec, OPTIONS)
        voxels = spec.channels * math.prod(spec.shape)
        self.count = min(int(self.options["coefficients"]), voxels)
        self.bands = int(self.options["bands"]) if self.count < voxels else 0
        self.basis = CosineBasis(spec.channels, spec.shape, self.count)
        self.band_of = self.basis.rings(self.basis.high, max(self.bands, 1))
        self.upper = torch.triu_indices(self.count, self.count)
        self.norm_bound = 1.0
        self._state = self._reference()

    def _reference(self) -> dict[str, Tensor]:
        """State before any public image or release is known: zero centre, power falling with frequency."""
        radius = self.basis.radius
        falloff = (radius + 0.5 / max(self.spec.shape)).pow(-1.3)
        std = falloff * (0.25 * len(radius) / falloff.square().sum()).sqrt()
        classes, k = len(self.spec.labels), self.count
        low = std[self.basis.low]
        return {
            "centre": torch.zeros(k),
            "weight": self._weight(low),
            "spectrum_std": std.float(),
            "prior_covariance": torch.diag((low * self._weight(low).double()).square()).float(),
            "bank": torch.zeros(0, self.spec.channels, *self.spec.shape),
            "counts": torch.zeros(classes),
            "mean": torch.zeros(classes, k),
            "covariance": torch.diag((low * self._weight(low).double()).square()).float().repeat(classes, 1, 1),
            "power": torch.ones(classes, self.bands),
        }

    def _weight(self, std: Tensor) -> Tensor:
        """Public weight of each coefficient, such that most images fall inside the unit ball."""
        weight = std.double().clamp_min(1e-3).pow(-float(self.options["whitening"]))
        reach = float(self.options["reach"]) * (weight * std).square().sum().sqrt()
        return (weight / reach).float()

    def set_prior(self, images: Tensor) -> None:
        """Centre, scale and complete by public images, before any patient is read.

        Args:
            images: float32 (n, c, *spatial) in [-1, 1], phantoms or other public images; n >= 2.
        """
        spectrum = self.basis.spectrum(images.float())
        centre, std = spectrum.mean(0), spectrum.std(0).clamp_min(1e-3)
        low = self.basis.low
        weight = self._weight(std[low])
        z = (spectrum[:, low] - centre[low]) * weight
        covariance = z.T.double().cov() if z.shape[1] == 1 else torch.cov(z.T.double())
        covariance = 0.95 * covariance.reshape(self.count, self.count) + 0.05 * torch.diag(
            (weight * std[low]).double() ** 2
        )
        size = min(len(images), int(self.options["bank"]), max(1, BANK_VOXELS // images[0].numel()))
        classes = len(self.spec.labels)
        self._state |= {
            "centre": centre[low],
            "weight": weight,
            "spectrum_std": (centre.square() + std.square()).sqrt(),
            "prior_covariance": covariance.float(),
            "bank": images[:size].float().clone(),
            "mean": torch.zeros(classes, self.count),
            "covariance": covariance.float().repeat(classes, 1, 1),
        }

    def statistic(self, patient: Patient) -> NDArray[np.float64]:
        """One bounded vector of a patient: mean over images of (count, mean, second moment, band powers) of its class.

        Each image gives [a, b z, d vech(z z^T), e u] in the block of its class and 0 elsewhere, where |z| <= 1 and
        |u| <= 1 after clipping, vech carries sqrt(2) off the diagonal so that |vech(z z^T)| = |z|^2 <= 1, and
        a^2 + b^2 + d^2 + e^2 = 1: norm at most 1. A mean of vectors of norm at most 1 has norm at most 1.

        Returns:
            float64 (classes * (1 + k + k (k + 1) / 2 + bands),), L2 norm at most `norm_bound`.

        Raises:
            BadData: an image is not finite or a label is not one of the spec's.
        """
        images = torch.from_numpy(np.ascontiguousarray(patient.images))
        classes = len(self.spec.labels)
        if not bool(torch.isfinite(images).all()):
            raise BadData("An image holds values that are not finite.", "", "Import the cohort again.")
        if patient.labels.min() < 0 or patient.labels.max() >= classes:
            raise BadData("A label is not one of the study's classes.", "", "Check [data] labels.")
        z, u = self._features(images)
        vech = z[:, self.upper[0]] * z[:, self.upper[1]] * self._off_diagonal()
        parts = [torch.full((len(z), 1), math.sqrt(COUNT)).double(), math.sqrt(MEAN) * z, math.sqrt(SECOND) * vech]
        vectors = torch.cat([*parts, math.sqrt(BANDS) * u], 1).numpy()
        total = np.zeros((classes, vectors.shape[1]))
        np.add.at(total, patient.labels, vectors / len(vectors))
        return total.ravel()

    def _features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Clipped coefficients (n, k) and clipped band powers (n, bands), float64."""
        state, spectrum = self._state, self.basis.spectrum(images)
        z = _clip((spectrum[:, self.basis.low] - state["centre"]).double() * state["weight"])
        if not self.bands:
            return z, torch.zeros(len(z), 0).double()
        u = self._band_power(spectrum) / (BAND_REACH * math.sqrt(self.bands))
        return z, _clip(u)

    def _band_power(self, spectrum: Tensor) -> Tensor:
        """Mean power of each high band relative to the prior's (n, bands), float64."""
        high = self.basis.high
        relative = (spectrum[:, high] / self._state["spectrum_std"][high]).double().square()
        members = torch.nn.functional.one_hot(self.band_of, self.bands).double()
        return relative @ (members / members.sum(0))

    def _off_diagonal(self) -> Tensor:
        return torch.where(self.upper[0] == self.upper[1], 1.0, math.sqrt(2)).double()

    def fit(self, noisy_sum: NDArray[np.float64], *, noise_std: float) -> None:
        """Class shares, means, covariances and band powers from the released sum.

        Args:
            noisy_sum: float64, the sum of `statistic` over patients plus noise.
            noise_std: standard deviation of the noise of one coordinate of that sum.

        Raises:
            BadData: wrong length or not finite.
        """
        classes, k = len(self.spec.labels), self.count
        width = 1 + k + k * (k + 1) // 2 + self.bands
        if noisy_sum.shape != (classes * width,) or not np.isfinite(noisy_sum).all():
            raise BadData("The released sum does not fit this generator.", "", "Use the plan's generator settings.")
        table = torch.from_numpy(noisy_sum.reshape(classes, width))
        counts, first, second, power = torch.split(table, [1, k, k * (k + 1) // 2, self.bands], 1)
        floor = max(1.0, noise_std / math.sqrt(COUNT))
        n = (counts[:, 0] / math.sqrt(COUNT)).clamp_min(floor)
        mean = self._fit_means(first / math.sqrt(MEAN), n, noise_std / math.sqrt(MEAN))
        covariance = self._fit_covariances(second / math.sqrt(SECOND), n, mean, noise_std / math.sqrt(SECOND))
        self._state |= {"counts": n.float(), "mean": mean.float(), "covariance": covariance.float()}
        if self.bands:
            self._state["power"] = self._fit_power(power / math.sqrt(BANDS), n, noise_std / math.sqrt(BANDS)).float()

    def _fit_means(self, sums: Tensor, n: Tensor, noise_std: float) -> Tensor:
        """Means (classes, k): shrunk towards the mean of all classes, and that towards the prior."""
        rings = self.basis.rings(self.basis.low, max(1, self.count // 12))
        shared = james_stein(sums.sum(0), noise_std * math.sqrt(len(n)), rings) / n.sum()
        deviations = [james_stein(s - c * shared, noise_std, rings) / c for s, c in zip(sums, n, strict=True)]
        return _clip(shared + torch.stack(deviations))

    def _fit_covariances(self, sums: Tensor, n: Tensor, mean: Tensor, noise_std: float) -> Tensor:
        """Covariances (classes, k, k): shrunk towards the one within all classes, and that towards the prior."""
        scatter = torch.stack([self._matrix(s) - c * torch.outer(m, m) for s, c, m in zip(sums, n, mean, strict=True)])
        entry_std = noise_std / math.sqrt(2)
        target = self._state["prior_covariance"].double()
        shared = self._fit_covariance(scatter.sum(0), float(n.sum()), target, entry_std * math.sqrt(len(n)))
        each = [self._fit_covariance(s, float(c), shared, entry_std) for s, c in zip(scatter, n, strict=True)]
        return torch.stack(each)

    def _fit_covariance(self, scatter: Tensor, n: float, target: Tensor, entry_std: float) -> Tensor:
        """The target, its rings scaled to the variance seen, plus what the eigenvalues show beyond the noise."""
        rings = self.basis.rings(self.basis.low, max(1, self.count // 8))
        wanted, seen = target.diagonal(), scatter.diagonal() / n
        gain = torch.ones(self.count).double()
        for ring in torch.unique(rings):
            member = rings == ring
            noise = entry_std * math.sqrt(2 * int(member.sum())) / n
            difference = float((seen - wanted)[member].sum())
            trusted = difference * max(0.0, 1 - noise**2 / difference**2) if abs(difference) > 2 * noise else 0.0
            gain[member] = math.sqrt(max(0.05, 1 + trusted / float(wanted[member].sum())))
        scaled = target * torch.outer(gain, gain)
        rest = denoise_symmetric(scatter - n * scaled, entry_std=entry_std) / n
        covariance = positive_part(scaled + rest, scaled)
        return covariance / max(1.0, float(covariance.trace()))

    def _fit_power(self, sums: Tensor, n: Tensor, noise_std: float) -> Tensor:
        """Band powers (classes, bands) relative to the prior's, each shrunk towards 1."""
        scale = BAND_REACH * math.sqrt(self.bands)
        excess, noise = sums * scale / n[:, None] - 1, (noise_std * scale / n)[:, None]
        trusted = (1 - noise.square() / excess.square().clamp_min(1e-12)).clamp_min(0) * (excess.abs() > 2 * noise)
        return (1 + excess * trusted).clamp(0.05, scale)

    def _matrix(self, vech: Tensor) -> Tensor:
        half = torch.zeros(self.count, self.count).double()
        half[self.upper[0], self.upper[1]] = vech / self._off_diagonal()
        return half + half.T - torch.diag(half.diagonal())

    def shares(self) -> Tensor:
        """Released share of each class, float32 (classes,); equal shares before a release."""
        counts = self._state["counts"]
        return counts / counts.sum() if float(counts.sum()) > 0 else torch.full_like(counts, 1 / len(counts))

    def low_moments(self) -> tuple[Tensor, Tensor]:
        """Means (classes, k) and covariances (classes, k, k) of the low coefficients themselves, float64."""
        weight = self._state["weight"].double()
        mean = self._state["mean"].double() / weight + self._state["centre"].double()
        return mean, self._state["covariance"].double() / torch.outer(weight, weight)

    def sample(self, conditions: Tensor, *, generator: torch.Generator) -> Tensor:
        """Images float32 (n, c, *spatial) in [-1, 1] for class indices int64 (n,)."""
        bank = self._state["bank"]
        if self.options["prior"] == "texture" or len(bank) == 0:
            return self._textures(conditions, generator).clamp(-1, 1)
        chosen = bank[torch.randint(len(bank), (len(conditions),), generator=generator)]
        return self.transport(chosen, conditions, generator=generator)

    def transport(self, images: Tensor, conditions: Tensor, *, generator: torch.Generator) -> Tensor:
        """Public images moved onto the released moments of the classes asked for; float32, clipped to [-1, 1].

        Low coefficients follow the optimal map between the Gaussians of prior and class, with a fresh share of
        variation so that one public image gives many; high bands are scaled to the released power.
        """
        state, prior = self._state, self._state["prior_covariance"].double()
        spectrum = self.basis.spectrum(images.float())
        z = ((spectrum[:, self.basis.low] - state["centre"]) * state["weight"]).double()
        noise = torch.randn(z.shape, generator=generator).double() @ symmetric_power(prior, 0.5)
        z = math.sqrt(1 - FRESH**2) * z + FRESH * noise
        for label in torch.unique(conditions):
            member = conditions == label
            step = gaussian_map(prior, state["covariance"][label].double())
            z[member] = state["mean"][label].double() + z[member] @ step
        spectrum[:, self.basis.low] = z.float() / state["weight"] + state["centre"]
        if self.bands:
            spectrum[:, self.basis.high] *= state["power"][conditions].sqrt()[:, self.band_of]
        return self.basis.image(spectrum).clamp(-1, 1)

    def _textures(self, conditions: Tensor, generator: torch.Generator) -> Tensor:
        """Gaussian low coefficients and a random texture above them."""
        state = self._state
        spectrum = torch.randn(len(conditions), len(state["spectrum_std"]), generator=generator)
        roots = torch.stack([symmetric_power(c, 0.5) for c in state["covariance"].double()]).float()
        z = state["mean"][conditions] + torch.einsum("nk,nkj->nj", spectrum[:, self.basis.low], roots[conditions])
        spectrum *= state["spectrum_std"]
        if self.bands:
            spectrum[:, self.basis.high] *= state["power"][conditions].sqrt()[:, self.band_of]
        spectrum[:, self.basis.low] = z / state["weight"] + state["centre"]
        return self.basis.image(spectrum)

    def state(self) -> dict[str, Tensor]:
        """Public reference, prior bank and fitted moments, float32."""
        return {name: tensor.clone().contiguous() for name, tensor in self._state.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state; the bank may hold any number of images.

        Raises:
            ProtocolViolation: names, shapes or dtypes do not fit the spec, or a value is not finite.
        """
        check_state(state, self._state, free={"bank"})
        self._state = {name: state[name].clone() for name in self._state}


def _clip(rows: Tensor) -> Tensor:
    """Rows scaled down to norm 1 where they exceed it."""
    clipped: Tensor = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(1.0)
    return clipped
