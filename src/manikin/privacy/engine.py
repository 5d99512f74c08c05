"""DP-SGD by patient: one gradient a patient, clip, add, noise; Opacus' optimiser takes the step.

A step draws every patient with the plan's sample rate (Poisson) and adds up one clipped gradient of each (`gradients`).
The sum gets noise of standard deviation `noise_multiplier` · `clip` and is divided by the plan's batch size: a public
number, never one counted in a cohort. An empty draw still takes its noisy step. All randomness comes from the stream of
the step.

Opacus' `DPOptimizerFastGradientClipping` divides and steps; its own noise (`secure_mode` needs a library that is gone,
and falls back to torch's generator) is replaced by the stream. Underneath is Adam, born anew in each call: a round is a
function of the weights it starts from and its streams, so that a resumed round gives the same bytes.

Guarantee: each step is a Poisson-subsampled Gaussian mechanism, add/remove one patient (Abadi et al. 2016); the ε of
all steps is `accounting.epsilon([Mechanism(noise_multiplier, sample_rate, steps)], …)`. Not covered: how long a step
takes, which grows with the number of patients drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from opacus.optimizers import DPOptimizerFastGradientClipping
from torch import nn

from manikin.common.errors import BadData, Misconfigured
from manikin.common.generators.base import Trainable
from manikin.common.images import Patient
from manikin.privacy.gradients import LocalStatistics, clipped_sum, only_private, private_parameters
from manikin.privacy.mechanisms import Vector, grid_noise, public_grid
from manikin.privacy.randomness import Stream


@dataclass(frozen=True, kw_only=True)
class DPSGD:
    """What the guarantee and the step of private training depend on; every number is public and part of the plan.

    Args:
        clip: largest L2 norm of one patient's gradient over all private parameters.
        noise_multiplier: noise standard deviation in units of `clip`.
        sample_rate: chance of each patient to be drawn in a step.
        batch_size: what the noisy sum is divided by; about the expected number of patients drawn.
        draws: K, draws of the model's noise for each image.
        learning_rate: of Adam.
        ema: limit of the decay of the running average of weights that a call ends with; 0 ends with the last weights.
    """

    clip: float
    noise_multiplier: float
    sample_rate: float
    batch_size: int
    draws: int
    learning_rate: float
    ema: float = 0.0

    def __post_init__(self) -> None:
        for name in ("clip", "noise_multiplier", "learning_rate"):
            value = getattr(self, name)
            _require(math.isfinite(value) and value > 0, name, value, "must be positive")
        _require(
            math.isfinite(self.sample_rate) and 0 < self.sample_rate <= 1,
            "sample_rate",
            self.sample_rate,
            "is in (0, 1]",
        )
        _require(math.isfinite(self.ema) and 0 <= self.ema < 1, "ema", self.ema, "is in [0, 1)")
        for name in ("batch_size", "draws"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "is at least 1")


def _require(condition: bool, name: str, value: float, rule: str) -> None:
    if not condition:
        raise Misconfigured(
            f"{name} = {value} cannot be used for private training.", f"It {rule}.", "Correct the plan."
        )


class StreamOptimizer(DPOptimizerFastGradientClipping):  # type: ignore[misc]
    """Opacus' optimiser with noise from `stream`; each `p.summed_grad` holds an exact float64 sum before `step`."""

    stream: Stream

    def accumulate(self) -> None:
        """Nothing: the sums are in place."""

    def add_noise(self) -> None:
        """Put the noisy sums into `p.grad`; Opacus divides them by the plan's batch size next."""
        for p in self.params:
            noise = grid_noise(p.numel(), noise_std=self.noise_multiplier * self.max_grad_norm, stream=self.stream)
            p.grad = (p.summed_grad + torch.from_numpy(noise).reshape(p.shape)).to(p)


