"""Shares, counts and probabilities as a reader without statistics would say them.

>>> per_hundred(0.0123), per_hundred(0.0), per_hundred(0.14), chance(0.0002)
('1.2 of 100', '0 of 100', '14 of 100', 'less than 0.001')
"""

from __future__ import annotations


def per_hundred(share: float) -> str:
    """A share as "so many of 100"."""
    return f"{number(100 * share)} of 100"


def interval_per_hundred(interval: tuple[float, float], alpha: float) -> str:
    """An interval of shares, with its level."""
    low, high = interval
    return f"{number(100 * low)} to {number(100 * high)} of 100 ({100 * (1 - alpha):g} % interval)"


def number(value: float) -> str:
    """Two digits below ten, whole numbers above, at most two decimals."""
    if value >= 9.95:
        return f"{value:,.0f}"
    return f"{value:.1f}".removesuffix(".0") if value >= 0.095 or value == 0 else f"{value:.2f}"


def chance(p_value: float) -> str:
    """A p-value with two digits."""
    return "less than 0.001" if p_value < 0.001 else f"{p_value:.2g}" if p_value < 0.995 else "1"


def counted(count: int, noun: str) -> str:
    """A count with its noun: "1 patient", "1,600 patients"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def are(count: int) -> str:
    """The verb for a count."""
    return "was" if count == 1 else "were"
