"""Simulated scans: a population, a shape and a seed in; images, labels and masks out.

Promises: the same arguments give the same bytes; images are float32 in [-1, 1]; a mask marks the finding only; memory
beyond the result is bounded by a chunk. Does not promise that a phantom teaches medicine: it teaches a network what
a scan looks like, without a patient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from manikin.common.errors import Misconfigured
from manikin.common.images import Float32Array, Int64Array
from manikin.common.phantoms.acquisition import radiograph, resolve, resonance
from manikin.common.phantoms.anatomy import ChestAnatomy
from manikin.common.phantoms.brain_findings import render_brain
from manikin.common.phantoms.chest_findings import render_chest
from manikin.common.phantoms.fields import Draws
from manikin.common.phantoms.populations import Population

CHUNK_VOXELS = 1 << 17
FINE_ENOUGH = 96
SMALLEST_SIDE = 8
FIELD_OF_VIEW_MM = {
    ("chest-xr", 2): (350.0, 350.0),
    ("brain-mr", 2): (220.0, 220.0),
    ("brain-mr", 3): (176.0, 216.0, 176.0),
}


@dataclass(frozen=True)
class Phantoms:
    """A set of simulated scans.

    Args:
        images: float32 (n, 1, *shape) in [-1, 1].
        labels: int64 (n,), indices into `class_names`.
        class_names: the population's findings.
        masks: uint8 (n, *shape), 1 where the finding is; all zero for findings without a place.
        spacing_mm: nominal distance between voxels along each axis.
    """

    images: Float32Array
    labels: Int64Array
    class_names: tuple[str, ...]
    masks: NDArray[np.uint8]
    spacing_mm: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.images)


def simulate(
    population: Population,
    *,
    shape: tuple[int, ...],
    count: int,
    seed: int,
    findings: Mapping[str, float] | None = None,
    spacing_mm: tuple[float, ...] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Phantoms:
    """Draw `count` scans of a population.

    Args:
        population: bodies, scanner and findings.
        shape: rows and columns, the patient's right on the image's left, head or forehead up; or the three axes of a
            volume, which run towards the patient's right, front and head (RAS).
        count: how many images.
        seed: of all random numbers; not negative.
        findings: shares instead of the population's own, of findings that the population has.
        spacing_mm: voxel size. Absent: the whole organ fits the frame. A field of view smaller than a head becomes
            a crop around the hippocampus.
        progress: called with the number of images just done.

    Raises:
        Misconfigured: shape, count, seed or findings make no sense for this population.
    """
    usual = _field_of_view(population, shape, count, seed)
    zoom = (1.0,) * len(shape)
    if spacing_mm is not None:
        zoom = _zoom(spacing_mm, shape, usual)
    names, shares = _shares(population, findings)
    images = np.empty((count, 1, *shape), dtype=np.float32)
    masks = np.empty((count, *shape), dtype=np.uint8)
    labels = np.empty(count, dtype=np.int64)
    grid = _scene_grid(shape)
    step = max(1, CHUNK_VOXELS // math.prod(grid))
    for index, start in enumerate(range(0, count, step)):
        part = slice(start, min(start + step, count))
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
        draws = Draws(rng, part.stop - start, grid)
        labels[part] = rng.choice(len(names), size=draws.count, p=shares)
        images[part, 0], masks[part] = _scan(population, [names[i] for i in labels[part]], draws, shape, zoom)
        if progress is not None:
            progress(draws.count)
    spacing = tuple(z * u / s for z, u, s in zip(zoom, usual, shape, strict=True))
    return Phantoms(images, labels, names, masks, spacing)


def _scan(
    population: Population, findings: list[str], draws: Draws, shape: tuple[int, ...], zoom: tuple[float, ...]
) -> tuple[Float32Array, NDArray[np.uint8]]:
    """One chunk: anatomy on the fine grid, then the population's scanner."""
    sharp = np.zeros(draws.count, dtype=np.float32)
    if isinstance(population.anatomy, ChestAnatomy):
        scene, cover = render_chest(population.anatomy, findings, draws, zoom)
        images = radiograph(scene, population.scanner, draws, shape, zoom=max(zoom))
    else:
        scene, cover = render_brain(population.anatomy, findings, draws, zoom)
        images = resonance(scene, population.scanner, draws, shape, zoom=max(zoom))
    cover = resolve(cover, shape, sharp) if draws.grid != shape else cover
    most = cover.reshape(draws.count, -1).max(axis=1).reshape((-1,) + (1,) * len(shape))
    mask = (cover >= np.minimum(0.5, most)) & (most > 0.01)
    return images, mask.astype(np.uint8)


def _scene_grid(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Small images are drawn finer and averaged, as a detector does; volumes and large images as they are."""
    factor = min(2.0, max(1.0, FINE_ENOUGH / min(shape))) if len(shape) == 2 else 1.0
    return tuple(math.ceil(factor * size) for size in shape)


def _field_of_view(population: Population, shape: tuple[int, ...], count: int, seed: int) -> tuple[float, ...]:
    """The kind's usual field of view in mm, after checking what was asked for."""
    fields = FIELD_OF_VIEW_MM.get((population.kind, len(shape)))
    if fields is None:
        raise Misconfigured(
            f"There is no {population.kind} phantom with {len(shape)} dimensions.",
            "A chest X-ray is a projection: it has two; a brain has two or three.",
            "Change the shape, or choose brain-mr.",
        )
    if min(shape) < SMALLEST_SIDE:
        raise Misconfigured(f"Phantoms need at least {SMALLEST_SIDE} voxels a side.", "", "Choose a larger shape.")
    if count < 0 or seed < 0:
        raise Misconfigured("The count and the seed of phantoms cannot be negative.", "", "Give numbers from 0 on.")
    return fields


def _zoom(spacing_mm: tuple[float, ...], shape: tuple[int, ...], usual: tuple[float, ...]) -> tuple[float, ...]:
    """The share of the usual field of view that is seen along each axis."""
    if len(spacing_mm) != len(shape) or not all(math.isfinite(s) and s > 0 for s in spacing_mm):
        raise Misconfigured(
            "The spacing of phantoms needs one positive number of mm a dimension.", "", "Correct spacing_mm."
        )
    return tuple(gap * size / field for gap, size, field in zip(spacing_mm, shape, usual, strict=True))


def _shares(
    population: Population, findings: Mapping[str, float] | None
) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Class names and the probability of each."""
    names = tuple(population.findings)
    wanted = population.findings if findings is None else findings
    strangers = sorted(set(wanted) - set(names))
    if strangers:
        raise Misconfigured(
            f"The population {population.name} has no {', '.join(strangers)}.",
            f"It has {', '.join(names)}.",
            "Choose among these, or another population.",
        )
    shares = np.array([float(wanted.get(name, 0.0)) for name in names])
    if not np.isfinite(shares).all() or (shares < 0).any() or shares.sum() <= 0:
        raise Misconfigured("Shares of findings must be finite, not negative and not all zero.", "", "Correct them.")
    return names, shares / shares.sum()
