"""Scores depend on the patient and the generator alone, and point at members."""

import numpy as np
import pytest
import torch

from manikin.common.errors import BadData
from manikin.common.images import Patient
from manikin.privacy.audit.membership import distance_scores, loss_scores


def test_distance_is_the_mean_gap_to_the_nearest_synthetic_image(patients):
    synthetic = np.stack([np.full((1, 4, 4), -1.0), np.full((1, 4, 4), 1.0)]).astype(np.float32)
    images = np.stack([np.full((1, 4, 4), value) for value in (0.75, -0.5, 1.0, 1.0)]).astype(np.float32)
    assert distance_scores(patients(images, "p", each=2), synthetic).tolist() == pytest.approx([-0.375, 0.0])


def test_loss_is_the_same_alone_and_in_company(images, patients, denoiser):
    rng = np.random.default_rng(0)
    generator = denoiser(images(rng, 30))
    cohort = patients(images(rng, 20), "p", each=2)
    together = loss_scores(cohort, generator, seed=5, draws=4)
    alone = [loss_scores([patient], generator, seed=5, draws=4)[0] for patient in cohort]
    np.testing.assert_allclose(together, alone, rtol=1e-6)
    assert not np.allclose(together, loss_scores(cohort, generator, seed=6, draws=4))


def test_every_image_meets_the_same_noise_and_its_own_label(images, denoiser):
    seen = []

    class Listening(denoiser):
        def loss(self, images, conditions, *, generator):
            seen.append((torch.randn(3, generator=generator).tolist(), conditions.tolist()))
            return torch.zeros(len(images))

    cohort = [Patient(f"p{i}", images(np.random.default_rng(i), 2), np.array([i, i + 1])) for i in range(2)]
    done = []
    loss_scores(cohort, Listening(images(np.random.default_rng(9), 3)), seed=5, draws=3, progress=done.append)
    assert len({tuple(noise) for noise, _ in seen}) == 1
    assert [labels for _, labels in seen] == [[0] * 3, [1] * 3, [1] * 3, [2] * 3]
    assert sum(done) == 4


def test_members_of_a_memoriser_score_above_everybody_else(images, patients, denoiser):
    rng = np.random.default_rng(0)
    train, others = images(rng, 40), images(rng, 40)
    generator = denoiser(train)
    members = loss_scores(patients(train, "a"), generator, seed=1, draws=8)
    outsiders = loss_scores(patients(others, "b"), generator, seed=1, draws=8)
    assert (members[:, None] > outsiders[None, :]).mean() > 0.95


def test_a_loss_that_is_not_finite_is_refused_without_numbers(images, patients, denoiser):
    generator = denoiser(np.full((3, 1, 8, 8), np.nan, np.float32))
    with pytest.raises(BadData, match="not a finite number"):
        loss_scores(patients(images(np.random.default_rng(0), 2), "p"), generator, seed=1, draws=2)


def test_no_patients_give_no_scores(denoiser, images):
    synthetic = images(np.random.default_rng(0), 3)
    assert len(distance_scores([], synthetic)) == 0
    assert len(loss_scores([], denoiser(synthetic), seed=0, draws=2)) == 0
