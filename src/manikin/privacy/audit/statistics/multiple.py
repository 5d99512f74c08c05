"""Many tests, one level: Holm's correction.

Promises: under any dependence of the tests, the chance that any true null has an adjusted p-value at or below α is at
most α. Holm 1979.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from manikin.common.errors import BadData


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p-values, in the given order: compare each with α.

    Raises:
        BadData: one of them is not a probability. (NaN sorts anywhere: one would spoil the others.)

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    if not all(math.isfinite(p) and 0 <= p <= 1 for p in p_values):
        raise BadData("A p-value is not a number between 0 and 1.", "A test before it went wrong.")
    adjusted = [0.0] * len(p_values)
    worst = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = worst
    return adjusted
