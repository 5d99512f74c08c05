"""The random numbers, coordinates and soft edges that both anatomical models draw with.

Everything is vectorised over a chunk of n images: parameters are (n, 1, ...), maps are (n, *grid), float32. One
seed gives one chunk, whatever the machine's number of cores.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from manikin.common.images import Float32Array

Range = tuple[float, float]


class Draws:
    """The random numbers of one chunk of `count` images on `grid`.

    Parameters come as (count, 1, ...), ready to meet maps of (count, *grid).
    """

    def __init__(self, rng: np.random.Generator, count: int, grid: tuple[int, ...]) -> None:
        self.rng, self.count, self.grid = rng, count, grid
        self._column = (count,) + (1,) * len(grid)

    def uniform(self, bounds: Range) -> Float32Array:
        """(count, 1, ...) uniform in `bounds`."""
        low, high = bounds
        return (low + (high - low) * self.rng.random(self._column)).astype(np.float32)

    def chance(self, share: float) -> Float32Array:
        """(count, 1, ...) one with probability `share`, else zero."""
        return (self.rng.random(self._column) < share).astype(np.float32)

    def side(self) -> Float32Array:
        """(count, 1, ...) minus one or one."""
        return (2.0 * self.chance(0.5) - 1.0).astype(np.float32)

    def column(self, values: np.ndarray) -> Float32Array:
        """One number an image, as (count, 1, ...)."""
        return np.asarray(values, dtype=np.float32).reshape(self._column)

    def field(self, cells: tuple[float, ...]) -> Float32Array:
        """(count, *grid) smooth Gaussian field of mean 0 and variance 1 with about `cells` blobs along each axis."""
        matrices = [_spread(size, round(c, 1)) for size, c in zip(self.grid, cells, strict=True)]
        field = self.rng.standard_normal((self.count, *(m.shape[1] for m in matrices)), dtype=np.float32)
        for matrix in matrices:
            field = np.tensordot(field, matrix, axes=(1, 1))
        return np.ascontiguousarray(field)

    def place(self, eligible: np.ndarray) -> tuple[Float32Array, ...]:
        """Index of one random voxel an image among those where `eligible` (count, *grid) is true, one column an axis."""
        keys = self.rng.random(eligible.shape, dtype=np.float32) + eligible
        flat = keys.reshape(self.count, -1).argmax(axis=1)
        return tuple(self.column(index) for index in np.unravel_index(flat, self.grid))


@lru_cache(maxsize=256)
def _spread(size: int, cells: float) -> Float32Array:
    """(size, k) rows of unit L2 norm: white noise on k nodes becomes a smooth field of variance 1."""
    nodes = np.arange(-1.0, np.ceil(cells) + 2.0)
    places = (np.arange(size) + 0.5) / size * cells
    weights = np.exp(-0.5 * ((places[:, None] - nodes[None]) / 0.55) ** 2)
    return (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32)


@lru_cache(maxsize=64)
def axis_positions(size: int) -> Float32Array:
    """(size,) centres of `size` voxels across [-1, 1]."""
    return ((np.arange(size) + 0.5) / size * 2.0 - 1.0).astype(np.float32)


def mesh(grid: tuple[int, ...]) -> tuple[Float32Array, ...]:
    """One array (1, ..., size, ..., 1) an axis: voxel centres across [-1, 1], ready to broadcast."""
    dims = len(grid)
    return tuple(
        axis_positions(size).reshape((1,) + tuple(size if a == axis else 1 for a in range(dims)))
        for axis, size in enumerate(grid)
    )


def ramp(value: Float32Array, width: float | Float32Array) -> Float32Array:
    """0 where `value` <= 0, 1 from `width` on, rising like a parabola between: the edge of a rounded body."""
    t = np.clip(value / width, 0.0, 1.0)
    return np.asarray(t * (2.0 - t), dtype=np.float32)


def edge(value: Float32Array, width: float | Float32Array) -> Float32Array:
    """0 below -`width`/2, 1 above `width`/2, smooth between: the share of a voxel inside `value` > 0."""
    t = np.clip(value / width + 0.5, 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t), dtype=np.float32)


def dome(radius_squared: Float32Array) -> Float32Array:
    """Thickness of a unit ball seen along a ray at that squared distance from its centre, as share of its diameter."""
    return np.asarray(np.sqrt(np.maximum(1.0 - radius_squared, 0.0)), dtype=np.float32)


def band(offset: Float32Array, half_width: float | Float32Array, blur: float | Float32Array) -> Float32Array:
    """1 within `half_width` of `offset` = 0, falling to 0 over `blur`."""
    return edge(half_width - np.abs(offset), blur)
