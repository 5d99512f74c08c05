"""Released moments of each class in coefficient space: where a sampler starts, and what its images end up with.

At a high noise level a class looks Gaussian, so a draw from the released Gaussian plus noise is the right start; at the
end, images of a class are moved so that their low coefficients have the released mean and covariance. Both are
post-processing of a private release.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from manikin.common.generators.base import GeneratorSpec, check_state
from manikin.common.generators.moments import Moments
from manikin.common.generators.shrinkage import gaussian_map, symmetric_power
from manikin.common.generators.transforms import CosineBasis

START_SIGMA, BLIND_SIGMA = 5.0, 40.0


@dataclass(frozen=True)
class ReleasedMoments:
    """Mean (classes, k) and covariance (classes, k, k) of low coefficients; k = 0 before a release."""

    spec: GeneratorSpec
    mean: Tensor
    covariance: Tensor
    shares: Tensor

    @classmethod
    def empty(cls, spec: GeneratorSpec) -> ReleasedMoments:
        classes = len(spec.labels)
        return cls(spec, torch.zeros(classes, 0), torch.zeros(classes, 0, 0), torch.full((classes,), 1 / classes))

    @classmethod
    def of(cls, moments: Moments) -> ReleasedMoments:
        mean, covariance = moments.low_moments()
        return cls(moments.spec, mean.float(), covariance.float(), moments.shares())

    def state(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "covariance": self.covariance, "shares": self.shares}

    @classmethod
    def from_state(cls, spec: GeneratorSpec, state: Mapping[str, Tensor]) -> ReleasedMoments:
        """Read from a state; k comes from the mean's shape.

        Raises:
            ProtocolViolation: shapes do not fit together.
        """
        classes = len(spec.labels)
        mean = state.get("mean", torch.zeros(0, 0))
        k = mean.shape[1] if mean.ndim == 2 else 0
        wanted = {
            "mean": torch.zeros(classes, k),
            "covariance": torch.zeros(classes, k, k),
            "shares": torch.zeros(classes),
        }
        check_state(state, wanted)
        return cls(spec, **{name: state[name].clone() for name in wanted})

    @property
    def count(self) -> int:
        return self.mean.shape[1]

    def basis(self) -> CosineBasis:
        return CosineBasis(self.spec.channels, self.spec.shape, self.count)

    def start_sigma(self) -> float:
        """Noise level at which sampling may start."""
        return START_SIGMA if self.count else BLIND_SIGMA

    def draw(self, conditions: Tensor, generator: torch.Generator) -> Tensor:
        """Smooth images (n, c, *spatial) of the released Gaussians; zeros before a release."""
        images = torch.zeros(len(conditions), self.spec.channels, *self.spec.shape)
        if not self.count:
            return images
        roots = torch.stack([symmetric_power(c, 0.5) for c in self.covariance.double()]).float()
        noise = torch.randn(len(conditions), self.count, generator=generator)
        low = self.mean[conditions] + torch.einsum("nk,nkj->nj", noise, roots[conditions])
        return self.basis().replace_low(images, low)

    def match(self, images: Tensor, conditions: Tensor, *, strength: float) -> Tensor:
        """Images whose low coefficients are moved, class by class, towards the released mean and covariance.

        The sample covariance of few images is unsure, so it is mixed with the released one as if that were k more
        images: a class of one image is hardly moved in covariance, a class of thousands is moved in full.
        """
        if not self.count or strength == 0:
            return images
        basis, count = self.basis(), self.count
        low = basis.forward(images).double()
        moved = low.clone()
        for label in torch.unique(conditions):
            member = conditions == label
            n, target = int(member.sum()), self.covariance[label].double()
            trust = n / (n + count)
            own = low[member].mean(0)
            centred = low[member] - own
            seen = trust * (centred.T @ centred) / n + (1 - trust) * target
            centre = own + trust * (self.mean[label].double() - own)
            moved[member] = centre + centred @ gaussian_map(seen, target)
        return basis.replace_low(images, low + strength * (moved - low))
