"""Class moments from noisy sums: each class shrunk towards all classes together, and those towards the prior.

The noise is known, so every estimate trusts the sum as far as it stands out of the noise, and converges to the plain
average as the noise vanishes. A class with a handful of patients gets the moments of all classes, never NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from manikin.common.generators.features import cut
from manikin.common.generators.shrinkage import denoise_symmetric, james_stein, positive_part

Clean = Callable[..., Tensor]
GAIN_GROUP = 8
SMALLEST_GAIN = 0.05


@dataclass(frozen=True)
class Sums:
    """Released sums (classes, ...), float64, and the noise of one coordinate."""

    values: Tensor
    noise_std: float


def fit_means(sums: Sums, n: Tensor, *, group: int) -> Tensor:
    """Means (classes, k), in the unit ball: shrunk in groups of about `group` neighbouring coefficients.

    Args:
        sums: (classes, k).
        n: noisy counts (classes,), positive.
        group: coefficients that share one shrinkage factor.
    """
    k = sums.values.shape[1]
    rings = torch.arange(k) * max(1, k // group) // max(k, 1)
    shared = james_stein(sums.values.sum(0), sums.noise_std * math.sqrt(len(n)), rings) / n.sum()
    own = [james_stein(s - c * shared, sums.noise_std, rings) / c for s, c in zip(sums.values, n, strict=True)]
    return cut(shared + torch.stack(own))


def fit_covariances(sums: Sums, n: Tensor, mean: Tensor, *, prior_variance: float) -> Tensor:
    """Covariances (classes, k, k) of features whose prior covariance is `prior_variance` times the identity.

    Args:
        sums: second moments (classes, k, k); `noise_std` is that of a diagonal entry, others have it over sqrt(2).
        n: noisy counts (classes,), positive.
        mean: fitted means (classes, k).
    """
    scatter = sums.values - n[:, None, None] * mean[:, :, None] * mean[:, None, :]
    prior = prior_variance * torch.eye(mean.shape[1]).double()
    shared = fit_covariance(scatter.sum(0), float(n.sum()), prior, sums.noise_std * math.sqrt(len(n)))
    own = [fit_covariance(s, float(c), shared, sums.noise_std) for s, c in zip(scatter, n, strict=True)]
    return torch.stack(own)


def fit_covariance(
    scatter: Tensor, n: float, target: Tensor, noise_std: float, *, clean: Clean = denoise_symmetric
) -> Tensor:
    """The target, scaled to the variance seen, plus what `clean` makes of the rest.

    Args:
        scatter: sum over n patients (k, k); `noise_std` is that of a diagonal entry, others have it over sqrt(2).
        n: noisy count, positive.
        target: covariance expected before (k, k).
        noise_std: of the sum.
        clean: takes a matrix and the noise of its off-diagonal entries.
    """
    gain = _gains(target.diagonal(), scatter.diagonal() / n, noise_std / n)
    scaled = target * torch.outer(gain, gain)
    rest = clean(scatter - n * scaled, entry_std=noise_std / math.sqrt(2)) / n
    covariance = positive_part(scaled + rest, scaled)
    return covariance / max(1.0, float(covariance.trace()))


def _gains(wanted: Tensor, seen: Tensor, noise_std: float) -> Tensor:
    """Factors (k,) on standard deviations, one for each group of neighbouring coefficients."""
    k = len(wanted)
    rings = torch.arange(k) * max(1, k // GAIN_GROUP) // k
    gain = torch.ones(k).double()
    for ring in range(int(rings.max()) + 1):
        member = rings == ring
        difference = float((seen - wanted)[member].sum())
        trusted = difference * trust(difference, noise_std * math.sqrt(int(member.sum())))
        gain[member] = math.sqrt(max(SMALLEST_GAIN, 1 + trusted / float(wanted[member].sum())))
    return gain


def trust(observed: float, noise_std: float) -> float:
    """Share of an observed deviation to believe: 0 within two standard deviations of noise, 1 without noise.

    >>> trust(1.0, 0.0), trust(1.0, 0.6), round(trust(4.0, 1.0), 4)
    (1.0, 0.0, 0.9375)
    """
    return 1 - (noise_std / observed) ** 2 if abs(observed) > 2 * noise_std else 0.0


def fit_amplitudes(
    deviation: Sums, squares: Sums, n: Tensor, *, scale: float, prior_std: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean amplitude of each band and class (classes, b), relative to the prior's, and its spread (b,).

    Spreads are those of the prior times one factor for all classes and bands: more the noise does not bear.

    Args:
        deviation: sums (classes, b) of `scale` times (amplitude - 1).
        squares: sums (classes, b) of the squares of those.
        n: noisy counts (classes,), positive.
        scale: feature units of an amplitude of 1.
        prior_std: spread of the public images' amplitudes (b,).
    """
    noise = deviation.noise_std / scale / n
    seen = deviation.values / scale / n[:, None]
    shift = torch.stack([v * trust(float(v), float(noise[c])) for c, row in enumerate(seen) for v in row])
    scatter = squares.values / scale**2 - n[:, None] * (seen.square() - noise.square()[:, None])
    expected = float(n.sum() * prior_std.square().sum())
    difference = float(scatter.sum()) - expected
    noise_of_sum = squares.noise_std / scale**2 * math.sqrt(scatter.numel())
    factor = 1 + trust(difference, noise_of_sum) * difference / expected if expected > 0 else 1.0
    return (1 + shift.reshape(seen.shape)).clamp(0.1, 5.0), prior_std * math.sqrt(min(max(factor, 0.1), 4.0))


def fit_strengths(deviation: Sums, n: Tensor, *, scale: float) -> tuple[Tensor, Tensor]:
    """Mean strength of each band, relative to the public images': of all classes (b,), and of each (classes, b).

    Args:
        deviation: sums (classes, b) of `scale` times (strength - 1).
        n: noisy counts (classes,), positive.
        scale: feature units of a strength of 1.
    """
    unit = deviation.noise_std / scale
    together = deviation.values.sum(0) / scale / n.sum()
    shared = _believed(together, unit * math.sqrt(len(n)) / float(n.sum()))
    rows = [_believed(v / scale / c - shared, unit / float(c)) for v, c in zip(deviation.values, n, strict=True)]
    return (1 + shared).clamp(0.1, 5.0), (1 + shared + torch.stack(rows)).clamp(0.1, 5.0)


def _believed(values: Tensor, noise_std: float) -> Tensor:
    """Each value (b,) times what is to be believed of it."""
    return torch.stack([value * trust(float(value), noise_std) for value in values])
