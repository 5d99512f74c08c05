"""How numbers become verdicts."""

import pytest

from manikin.privacy.audit.finding import judge


@pytest.mark.parametrize(
    ("p_value", "p_adjusted", "within_limit", "verdict"),
    [
        (0.6, 1.0, True, "pass"),
        (0.6, 1.0, False, "inconclusive"),
        (0.01, 0.03, True, "fail"),
        (0.01, 0.03, False, "fail"),
        (0.03, 0.09, True, "inconclusive"),
        (0.05, 0.05, True, "pass"),
    ],
)
def test_a_pass_needs_strength_and_no_hint_and_a_fail_needs_the_corrected_level(
    p_value, p_adjusted, within_limit, verdict
):
    assert judge(p_value=p_value, p_adjusted=p_adjusted, alpha=0.05, within_limit=within_limit) == verdict
