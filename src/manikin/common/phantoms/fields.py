"""The random numbers, coordinates and soft edges that both anatomical models draw with.

Everything is vectorised over a chunk of n images: parameters are (n, 1, ...), maps are (n, *grid), float32. One
seed gives one chunk, whatever the machine's number of cores.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Map = NDArray[Any]  # float32 (n, *grid), or (n, 1, ...) where it is one number an image
Range = tuple[float, float]


class Draws:
    """The random numbers of one chunk of `count` images on `grid`.

    Parameters come as (count, 1, ...), ready to meet maps of (count, *grid).
    """

    def __init__(self, rng: np.random.Generator, count: int, grid: tuple[int, ...]) -> None:
        self.rng, self.count, self.grid = rng, count, grid
        self._column = (count, *(1 for _ in grid))

    def uniform(self, bounds: Range) -> Map:
        """(count, 1, ...) uniform in `bounds`."""
        low, high = bounds
        return (low + (high - low) * self.rng.random(self._column)).astype(np.float32)

    def chance(self, share: float) -> Map:
        """(count, 1, ...) one with probability `share`, else zero."""
        return (self.rng.random(self._column) < share).astype(np.float32)

    def side(self) -> Map:
        """(count, 1, ...) minus one or one."""
        return (2.0 * self.chance(0.5) - 1.0).astype(np.float32)

    def column(self, values: Map) -> Map:
        """One number an image, as (count, 1, ...)."""
        return np.asarray(values, dtype=np.float32).reshape(self._column)

    def field(self, cells: tuple[float, ...]) -> Map:
        """(count, *grid) smooth Gaussian field of mean 0 and variance 1 with about `cells` blobs along each axis."""
        matrices = [_spread(size, round(c, 1)) for size, c in zip(self.grid, cells, strict=True)]
        field = self.rng.standard_normal((self.count, *(m.shape[1] for m in matrices)), dtype=np.float32)
        for matrix in matrices:
            field = np.tensordot(field, matrix, axes=(1, 1))
        return np.ascontiguousarray(field)

    def place(self, eligible: Map) -> tuple[Map, ...]:
        """Index of one random voxel an image where `eligible` (count, *grid) is true: one (count,) array an axis."""
        keys = self.rng.random(eligible.shape, dtype=np.float32) + eligible
        flat = keys.reshape(self.count, -1).argmax(axis=1)
        return np.unravel_index(flat, self.grid)


@lru_cache(maxsize=256)
def _spread(size: int, cells: float) -> Map:
    """(size, k) rows of unit L2 norm: white noise on k nodes becomes a smooth field of variance 1."""
    nodes = np.arange(-1.0, np.ceil(cells) + 2.0)
    places = (np.arange(size) + 0.5) / size * cells
    weights = np.exp(-0.5 * ((places[:, None] - nodes[None]) / 0.55) ** 2)
    normal: Map = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    return normal.astype(np.float32)


@lru_cache(maxsize=64)
def axis_positions(size: int) -> Map:
    """(size,) centres of `size` voxels across [-1, 1]."""
    return ((np.arange(size) + 0.5) / size * 2.0 - 1.0).astype(np.float32)


def mesh(grid: tuple[int, ...]) -> tuple[Map, ...]:
    """One array (1, ..., size, ..., 1) an axis: voxel centres across [-1, 1], ready to broadcast."""
    dims = len(grid)
    return tuple(
        axis_positions(size).reshape((1, *(size if a == axis else 1 for a in range(dims))))
        for axis, size in enumerate(grid)
    )


def ramp(value: Map, width: float | Map) -> Map:
    """0 where `value` <= 0, 1 from `width` on, rising like a parabola between: the edge of a rounded body."""
    t = np.clip(value / width, 0.0, 1.0)
    return t * (2.0 - t)


def edge(value: Map, width: float | Map) -> Map:
    """0 below -`width`/2, 1 above `width`/2, smooth between: the share of a voxel inside `value` > 0."""
    t = np.clip(value / width + 0.5, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def length(*offsets: Map) -> Map:
    """Euclidean length of offsets along each axis."""
    total = offsets[0] * offsets[0]
    for offset in offsets[1:]:
        total = total + offset * offset
    result: Map = np.sqrt(total)
    return result


def union(first: Map, second: Map, blend: float) -> Map:
    """Depth inside either of two bodies, the seam rounded over `blend`; -union(-a, -b) rounds what they share."""
    near = np.maximum(1.0 - np.abs(first - second) / blend, 0.0)
    both: Map = np.maximum(first, second) + 0.25 * blend * near * near
    return both


def dome(radius_squared: Map) -> Map:
    """Thickness of a unit ball seen along a ray at that squared distance from its centre, as share of its diameter."""
    return np.sqrt(np.maximum(1.0 - radius_squared, 0.0))


def band(offset: Map, half_width: float | Map, blur: float | Map) -> Map:
    """1 within `half_width` of `offset` = 0, falling to 0 over `blur`."""
    return edge(half_width - np.abs(offset), blur)
