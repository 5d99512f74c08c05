"""One training step of a denoiser, in the ways that libraries offer; each moves all parameters that may move once.

A step takes every patient, K draws of each, and ends with Adam. The private ones bound a patient's mean gradient over
their draws, add noise and divide; only `ghost` cannot join draws before it clips, and bounds each row. Draws of a row
come from one generator in all of them but `manikin`, where each patient has a stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from opacus.grad_sample import (
    GradSampleModule,
    GradSampleModuleExpandedWeights,
    GradSampleModuleFastGradientClipping,
)
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping
from torch import Tensor

from manikin.common.generators.base import GeneratorSpec
from manikin.common.generators.diffusion import Diffusion
from manikin.common.images import Patient
from manikin.privacy.engine import DPSGD, train
from manikin.privacy.randomness import Stream

CLIP, NOISE, LEARNING_RATE = 1.0, 1.0, 1e-4
Step = Callable[[], None]


def make_family(options: dict[str, object], shape: Sequence[int]) -> Diffusion:
    """A denoiser whose weights are all drawn anew, so that no layer's gradient is zero."""
    family = Diffusion(GeneratorSpec("diffusion", 1, tuple(shape), ("a", "b"), options))
    generator = torch.Generator().manual_seed(1)
    for p in family.net.parameters():
        torch.nn.init.normal_(p, std=0.05, generator=generator)
    return family


def make_patients(count: int, shape: Sequence[int]) -> list[Patient]:
    """One image of noise each: what is in an image takes no time."""
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (count, 1, 1, *shape)).astype(np.float32)
    return [Patient(f"{i:04x}", images[i], np.array([i % 2])) for i in range(count)]


def manikin(family: Diffusion, patients: Sequence[Patient], draws: int) -> Step:
    """`privacy.engine.train`, everything included: streams, exact sums, noise on the grid."""
    settings = DPSGD(
        clip=CLIP,
        noise_multiplier=NOISE,
        sample_rate=1.0,
        batch_size=len(patients),
        draws=draws,
        learning_rate=LEARNING_RATE,
    )
    numbers = iter(range(1 << 30))

    def step() -> None:
        number = next(numbers)
        stream = Stream(bytes(32), request=bytes(32), purpose=f"step {number}")
        train(family, patients, settings=settings, steps=range(1), stream_for=lambda _: stream)

    return step


def nonprivate(family: Diffusion, patients: Sequence[Patient], draws: int) -> Step:
    """One forward and one backward pass over all rows."""
    parameters = _trainable(family)
    optimizer = torch.optim.Adam(parameters, LEARNING_RATE)
    rows = _rows(patients, draws)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        _losses(family, rows).mean().backward()
        optimizer.step()

    return step


def opacus_hooks(family: Diffusion, patients: Sequence[Patient], draws: int) -> Step:
    """`GradSampleModule`; the gradients of a patient's rows are averaged before Opacus clips them.

    Not channels last: Opacus 1.6 then computes wrong gradients of convolutions, and says nothing.
    """
    family.net.layout = torch.contiguous_format
    return _by_samples(family, patients, draws, lambda net: GradSampleModule(net, loss_reduction="sum", strict=False))


def functorch(family: Diffusion, patients: Sequence[Patient], draws: int) -> Step:
    """`GradSampleModule` with `vmap(grad)` of each layer."""
    return _by_samples(
        family,
        patients,
        draws,
        lambda net: GradSampleModule(net, loss_reduction="sum", strict=False, force_functorch=True),
    )


def expanded_weights(family: Diffusion, patients: Sequence[Patient], draws: int) -> Step:
    """`GradSampleModuleExpandedWeights`."""
    return _by_samples(family, patients, draws, lambda net: GradSampleModuleExpandedWeights(net, loss_reduction="sum"))


