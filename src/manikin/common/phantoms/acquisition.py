"""The acquisition: what detector, coil and display make of an anatomy.

`radiograph` takes line integrals of attenuation, `resonance` takes tissue intensities; both give what a reader sees,
in [-1, 1]. Point spread and sampling are one matrix an axis, so that a scene drawn finer than the image is averaged
as a detector averages it.
"""

from __future__ import annotations

import numpy as np

from manikin.common.phantoms.anatomy import Scanner
from manikin.common.phantoms.fields import Draws, Map, length, mesh

REFERENCE_PIXELS = 64
NARROWEST_WINDOW = 1.9
SHOULDER = 0.8


def resolve(scene: Map, shape: tuple[int, ...], blur: Map) -> Map:
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


def _point_spread(fine: int, size: int, blur: Map) -> Map:
    """(n, fine, size): Gaussian of the scanner's blur widened by a pixel's own extent; columns sum to one."""
    inside = (np.arange(fine, dtype=np.float32) + 0.5) / fine
    centres = (np.arange(size, dtype=np.float32) + 0.5) / size
    pixel = 0.3 / size if size < fine else 0.05 / size
    sigma = np.hypot(blur, pixel)[:, None, None].astype(np.float32)
    weights: Map = np.exp(-0.5 * ((inside[None, :, None] - centres[None, None, :]) / sigma) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def radiograph(depth: Map, scanner: Scanner, draws: Draws, shape: tuple[int, ...], *, zoom: float = 1.0) -> Map:
    """Displayed radiograph of line integrals (n, *grid).

    Direct radiation falls as exp(-depth) (Beer-Lambert), scatter adds a veil that flattens dense parts, quantum noise
    grows where little arrives, and the display shows the logarithm. `zoom` is the share of the usual field that is
    seen: a crop is as blurred in mm as the whole.
    """
    blur = draws.uniform(scanner.blur_px).ravel() / (REFERENCE_PIXELS * zoom)
    depth = resolve(depth, shape, blur)
    shown = Draws(draws.rng, draws.count, shape)
    direct = np.exp(-depth)
    arriving = direct + shown.uniform(scanner.veil) * direct.mean(axis=(1, 2), keepdims=True) * 0.25
    film = -np.log(arriving)
    quantum = np.sqrt(np.clip(arriving.mean(axis=(1, 2), keepdims=True) / arriving, 0.2, 5.0))
    low, high = _limits(film, 5.0)
    value = (_collimate(film, scanner, shown) - high) / np.maximum(high - low, NARROWEST_WINDOW) + 1.0
    value = value + 0.5 * shown.uniform(scanner.bias) * shown.field((1.3, 1.3))
    value = value + _noise_level(scanner, shown) * quantum * shown.rng.standard_normal(value.shape, dtype=np.float32)
    value = _display(_shoulder(value), scanner, shown) - 0.5
    return _grey(shown.uniform(scanner.brightness) + shown.uniform(scanner.contrast) * value)


def resonance(intensity: Map, scanner: Scanner, draws: Draws, shape: tuple[int, ...], *, zoom: float = 1.0) -> Map:
    """Displayed magnitude image of tissue intensities (n, *grid): coil bias and Rician noise.

    The noise of a magnitude image is that of a complex number's length, so that air is not black but Rayleigh
    (Gudbjartsson and Patz 1995).
    """
    blur = draws.uniform(scanner.blur_px).ravel() / (REFERENCE_PIXELS * zoom)
    intensity = resolve(intensity, shape, blur)
    shown = Draws(draws.rng, draws.count, shape)
    coil = np.exp(shown.uniform(scanner.bias) * shown.field((1.4,) * len(shape)))
    sigma = _noise_level(scanner, shown)
    real = intensity * coil + sigma * shown.rng.standard_normal(intensity.shape, dtype=np.float32)
    imaginary = sigma * shown.rng.standard_normal(intensity.shape, dtype=np.float32)
    magnitude = length(real, imaginary)
    low, high = _limits(magnitude, 0.5)
    value = _display((magnitude - low) / np.maximum(high - low, 1e-3), scanner, shown)
    return _grey(shown.uniform(scanner.contrast) * value)


def _display(value: Map, scanner: Scanner, draws: Draws) -> Map:
    """Edge enhancement and display curve of values windowed to [0, 1]."""
    if scanner.sharpen[1] > 0:
        soft = resolve(value, draws.grid, np.full(draws.count, 1.5 / REFERENCE_PIXELS, dtype=np.float32))
        value = value + draws.uniform(scanner.sharpen) * (value - soft)
    return np.clip(value, 0.0, 1.0) ** draws.uniform(scanner.gamma)


def _grey(value: Map) -> Map:
    """Displayed values, 0 black and 1 white, as images in [-1, 1]."""
    return np.clip(2.0 * value - 1.0, -1.0, 1.0)


def _shoulder(value: Map) -> Map:
    """The upper end of a display curve: bright parts crowd together below 1 instead of being cut off."""
    over = np.maximum(value - SHOULDER, 0.0) / (1.0 - SHOULDER)
    return np.minimum(value, SHOULDER) + (1.0 - SHOULDER) * over / (1.0 + over)


def _noise_level(scanner: Scanner, draws: Draws) -> Map:
    """A coarser matrix averages more of the detector: noise falls with the number of pixels across."""
    return draws.uniform(scanner.noise) * np.float32(min(1.0, min(draws.grid) / REFERENCE_PIXELS))


def _limits(film: Map, low_percent: float) -> tuple[Map, Map]:
    """(n, 1, ...) low and 99.5th percentile of each image."""
    values = np.percentile(film.reshape(len(film), -1), (low_percent, 99.5), axis=1).astype(np.float32)
    low, high = values.reshape(2, len(film), *(1 for _ in film.shape[1:]))
    return low, high


def _collimate(film: Map, scanner: Scanner, draws: Draws) -> Map:
    """Darken the borders of some images to the unexposed level of a digital display."""
    if scanner.collimated == 0.0:
        return film
    rows, columns = mesh(draws.grid)
    hit = draws.chance(scanner.collimated) > 0
    limits = [draws.uniform((0.86, 1.02)) for _ in range(4)]
    outside = (rows < -limits[0]) | (rows > limits[1]) | (columns < -limits[2]) | (columns > limits[3])
    floor = film.min(axis=(1, 2), keepdims=True)
    return np.where(hit & outside, floor, film)
