"""The Gaussian mechanism on sums over patients: bound each contribution, add exactly, noise, on a public grid.

All values are multiples of a grid that depends on the noise level alone. A contribution is rounded towards zero onto
it, which never lengthens it, so the sum is exact in float64, does not depend on the order of the patients, and changes
by at most the sensitivity when one comes or goes (float sums do not: Casacuberta et al. 2022). The noise is a float64
normal rounded to the same grid; adding it is exact too, so the result is the ideal Gaussian mechanism, rounded, up to
how well 64 random bits approximate a normal. Floating-point attacks (Mironov 2012) are thereby mitigated, not
excluded: beyond about seven standard deviations the drawn normals are coarser than the grid.

>>> from manikin.common.wire import request_digest
>>> from manikin.privacy.randomness import Stream
>>> stream = Stream(bytes(32), request=request_digest({"step": 0}), purpose="noise")
>>> noisy = release_sum([np.full(4, 0.5)] * 1000, sensitivity=1.0, noise_multiplier=3.7, stream=stream)
>>> bool(np.all(np.abs(noisy - 500) < 8 * 3.7)), public_grid(3.7) == 2.0**-23
(True, True)
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from manikin.common.errors import Misconfigured, ProtocolViolation
from manikin.privacy.randomness import Stream

GRID_BITS = 24

Vector = NDArray[np.float64]


def public_grid(noise_std: float) -> float:
    """The largest power of two that is at most 2**-24 noise standard deviations.

    Raises:
        Misconfigured: the noise is not positive and finite.
    """
    if not (math.isfinite(noise_std) and noise_std > 0):
        raise Misconfigured(f"Noise must have a positive standard deviation, not {noise_std}.")
    return 2.0 ** (math.floor(math.log2(noise_std)) - GRID_BITS)


def clip(vector: Vector, *, bound: float, out: Vector | None = None) -> tuple[Vector, float]:
    """`vector` scaled to L2 norm at most `bound`, and its norm before; zero where it is not finite.

    Never raises for what the vector holds, so that whether a step succeeds says nothing about a patient. What has to be
    written goes to `out`, which may be `vector` itself, or to a new vector.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        norm = float(np.linalg.norm(vector))
    if not math.isfinite(norm):
        return np.zeros_like(vector), norm
    return (np.multiply(vector, bound / norm, out=out), norm) if norm > bound else (vector, norm)


def round_to_zero(vector: Vector, *, grid: float, out: Vector | None = None) -> Vector:
    """`vector` on the grid, each coordinate no farther from zero than it was; written to `out` as in `clip`."""
    rounded: Vector = np.divide(vector, grid, out=out)
    np.trunc(rounded, out=rounded)
    return np.multiply(rounded, grid, out=rounded)


def grid_noise(size: int, *, noise_std: float, stream: Stream) -> Vector:
    """float64 (size,): normals with standard deviation `noise_std`, rounded to its public grid."""
    grid = public_grid(noise_std)
    noise: Vector = np.rint(stream.normal(size) * (noise_std / grid)) * grid
    return noise


def release_sum(
    contributions: Iterable[Vector],
    *,
    sensitivity: float,
    noise_multiplier: float,
    stream: Stream,
    size: int | None = None,
) -> Vector:
    """Noisy sum of one bounded vector per patient.

    Args:
        contributions: float64 vectors (d,), one per patient. One longer than `sensitivity` is cut to it, and one that
            is not finite counts as zero: an error would tell of that patient, without noise.
        sensitivity: largest L2 norm of one patient's vector.
        noise_multiplier: noise standard deviation in units of `sensitivity`.
        stream: source of the noise, used for nothing else.
        size: d; may be left out where the cohort cannot be empty.

    Returns:
        float64 vector (d,), on the public grid of the noise.

    Raises:
        ProtocolViolation: a vector has another shape or type than its family's.
        Misconfigured: sensitivity or noise is not positive, or an empty cohort came without a size.

    Guarantee: Gaussian mechanism, add/remove one patient (Dwork and Roth 2014, App. A); ε by `accounting.epsilon`.
    """
    if not (math.isfinite(sensitivity) and sensitivity > 0):
        raise Misconfigured(f"A sensitivity must be positive, not {sensitivity}.")
    noise_std = noise_multiplier * sensitivity
    grid = public_grid(noise_std)
    total = None if size is None else np.zeros(size)
    for vector in contributions:
        bounded = round_to_zero(_checked(vector, sensitivity=sensitivity, size=size), grid=grid)
        size = len(bounded)
        total = bounded if total is None else total + bounded
    if total is None:
        raise Misconfigured("A sum over an empty cohort needs the vector's size.")
    return total + grid_noise(len(total), noise_std=noise_std, stream=stream)


def _checked(vector: Vector, *, sensitivity: float, size: int | None) -> Vector:
    if vector.dtype != np.float64 or vector.ndim != 1 or (size is not None and len(vector) != size):
        raise ProtocolViolation("A contribution has the wrong shape or type.", "Each is one float64 vector (d,).")
    return clip(vector, bound=sensitivity)[0]