def vmap(family: Diffusion, patients: Sequence[Patient], draws: int) -> Step:
    """`torch.func.vmap(grad)` over patients, whose rows are one sample; clipped and stepped by Opacus."""
    parameters = _trainable(family)
    names = [name for name, p in family.net.named_parameters() if p.requires_grad]
    optimizer = _optimizer(parameters, len(patients))
    net, rows = family.net, _rows(patients, draws)
    net.layout = torch.contiguous_format  # under vmap a batch of batches has no channels-last layout

    def loss(weights: dict[str, Tensor], *drawn: Tensor) -> Tensor:
        family.net = _Functional(net, weights)  # type: ignore[assignment]
        try:
            return family.error(*drawn).mean()
        finally:
            family.net = net

    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0, 0, 0))

    def step() -> None:
        drawn = [part.unflatten(0, (len(patients), draws)) for part in _draw(family, rows)]
        weights = {name: p.detach() for name, p in zip(names, parameters, strict=True)}
        samples = gradients(weights, *drawn)
        for name, p in zip(names, parameters, strict=True):
            p.grad_sample = samples[name]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def ghost(family: Diffusion, patients: Sequence[Patient], draws: int) -> Step:
    """Opacus' fast gradient clipping: norms in one backward pass, the clipped sum in a second one; row by row."""
    family.net.layout = torch.contiguous_format  # as in `opacus_hooks`
    parameters, rows = _trainable(family), _rows(patients, draws)
    wrapped = GradSampleModuleFastGradientClipping(
        family.net, loss_reduction="mean", strict=False, max_grad_norm=CLIP, use_ghost_clipping=True
    )
    family.net = wrapped
    optimizer = DPOptimizerFastGradientClipping(
        torch.optim.Adam(parameters, LEARNING_RATE),
        noise_multiplier=NOISE,
        max_grad_norm=CLIP,
        expected_batch_size=len(patients) * draws,
    )

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        DPTensorFastGradientClipping(wrapped, optimizer, _losses(family, rows)[:, None]).backward()
        optimizer.step()

    return step


VARIANTS: dict[str, Callable[[Diffusion, Sequence[Patient], int], Step]] = {
    "manikin": manikin,
    "nonprivate": nonprivate,
    "opacus_hooks": opacus_hooks,
    "functorch": functorch,
    "vmap": vmap,
    "expanded_weights": expanded_weights,
    "ghost": ghost,
}


class _Functional:
    """A network with other weights."""

    def __init__(self, net: torch.nn.Module, weights: dict[str, Tensor]) -> None:
        self._net, self._weights = net, weights

    def __call__(self, *arguments: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(self._net, self._weights, arguments)
        return result


def _by_samples(
    family: Diffusion, patients: Sequence[Patient], draws: int, wrap: Callable[[torch.nn.Module], torch.nn.Module]
) -> Step:
    parameters, rows = _trainable(family), _rows(patients, draws)
    optimizer = _optimizer(parameters, len(patients))
    family.net = wrap(family.net)  # type: ignore[assignment]

    def step() -> None:
        (_losses(family, rows).sum() / draws).backward()
        for p in parameters:
            p.grad_sample = p.grad_sample.unflatten(0, (len(patients), draws)).sum(1)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _optimizer(parameters: Sequence[torch.nn.Parameter], patients: int) -> DPOptimizer:
    return DPOptimizer(
        torch.optim.Adam(parameters, LEARNING_RATE),
        noise_multiplier=NOISE,
        max_grad_norm=CLIP,
        expected_batch_size=patients,
    )


def _trainable(family: Diffusion) -> list[torch.nn.Parameter]:
    """The family's private parameters; no other one asks for a gradient."""
    parameters = list(family.private_parameters())
    family.net.requires_grad_(False)
    for p in parameters:
        p.requires_grad_(True)
    return [p for p in family.net.parameters() if p.requires_grad]


def _rows(patients: Sequence[Patient], draws: int) -> tuple[Tensor, Tensor, torch.Generator]:
    images = torch.from_numpy(np.concatenate([p.images for p in patients])).repeat_interleave(draws, 0)
    labels = torch.from_numpy(np.concatenate([p.labels for p in patients])).repeat_interleave(draws)
    return images, labels, torch.Generator().manual_seed(0)


def _draw(family: Diffusion, rows: tuple[Tensor, Tensor, torch.Generator]) -> tuple[Tensor, ...]:
    images, labels, generator = rows
    return family.draw(images, labels, generator=generator)


def _losses(family: Diffusion, rows: tuple[Tensor, Tensor, torch.Generator]) -> Tensor:
    return family.error(*_draw(family, rows))
