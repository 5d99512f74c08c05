"""What one patient contributes to a step of DP-SGD: one bounded gradient over all images and K draws of each.

The loss is averaged over a patient's images and K draws of the model's own noise, and the gradient of that is clipped:
K draws, or twenty slices, count as one image. (Repeated inside the batch of a per-sample library, an image would be
charged once and count K times.) Draws come from a stream of the patient's own, so that no patient changes what is
drawn for another; layers that would mix patients through statistics are refused. Clipped gradients are added exactly,
on a public grid (see `mechanisms`). A gradient that is not finite counts as zero: an error would tell of the patient.
Nothing here is private yet: `engine` adds the noise.

Two paths give the same gradients up to rounding. Patients with few voxels share forward and backward passes where the
model's family allows it (`layers`); all others have passes of their own, which need the memory of one gradient. In
both, memory does not grow with the number of patients drawn.

Noise multiplicity: Dockhorn et al. 2023 (DPDM).
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from manikin.common.errors import Misconfigured
from manikin.common.generators.base import Shareable, Trainable
from manikin.common.images import Patient
from manikin.privacy.layers import SharedPass, can_share, modules_of
from manikin.privacy.mechanisms import Vector, clip, round_to_zero
from manikin.privacy.randomness import Stream

VOXELS_PER_PASS = 1 << 18  # bounds memory: the draws of one patient are split into passes of at most this many voxels
SHARED_VOXELS = 1 << 17  # of a pass that patients share
PATIENTS_PER_PASS = 32  # in a pass at most: the last one is filled up, so that more would waste work on small images


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
    share: bool = True,
) -> Vector:
    """Sum of the clipped gradients of the drawn patients, flat, over all private parameters.

    Args:
        model, drawn, bound, draws, stream, statistics, share: as in `add_clipped`.
        grid: on which gradients are added, of the noise to come.

    Returns:
        float64 (d,). One patient more or less changes it by at most `bound`, and leaves the others' gradients as they
        are (in a shared pass: but for float32 rounding). Not private.
    """
    total = np.zeros(sum(p.numel() for p in private_parameters(model)))

    def add(gradient: Vector) -> None:
        np.add(total, round_to_zero(gradient, grid=grid, out=gradient), out=total)

    add_clipped(model, drawn, bound=bound, draws=draws, stream=stream, add=add, statistics=statistics, share=share)
    return total


def add_clipped(
    model: Trainable,
    drawn: Sequence[Patient],
    *,
    bound: float,
    draws: int,
    stream: Stream,
    add: Callable[[Vector], None],
    statistics: LocalStatistics | None = None,
    share: bool = True,
) -> None:
    """Hand the clipped gradient of each drawn patient to `add`, one after the other, in no promised order.

    Args:
        model: whose loss is differentiated, on any device.
        drawn: the patients in this step, each once.
        bound: largest L2 norm of one patient's gradient.
        draws: K, repeats of each image.
        stream: of the step's draws; each patient's is forked from it by their key.
        add: takes a float64 vector (d,) of norm at most `bound`; may write into it, and keeps no reference to it.
        statistics: filled for the hospital's own eyes.
        share: let small patients share a pass where the model allows it; equal to rounding, and faster.

    Raises:
        Misconfigured: as in `only_private`.
    """
    norms, losses = [], []
    with only_private(model, private_parameters(model)):
        for gradient, loss in gradients(model, drawn, draws=draws, stream=stream, share=share):
            clipped, norm = clip(gradient, bound=bound, out=gradient)
            add(clipped)
            norms.append(norm)
            losses.append(loss)
    if statistics is not None:
        statistics.record(norms, losses, bound=bound)


def gradients(
    model: Trainable, drawn: Sequence[Patient], *, draws: int, stream: Stream, share: bool = True
) -> Iterator[tuple[Vector, float]]:
    """Gradient (float64, flat, not clipped) and loss of each patient; small patients share passes.

    In the order of their sizes, and as they were given among equals.
    """
    parameters = private_parameters(model)
    share = share and can_share(model, parameters)
    for size, group in itertools.groupby(sorted(drawn, key=_voxels), key=_voxels):
        patients, together = list(group), patients_per_pass(size * draws) if share else 1
        if together > 1 and isinstance(model, Shareable):
            yield from _shared_gradients(model, parameters, patients, together, draws=draws, stream=stream)
            continue
        for patient in patients:
            generator = stream.fork(patient.key).torch_generator()
            yield patient_gradient(model, parameters, patient, draws=draws, generator=generator)


def _shared_gradients(
    model: Shareable,
    parameters: Sequence[nn.Parameter],
    patients: Sequence[Patient],
    together: int,
    *,
    draws: int,
    stream: Stream,
) -> Iterator[tuple[Vector, float]]:
    """One vector serves all patients: each is gone when the next one comes."""
    shared = SharedPass(model, parameters, patients=together)
    gradient = np.empty(sum(p.numel() for p in parameters))
    for start in range(0, len(patients), together):
        drawn = []
        for patient in patients[start : start + together]:
            images, labels = torch.from_numpy(patient.images), torch.from_numpy(patient.labels)
            rows, generator = _rows(patient, draws), stream.fork(patient.key).torch_generator()
            drawn.append(model.draw(images[rows], labels[rows], generator=generator))
        for row, loss in zip(*shared.gradients(drawn), strict=True):
            torch.from_numpy(gradient).copy_(row)
            yield gradient, float(loss)


def patients_per_pass(voxels: int) -> int:
    """How many patients share a pass, each with this many voxels, all draws counted; 1: none do.

    Of 2**15 to 2**18 voxels, 2**17 came out best or next to best for 28 × 28 pixels, K = 8 and 16, 80k to 180k
    parameters, all private or few. The rule looks at sizes alone, never at a clock, so that the same request takes the
    same path.

    >>> patients_per_pass(8 * 28 * 28), patients_per_pass(8 * 32 * 48 * 32)
    (20, 1)
    """
    return max(1, min(PATIENTS_PER_PASS, SHARED_VOXELS // voxels))


def patient_gradient(
    model: Trainable,
    parameters: Sequence[nn.Parameter],
    patient: Patient,
    *,
    draws: int,
    generator: torch.Generator,
) -> tuple[Vector, float]:
    """Gradient (float64, flat) and value of the loss, averaged over a patient's images and `draws` repeats of each."""
    images, labels = torch.from_numpy(patient.images), torch.from_numpy(patient.labels)
    rows = _rows(patient, draws)
    gradient, value = np.zeros(sum(p.numel() for p in parameters)), 0.0
    per_pass = max(1, VOXELS_PER_PASS // images[0].numel())
    through = _has_private_norm(model, parameters)
    for part in torch.split(rows, per_pass):
        shown = images[part].requires_grad_(through)
        losses = _losses(model, shown, labels[part], generator, device=parameters[0].device)
        loss = losses.sum() / len(rows)
        inputs = [*parameters, shown] if through else parameters
        parts = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)[: len(parameters)]
        gradient += torch.cat([g.flatten() for g in parts]).double().cpu().numpy()
        value += float(loss.detach())
    return gradient, value


