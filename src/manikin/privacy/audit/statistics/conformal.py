"""Thresholds and p-values from patients who are not tested: exact for any scores, by exchangeability alone.

Promises: an outsider exchangeable with the calibration patients exceeds the threshold with probability at most the
one asked for, ties or not; its p-value is at or below t with probability at most t. Both are averages over calibration
sets: what *this* threshold's rate may be, `rate_interval` says.

Does not promise: anything for outsiders of another population than the calibration patients.

>>> conformal_threshold(np.arange(1.0, 201.0), fpr=0.01)
199.0
>>> [round(x, 4) for x in rate_interval(200, fpr=0.01, alpha=0.05)]
[0.0012, 0.0275]
>>> round(mismatched_share(10, share=0.05), 2)
0.4

Vovk, Gammerman and Shafer 2005; Bates et al. 2023 (p-values of several outsiders).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from manikin.privacy.audit.statistics.checks import check_share, checked_scores

Float64Array = NDArray[np.float64]


def conformal_rank(n: int, *, fpr: float) -> int:
    """Which of `n` calibration scores, counted from the smallest, is the threshold; above `n`: none of them."""
    check_share("A false-positive rate", fpr)
    return math.ceil((n + 1) * (1 - fpr) - 1e-9)


def conformal_threshold(calibration: Float64Array, *, fpr: float) -> float:
    """The ⌈(n+1)(1−fpr)⌉-th smallest score: an outsider's score exceeds it with probability at most `fpr`.

    Args:
        calibration: one score a patient, larger for likelier members.
        fpr: expected share of outsiders above the threshold, at most.

    Returns:
        The threshold, to be exceeded strictly; infinite if there are too few calibration scores for this `fpr`.

    Raises:
        BadData: a score is NaN.
    """
    calibration = checked_scores(calibration)
    rank = conformal_rank(len(calibration), fpr=fpr)
    return float(np.sort(calibration)[rank - 1]) if rank <= len(calibration) else math.inf


def conformal_p_values(scores: Float64Array, calibration: Float64Array) -> Float64Array:
    """(1 + calibration scores at or above) / (n + 1), one p-value a patient; large scores are suspicious.

    They share the calibration patients, so they are not independent: correct by Holm, or by `decoys`.
    """
    ordered = np.sort(checked_scores(calibration))
    at_or_above = len(ordered) - np.searchsorted(ordered, checked_scores(scores), side="left")
    p_values: Float64Array = (1.0 + at_or_above) / (len(ordered) + 1)
    return p_values


def rate_interval(n: int, *, fpr: float, alpha: float) -> tuple[float, float]:
    """Where the true rate of one threshold from `n` calibration patients lies with probability 1 − α.

    For scores without ties the rate has exactly the distribution Beta(n − rank + 1, rank). (0, 1) where there is no
    threshold.
    """
    check_share("A level", alpha)
    rank = conformal_rank(n, fpr=fpr)
    if rank > n:
        return 0.0, 1.0
    low, high = (float(betaincinv(n - rank + 1, rank, q)) for q in (alpha / 2, 1 - alpha / 2))
    return low, high


def mismatched_share(ratio: float, *, share: float) -> float:
    """False share of "copies" that an honest generator gets if the threshold was set on a base `ratio` times smaller.

    Nearest neighbours come closer the more candidates there are. Comparing synthetic images to N training images with a
    threshold from N/ratio validation images flags 1 − (1 − share)^ratio of them, not `share`: set the threshold on
    other patients' likeness to the same training images instead.
    """
    return 1 - math.pow(1 - share, ratio)
