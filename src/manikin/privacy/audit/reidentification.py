"""Can a synthetic image be traced back to a patient? Nearest neighbours after registration, patient by patient.

Images are brought to zero mean and unit norm, so that brightness and contrast do not hide a copy; the distance of two
is √(2 − 2·correlation). Each real image seeks its nearest synthetic image as it is (exact) and, on a coarse grid and
then at full resolution, mirrored along each axis and shifted by up to a tenth of its width. A patient's score is the
smallest such distance, divided by the distance to the fifth nearest image of *other patients*: a copy of an unusual
patient counts for more than the likeness of two ordinary ones. The yardstick looks at other patients, so these scores
never leave the hospital.

What it would miss: rotated or bent copies, patches of a patient, and whatever resembles a patient to a doctor but not
to a correlation. A learned embedding comes with the full battery.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from manikin.common.images import Float32Array, Int64Array, Patient, flatten
from manikin.privacy.audit.neighbours import nearest, typical_distance

Float64Array = NDArray[np.float64]
Progress = Callable[[int], None] | None
COARSE_SIDE = 16
YARDSTICK_RANK = 5
YARDSTICK_IMAGES = 4000
NEAR_COPY_CORRELATION = 0.995


@dataclass(frozen=True)
class Likeness:
    """Each patient's closest synthetic image.

    Args:
        score: float64 (patients,), relative distance, smaller for closer.
        correlation: float64 (patients,), of the closest pair, registered.
        image: int64 (patients,), which of the patient's images.
        synthetic: int64 (patients,), which synthetic image.
    """

    score: Float64Array
    correlation: Float64Array
    image: Int64Array
    synthetic: Int64Array

    def part(self, rows: slice) -> Likeness:
        """The same for some of the patients."""
        return Likeness(self.score[rows], self.correlation[rows], self.image[rows], self.synthetic[rows])


def measure_likeness(
    patients: list[Patient], synthetic: Float32Array, *, rng: np.random.Generator, progress: Progress = None
) -> Likeness:
    """Relative registered distance of each patient to the synthetic images.

    Args:
        patients: training patients and others together: nothing here knows who is who.
        synthetic: float32 (m, channels, *spatial), m >= 1.
        rng: chooses the images of the yardstick where there are very many.
        progress: called with the number of images just done.
    """
    if not patients:
        return Likeness(np.empty(0), np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))
    images, _, owner = flatten(patients)
    real, fake = unit_images(images), unit_images(synthetic)
    index, distance = registered_nearest(real, fake, progress=progress)
    chosen = np.sort(rng.permutation(len(real))[:YARDSTICK_IMAGES])
    flat = real.reshape(len(real), -1)
    yardstick = typical_distance(flat, owner, flat[chosen], owner[chosen], rank=YARDSTICK_RANK)
    usable = np.isfinite(yardstick) & (yardstick > 0)
    relative = distance / np.where(usable, yardstick, np.median(yardstick[usable]) if usable.any() else 1.0)
    order = np.lexsort((relative, owner))
    best = order[np.unique(owner[order], return_index=True)[1]]
    first = np.unique(owner, return_index=True)[1]
    return Likeness(relative[best], 1 - distance[best] ** 2 / 2, best - first, index[best])


def unit_images(images: Float32Array) -> Float32Array:
    """Images with zero mean and unit norm, so that their product is their correlation; constant images become zero."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    flat = flat - flat.mean(axis=1, keepdims=True)
    norm = np.sqrt(np.einsum("ij,ij->i", flat, flat, dtype=np.float64))[:, None]
    scaled: Float32Array = (flat / np.where(norm > 1e-6, norm, np.inf)).astype(np.float32)
    return scaled.reshape(images.shape)


def registered_nearest(
    real: Float32Array, fake: Float32Array, *, progress: Progress = None
) -> tuple[Int64Array, Float64Array]:
    """Nearest synthetic image of each real one, unit images both, as they are or mirrored and shifted."""
    index, distance = nearest(_flat(real), _flat(fake), progress=progress)
    steps = tuple(max(1, -(-side // COARSE_SIDE)) for side in real.shape[2:])
    coarse_fake = _flat(unit_images(_pool(fake, steps)))
    best, match, move = np.full(len(real), -np.inf), np.zeros(len(real), np.int64), np.zeros(len(real), np.int64)
    moves = list(itertools.product(_mirrors(len(steps)), itertools.product((-1, 0, 1), repeat=len(steps))))
    coarse = {mirror: unit_images(_pool(_moved(real, mirror, 0), steps)) for mirror in _mirrors(len(steps))}
    for number, (mirror, shift) in enumerate(moves):
        correlation = _flat(_moved(coarse[mirror], (), shift)) @ coarse_fake.T
        candidate = correlation.argmax(axis=1)
        value = correlation[np.arange(len(real)), candidate]
        better = value > best
        best[better], match[better], move[better] = value[better], candidate[better], number
    for number, (mirror, shift) in enumerate(moves):
        rows = np.flatnonzero(move == number)
        if len(rows):
            refined = _refined_distance(real[rows], fake[match[rows]], mirror, shift, steps)
            closer = rows[refined < distance[rows]]
            distance[closer], index[closer] = refined[refined < distance[rows]], match[closer]
    return index, distance


def _refined_distance(
    real: Float32Array, fake: Float32Array, mirror: tuple[int, ...], shift: tuple[int, ...], steps: tuple[int, ...]
) -> Float64Array:
    """Smallest distance of paired images at full resolution, over every shift around a coarse one."""
    smallest = np.full(len(real), np.inf)
    ranges = [range((s - 1) * step + 1, (s + 1) * step) for s, step in zip(shift, steps, strict=True)]
    target = _flat(fake).astype(np.float64)
    for fine in itertools.product(*ranges):
        gap = _flat(_moved(real, mirror, fine)) - target
        smallest = np.minimum(smallest, np.einsum("ij,ij->i", gap, gap))
    root: Float64Array = np.sqrt(smallest)
    return root


def _moved(images: Float32Array, mirror: tuple[int, ...], shift: tuple[int, ...] | int) -> Float32Array:
    axes = tuple(range(2, images.ndim))
    return np.roll(np.flip(images, tuple(2 + axis for axis in mirror)), shift, axes)


def _mirrors(dimensions: int) -> list[tuple[int, ...]]:
    return [(), *((axis,) for axis in range(dimensions))]


def _pool(images: Float32Array, steps: tuple[int, ...]) -> Float32Array:
    """Means over cells of `steps` pixels; the last cell of an axis may be smaller."""
    for axis, step in enumerate(steps, start=2):
        starts = np.arange(0, images.shape[axis], step)
        sizes = np.diff([*starts, images.shape[axis]]).astype(np.float32)
        sums = np.add.reduceat(images, starts, axis=axis)
        images = (sums / sizes.reshape([-1 if a == axis else 1 for a in range(images.ndim)])).astype(np.float32)
    return images


def _flat(images: Float32Array) -> Float32Array:
    return images.reshape(len(images), -1)
