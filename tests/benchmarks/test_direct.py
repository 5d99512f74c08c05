"""The rival trained by DP-SGD: it learns when ε is generous, and its spending is the engine's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from manikin.common.images import Patient


def people(count, *, seed=0, side=12):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = (0.3 * rng.standard_normal((count, 1, 1, side, side))).astype(np.float32)
    images[labels == 1, ..., : side // 2] += 0.6
    return [Patient(f"{seed}-{i}", images[i], labels[i : i + 1].astype(np.int64)) for i in range(count)]


def held_out(count):
    patients = people(count, seed=1)
    return np.concatenate([p.images for p in patients]), np.concatenate([p.labels for p in patients])


@pytest.fixture
def direct(monkeypatch):
    import direct

    monkeypatch.setattr(direct, "SAMPLE_RATE", 0.2)
    monkeypatch.setattr(direct, "STEPS", 15)
    return direct


def test_it_learns_with_a_generous_budget(direct):
    scores = direct.train_and_score_privately(people(300), held_out(100), classes=2, epsilon=8.0, delta=1e-5, seed=0)
    assert scores.auc is not None
    assert scores.auc > 0.9


def test_less_budget_means_more_noise(direct, monkeypatch):
    noise = []

    def record(model, patients, *, settings, **others):
        noise.append(settings.noise_multiplier)

    monkeypatch.setattr(direct, "train", record)
    for epsilon in (8.0, 1.0):
        direct.train_and_score_privately(people(20), held_out(10), classes=2, epsilon=epsilon, delta=1e-5, seed=0)
    assert noise[1] > 2 * noise[0] > 0


def test_large_images_have_gradients_of_their_own(direct):
    model = direct.PrivateClassifier(channels=1, classes=2)
    first, second = people(2, side=64)
    images = torch.from_numpy(np.concatenate([first.images, second.images]))
    labels = torch.from_numpy(np.concatenate([first.labels, second.labels]))
    losses = model.loss(images, labels, generator=torch.Generator())
    assert losses.shape == (2,)
    alone = model.loss(images[:1], labels[:1], generator=torch.Generator())
    torch.testing.assert_close(losses[:1], alone)
    parameters = list(model.private_parameters())
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(losses.sum(), parameters))
    assert sum(p.numel() for p in parameters) < 3000
