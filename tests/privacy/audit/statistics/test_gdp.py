"""μ from canaries and from rates: known answers, and the level kept where the truth is known."""

import math

import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import binom, ttest_1samp

from manikin.common.errors import BadData, Misconfigured
from manikin.privacy.audit.claim import auc_on_curve, epsilon_for_mu, mu_for_claim, tpr_on_curve
from manikin.privacy.audit.statistics.gdp import (
    canary_scores,
    claim_p_value,
    detectable_mu,
    epsilon_from_rates,
    fit_canaries,
    mu_from_rates,
)
from manikin.privacy.audit.statistics.intervals import clopper_pearson


def test_claims_in_the_shared_vectors(vectors):
    known = vectors["gdp_equivalent_of_claim_delta_1e-5"]
    for epsilon, mu, low, middle, high, area, advantage in known["cases"]:
        found = mu_for_claim(epsilon, 1e-5)
        assert found == pytest.approx(mu, abs=6e-4)
        rates = [tpr_on_curve(fpr, found) for fpr in (0.001, 0.01, 0.1)]
        assert rates == pytest.approx([low, middle, high], abs=6e-4)
        assert auc_on_curve(found) == pytest.approx(area, abs=6e-4)
        assert 2 * ndtr(found / 2) - 1 == pytest.approx(advantage, abs=6e-4)


def test_gaussian_mechanisms_in_the_shared_vectors(vectors):
    for name, epsilon in vectors["gaussian_mechanism_eps_at_delta_1e-5"].items():
        sigma = float(name.removeprefix("sigma_"))
        assert epsilon_for_mu(1 / sigma, 1e-5) == pytest.approx(epsilon, abs=6e-4)


@pytest.mark.parametrize(("sigma", "epsilon"), [(4.0, 0.926), (1.0, 4.377), (0.5, 9.997)])
def test_gaussian_mechanisms(sigma, epsilon):
    assert epsilon_for_mu(1 / sigma, 1e-5) == pytest.approx(epsilon, abs=6e-4)


@pytest.mark.parametrize("sigma", [4.22, 1.54])
def test_planted_canaries_show_the_mu_of_the_noise(sigma):
    rng, d, k = np.random.default_rng(0), 20_000, 100
    canaries = rng.normal(size=(k, d))
    directions = canaries / np.linalg.norm(canaries, axis=1, keepdims=True)
    update = directions.sum(0) + sigma * rng.normal(size=d)
    fit = fit_canaries(canary_scores(update, canaries), alpha=0.05)
    assert fit.mu == pytest.approx(1 / sigma, abs=4 / math.sqrt(k))
    assert fit.low < 1 / sigma
    assert fit.canaries == k


def test_scores_of_directions_that_were_not_planted_are_standard_normal():
    rng, d = np.random.default_rng(1), 5000
    scores = canary_scores(rng.normal(size=d), rng.normal(size=(2000, d)))
    assert abs(scores.mean()) < 4 / math.sqrt(2000)
    assert scores.std() == pytest.approx(1, abs=0.07)


def test_scores_do_not_change_with_the_length_of_update_or_canary():
    rng = np.random.default_rng(2)
    update, canaries = rng.normal(size=50), rng.normal(size=(4, 50))
    np.testing.assert_allclose(
        canary_scores(update, canaries), canary_scores(7 * update, canaries * [[2], [3], [4], [5]])
    )
    by_hand = [c @ update / np.linalg.norm(c) / np.sqrt(np.mean(update**2)) for c in canaries]
    np.testing.assert_allclose(canary_scores(update, canaries), by_hand)


def test_the_test_of_a_claim_is_that_of_student():
    scores = np.random.default_rng(3).normal(1.1, 1.3, 40)
    assert claim_p_value(scores, mu=0.9) == pytest.approx(ttest_1samp(scores, 0.9, alternative="greater").pvalue)
    assert claim_p_value(np.ones(3), mu=0.9) == 0.0
    assert claim_p_value(np.ones(3), mu=1.0) == 1.0


def test_the_lower_limit_keeps_its_level_with_few_canaries():
    rng, repetitions = np.random.default_rng(4), 3000
    above = sum(fit_canaries(rng.normal(0.5, 1, 6), alpha=0.05).low > 0.5 for _ in range(repetitions))
    assert binom.ppf(1e-4, repetitions, 0.05) <= above <= binom.isf(1e-4, repetitions, 0.05)


def test_the_announced_mu_is_found_as_often_as_announced():
    rng, k, repetitions = np.random.default_rng(5), 100, 1000
    mu = detectable_mu(0.5, k, alpha=0.01, power=0.9)
    assert mu == pytest.approx(0.5 + (2.32635 + 1.28155) / 10, abs=1e-5)
    found = sum(claim_p_value(rng.normal(mu, 1, k), mu=0.5) <= 0.01 for _ in range(repetitions))
    assert binom.ppf(1e-4, repetitions, 0.89) <= found <= binom.isf(1e-4, repetitions, 0.91)


@pytest.mark.parametrize(("n", "ceiling"), [(100, 3.28), (300, 4.39), (1000, 5.60), (3000, 6.70), (10000, 7.91)])
def test_ceilings_of_two_samples(n, ceiling):
    tpr, fpr = clopper_pearson(n, n, alpha=0.05), clopper_pearson(0, n, alpha=0.05)
    assert epsilon_from_rates(tpr, fpr, delta=0.0) == pytest.approx(ceiling, abs=0.006)


def test_epsilon_from_rates_uses_both_directions():
    """Nobody is missed: what was out is told surely, though what was in is not."""
    assert epsilon_from_rates((0.999, 1.0), (0.0, 0.5), delta=0.0) == pytest.approx(math.log(0.5 / 0.001))
    assert epsilon_from_rates((0.5, 1.0), (0.0, 0.001), delta=0.1) == pytest.approx(math.log(0.4 / 0.001))
    assert epsilon_from_rates((0.1, 0.2), (0.1, 0.3), delta=0.0) == 0.0
    assert epsilon_from_rates((0.5, 1.0), (0.0, 0.0), delta=0.0) == math.inf


def test_limits_from_rates_keep_their_level():
    rng, repetitions, n, mu = np.random.default_rng(6), 2000, 400, 1.0
    above_mu = above_epsilon = 0
    for hits, false in rng.binomial(n, [ndtr(ndtri(0.05) + mu), 0.05], size=(repetitions, 2)):
        tpr, fpr = clopper_pearson(int(hits), n, alpha=0.05), clopper_pearson(int(false), n, alpha=0.05)
        above_mu += mu_from_rates(tpr, fpr) > mu
        above_epsilon += epsilon_from_rates(tpr, fpr, delta=1e-5) > epsilon_for_mu(mu, 1e-5)
    assert above_mu <= binom.isf(1e-4, repetitions, 0.05)
    assert above_epsilon <= binom.isf(1e-4, repetitions, 0.05)
    assert mu_from_rates((0.1, 0.2), (0.05, 0.3)) == 0.0


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(BadData, match="cannot be scored"):
        canary_scores(np.zeros(3), np.ones((2, 3)))
    with pytest.raises(BadData, match="cannot be scored"):
        canary_scores(np.array([1.0, np.nan, 0.0]), np.ones((2, 3)))
    with pytest.raises(BadData, match="cannot be scored"):
        canary_scores(np.ones(3), np.zeros((2, 3)))
    with pytest.raises(BadData, match="One canary"):
        fit_canaries(np.ones(1), alpha=0.05)
    with pytest.raises(Misconfigured):
        detectable_mu(1.0, 10, alpha=0.0, power=0.9)
