"""Small cohorts and generators for audits: smooth random images, one or more a patient."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from manikin.common.generators import GeneratorSpec
from manikin.common.images import Patient
from manikin.privacy.audit import AuditResult, AuditSettings, run_audit


@dataclass
class Silent:
    """A generator of which only samples are known."""

    spec: GeneratorSpec = field(default_factory=lambda: GeneratorSpec("silent", 1, (8, 8), ("a", "b")))

    def state(self):
        return {}

    def load_state(self, state):
        pass

    def sample(self, conditions, *, generator):
        return torch.zeros(len(conditions), 1, 8, 8)


class Denoiser(Silent):
    """The best denoiser for a finite set of images: what training without end converges to."""

    def __init__(self, memory: np.ndarray) -> None:
        super().__init__()
        self.memory = torch.from_numpy(memory.reshape(len(memory), -1))

    def loss(self, images, conditions, *, generator):
        flat = images.flatten(1)
        noisy = flat + 0.5 * torch.randn(flat.shape, generator=generator)
        weights = torch.softmax(-torch.cdist(noisy, self.memory).square() / (2 * 0.5**2), dim=1)
        return (weights @ self.memory - flat).square().mean(1)

    def private_parameters(self):
        return []


def draw_images(rng: np.random.Generator, count: int, shape: tuple[int, ...] = (8, 8)) -> np.ndarray:
    noise = rng.normal(size=(count, 1, *shape))
    return np.clip(2 * gaussian_filter(noise, (0, 0, *[1.0] * len(shape))), -1, 1).astype(np.float32)


def as_patients(images: np.ndarray, name: str, *, each: int = 1) -> list[Patient]:
    groups = images.reshape(len(images) // each, each, *images.shape[1:])
    return [Patient(f"{name}{i:06x}", group, np.zeros(each, np.int64)) for i, group in enumerate(groups)]


def settings(**changes) -> AuditSettings:
    values = {"fpr": 0.01, "alpha": 0.05, "tpr_limit": 0.05, "seed": 7, "epsilon": 3.0, "delta": 1e-5}
    return AuditSettings(**{**values, **changes})


def audit(train, holdout, calibration, synthetic, *, generator=None, each=1, progress=None, **changes) -> AuditResult:
    return run_audit(
        generator or Silent(),
        synthetic,
        np.zeros(len(synthetic), np.int64),
        train=as_patients(train, "a", each=each),
        holdout=as_patients(holdout, "b", each=each),
        calibration=as_patients(calibration, "c", each=each),
        settings=settings(**changes),
        progress=progress,
    )


@pytest.fixture
def images() -> Callable[..., np.ndarray]:
    return draw_images


@pytest.fixture
def patients() -> Callable[..., list[Patient]]:
    return as_patients


@pytest.fixture
def make_settings() -> Callable[..., AuditSettings]:
    return settings


@pytest.fixture
def run() -> Callable[..., AuditResult]:
    return audit


@pytest.fixture
def silent() -> Silent:
    return Silent()


@pytest.fixture
def denoiser() -> type[Denoiser]:
    return Denoiser
