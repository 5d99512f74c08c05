"""What one test of an audit found, in numbers and in words, and how findings become a verdict.

Three verdicts. *fail*: the evidence against the generator is significant, after Holm's correction over all tests.
*pass*: the test was strong enough, and what it measured lies below the limit. *inconclusive*: neither; the usual
verdict of a small hospital, and not a failure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True)
class Finding:
    """One test.

    Args:
        name: of the test, for machines.
        title, question, result, reason: for readers; `reason` says why the verdict is what it is.
        detectable: smallest leak that would have been found four times out of five, in words.
        detectable_share: the same as a share of training patients; 1 if not even a complete leak would be found.
        statistic: what was measured; `statistic_name` says what it is.
        interval: two-sided 1 − α interval of the statistic, where there is one.
        limit: what the statistic is held against, where there is one.
        threshold: score above which a patient was flagged, where there is one.
        p_value: one-sided, against "no more leak than allowed"; `p_adjusted` after Holm over all tests.
        patients: how many of each group were used.
        details: further numbers of this test.
    """

    name: str
    title: str
    question: str
    verdict: Verdict
    result: str
    reason: str
    detectable: str
    detectable_share: float
    statistic_name: str
    statistic: float
    interval: tuple[float, float] | None
    limit: float | None
    threshold: float | None
    p_value: float
    p_adjusted: float
    patients: dict[str, int]
    details: dict[str, Any]


def combine(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst verdict; without any, inconclusive."""
    given = set(verdicts)
    if "fail" in given:
        return "fail"
    return "pass" if given == {"pass"} else "inconclusive"


def judge(*, p_value: float, p_adjusted: float, alpha: float, within_limit: bool) -> Verdict:
    """Verdict of one test.

    Args:
        p_value: before correction: a pass needs it at or above α.
        p_adjusted: after correction: below α is a fail.
        alpha: level of the whole audit.
        within_limit: the test was strong enough, and no more than the limit is compatible with what it saw.
    """
    if p_adjusted < alpha:
        return "fail"
    return "pass" if within_limit and p_value >= alpha else "inconclusive"
