"""Estimating means and covariances from sums whose noise is known.

The noise of a released sum is not estimated, it is public: so each estimate moves away from its target (what a
prior says) only as far as the evidence exceeds the noise, and comes closer to the plain average as noise falls.
Nothing here sees a patient.

A covariance plus symmetric Gaussian noise is shrunk eigenvalue by eigenvalue (Bun, Bouchaud and Potters, "Cleaning
large correlation matrices", Phys. Rep. 2017, additive noise): xi = lambda - 2 s^2 h(lambda), with h the Hilbert
transform of the spectrum. A lone eigenvalue y above the noise goes to sqrt(y^2 - 4 s^2):

>>> noisy = torch.zeros(200, 200, dtype=torch.float64); noisy[0, 0] = 50.0
>>> float(denoise_symmetric(noisy, entry_std=0.0)[0, 0])
50.0
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def james_stein(observed: Tensor, noise_std: float, groups: Tensor) -> Tensor:
    """Shrink a noisy vector (k,) towards zero, group by group, by the share of its energy that noise explains."""
    result = torch.zeros_like(observed)
    for group in torch.unique(groups):
        member = groups == group
        energy = float(observed[member].square().sum())
        expected = int(member.sum()) * noise_std**2
        result[member] = observed[member] * (max(0.0, 1 - expected / energy) if energy > 0 else 0.0)
    return result


def denoise_symmetric(observed: Tensor, *, entry_std: float) -> Tensor:
    """Shrink a symmetric matrix (k, k) observed with symmetric Gaussian noise towards zero.

    Args:
        observed: float64, truth plus noise.
        entry_std: noise standard deviation of an off-diagonal entry (a diagonal one has sqrt(2) times that).
    """
    k = len(observed)
    edge = entry_std * math.sqrt(k)
    if edge == 0:
        return observed
    values, vectors = torch.linalg.eigh(observed)
    beyond = values.abs() > 2 * edge * (1 + 0.6 * k ** (-2 / 3))
    shrunk = values.sign() * (values.square() - 4 * edge**2).clamp_min(0).sqrt() * beyond
    result: Tensor = (vectors * shrunk) @ vectors.T
    return result


def clean_spectrum(observed: Tensor, *, entry_std: float) -> Tensor:
    """Shrink a symmetric matrix (k, k) observed with symmetric Gaussian noise, where many directions hold a little.

    Every eigenvalue goes to lambda - 2 s^2 h(lambda), s^2 = k entry_std^2, h the Hilbert transform of the spectrum
    seen, smoothed over `entry_std`: no edge below which all is dropped, as in `denoise_symmetric`.

    Args:
        observed: float64, truth plus noise.
        entry_std: noise standard deviation of an off-diagonal entry (a diagonal one has sqrt(2) times that).
    """
    k = len(observed)
    if entry_std == 0:
        return observed
    values, vectors = torch.linalg.eigh(observed)
    gaps = values[:, None] - values[None]
    hilbert = (gaps / (gaps.square() + entry_std**2)).mean(1)
    cleaned: Tensor = (vectors * (values - 2 * k * entry_std**2 * hilbert)) @ vectors.T
    return cleaned


def symmetric_power(matrix: Tensor, power: float) -> Tensor:
    """A power of a positive semi-definite matrix; eigenvalues below 1e-10 of the largest are lifted to that."""
    values, vectors = torch.linalg.eigh(matrix)
    floor = max(float(values[-1]) * 1e-10, 1e-30)
    result: Tensor = (vectors * values.clamp_min(floor).pow(power)) @ vectors.T
    return result


def positive_part(matrix: Tensor, reference: Tensor, *, floor: float = 0.25) -> Tensor:
    """The matrix, its variance in no direction below `floor` times that of `reference`."""
    root, inverse = symmetric_power(reference, 0.5), symmetric_power(reference, -0.5)
    values, vectors = torch.linalg.eigh(inverse @ matrix @ inverse)
    result: Tensor = root @ (vectors * values.clamp_min(floor)) @ vectors.T @ root
    return result


def gaussian_map(source: Tensor, target: Tensor) -> Tensor:
    """The symmetric matrix A with A source A = target: the optimal transport map between two centred Gaussians."""
    root, inverse = symmetric_power(source, 0.5), symmetric_power(source, -0.5)
    return inverse @ symmetric_power(root @ target @ root, 0.5) @ inverse
