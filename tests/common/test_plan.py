import copy
import dataclasses

import pytest

from manikin.common.errors import ManikinError, Misconfigured, ProtocolViolation
from manikin.common.officers import Officer
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


def officers(*institutions):
    return [Officer(f"O{i}", f"{i}" * 64, institution) for i, institution in enumerate(institutions, start=1)]


HUB, HOSPITALS = Party("hub", "f" * 64), [Party("a", "a" * 64), Party("b", "b" * 64)]


def test_officers_and_how_many_are_needed_are_part_of_the_plan(plan):
    named = plan.agreed(HUB, HOSPITALS, officers=officers("N", "S", "S"), officers_needed=2)
    assert Plan.from_dict(named.to_dict()) == named
    others = (
        plan.agreed(HUB, HOSPITALS),
        plan.agreed(HUB, HOSPITALS, officers=officers("N", "S", "S"), officers_needed=3),
        plan.agreed(HUB, HOSPITALS, officers=officers("N", "S", "C"), officers_needed=2),
    )
    assert len({named.digest, *(other.digest for other in others)}) == 4


@pytest.mark.parametrize(
    ("named", "needed"),
    [((), 1), (officers("N", "S"), 0), (officers("N", "S"), 1), (officers("N", "N"), 2)],
    ids=["nobody", "none-needed", "one-needed", "one-institution"],
)
def test_officers_who_cannot_decide_make_no_plan(plan, named, needed):
    with pytest.raises(Misconfigured):
        plan.agreed(HUB, HOSPITALS, officers=named, officers_needed=needed)
    with pytest.raises(ProtocolViolation):
        Plan.from_dict(dataclasses.replace(plan, officers=tuple(named), officers_needed=needed).to_dict())


@pytest.mark.parametrize("key", ["f" * 64, "a" * 64], ids=["coordinator", "hospital"])
def test_an_officer_has_nobody_elses_key(plan, key):
    with pytest.raises(Misconfigured, match="proposed") as refused:
        plan.agreed(HUB, HOSPITALS, officers=[*officers("N"), Officer("Bo", key, "S")], officers_needed=2)
    assert "key of another party" in refused.value.why


@pytest.mark.parametrize("missing", ["officers", "officers_needed"])
def test_a_plan_that_is_silent_about_officers_is_refused(plan, missing):
    raw = plan.to_dict()
    del raw[missing]
    with pytest.raises(ProtocolViolation):
        Plan.from_dict(raw)
