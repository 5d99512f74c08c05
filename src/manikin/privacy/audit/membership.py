"""Membership scores: one number a patient, larger for those more likely to have been trained on.

Two attacks. *Distance*: minus the distance from a patient's images to the nearest synthetic image; needs only what a
recipient of synthetic images has. *Loss*: minus the generator's own training loss under noise that is fixed and the
same for every patient; needs the released generator. Both depend on this patient, the generator and fixed seeds,
never on other patients. Neither is the strongest attack known (reference models and canaries come with the full
battery), so a pass means that these two found nothing.

Chen et al. 2020 (GAN-Leaks); Carlini et al. 2023 (extracting training data from diffusion models).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from manikin.common.errors import BadData
from manikin.common.generators.base import Trainable
from manikin.common.images import Float32Array, Patient, flatten
from manikin.privacy.audit.neighbours import nearest

Float64Array = NDArray[np.float64]
Progress = Callable[[int], None] | None


@dataclass(frozen=True)
class Scores:
    """Scores of an attack by group, float64 (patients,), larger for likelier members."""

    train: Float64Array
    holdout: Float64Array
    calibration: Float64Array


def distance_scores(patients: list[Patient], synthetic: Float32Array, *, progress: Progress = None) -> Float64Array:
    """Minus the mean over a patient's images of the root mean square gap to the nearest synthetic image.

    Args:
        patients: of one shape.
        synthetic: float32 (m, channels, *spatial), m >= 1.
        progress: called with the number of images just done.

    Returns:
        float64 (patients,), in pixel units: -2 to 0.
    """
    if not patients:
        return np.empty(0)
    images, _, owner = flatten(patients)
    flat = images.reshape(len(images), -1)
    _, distance = nearest(flat, synthetic.reshape(len(synthetic), -1), progress=progress)
    return -mean_by_patient(distance / np.sqrt(flat.shape[1]), owner, len(patients))


def loss_scores(
    patients: list[Patient], generator: Trainable, *, seed: int, draws: int, progress: Progress = None
) -> Float64Array:
    """Minus the mean over a patient's images and `draws` noise draws of the generator's loss, given the label.

    Each image is passed alone, repeated once a draw, from the same seed: every patient meets the very same noise,
    and no score depends on who else is in a batch.

    Args:
        patients: of the generator's shape.
        generator: its `loss` is a pure function of weights, images, conditions and the random stream.
        seed: of the noise.
        draws: noise draws an image.
        progress: called with the number of images just done.

    Returns:
        float64 (patients,).

    Raises:
        BadData: a loss is not finite.
    """
    if not patients:
        return np.empty(0)
    images, labels, owner = flatten(patients)
    losses = np.empty(len(images))
    for index, (image, label) in enumerate(zip(torch.from_numpy(images), torch.from_numpy(labels), strict=True)):
        losses[index] = _loss(generator, image, label, seed=seed, draws=draws)
        if progress is not None:
            progress(1)
    if not np.isfinite(losses).all():
        raise BadData(
            "The generator's loss on a patient is not a finite number.",
            "Its weights overflowed or hold NaN.",
            "Train again with a smaller learning rate; this generator cannot be audited or released.",
        )
    return -mean_by_patient(losses, owner, len(patients))


def _loss(generator: Trainable, image: torch.Tensor, label: torch.Tensor, *, seed: int, draws: int) -> float:
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        losses = generator.loss(image.expand(draws, *image.shape), label.expand(draws), generator=noise)
    return float(losses.double().mean())


def mean_by_patient(values: Float64Array, owner: NDArray[np.int64], patients: int) -> Float64Array:
    """Mean of image values (n,) over each patient's images, (patients,)."""
    sums = np.bincount(owner, weights=values, minlength=patients).astype(np.float64)
    return sums / np.bincount(owner, minlength=patients)
