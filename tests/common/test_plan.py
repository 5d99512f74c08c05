import copy
import dataclasses

import pytest

from manikin.common.errors import ManikinError, Misconfigured, ProtocolViolation
from manikin.common.plan import Party, Plan
from manikin.common.study import parse_study


@pytest.fixture
def plan(study_dict):
    return Plan(parse_study(study_dict), (None, 2.0, 1.5))


def test_a_plan_survives_the_wire_with_the_same_digest(plan):
    assert Plan.from_dict(plan.to_dict()).digest == plan.digest


def test_any_change_gives_another_digest(plan, study_dict):
    other = copy.deepcopy(study_dict)
    other["audit"]["fpr"] = 0.02
    digests = {
        plan.digest,
        Plan(plan.study, (None, 2.0, 1.6)).digest,
        Plan(parse_study(other), (None, 2.0, 1.5)).digest,
    }
    assert len(digests) == 3


@pytest.mark.parametrize(
    "noise", [(None, 0.0, 1.0), (None, None, 1.0), (1.0, 1.0, 1.0), (None, -1.0, 1.0), (None, "x", 1.0)]
)
def test_noise_that_does_not_fit_the_stages_is_refused(plan, noise):
    raw = plan.to_dict() | {"noise_multipliers": list(noise)}
    with pytest.raises(ProtocolViolation):
        Plan.from_dict(raw)


@pytest.mark.parametrize("raw", [{}, {"study": {}, "noise_multipliers": [], "code_version": "0"}])
def test_what_is_not_a_plan_is_refused(raw):
    with pytest.raises(ManikinError):
        Plan.from_dict(raw)


def test_parties_that_could_be_told_different_things_are_refused(plan):
    def parties(*names):
        return [Party(name, name[0] * 64) for name in names]

    good = plan.agreed(Party("hub", "f" * 64), parties("a", "b", "c"))
    assert Plan.from_dict(good.to_dict()) == good
    for wrong in (
        parties("a"),
        parties("a", "b", "c", "d"),
        parties("a", "b", "a"),
        [*parties("a", "b"), Party("c", "a" * 64)],
    ):
        with pytest.raises(Misconfigured):
            plan.agreed(Party("hub", "f" * 64), wrong)
        with pytest.raises(ProtocolViolation):
            Plan.from_dict(dataclasses.replace(good, participants=tuple(wrong)).to_dict())
    with pytest.raises(Misconfigured):
        plan.agreed(Party("hub", "a" * 64), parties("a", "b"))


def test_steps_are_numbered_in_order_and_rounds_cover_all_sgd_steps(plan):
    steps = plan.steps()
    assert [step.index for step in steps] == list(range(len(steps)))
    assert [step.action for step in steps] == ["open", "release", "train", "train", "audit"]
    taken = [i for step in steps if step.action == "train" for i in plan.sgd_steps(step)]
    assert taken == list(range(5))
