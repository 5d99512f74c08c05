"""Scanners: averaging, blur, noise and display."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from manikin.common.phantoms import population
from manikin.common.phantoms.acquisition import radiograph, resolve, resonance
from manikin.common.phantoms.fields import Draws

QUIET = replace(
    population("public", "chest-xr").scanner,
    blur_px=(0.3, 0.3),
    noise=(0.0, 0.0),
    bias=(0.0, 0.0),
    veil=(0.0, 0.0),
    gamma=(1.0, 1.0),
    contrast=(1.0, 1.0),
    brightness=(0.5, 0.5),
    sharpen=(0.0, 0.0),
    collimated=0.0,
)


def _scene() -> np.ndarray:
    scene = np.full((3, 32, 32), 0.5, dtype=np.float32)
    scene[:, 8:24, 8:24] = 3.0
    return scene


def _draws(seed: int = 0) -> Draws:
    return Draws(np.random.default_rng(seed), 3, (32, 32))


@pytest.mark.parametrize("shape", [(32, 32), (16, 16), (13, 21)])
def test_sampling_keeps_a_constant_and_the_mean(shape: tuple[int, int]) -> None:
    blur = np.full(3, 0.01, dtype=np.float32)
    assert resolve(np.full((3, 32, 32), 2.0, dtype=np.float32), shape, blur) == pytest.approx(2.0, abs=1e-4)
    assert resolve(_scene(), shape, blur).mean() == pytest.approx(_scene().mean(), rel=0.05)


def test_more_blur_makes_softer_edges() -> None:
    sharp, soft = (resolve(_scene(), (32, 32), np.full(3, b, dtype=np.float32)) for b in (0.005, 0.08))
    assert np.abs(np.diff(soft, axis=1)).max() < 0.5 * np.abs(np.diff(sharp, axis=1)).max()


def test_dense_tissue_is_bright_on_a_radiograph() -> None:
    film = radiograph(_scene(), QUIET, _draws(), (16, 16))
    assert film[:, 7, 7].min() > film[:, 0, 0].max() + 0.5


def test_scatter_lowers_contrast_of_dense_parts() -> None:
    scene = _scene()
    scene[:, 8:16] += 1.0
    clean, veiled = (radiograph(scene, replace(QUIET, veil=(v, v)), _draws(), (32, 32)) for v in (0.0, 1.0))
    step = [abs(float(f[0, 12, 12] - f[0, 20, 12]) / float(f[0, 20, 12] - f[0, 28, 2])) for f in (clean, veiled)]
    assert step[1] < step[0]


def test_noise_of_magnitude_images_lifts_air_above_black() -> None:
    scene = np.zeros((3, 32, 32), dtype=np.float32)
    scene[:, 8:24, 8:24] = 1.0
    silent, noisy = (resonance(scene, replace(QUIET, noise=(n, n)), _draws(), (32, 32)) for n in (0.0, 0.1))
    assert silent[:, 0, 0].max() == pytest.approx(-1.0, abs=1e-3)
    assert noisy[:, :4].mean() > -0.98
    assert noisy.min() >= -1.0