def train(
    model: Trainable,
    patients: Sequence[Patient],
    *,
    settings: DPSGD,
    steps: range,
    stream_for: Callable[[int], Stream],
    progress: Callable[[int], None] | None = None,
    statistics: LocalStatistics | None = None,
) -> None:
    """Move `model.private_parameters()` in place by some steps of DP-SGD; nothing else of the model changes.

    Args:
        model: its loss may draw from the generator that it is given, and from nothing else.
        patients: the whole cohort, each patient once, in any order; it may be empty.
        settings: the plan's.
        steps: numbers of the steps, as the plan counts them.
        stream_for: the stream of a step; of one secret, one request and this step alone.
        progress: called with 1 after each step.
        statistics: filled with what the steps did, for the hospital's own eyes.

    Raises:
        Misconfigured: the model has no private parameters, or layers that keep statistics of patients (BatchNorm).
        BadData: a patient is listed twice, which would double what one patient can move.

    Guarantee: Poisson-subsampled Gaussian mechanism in each step, add/remove one patient.
    """
    cohort = in_order(patients)
    parameters = private_parameters(model)
    optimizer = StreamOptimizer(
        torch.optim.Adam(parameters, settings.learning_rate),
        noise_multiplier=settings.noise_multiplier,
        max_grad_norm=settings.clip,
        expected_batch_size=settings.batch_size,
    )
    average = RunningAverage(parameters, decay=settings.ema)
    with only_private(model, parameters):
        for number in steps:
            stream = stream_for(number)
            drawn = draw_patients(cohort, settings=settings, stream=stream)
            total = clipped_sum(
                model,
                drawn,
                bound=settings.clip,
                grid=public_grid(settings.noise_multiplier * settings.clip),
                draws=settings.draws,
                stream=stream.fork("draws"),
                statistics=statistics,
            )
            optimizer.stream = stream.fork("noise")
            _put_sums(parameters, total)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            average.update()
            if progress is not None:
                progress(1)
    average.write()


def draw_patients(cohort: Sequence[Patient], *, settings: DPSGD, stream: Stream) -> list[Patient]:
    """Poisson sample: each patient on their own, with the plan's sample rate; may be empty."""
    chosen = stream.fork("sample").bernoulli(len(cohort), settings.sample_rate)
    return [patient for patient, taken in zip(cohort, chosen, strict=True) if taken]


def in_order(patients: Sequence[Patient]) -> list[Patient]:
    """A cohort in the order in which it is drawn from.

    Raises:
        BadData: a patient is listed twice, which would double what one patient can move.
    """
    cohort = sorted(patients, key=lambda patient: patient.key)
    if len({patient.key for patient in cohort}) < len(cohort):
        raise BadData(
            "A patient is listed twice.",
            "All images of a patient must be bounded together.",
            "Join the images of equal keys into one patient.",
        )
    return cohort


def _put_sums(parameters: Sequence[nn.Parameter], total: Vector) -> None:
    """Cut the flat sum into the parameters' shapes, where Opacus looks for them."""
    ends = np.cumsum([p.numel() for p in parameters])[:-1]
    for p, part in zip(parameters, np.split(total, ends), strict=True):
        p.summed_grad = torch.from_numpy(part).reshape(p.shape)  # type: ignore[attr-defined]


def average_decay(step: int, *, limit: float) -> float:
    """Decay of a running average at a step, from 1: low at first, so that the weights at the start are soon forgotten.

    >>> [average_decay(step, limit=0.9) for step in (1, 11, 1000)]
    [0.1, 0.55, 0.9]
    """
    return min(limit, step / (step + 9))


class RunningAverage:
    """Exponential running average of weights since this call began; cheap post-processing of what is private already.

    Its decay in each step is `average_decay`.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], *, decay: float) -> None:
        self._parameters, self._decay, self._count = parameters, decay, 0
        self._means = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        self._count += 1
        decay = average_decay(self._count, limit=self._decay)
        for mean, p in zip(self._means, self._parameters, strict=True):
            mean.lerp_(p, 1 - decay)

    @torch.no_grad()
    def write(self) -> None:
        """Put the averages into the parameters."""
        for mean, p in zip(self._means, self._parameters, strict=True):
            p.copy_(mean)
