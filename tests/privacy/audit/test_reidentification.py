"""Copies are found under brightness, contrast, mirroring and shifts, in two and three dimensions."""

import numpy as np
import pytest

from manikin.privacy.audit.reidentification import measure_likeness, unit_images


def rng():
    return np.random.default_rng(11)


@pytest.mark.parametrize("shape", [(24, 20), (40, 36), (10, 12, 8)])
@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        lambda x: 0.5 * x - 0.3,
        lambda x: np.flip(x, -1),
        lambda x: np.flip(x, 2),
        lambda x: np.roll(x, (1, -1), (-2, -1)),
        lambda x: np.roll(np.flip(x, -1), 1, -1),
    ],
    ids=["copy", "contrast", "mirrored", "upside-down", "shifted", "mirrored-and-shifted"],
)
def test_a_changed_copy_is_the_closest_of_all(images, patients, shape, change):
    real = images(rng(), 40, shape)
    synthetic = images(np.random.default_rng(1), 50, shape)
    synthetic[7] = change(real[:1])[0]
    likeness = measure_likeness(patients(real, "p"), synthetic, rng=rng())
    assert likeness.synthetic[0] == 7
    assert likeness.correlation[0] == pytest.approx(1, abs=1e-5)
    assert likeness.score.argmin() == 0
    assert likeness.score[0] < 0.1 * np.sort(likeness.score)[1]


def test_a_patient_counts_by_the_closest_of_its_images(images, patients):
    real = images(rng(), 30)
    synthetic = images(np.random.default_rng(1), 40)
    synthetic[3] = real[14]
    likeness = measure_likeness(patients(real, "p", each=3), synthetic, rng=rng())
    assert len(likeness.score) == 10
    assert likeness.score.argmin() == 4
    assert (likeness.image[4], likeness.synthetic[4]) == (2, 3)


def test_scores_depend_on_nothing_but_images_and_survive_degenerate_ones(images, patients):
    real = images(rng(), 12)
    real[0] = 0.3
    synthetic = np.concatenate([images(np.random.default_rng(1), 5), np.full((1, 1, 8, 8), -1, np.float32)])
    likeness = measure_likeness(patients(real, "p"), synthetic, rng=rng())
    assert np.isfinite(likeness.score).all()
    backwards = measure_likeness(patients(real[::-1].copy(), "p"), synthetic, rng=rng())
    np.testing.assert_allclose(likeness.score[::-1], backwards.score, rtol=1e-5)


def test_unit_images_have_no_mean_and_unit_norm(images):
    flat = unit_images(3 * images(rng(), 5) + 7).reshape(5, -1)
    np.testing.assert_allclose(flat.mean(1), 0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(flat, axis=1), 1, rtol=1e-5)
