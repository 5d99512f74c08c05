"""The leak test, its interval and its power hold for the threshold's own luck, checked by simulation and by sums."""

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import betabinom, binom

from manikin.privacy.audit.claim import tpr_on_curve
from manikin.privacy.audit.flagged import (
    Design,
    design_needed,
    detectable_tpr,
    leak_p_value,
    pass_probability,
    tpr_interval,
)
from manikin.privacy.audit.statistics import clopper_pearson, conformal_threshold

DESIGN = Design(members=400, holdout=100, calibration=150, fpr=0.02)


def simulate(rng, mu, design=DESIGN):
    """Flagged members and holdout patients of one audit with normal scores and a leak of size mu."""
    threshold = conformal_threshold(rng.normal(size=design.calibration), fpr=design.fpr)
    members, holdout = rng.normal(mu, 1, design.members), rng.normal(size=design.holdout)
    return int((members > threshold).sum()), int((holdout > threshold).sum())


def test_p_value_without_leak_is_an_exact_beta_binomial_tail():
    rank, k = 148, 3
    exact = betabinom.sf(11, 400, 150 - rank + 1 + k, rank + 100 - k)
    assert leak_p_value(DESIGN, 12, k, allowed=lambda rates: rates) == pytest.approx(exact, rel=5e-3)


@pytest.mark.parametrize("mu", [0.0, 0.5, 1.2])
def test_interval_covers_the_true_rate_at_the_asked_false_positive_rate(mu):
    rng = np.random.default_rng(int(10 * mu))
    truth, repetitions = tpr_on_curve(0.02, mu), 200
    intervals = [tpr_interval(DESIGN, *simulate(rng, mu), alpha=0.1) for _ in range(repetitions)]
    missed = sum(not low <= truth <= high for low, high in intervals)
    assert missed <= binom.isf(1e-4, repetitions, 0.1)


def test_plain_interval_would_miss_too_often():
    """Why the threshold's luck is accounted for: the same simulation, with Clopper–Pearson alone."""
    rng = np.random.default_rng(0)
    plain = [clopper_pearson(simulate(rng, 0.0)[0], 400, alpha=0.1) for _ in range(300)]
    assert sum(not low <= 0.02 <= high for low, high in plain) > binom.isf(1e-4, 300, 0.1)


def test_leak_test_holds_its_level_at_the_limit_and_finds_what_it_says():
    rng, limit, alpha, repetitions = np.random.default_rng(5), 0.08, 0.05, 200
    mu = float(ndtri(limit) - ndtri(0.02))
    detectable = detectable_tpr(DESIGN, limit=limit, alpha=alpha)
    larger = float(ndtri(detectable) - ndtri(0.02))

    def alarms(leak):
        draws = (simulate(rng, leak) for _ in range(repetitions))
        return sum(leak_p_value(DESIGN, *draw, allowed=lambda r: tpr_on_curve(r, mu)) <= alpha for draw in draws)

    assert alarms(mu) <= binom.isf(1e-4, repetitions, alpha)
    assert alarms(larger) >= binom.ppf(1e-4, repetitions, 0.72)  # 0.8 planned with the expected count of false alarms


def test_chance_to_pass_is_the_observed_one():
    design = Design(members=800, holdout=200, calibration=200, fpr=0.01)
    rng = np.random.default_rng(9)
    passed = sum(tpr_interval(design, *simulate(rng, 0.0, design), alpha=0.05)[1] <= 0.06 for _ in range(200))
    planned = pass_probability(design, limit=0.06, alpha=0.05)
    assert abs(passed / 200 - planned) < 0.15


def test_too_few_calibration_patients_prove_nothing():
    few = Design(members=500, holdout=50, calibration=98, fpr=0.01)
    assert not few.has_threshold
    assert few.calibration_needed == 99
    assert leak_p_value(few, 500, 0, allowed=lambda rates: rates) == 1.0
    assert tpr_interval(few, 0, 0, alpha=0.05) == (0.0, 1.0)
    assert detectable_tpr(few, limit=0.05, alpha=0.05) == 1.0
    assert pass_probability(few, limit=0.05, alpha=0.05) == 0.0


def test_needed_sizes_would_pass_and_smaller_ones_would_not():
    small = Design(members=400, holdout=50, calibration=50, fpr=0.01)
    needed = design_needed(small, limit=0.05, alpha=0.05)
    assert needed is not None
    assert needed.members > 2 * small.members
    assert pass_probability(needed, limit=0.05, alpha=0.05) >= 0.8
    assert pass_probability(small.times(0.5 * needed.members / small.members), limit=0.05, alpha=0.05) < 0.8
    assert design_needed(Design(0, 0, 0, 0.01), limit=0.05, alpha=0.05) is None
