"""What a claim allows, against published and independently computed numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manikin.privacy.audit.claim import (
    auc_on_curve,
    best_guess_share,
    epsilon_for_mu,
    gdp_delta,
    mu_for_claim,
    mu_for_rates,
    tpr_bound,
    tpr_on_curve,
)


@pytest.mark.parametrize(
    ("epsilon", "mu", "at_tenth_percent", "at_one_percent", "at_ten_percent", "auc", "advantage"),
    [
        (1, 0.268, 0.0024, 0.0198, 0.155, 0.575, 0.107),
        (2, 0.502, 0.0048, 0.034, 0.218, 0.639, 0.198),
        (4, 0.925, 0.015, 0.081, 0.361, 0.744, 0.356),
        (8, 1.666, 0.077, 0.255, 0.650, 0.881, 0.595),
    ],
)
def test_gaussian_equivalent_of_a_claim(epsilon, mu, at_tenth_percent, at_one_percent, at_ten_percent, auc, advantage):
    found = mu_for_claim(epsilon, 1e-5)
    assert found == pytest.approx(mu, abs=6e-4)
    assert tpr_on_curve(0.001, found) == pytest.approx(at_tenth_percent, abs=6e-4)
    assert tpr_on_curve(0.01, found) == pytest.approx(at_one_percent, abs=6e-4)
    assert tpr_on_curve(0.1, found) == pytest.approx(at_ten_percent, abs=6e-4)
    assert auc_on_curve(found) == pytest.approx(auc, abs=6e-4)
    assert 2 * best_guess_share(found) - 1 == pytest.approx(advantage, abs=6e-4)


@pytest.mark.parametrize(("sigma", "epsilon"), [(4, 0.926), (2, 1.993), (1, 4.377), (0.5, 9.997)])
def test_epsilon_of_the_gaussian_mechanism(sigma, epsilon):
    assert epsilon_for_mu(1 / sigma, 1e-5) == pytest.approx(epsilon, abs=6e-4)


@given(st.floats(0.05, 20), st.floats(1e-9, 1e-2))
def test_mu_and_epsilon_invert_each_other(epsilon, delta):
    mu = mu_for_claim(epsilon, delta)
    assert epsilon_for_mu(mu, delta) == pytest.approx(epsilon, rel=1e-5, abs=1e-6)
    assert gdp_delta(mu, epsilon) == pytest.approx(delta, rel=1e-5)


@given(st.floats(0.05, 10), st.floats(1e-9, 1e-3), st.floats(1e-6, 1 - 1e-6))
def test_the_curve_never_crosses_the_bound(epsilon, delta, fpr):
    assert tpr_on_curve(fpr, mu_for_claim(epsilon, delta)) <= tpr_bound(fpr, epsilon=epsilon, delta=delta) + 1e-9


def test_the_bound_at_known_points():
    assert tpr_bound(0.001, epsilon=8.0, delta=1e-5) == pytest.approx(0.9997, abs=1e-4)
    assert tpr_bound(np.array([0.0, 1.0]), epsilon=1.0, delta=1e-5).tolist() == pytest.approx([1e-5, 1.0], abs=1e-5)


def test_rates_name_their_curve():
    assert tpr_on_curve(0.01, mu_for_rates(0.01, 0.05)) == pytest.approx(0.05)
    assert mu_for_rates(0.3, 0.3) == 0
