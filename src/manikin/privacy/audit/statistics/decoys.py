"""Which training patients leaked? Named at a false-discovery rate, with patients not trained on as decoys.

Whoever was not trained on and yet lies close to a synthetic image does so by chance; as many training patients may be
expected there by chance. At a threshold t the share of chance among the named is estimated as
(1 + decoys at or below t) · (members / decoys) / (members at or below t), and the largest t at which it is still at
most the rate asked for is used. Taking the largest is not a hidden search: the rule is no more liberal than
Benjamini-Hochberg on conformal p-values, which controls the rate for scores that are independent between patients.

Promises: the expected share of wrongly named among the named is at most the rate asked for, if the members who did
not leak are exchangeable with the decoys. Names stay in the hospital.

>>> found = name_leaked(np.arange(20.0), np.arange(20.0, 40.0), rate=0.1)
>>> len(found.named), found.decoys, round(found.estimate, 3), fewest_named(500, 500, rate=0.05)
(20, 0, 0.05, 20)

Elias and Gygi 2007 (target-decoy); Bates et al. 2023 (conformal p-values are positively dependent).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from manikin.privacy.audit.statistics.checks import check_share, checked_scores

Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Leaked:
    """Who is named.

    Args:
        named: indices of the named members, the closest first, int64 (named,).
        threshold: their largest score; minus infinite where nobody is named.
        decoys: decoys at or below it.
        estimate: estimated share of chance among the named; 0 where nobody is named.
    """

    named: Int64Array
    threshold: float
    decoys: int
    estimate: float


def name_leaked(members: Float64Array, decoys: Float64Array, *, rate: float) -> Leaked:
    """The members at or below the largest threshold whose estimated share of chance is at most `rate`.

    Args:
        members, decoys: one score a patient, smaller for closer. Equal scores fall on both sides together.
        rate: false-discovery rate.

    Raises:
        BadData: a score is NaN.
    """
    check_share("A false-discovery rate", rate)
    members, decoys = checked_scores(members), np.sort(checked_scores(decoys))
    if not len(members) or not len(decoys):
        return Leaked(np.empty(0, np.int64), -math.inf, 0, 0.0)
    order = np.argsort(members, kind="stable").astype(np.int64)
    thresholds = members[order]
    targets = np.searchsorted(thresholds, thresholds, side="right")
    by_chance = np.searchsorted(decoys, thresholds, side="right")
    estimates = (1 + by_chance) * (len(members) / len(decoys)) / targets
    passing = np.flatnonzero(estimates <= rate * (1 + 1e-12))
    if not len(passing):
        return Leaked(np.empty(0, np.int64), -math.inf, 0, 0.0)
    last = passing[-1]
    return Leaked(order[: targets[last]], float(thresholds[last]), int(by_chance[last]), float(estimates[last]))


def fewest_named(members: int, decoys: int, *, rate: float) -> int | None:
    """Fewest members that can be named at all, before any decoy; None if not even all of them."""
    check_share("A false-discovery rate", rate)
    if not members or not decoys:
        return None
    fewest = math.ceil(members / decoys / rate - 1e-9)
    return fewest if fewest <= members else None
