"""What a plan costs is reckoned only where its numbers are such as are proposed."""

from dataclasses import replace

import pytest

from manikin.common.errors import Misconfigured
from manikin.common.plan import Plan
from manikin.common.study import parse_study
from manikin.privacy import budget
from manikin.privacy.budget import plan_epsilon


@pytest.fixture
def plan(study_dict):
    return Plan(parse_study(study_dict), (None, 5.0, 2.5))


def changed(plan, **privacy):
    study = plan.study
    return replace(plan, study=study.model_copy(update={"privacy": study.privacy.model_copy(update=privacy)}))


def retrained(plan, **stage):
    study = plan.study
    stages = (*study.stage[:2], study.stage[2].model_copy(update=stage))
    return replace(plan, study=study.model_copy(update={"stage": stages}))


def test_a_plan_as_it_is_proposed_has_a_cost(plan):
    assert 0 < plan_epsilon(plan).value < 8


@pytest.mark.parametrize(
    "absurd",
    [
        lambda plan: replace(plan, noise_multipliers=(None, 5.0, 1e-3)),
        lambda plan: replace(plan, noise_multipliers=(None, 1e-200, 2.5)),
        lambda plan: replace(plan, noise_multipliers=(None, 1e9, 2.5)),
        lambda plan: changed(plan, delta=1e-300),
        lambda plan: changed(plan, multiplicity=10**12),
        lambda plan: retrained(plan, sample_rate=1e-9),
        lambda plan: changed(retrained(plan, steps=60_000, sample_rate=1e-6), multiplicity=2),
        lambda plan: retrained(replace(plan, noise_multipliers=(None, 0.1, 0.1)), sample_rate=1.0, steps=90_000),
    ],
    ids=["little noise", "hardly any noise", "much noise", "delta", "multiplicity", "rate", "steps", "epsilon"],
)
def test_numbers_that_cost_memory_without_end_are_refused_before_an_accountant_is_asked(plan, absurd, monkeypatch):
    monkeypatch.setattr(budget.costs, "total", lambda *_, **__: pytest.fail("an accountant was asked"))
    with pytest.raises(Misconfigured, match="not reckoned"):
        plan_epsilon(absurd(plan))
