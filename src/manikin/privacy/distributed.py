"""DP-SGD of the union of several hospitals' patients: one hospital's part of one step, in integers.

A step draws every patient of every hospital with the plan's rate (Poisson, each hospital from its own stream), takes
one clipped gradient of each (`gradients`), and adds up. Each hospital adds its share of the noise (`skellam`); the
server sees the sum alone (`secure_sum`), divides it by a public number and moves the weights. Nothing is moved here.

Guarantee: with the other parts of the roster, a Poisson-subsampled Skellam mechanism on the union, add/remove one
patient; this part alone carries one share of the noise, and is to be masked.
"""

from __future__ import annotations

from collections.abc import Sequence

from manikin.common.generators.base import Trainable
from manikin.common.images import Patient
from manikin.privacy.engine import DPSGD, draw_patients, in_order
from manikin.privacy.gradients import gradients, only_private, private_parameters
from manikin.privacy.randomness import Stream
from manikin.privacy.skellam import Scale, Shares, release_integers
from manikin.privacy.skellam_table import Integers


def gradient_share(
    model: Trainable, patients: Sequence[Patient], *, settings: DPSGD, shares: Shares, stream: Stream
) -> Integers:
    """One hospital's noised sum of clipped gradients of the patients that this step draws.

    Args:
        model: with the weights of this step; it stays as it is.
        patients: the hospital's whole cohort, each patient once, in any order.
        settings: the plan's; batch size, learning rate and average are the server's to apply.
        shares: how the noise is divided in this sum.
        stream: of the hospital's secret, the request and this step alone.

    Returns:
        int64 (d,) over all private parameters, in units of the step's `Scale`.

    Raises:
        Misconfigured: the model has no private parameters, or layers that keep statistics of patients (BatchNorm).
        BadData: a patient is listed twice.
    """
    parameters = private_parameters(model)
    scale = Scale(
        sensitivity=settings.clip,
        noise_multiplier=settings.noise_multiplier,
        size=sum(p.numel() for p in parameters),
    )
    drawn = draw_patients(in_order(patients), settings=settings, stream=stream)
    with only_private(model, parameters):
        found = gradients(model, drawn, draws=settings.draws, stream=stream.fork("draws"))
        vectors = (gradient for gradient, _ in found)
        return release_integers(vectors, scale=scale, shares=shares, stream=stream.fork("sum"))
