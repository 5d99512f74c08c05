"""The `moments` family: per-class count, mean and covariance of low frequencies, from one noisy sum over patients.

What a small budget can buy of a class sits in a few low-frequency moments. A patient gives one bounded vector; the
noisy sum of all of them is fitted by shrinkage that knows the noise (`fitting`, `shrinkage`); samples are public images
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

from manikin.common.errors import BadData, Misconfigured
from manikin.common.generators.base import GeneratorSpec, check_state, check_state_size, read_options
from manikin.common.generators.features import FeatureMap
from manikin.common.generators.fitting import Sums, fit_amplitudes, fit_covariances, fit_means
from manikin.common.generators.shrinkage import symmetric_power
from manikin.common.generators.transforms import CosineBasis
from manikin.common.images import Patient

OPTIONS = {"coefficients": 49, "middle": 0, "bands": 6, "bank": 512, "prior": "phantoms"}
MOST = {"coefficients": 1024, "middle": 1 << 20, "bands": 16, "bank": 1 << 16}
# Shares of the squared norm bound: count, means, second moments, middle means, band amplitudes and
# their squares; a block without coordinates leaves its share to the others.
SHARES = {"count": 0.04, "mean": 0.24, "second": 0.64, "middle": 0.24, "amplitude": 0.04, "power": 0.04}
BANK_VOXELS = 1 << 22
FRESH = 0.35  # share of a sample's variation that does not come from its public image


class Moments:
    """Class-conditional Gaussians over low cosine coefficients, completed by a public prior."""

    def __init__(self, spec: GeneratorSpec) -> None:
        self.spec = spec
        self.options = read_options(spec, OPTIONS, MOST)
        if self.options["prior"] not in ("phantoms", "texture") or not self.options["coefficients"]:
            raise Misconfigured("prior is phantoms or texture, and coefficients at least 1.", "", "Correct the study.")
        voxels = spec.channels * math.prod(spec.shape)
        self.count = min(int(self.options["coefficients"]), voxels)
        check_state_size(len(spec.labels) * self.count**2)
        basis = CosineBasis(spec.channels, spec.shape, self.count)
        self.features = FeatureMap(basis, middle=int(self.options["middle"]), bands=int(self.options["bands"]))
        self.upper = torch.triu_indices(self.count, self.count)
        self.norm_bound = 1.0
        self._widths = self._block_widths()
        present = {name: share * (width > 0) for (name, share), width in zip(SHARES.items(), self._widths, strict=True)}
        self._shares = {name: share / sum(present.values()) for name, share in present.items()}
        self._bank = torch.zeros(0, spec.channels, *spec.shape)
        self._fitted = self._unfitted()

    def _block_widths(self) -> list[int]:
        """Coordinates of each block of a class, in the order of `SHARES`."""
        features = self.features
        triangle, bands = len(self.upper[0]), features.band_count
        return [1, self.count, triangle, len(features.middle), bands, bands]

    def _unfitted(self) -> dict[str, Tensor]:
        """Every class has the moments of the prior."""
        classes, features = len(self.spec.labels), self.features
        return {
            "counts": torch.zeros(classes),
            "mean": torch.zeros(classes, self.count),
            "covariance": (features.low_variance * torch.eye(self.count)).repeat(classes, 1, 1),
            "middle": torch.zeros(classes, len(features.middle)),
            "amplitude": torch.ones(classes, features.band_count),
            "amplitude_std": features.tensors["band_std"].clone(),
        }

    def set_prior(self, images: Tensor) -> None:
        """Centre, whiten and complete by public images, before any patient is read.

        Args:
            images: float32 (n, c, *spatial) in [-1, 1], phantoms or other public images; n >= 2.
        """
        self.features.learn(images)
        size = min(len(images), int(self.options["bank"]), max(1, BANK_VOXELS // images[0].numel()))
        self._bank = images[:size].float().clone()
        self._fitted = self._unfitted()

    def statistic(self, patient: Patient) -> NDArray[np.float64]:
        """One bounded vector of a patient: the mean over its images of what each adds to the block of its class.

        An image adds [a, b z, c vech(z z^T), d m, e u, f u^2] to the block of its class and 0 to all others. Cut
        features have |z|, |m|, |u| <= 1; vech carries sqrt(2) off the diagonal, so |vech(z z^T)| = |z|^2 <= 1;
        |u^2| <= |u|^2 <= 1; and a^2 + ... + f^2 = 1: norm at most 1. So has a mean of such vectors.

        Returns:
            float64 (classes * (1 + k + k (k + 1) / 2 + middle + 2 bands),), L2 norm at most `norm_bound`.

        Raises:
            BadData: an image is not finite or a label is not one of the spec's.
        """
        images = torch.from_numpy(np.ascontiguousarray(patient.images))
        classes = len(self.spec.labels)
        if not bool(torch.isfinite(images).all()):
            raise BadData("An image holds values that are not finite.", "", "Import the cohort again.")
        if patient.labels.min() < 0 or patient.labels.max() >= classes:
            raise BadData("A label is not one of the study's classes.", "", "Check [data] labels.")
        seen = self.features.measure(images)
        vech = seen.low[:, self.upper[0]] * seen.low[:, self.upper[1]] * self._off_diagonal()
        parts = (torch.ones(len(images), 1), seen.low, vech, seen.middle, seen.bands, seen.bands.square())
        scaled = [math.sqrt(s) * part for s, part in zip(self._shares.values(), parts, strict=True)]
        vectors = torch.cat(scaled, 1).numpy() / len(images)
        total = np.zeros((classes, vectors.shape[1]))
        np.add.at(total, patient.labels, vectors)
        return total.ravel()

    def _off_diagonal(self) -> Tensor:
        return torch.where(self.upper[0] == self.upper[1], 1.0, math.sqrt(2)).double()

    def fit(self, noisy_sum: NDArray[np.float64], *, noise_std: float) -> None:
        """Class shares, means, covariances and band amplitudes from the released sum.

        Args:
            noisy_sum: float64, the sum of `statistic` over patients plus noise.
            noise_std: standard deviation of the noise of one coordinate of that sum.

        Raises:
            BadData: wrong length or not finite.
        """
        classes, features = len(self.spec.labels), self.features
        if noisy_sum.shape != (classes * sum(self._widths),) or not np.isfinite(noisy_sum).all():
            raise BadData("The released sum does not fit this generator.", "", "Use the plan's generator settings.")
        blocks = torch.split(torch.from_numpy(noisy_sum.reshape(classes, -1)), self._widths, 1)
        named = zip(self._shares.items(), blocks, strict=True)
        sums = {
            name: Sums(block / math.sqrt(share or 1), noise_std / math.sqrt(share or 1))
            for (name, share), block in named
        }
        n = sums["count"].values[:, 0].clamp_min(max(1.0, 2 * sums["count"].noise_std))
        mean = fit_means(sums["mean"], n, group=12)
        second = Sums(self._matrices(sums["second"].values), sums["second"].noise_std)
        covariance = fit_covariances(second, n, mean, prior_variance=features.low_variance)
        scales = (features.band_scale, features.tensors["band_std"].double())
        middle = fit_means(sums["middle"], n, group=25) / features.middle_scale
        amplitude, spread = fit_amplitudes(sums["amplitude"], sums["power"], n, scale=scales[0], prior_std=scales[1])
        fitted = (sums["count"].values[:, 0].clamp_min(0), mean, covariance, middle, amplitude, spread)
        self._fitted = {name: t.float() for name, t in zip(self._fitted, fitted, strict=True)}

    def _matrices(self, vech: Tensor) -> Tensor:
        """Symmetric matrices (classes, k, k) of their weighted upper triangles."""
        half = torch.zeros(len(vech), self.count, self.count).double()
        half[:, self.upper[0], self.upper[1]] = vech / self._off_diagonal()
        return half + half.mT - torch.diag_embed(half.diagonal(dim1=1, dim2=2))

    def shares(self) -> Tensor:
        """Released share of each class, float32 (classes,); equal shares before a release."""
        counts = self._fitted["counts"]
        return counts / counts.sum() if float(counts.sum()) > 0 else torch.full_like(counts, 1 / len(counts))

    def low_moments(self) -> tuple[Tensor, Tensor]:
        """Means (classes, k) and covariances (classes, k, k) of the low coefficients themselves, float64."""
        unwhiten = self.features.tensors["unwhiten"].double()
        mean = self.features.unwhiten(self._fitted["mean"]).double()
        return mean, unwhiten @ self._fitted["covariance"].double() @ unwhiten

    def sample(self, conditions: Tensor, *, generator: torch.Generator) -> Tensor:
        """Images float32 (n, c, *spatial) in [-1, 1] for class indices int64 (n,)."""
        bank = self._bank
        if self.options["prior"] == "texture" or len(bank) == 0:
            tensors = self.features.tensors
            noise = torch.randn(len(conditions), len(tensors["spectrum_std"]), generator=generator)
            public = self.features.basis.image(noise * tensors["spectrum_std"] + tensors["spectrum_mean"])
        else:
            public = bank[torch.randint(len(bank), (len(conditions),), generator=generator)]
        return self.transport(public, conditions, generator=generator)

    def transport(self, images: Tensor, conditions: Tensor, *, generator: torch.Generator) -> Tensor:
        """Public images moved onto the released moments of the classes asked for; float32, clipped to [-1, 1].

        Low coefficients follow the optimal map between the Gaussians of prior and class, with a fresh share of
        variation so that one public image gives many; high bands go to the released amplitudes.
        """
        features, fitted = self.features, self._fitted
        spectrum = features.basis.spectrum(images.float())
        z = features.whiten(spectrum).float() * math.sqrt((1 - FRESH**2) / features.low_variance)
        z += FRESH * torch.randn(z.shape, generator=generator)
        roots = torch.stack([symmetric_power(c, 0.5) for c in fitted["covariance"].double()]).float()
        moved = fitted["mean"][conditions] + torch.einsum("nk,nkj->nj", z, roots[conditions])
        if features.band_count:
            self._raise_bands(spectrum, conditions)
        spectrum[:, features.basis.low] = features.unwhiten(moved)
        spectrum[:, features.middle] += self._shift(conditions)
        return features.basis.image(spectrum).clamp(-1, 1)

    def _shift(self, conditions: Tensor) -> Tensor:
        """What to add to middle coefficients, so that their means become the released ones (n, middle)."""
        features, fitted, middle = self.features, self._fitted, self.features.middle
        usual = fitted["amplitude"][:, features.band_of[: len(middle)]] if features.band_count else 1.0
        mean, std = features.tensors["spectrum_mean"][middle], features.tensors["spectrum_std"][middle]
        return (fitted["middle"] * std + (1 - usual) * mean)[conditions]

    def _random_amplitude(self) -> Tensor:
        """Released amplitude of each band (classes, bands) less what the shift of the means already brings."""
        features, amplitude = self.features, self._fitted["amplitude"]
        middle, mean, std = features.middle, features.tensors["spectrum_mean"], features.tensors["spectrum_std"]
        relative = self._fitted["middle"] * std[middle] / (mean[middle].square() + std[middle].square()).sqrt()
        band = features.band_of[: len(middle)].expand(len(relative), -1)
        power = torch.zeros_like(amplitude).scatter_add_(1, band, relative.square()) / features.band_of.bincount()
        return (amplitude.square() - power).clamp_min(0.05 * amplitude.square()).sqrt()

    def _raise_bands(self, spectrum: Tensor, conditions: Tensor) -> None:
        """Bring band amplitudes to the released ones, in place."""
        features, fitted, tensors = self.features, self._fitted, self.features.tensors
        high = features.basis.high
        own = features.amplitudes(spectrum).float()
        stretch = fitted["amplitude_std"] / tensors["band_std"]
        wanted = self._random_amplitude()[conditions] + stretch * (own - 1)
        gain = wanted.clamp_min(0.1) / own.clamp_min(0.05)
        spectrum[:, high] *= gain[:, features.band_of]

    def described(self, images: Tensor) -> Tensor:
        """The part of images, or of differences of images, (n, c, *spatial) whose moments are released: low cosines."""
        basis = self.features.basis
        spectrum = torch.zeros(len(images), len(basis.radius))
        spectrum[:, basis.low] = basis.forward(images)
        return basis.image(spectrum)

    @classmethod
    def from_state(cls, spec: GeneratorSpec, state: Mapping[str, Tensor]) -> Moments:
        """The moments that a state holds, for images of `spec`; their sizes are read from the tensors' shapes.

        Raises:
            ProtocolViolation: the tensors do not fit each other or the spec.
        """
        sizes = {"coefficients": "mean", "middle": "middle", "bands": "amplitude"}
        if not all(name in state and state[name].ndim == 2 for name in sizes.values()):
            check_state(state, {name: torch.zeros(1, 1) for name in sizes.values()})
        options = {option: state[name].shape[1] for option, name in sizes.items()}
        moments = cls(GeneratorSpec("moments", spec.channels, spec.shape, spec.labels, options))
        moments.load_state(state)
        return moments

    def state(self) -> dict[str, Tensor]:
        """Public scales, bank of public images and fitted moments, float32."""
        tensors = self.features.tensors | {"bank": self._bank} | self._fitted
        return {name: tensor.clone().contiguous() for name, tensor in tensors.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state; the bank may hold any number of images.

        Raises:
            ProtocolViolation: names, shapes or dtypes do not fit the spec, or a value is not finite.
        """
        check_state(state, self.state(), free={"bank"})
        self.features.load(state)
        self._bank = state["bank"].clone()
        self._fitted = {name: state[name].clone() for name in self._fitted}
