"""The `principal` family: class moments along principal directions of public images, from one noisy sum over patients.

What limits a release is the noise of covariances: it grows with the number of directions, while a mean costs hardly
anything. So the directions are those in which public images (phantoms) vary most, all classes share one covariance,
and each class has its own along the first few directions, and of all others the strength. Eigenvalues are shrunk, never
cut off (`shrinkage.clean_spectrum`). A sample is a public image that resembles the class, moved onto the released
moments: what the directions do not describe stays as simulated. Directions, centre and scales are public, and fixed
before any patient is read.

>>> spec = GeneratorSpec("principal", 1, (8, 8), ("a", "b"), {"directions": 6, "own": 3})
>>> Principal(spec).sample(torch.tensor([0, 1]), generator=torch.Generator().manual_seed(0)).shape
torch.Size([2, 1, 8, 8])

A public feature map and one release: in the spirit of DP-MEPF (Harder et al., 2023). Shrinkage: see `shrinkage`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manikin.common.errors import BadData, Misconfigured
from manikin.common.generators.base import GeneratorSpec, check_state, check_state_size, read_options
from manikin.common.generators.directions import Directions
from manikin.common.generators.fitting import Sums, fit_covariance, fit_means, fit_strengths
from manikin.common.generators.shrinkage import clean_spectrum, gaussian_map, symmetric_power
from manikin.common.images import Patient

OPTIONS = {"directions": 100, "own": 20, "bank": 1500, "prior": "phantoms"}
MOST = {"directions": 1024, "own": 1024, "bank": 1 << 16}
# Shares of the squared norm bound: second moments of all classes; of a class its count, mean, own second moments, and
# strengths of later directions and of what directions leave.
SHARES = {"second": 0.56, "count": 0.02, "mean": 0.10, "own": 0.24, "strength": 0.08}
FRESH = 0.8  # share of a sample's variation along the directions that does not come from its public image
LEAST_EFFECTIVE = 0.5  # of the bank, counted as (sum w)^2 / sum w^2, is left when images are weighted for a class
RIDGE = 1e-3  # share of the public variance that keeps maps from exploding
BANK_VOXELS = 1 << 22
GROUP = 12


class Principal:
    """Class-conditional Gaussians along public directions, completed by public images that resemble the class."""

    def __init__(self, spec: GeneratorSpec) -> None:
        self.spec = spec
        self.options = read_options(spec, OPTIONS, MOST)
        if self.options["prior"] != "phantoms" or not self.options["directions"]:
            raise Misconfigured("prior is phantoms, and directions at least 1.", "", "Correct the study.")
        k, j = int(self.options["directions"]), int(self.options["own"])
        check_state_size(len(spec.labels) * k**2)
        self.directions = Directions(spec.channels, spec.shape, k, first=min(j, k))
        self.count = self.directions.count
        self.own = min(j, self.count)
        self.norm_bound = 1.0
        self._bank = torch.zeros(0, spec.channels, *spec.shape)
        self._fitted = self._unfitted()

    def _unfitted(self) -> dict[str, Tensor]:
        """Every class has the moments of the public images."""
        classes = len(self.spec.labels)
        return {
            "counts": torch.zeros(classes),
            "mean": torch.zeros(classes, self.count),
            "covariance": torch.diag(self.directions.variance).float().repeat(classes, 1, 1),
            "strength": torch.ones(classes, self.directions.strengths - self.directions.rings),
        }

    def set_prior(self, images: Tensor) -> None:
        """Choose directions, centre and scales, and keep images to move, before any patient is read.

        Args:
            images: float32 (n, c, *spatial) in [-1, 1], phantoms or other public images; n >= 2.
        """
        self.directions.learn(images)
        size = min(len(images), int(self.options["bank"]), max(1, BANK_VOXELS // images[0].numel()))
        self._bank = images[:size].float().clone()
        self._set_fitted(self._unfitted())

    def statistic(self, patient: Patient) -> NDArray[np.float64]:
        """One bounded vector of a patient: the mean over its images of what each adds.

        With z the image's place along the directions, cut to |z| <= 1, and y its first coordinates: an image adds
        a vech(z z^T) to the block of all classes, [b, c z, d vech(y y^T), e u] to that of its class, and 0 to the
        others; u are strengths, |u| <= 1. vech carries sqrt(2) off the diagonal, so |vech(z z^T)| = |z|^2 <= 1, and
        a^2 + ... + e^2 = 1: norm at most 1. So has a mean of such vectors.

        Returns:
            float64 (k (k + 1) / 2 + classes * (1 + k + j (j + 1) / 2 + strengths),), L2 norm at most `norm_bound`.

        Raises:
            BadData: an image is not finite or a label is not one of the spec's.
        """
        images = torch.from_numpy(np.ascontiguousarray(patient.images))
        classes = len(self.spec.labels)
        if not bool(torch.isfinite(images).all()):
            raise BadData("An image holds values that are not finite.", "", "Import the cohort again.")
        if patient.labels.min() < 0 or patient.labels.max() >= classes:
            raise BadData("A label is not one of the study's classes.", "", "Check [data] labels.")
        z = self.directions.measure(images)
        root = {name: math.sqrt(share) for name, share in SHARES.items()}
        seen = {"count": torch.ones(len(z), 1), "mean": z, "own": vech(z[:, : self.own])}
        seen["strength"] = self.directions.measure_strength(images)
        parts = [root[name] * part for name, part in seen.items()]
        each = np.zeros((classes, sum(part.shape[1] for part in parts)))
        np.add.at(each, patient.labels, torch.cat(parts, 1).numpy())
        shared = root["second"] * vech(z).sum(0).numpy()
        result: NDArray[np.float64] = np.concatenate([shared, each.ravel()]) / len(z)
        return result

    def fit(self, noisy_sum: NDArray[np.float64], *, noise_std: float) -> None:
        """Class shares, means and covariances from the released sum.

        Args:
            noisy_sum: float64, the sum of `statistic` over patients plus noise.
            noise_std: standard deviation of the noise of one coordinate of that sum.

        Raises:
            BadData: wrong length or not finite.
        """
        classes, k, j = len(self.spec.labels), self.count, self.own
        triangle, widths = k * (k + 1) // 2, [1, k, j * (j + 1) // 2, self.directions.strengths]
        if noisy_sum.shape != (triangle + classes * sum(widths),) or not np.isfinite(noisy_sum).all():
            raise BadData("The released sum does not fit this generator.", "", "Use the plan's generator settings.")
        values = torch.from_numpy(noisy_sum)
        blocks = [values[:triangle], *torch.split(values[triangle:].reshape(classes, -1), widths, 1)]
        sums = {
            name: Sums(block / math.sqrt(share), noise_std / math.sqrt(share))
            for (name, share), block in zip(SHARES.items(), blocks, strict=True)
        }
        n = sums["count"].values[:, 0].clamp_min(max(1.0, 2 * sums["count"].noise_std))
        means = fit_means(sums["mean"], n, group=GROUP)
        shared, own = fit_strengths(sums["strength"], n, scale=self.directions.strength_scale)
        rings = self.directions.rings
        covariances = self._fit_covariances(sums, n, means, (own / shared)[:, :rings])
        fitted = (sums["count"].values[:, 0].clamp_min(0), means, covariances, own[:, rings:])
        self._set_fitted({name: t.float() for name, t in zip(self._fitted, fitted, strict=True)})

    def _fit_covariances(self, sums: Mapping[str, Sums], n: Tensor, means: Tensor, rings: Tensor) -> Tensor:
        """Covariances (classes, k, k): the shared one, brought along the first directions to a class's own.

        Later directions are as strong in a class beside all classes as `rings` (classes, r) says.
        """
        k, j = self.count, self.own
        scatter = unvech(sums["second"].values, k) - torch.einsum("c,ci,cj->ij", n, means, means)
        prior = torch.diag(self.directions.variance)
        shared = fit_covariance(scatter, float(n.sum()), prior, sums["second"].noise_std, clean=clean_spectrum)
        usual, result = shared[:j, :j], []
        for mean, size, seen, gain in zip(means, n, unvech(sums["own"].values, j), rings, strict=True):
            change = torch.eye(k).double()
            if j:
                around = seen - size * torch.outer(mean[:j], mean[:j])
                wanted = fit_covariance(around, float(size), usual, sums["own"].noise_std, clean=clean_spectrum)
                change[:j, :j] = gaussian_map(usual, wanted)
            change[range(j, k), range(j, k)] = gain[self.directions.ring]
            result.append(change @ shared @ change.T)
        return torch.stack(result)

    def shares(self) -> Tensor:
        """Released share of each class, float32 (classes,); equal shares before a release."""
        counts = self._fitted["counts"]
        return counts / counts.sum() if float(counts.sum()) > 0 else torch.full_like(counts, 1 / len(counts))

    def sample(self, conditions: Tensor, *, generator: torch.Generator) -> Tensor:
        """Images float32 (n, c, *spatial) in [-1, 1] for class indices int64 (n,)."""
        moves, mean = self._moves, self._fitted["mean"].double()[conditions]
        noise = torch.randn(len(conditions), self.count, generator=generator).double()
        place = mean + torch.einsum("nk,nkj->nj", noise, moves.roots[conditions])
        public = self.directions.centre(len(mean))
        if len(self._bank):
            chosen = torch.multinomial(moves.weights[conditions], 1, generator=generator)[:, 0]
            own = moves.places[chosen] - moves.centres[conditions]
            moved = torch.einsum("nk,nkj->nj", own, moves.maps[conditions])
            place = mean + math.sqrt(1 - FRESH**2) * moved + FRESH * (place - mean)
            public = self._bank[chosen]
        return self.directions.moved(public, place, moves.gains[conditions]).clamp(-1, 1)

    @cached_property
    def _moves(self) -> Moves:
        """How the bank's images go to each class; computed once a fit."""
        covariances, means = self._fitted["covariance"].double(), self._fitted["mean"].double()
        roots = torch.stack([symmetric_power(c, 0.5) for c in covariances])
        if len(self._bank) == 0:
            empty = torch.zeros(len(means), 0)
            return Moves(empty, empty, means, roots, roots, self._fitted["strength"])
        places = self.directions.places(self._bank)
        weights = torch.stack([_resemblance(places, m, c) for m, c in zip(means, covariances, strict=True)])
        centres = weights @ places
        maps = []
        for weight, centre, covariance in zip(weights, centres, covariances, strict=True):
            away = places - centre
            source = (away * weight[:, None]).T @ away + RIDGE * torch.diag(self.directions.variance)
            maps.append(gaussian_map(source, covariance))
        usual = weights @ self.directions.strength(self._bank)[:, self.directions.rings :]
        gains = self._fitted["strength"] / usual.clamp_min(0.05)
        return Moves(weights, places, centres, torch.stack(maps), roots, gains)

    def described(self, images: Tensor) -> Tensor:
        """The part of images, or of differences of images, (n, c, *spatial) that the release speaks of."""
        return self.directions.part(images)

    @classmethod
    def from_state(cls, spec: GeneratorSpec, state: Mapping[str, Tensor]) -> Principal:
        """The family with a state, for images of `spec`, to sample from; sizes are read from the tensors' shapes.

        Raises:
            ProtocolViolation: the tensors do not fit each other or the spec.
        """
        sizes = {"vectors": 2, "strength": 2, "power": 1}
        if not all(name in state and state[name].ndim == ndim for name, ndim in sizes.items()):
            check_state(state, {name: torch.zeros([1] * ndim) for name, ndim in sizes.items()})
        k, rings = state["vectors"].shape[1], len(state["power"]) - state["strength"].shape[1]
        if not 0 <= rings <= k:
            check_state(state, {})
        options = {"directions": k, "own": k - rings}
        family = cls(GeneratorSpec("principal", spec.channels, spec.shape, spec.labels, options))
        family.load_state(state)
        return family

    def state(self) -> dict[str, Tensor]:
        """Public directions, bank of public images and fitted moments, float32."""
        tensors = self.directions.tensors | {"bank": self._bank} | self._fitted
        return {name: tensor.clone().contiguous() for name, tensor in tensors.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state; the bank may hold any number of images.

        Raises:
            ProtocolViolation: names, shapes or dtypes do not fit the spec, or a value is not finite.
        """
        check_state(state, self.state(), free={"bank"})
        self.directions.load(state)
        self._bank = state["bank"].clone()
        self._set_fitted({name: state[name].clone() for name in self._fitted})

    def _set_fitted(self, fitted: dict[str, Tensor]) -> None:
        self._fitted = fitted
        self.__dict__.pop("_moves", None)


@dataclass(frozen=True)
class Moves:
    """Places of the bank's images (n, k), and per class: their weights, weighted centres, maps, roots and gains."""

    weights: Tensor
    places: Tensor
    centres: Tensor
    maps: Tensor
    roots: Tensor
    gains: Tensor


def vech(rows: Tensor) -> Tensor:
    """Upper triangles of z z^T (n, k (k + 1) / 2), off the diagonal times sqrt(2): as long as |z|^2."""
    upper = torch.triu_indices(rows.shape[1], rows.shape[1])
    factor = torch.where(upper[0] == upper[1], 1.0, math.sqrt(2)).double()
    return rows[:, upper[0]] * rows[:, upper[1]] * factor


def unvech(triangles: Tensor, k: int) -> Tensor:
    """Symmetric matrices (..., k, k) of weighted upper triangles."""
    upper = torch.triu_indices(k, k)
    factor = torch.where(upper[0] == upper[1], 1.0, math.sqrt(0.5)).double()
    half = torch.zeros(*triangles.shape[:-1], k, k).double()
    half[..., upper[0], upper[1]] = triangles * factor
    return half + half.mT - torch.diag_embed(half.diagonal(dim1=-2, dim2=-1))


def _resemblance(places: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Weights (n,) of images: their density under a Gaussian, tempered until enough of them count."""
    away = (places - mean) @ symmetric_power(covariance, -0.5)
    energy = 0.5 * away.square().sum(1)
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        weights = torch.softmax(-middle * energy, 0)
        enough = float(1 / weights.square().sum()) >= LEAST_EFFECTIVE * len(places)
        low, high = (middle, high) if enough else (low, middle)
    return torch.softmax(-low * energy, 0)
