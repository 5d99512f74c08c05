"""Facts are finite, in range, and survive the statement."""

import pytest

from manikin.common.errors import Misconfigured, VerificationFailed
from manikin.common.release import ReleaseFacts


def test_facts_survive_the_statement(make_facts):
    facts = make_facts()
    assert ReleaseFacts.from_predicate(facts.to_predicate(), facts.plan) == facts


def test_the_statement_carries_the_plan_by_digest_only(make_facts):
    predicate = make_facts().to_predicate()
    assert "plan" not in predicate
    assert len(predicate["plan_digest"]) == 64


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": float("nan")},
        {"epsilon": float("inf")},
        {"epsilon": -1.0},
        {"epsilon": 2.45},
        {"delta": float("nan")},
        {"delta": 1.0},
        {"accountants": {"pld": float("nan")}},
        {"hospitals": 0},
        {"multiplicity": 0},
        {"created": "yesterday"},
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused(make_facts, change):
    with pytest.raises(Misconfigured):
        make_facts(**change)


@pytest.mark.parametrize("change", [{"schema": 2}, {"surprise": 1}, {"unit": "voxel"}, {"hospitals": "many"}], ids=str)
def test_statements_of_another_shape_are_refused(make_facts, change):
    facts = make_facts()
    with pytest.raises(VerificationFailed):
        ReleaseFacts.from_predicate(facts.to_predicate() | change, facts.plan)


@pytest.mark.parametrize("missing", ["schema", "epsilon", "unit", "plan_digest"])
def test_statements_that_lack_a_fact_are_refused(make_facts, missing):
    facts = make_facts()
    predicate = {key: value for key, value in facts.to_predicate().items() if key != missing}
    with pytest.raises(VerificationFailed):
        ReleaseFacts.from_predicate(predicate, facts.plan)
