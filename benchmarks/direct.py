"""The rival of synthetic data: one classifier trained on the patients themselves by DP-SGD, at the same ε.

It has it easier than a federation: the patients of all hospitals are pooled, and the whole budget goes into this
one task. What it cannot do is be used for another task without paying again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from manikin.common.evaluation.classification import Scores, score
from manikin.common.images import Float32Array, Int64Array, Patient
from manikin.privacy.accounting import Request, calibrate
from manikin.privacy.engine import DPSGD, train
from manikin.privacy.randomness import Stream

SAMPLE_RATE, STEPS, CLIP, LEARNING_RATE, EMA = 0.08, 60, 1.0, 2e-2, 0.9
GRID = 28  # larger images are averaged down to this many pixels a side: fewer parameters, less noise
WIDTHS = (8, 16)


class PrivateClassifier(nn.Module):
    """A few thousand parameters, without normalisation; a `Trainable` of the privacy engine."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, WIDTHS[0], 5, 2, 2),
            nn.Tanh(),
            nn.Conv2d(WIDTHS[0], WIDTHS[1], 3, 2, 1),
            nn.Tanh(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
        )
        self.head = nn.Linear(16 * WIDTHS[1], classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(functional.adaptive_avg_pool2d(images, min(GRID, images.shape[-1]))))
        return logits

    def loss(self, images: Tensor, conditions: Tensor, *, generator: torch.Generator) -> Tensor:
        """Cross-entropy (n,); nothing is drawn."""
        del generator
        return functional.cross_entropy(self(images), conditions, reduction="none")

    def private_parameters(self) -> Iterable[nn.Parameter]:
        """All of them."""
        return self.parameters()


def train_and_score_privately(
    patients: Sequence[Patient],
    test: tuple[Float32Array, Int64Array],
    *,
    classes: int,
    epsilon: float,
    delta: float,
    seed: int,
) -> Scores:
    """Scores on `test` of a classifier that is (ε, δ)-private for each of `patients`.

    Args:
        patients: 2D images and labels, all hospitals together.
        test: images (n, c, h, w) and labels (n,).
        classes: number of classes.
        epsilon, delta: for the whole training, add/remove one patient.
        seed: stands for the secret of a vault; a demonstration, not a protection.
    """
    noise = calibrate([Request(1.0, SAMPLE_RATE, STEPS)], epsilon=epsilon, delta=delta)[0].noise_multiplier
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PrivateClassifier(test[0].shape[1], classes)
    settings = DPSGD(
        clip=CLIP,
        noise_multiplier=noise,
        sample_rate=SAMPLE_RATE,
        batch_size=max(1, round(SAMPLE_RATE * len(patients))),
        draws=1,
        learning_rate=LEARNING_RATE,
        ema=EMA,
    )
    secret, request = (hashlib.sha256(f"{word} {seed}".encode()).digest() for word in ("secret", "request"))
    train(
        model,
        patients,
        settings=settings,
        steps=range(STEPS),
        stream_for=lambda step: Stream(secret, request=request, purpose=f"step {step}"),
    )
    with torch.no_grad():
        probabilities = model(torch.from_numpy(test[0])).double().softmax(1).numpy()
    return score(probabilities, test[1])
