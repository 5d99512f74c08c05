"""Costs of both kinds: kept, read again, described and composed."""

from dataclasses import asdict

import pytest

from manikin.common.errors import Misconfigured
from manikin.privacy import accounting, skellam_accounting
from manikin.privacy.accounting import Mechanism
from manikin.privacy.costs import describe, read, total
from manikin.privacy.skellam_accounting import Skellam

GAUSSIAN, SKELLAM = Mechanism(2.5, 0.1, 7), Skellam(2.5, 0.1, 7, size=100)


@pytest.mark.parametrize("cost", [GAUSSIAN, SKELLAM])
def test_a_cost_is_read_as_it_was_kept(cost):
    assert read(asdict(cost)) == cost


@pytest.mark.parametrize("fields", [{"noise": 1.0}, {"noise_multiplier": 1.0, "size": 3, "more": 1}])
def test_fields_of_no_cost_are_refused(fields):
    with pytest.raises(TypeError):
        read(fields)


def test_each_kind_is_described_and_composed_by_its_own_accountants():
    assert [found["kind"] for found in describe([GAUSSIAN, SKELLAM])] == ["gaussian", "skellam"]
    assert describe([SKELLAM])[0] == {
        "kind": "skellam", "sampling": "poisson", "noise_multiplier": 2.5, "sample_rate": 0.1, "steps": 7, "size": 100,
    }  # fmt: skip
    assert total([GAUSSIAN], delta=1e-5).value == accounting.epsilon([GAUSSIAN], delta=1e-5).value
    assert total([SKELLAM], delta=1e-5).value == skellam_accounting.epsilon([SKELLAM], delta=1e-5).value


def test_kinds_are_not_mixed():
    with pytest.raises(Misconfigured, match="not composed"):
        total([GAUSSIAN, SKELLAM], delta=1e-5)
