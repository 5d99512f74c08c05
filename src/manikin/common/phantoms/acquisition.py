"""The acquisition: what detector, coil and display make of an anatomy.

`radiograph` takes line integrals of attenuation, `resonance` takes tissue intensities; both give what a reader sees,
in [-1, 1]. Point spread and sampling are one matrix an axis, so that a scene drawn finer than the image is averaged
as a detector averages it.
"""

from __future__ import annotations

import numpy as np

from manikin.common.images import Float32Array
from manikin.common.phantoms.anatomy import Scanner
from manikin.common.phantoms.fields import Draws, mesh

REFERENCE_PIXELS = 64
SEEN_PIXELS = 1024


def resolve(scene: Float32Array, shape: tuple[int, ...], blur: Float32Array) -> Float32Array:
    """Blur and sample maps (n, *grid) to (n, *shape).

    Args:
        scene: maps on a grid at least as fine as `shape`.
        shape: the detector's matrix.
        blur: (n,) standard deviation of the point spread, as share of the field of view.
    """
    for axis, size in enumerate(shape, start=1):
        moved = np.moveaxis(scene, axis, -1)
        flat = moved.reshape(len(scene), -1, moved.shape[-1])
        sampled = flat @ _point_spread(moved.shape[-1], size, blur)
        scene = np.moveaxis(sampled.reshape(*moved.shape[:-1], size), -1, axis)
    return np.ascontiguousarray(scene)


def _point_spread(fine: int, size: int, blur: Float32Array) -> Float32Array:
    """(n, fine, size): Gaussian of the scanner's blur widened by a pixel's own extent; columns sum to one."""
    inside = (np.arange(fine, dtype=np.float32) + 0.5) / fine
    centres = (np.arange(size, dtype=np.float32) + 0.5) / size
    pixel = 0.3 / size if size < fine else 0.05 / size
    sigma = np.hypot(blur, pixel)[:, None, None].astype(np.float32)
    weights = np.exp(-0.5 * ((inside[None, :, None] - centres[None, None, :]) / sigma) ** 2)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def radiograph(depth: Float32Array, scanner: Scanner, draws: Draws, shape: tuple[int, ...]) -> Float32Array:
    """Displayed radiograph of line integrals (n, *grid).

    Direct radiation falls as exp(-depth) (Beer-Lambert), scatter adds a veil that flattens dense parts, quantum noise
    grows where little arrives, and the display shows the logarithm.
    """
    blur = draws.uniform(scanner.blur_px).ravel() / REFERENCE_PIXELS
    depth = resolve(depth, shape, blur)
    shown = Draws(draws.rng, draws.count, shape)
    direct = np.exp(-depth)
    arriving = direct + shown.uniform(scanner.veil) * direct.mean(axis=(1, 2), keepdims=True) * 0.25
    film = -np.log(arriving)
    quantum = np.sqrt(np.clip(arriving.mean(axis=(1, 2), keepdims=True) / arriving, 0.2, 5.0))
    film = _collimate(film, scanner, shown)
    return _display(film, scanner, shown, grain=quantum, low_percent=1.0)


def resonance(intensity: Float32Array, scanner: Scanner, draws: Draws, shape: tuple[int, ...]) -> Float32Array:
    """Displayed magnitude image of tissue intensities (n, *grid): coil bias and Rician noise.

    The noise of a magnitude image is that of a complex number's length, so that air is not black but Rayleigh
    (Gudbjartsson and Patz 1995).
    """
    blur = draws.uniform(scanner.blur_px).ravel() / REFERENCE_PIXELS
    intensity = resolve(intensity, shape, blur)
    shown = Draws(draws.rng, draws.count, shape)
    coil = np.exp(shown.uniform(scanner.bias) * shown.field((1.4,) * len(shape)))
    sigma = shown.uniform(scanner.noise)
    real = intensity * coil + sigma * shown.rng.standard_normal(intensity.shape, dtype=np.float32)
    imaginary = sigma * shown.rng.standard_normal(intensity.shape, dtype=np.float32)
    return _display(np.hypot(real, imaginary), scanner, shown, grain=None, low_percent=None)


def _display(
    film: Float32Array, scanner: Scanner, draws: Draws, *, grain: Float32Array | None, low_percent: float | None
) -> Float32Array:
    """Window by percentiles, sharpen, add bias and noise where the physics has not, and apply the display curve."""
    high = _percentile(film, 99.5)
    low = np.zeros_like(high) if low_percent is None else _percentile(film, low_percent)
    value = (film - low) / np.maximum(high - low, 1e-3)
    if grain is not None:
        value = value + draws.uniform(scanner.bias) * draws.field((1.3,) * len(draws.grid)) * 0.5
        value = value + draws.uniform(scanner.noise) * grain * draws.rng.standard_normal(value.shape, dtype=np.float32)
    if scanner.sharpen[1] > 0:
        soft = resolve(value, draws.grid, np.full(draws.count, 1.5 / REFERENCE_PIXELS, dtype=np.float32))
        value = value + draws.uniform(scanner.sharpen) * (value - soft)
    value = np.clip(value, 0.0, 1.0) ** draws.uniform(scanner.gamma)
    if low_percent is None:
        value = value * draws.uniform(scanner.contrast)
    else:
        value = draws.uniform(scanner.brightness) + draws.uniform(scanner.contrast) * (value - 0.5)
    return np.asarray(np.clip(2.0 * value - 1.0, -1.0, 1.0), dtype=np.float32)


def _percentile(film: Float32Array, percent: float) -> Float32Array:
    """(n, 1, ...) percentile of each image, from at most about a thousand of its pixels."""
    flat = film.reshape(len(film), -1)
    flat = flat[:, :: max(1, flat.shape[1] // SEEN_PIXELS)]
    value = np.percentile(flat, percent, axis=1).astype(np.float32)
    return value.reshape((len(film),) + (1,) * (film.ndim - 1))


def _collimate(film: Float32Array, scanner: Scanner, draws: Draws) -> Float32Array:
    """Darken the borders of some images to the unexposed level of a digital display."""
    if scanner.collimated == 0.0:
        return film
    rows, columns = mesh(draws.grid)
    hit = draws.chance(scanner.collimated) > 0
    limits = [draws.uniform((0.86, 1.02)) for _ in range(4)]
    outside = (rows < -limits[0]) | (rows > limits[1]) | (columns < -limits[2]) | (columns > limits[3])
    floor = film.min(axis=(1, 2), keepdims=True)
    return np.where(hit & outside, floor, film)
