"""What one patient contributes to a step of DP-SGD: one bounded gradient over all images and K draws of each.

The loss is averaged over a patient's images and K draws of the model's own noise, one backward pass gives one gradient,
and that is clipped: K draws, or twenty slices, cost what one image costs. (Repeated inside the batch of a per-sample
library, an image would be charged once and count K times.) Draws come from a stream of the patient's own, so that no
patient changes what is computed from another; layers that would mix patients through statistics are refused. Clipped
gradients are added exactly, on a public grid (see `mechanisms`). A gradient that is not finite counts as zero: an error
would tell of the patient. Nothing here is private yet: `engine` adds the noise.

Noise multiplicity: Dockhorn et al. 2023 (DPDM). One backward pass a patient instead of per-sample gradients: measured
at 83 to 97 % of the speed without privacy for K from 8 to 16, and it needs the memory of one gradient.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from manikin.common.errors import Misconfigured
from manikin.common.generators.base import Trainable
from manikin.common.images import Patient
from manikin.privacy.mechanisms import Vector, clip, round_to_zero
from manikin.privacy.randomness import Stream

VOXELS_PER_PASS = 1 << 18  # bounds memory: the draws of one patient are split into passes of at most this many voxels


@dataclass
class LocalStatistics:
    """What the steps did, one number a step. Not private: it stays in the hospital.

    Args:
        drawn: patients drawn.
        clipped: of them, those whose gradient was longer than the bound.
        not_finite: of them, those whose gradient was not finite and counted as zero.
        loss: mean loss of the drawn patients, NaN for an empty draw.
    """

    drawn: list[int] = field(default_factory=list)
    clipped: list[int] = field(default_factory=list)
    not_finite: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)

    def record(self, norms: list[float], losses: list[float], *, bound: float) -> None:
        self.drawn.append(len(norms))
        self.clipped.append(sum(norm > bound for norm in norms))
        self.not_finite.append(sum(not math.isfinite(norm) for norm in norms))
        self.loss.append(float(np.mean(losses)) if losses else math.nan)


def clipped_sum(
    model: Trainable,
    drawn: Sequence[Patient],
    *,
    bound: float,
    grid: float,
    draws: int,
    stream: Stream,
    statistics: LocalStatistics | None = None,
) -> Vector:
    """Sum of the clipped gradients of the drawn patients, flat, over all private parameters.

    Args:
        model: whose loss is differentiated.
        drawn: the patients in this step, each once.
        bound: largest L2 norm of one patient's gradient.
        grid: on which gradients are added, of the noise to come.
        draws: K, repeats of each image.
        stream: of the step's draws; each patient's is forked from it by their key.
        statistics: filled for the hospital's own eyes.

    Returns:
        float64 (d,). One patient more or less changes it by at most `bound`, and leaves the others' gradients as they
        are. Not private.
    """
    parameters = private_parameters(model)
    total = np.zeros(sum(p.numel() for p in parameters))
    norms, losses = [], []
    for patient in drawn:
        generator = stream.fork(patient.key).torch_generator()
        gradient, loss = patient_gradient(model, parameters, patient, draws=draws, generator=generator)
        clipped, norm = clip(gradient, bound=bound)
        total += round_to_zero(clipped, grid=grid)
        norms.append(norm)
        losses.append(loss)
    if statistics is not None:
        statistics.record(norms, losses, bound=bound)
    return total


def patient_gradient(
    model: Trainable,
    parameters: Sequence[nn.Parameter],
    patient: Patient,
    *,
    draws: int,
    generator: torch.Generator,
) -> tuple[Vector, float]:
    """Gradient (float64, flat) and value of the loss, averaged over a patient's images and `draws` repeats of each."""
    device = parameters[0].device
    images, labels = torch.from_numpy(patient.images), torch.from_numpy(patient.labels)
    rows = torch.arange(len(images) * draws) // draws
    gradient, value = np.zeros(sum(p.numel() for p in parameters)), 0.0
    per_pass = max(1, VOXELS_PER_PASS // images[0].numel())
    for start in range(0, len(rows), per_pass):
        part = rows[start : start + per_pass]
        losses = model.loss(images[part].to(device), labels[part].to(device), generator=generator)
        loss = losses.sum() / len(rows)
        parts = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        gradient += np.concatenate([g.double().cpu().numpy().ravel() for g in parts])
        value += float(loss.detach())
    return gradient, value


def private_parameters(model: Trainable) -> list[nn.Parameter]:
    """What gradients of patients may move, in the model's order.

    Raises:
        Misconfigured: there is none.
    """
    parameters = list(model.private_parameters())
    if not parameters:
        raise Misconfigured("There is nothing to train.", "The model names no private parameters.", "Correct the plan.")
    return parameters


def _modules(model: Trainable) -> list[nn.Module]:
    """The model's modules: a family is a module or holds some."""
    roots = [model] if isinstance(model, nn.Module) else [v for v in vars(model).values() if isinstance(v, nn.Module)]
    return [module for root in roots for module in root.modules()]


@contextlib.contextmanager
def only_private(model: Trainable, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Let gradients flow to the private parameters alone, and leave buffers and all else as they were.

    Raises:
        Misconfigured: a layer keeps statistics of what it sees (BatchNorm; InstanceNorm with running statistics), or
            the model hides its modules, so that this cannot be checked.
    """
    modules = _modules(model)
    _refuse_statistics(modules)
    private = {id(p) for p in parameters}
    needed = [(p, p.requires_grad) for module in modules for p in module.parameters(recurse=False)]
    if not private <= {id(p) for p, _ in needed}:
        raise Misconfigured(
            "A private parameter belongs to no module of the model.",
            "Its layers cannot be checked for statistics of patients.",
            "Keep networks as attributes of the family.",
        )
    buffers = [(b, b.clone()) for module in modules for b in module.buffers(recurse=False)]
    for p, _ in needed:
        p.requires_grad_(id(p) in private)
    try:
        yield
    finally:
        for p, before in needed:
            p.requires_grad_(before)
        for buffer, content in buffers:
            buffer.copy_(content)


def _refuse_statistics(modules: Sequence[nn.Module]) -> None:
    for module in modules:
        if isinstance(module, _BatchNorm) or getattr(module, "track_running_stats", False):
            raise Misconfigured(
                f"The model has a {type(module).__name__} layer.",
                "It keeps statistics of patients that no noise protects.",
                "Use GroupNorm or no normalisation.",
            )