def _has_private_norm(model: Trainable, parameters: Sequence[nn.Parameter]) -> bool:
    """GroupNorm over channels-last input crashes torch 2.13 where only its weights' gradients are asked for."""
    norms = {id(p) for m in modules_of(model) if isinstance(m, nn.GroupNorm) for p in m.parameters()}
    return any(id(p) in norms for p in parameters)


def _losses(
    model: Trainable, images: Tensor, labels: Tensor, generator: torch.Generator, *, device: torch.device
) -> Tensor:
    """Loss of each row; a loss in two halves draws on the CPU, where the stream is, and computes on the device."""
    if isinstance(model, Shareable):
        drawn = model.draw(images, labels, generator=generator)
        return model.error(*(part.to(device) for part in drawn))
    return model.loss(images.to(device), labels.to(device), generator=generator)


def _rows(patient: Patient, draws: int) -> Tensor:
    """Which image each row shows: every image `draws` times."""
    return torch.arange(len(patient) * draws) // draws


def _voxels(patient: Patient) -> int:
    return patient.images.size


def private_parameters(model: Trainable) -> list[nn.Parameter]:
    """What gradients of patients may move, in the model's order.

    Raises:
        Misconfigured: there is none.
    """
    parameters = list(model.private_parameters())
    if not parameters:
        raise Misconfigured("There is nothing to train.", "The model names no private parameters.", "Correct the plan.")
    return parameters


@contextlib.contextmanager
def only_private(model: Trainable, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Let gradients flow to the private parameters alone, and leave buffers and all else as they were.

    Raises:
        Misconfigured: a layer keeps statistics of what it sees (BatchNorm; InstanceNorm with running statistics), or
            the model hides its modules, so that this cannot be checked.
    """
    modules = modules_of(model)
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
