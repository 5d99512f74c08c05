"""What every statistic asks of its arguments: numbers that are finite and in range, scores that can be ranked."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from manikin.common.errors import BadData, Misconfigured

Float64Array = NDArray[np.float64]


def check_share(name: str, value: float) -> None:
    """Raise Misconfigured unless `value` is finite and strictly between 0 and 1."""
    if not (math.isfinite(value) and 0 < value < 1):
        raise Misconfigured(f"{name} must lie between 0 and 1, not at {value}.", "", "Correct it in the plan.")


def check_counts(**counts: int) -> None:
    """Raise Misconfigured for a negative count."""
    for name, count in counts.items():
        if count < 0:
            raise Misconfigured(f"{name} is a count and cannot be {count}.")


def checked_scores(scores: Float64Array) -> Float64Array:
    """The scores, float64 (n,), none of them NaN; infinite ones can be ranked and stay.

    Raises:
        BadData: a score is NaN, or the shape is not (n,).
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 1 or np.isnan(scores).any():
        raise BadData(
            "An attack's scores cannot be ranked.",
            "There must be one number for each patient, and none may be NaN.",
            "Look for an overflow in the generator or the embedding.",
        )
    return scores
