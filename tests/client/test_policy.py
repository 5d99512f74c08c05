"""Nothing is allowed by default; each rule refuses what breaks it and nothing else; no patient is looked at."""

import datetime
import itertools
import math
import re
import tomllib
from dataclasses import replace

import pytest

from manikin.client import policy as module
from manikin.client.cohort import create_hospital
from manikin.client.cohort.store import Store
from manikin.client.policy import Policy, add, pin_lines, revoked_lines, what_leaves, write_first
from manikin.common.errors import Misconfigured, PolicyRefusal
from manikin.common.keys import SigningKey
from manikin.common.plan import Party, Plan
from manikin.common.study import parse_study

TODAY = datetime.date(2026, 11, 22)
STUDY, SOUTH, WEST, EAST = (SigningKey.generate().public_key.hex() for _ in range(4))
LIMITS = {
    "epsilon": 8.0,
    "delta": 1e-5,
    "units": ["patient"],
    "patients_min": 10,
    "families": ["moments", "diffusion"],
    "shapes": [[8, 8]],
    "rounds_max": 3,
    "bytes_out_max": 1_000_000,
    "quorum_min": 2,
    "secure_sum_required": False,
    "audits": True,
}


def toml(value):
    return str(value).lower() if isinstance(value, bool) else str(value).replace("'", '"')


def policy_text(**changes):
    lines = [f"{key} = {toml(value)}" for key, value in (LIMITS | changes).items() if value is not None]
    head = "\n".join(["schema = 1", "[limits]", *lines, ""])
    return head + pin_lines("coordinator", "Study", STUDY) + pin_lines("peer", "South", SOUTH)


@pytest.fixture
def hospital(tmp_path):
    return create_hospital(tmp_path / "north", "North")


@pytest.fixture
def plan(study_dict, hospital):
    return agree(study_dict, hospital)


def agree(study_dict, hospital, *, coordinator=STUDY, peers=(("South", SOUTH), ("West", WEST))):
    parties = [Party("North", hospital.signing_key.public_key.hex()), *(Party(*peer) for peer in peers)]
    draft = Plan(parse_study(study_dict), (None, 5.0, 2.5))
    return draft.agreed(Party("Study", coordinator), parties)


def load(hospital, text):
    (hospital.folder / "policy.toml").write_text(text)
    return Policy.load(hospital.folder)


def refusal(policy, plan, today=TODAY):
    with pytest.raises(PolicyRefusal) as refused:
        policy.check_plan(plan, today=today)
    return refused.value.why


def test_without_a_policy_everything_is_refused(hospital):
    with pytest.raises(PolicyRefusal, match="every plan is refused"):
        Policy.load(hospital.folder)


def test_a_plan_that_keeps_every_rule_is_allowed(hospital, plan):
    load(hospital, policy_text()).check_plan(plan, today=TODAY)


@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_that_is_not_stated_is_named(hospital, limit):
    with pytest.raises(Misconfigured, match=rf"limits\.{limit}"):
        load(hospital, policy_text(**{limit: None}))


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("epsilon", "inf"),
        ("epsilon", "nan"),
        ("epsilon", 0),
        ("epsilon", '"8"'),
        ("delta", 1),
        ("units", ["family"]),
        ("patients_min", 0),
        ("rounds_max", True),
        ("quorum_min", -1),
        ("shapes", [8, 8]),
        ("audits", 1),
        ("secure_sum_required", '"no"'),
    ],
)
def test_a_limit_that_is_none_is_named(hospital, limit, value):
    with pytest.raises(Misconfigured, match=rf"limits\.{limit}"):
        load(hospital, policy_text(**{limit: value}))


@pytest.mark.parametrize(
    "text", ["[", "", policy_text() + "[more]\n", policy_text(more=1), policy_text() + pin_lines("peer", "X", "short")]
)
def test_what_is_not_a_policy_is_refused(hospital, text):
    with pytest.raises(Misconfigured, match=r"policy\.toml"):
        load(hospital, text)


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("ε of the plan", {"epsilon": 7.9}),
        ("δ of the plan", {"delta": 9e-6}),
        ("unit", {"units": ["image"]}),
        ("unit", {"units": []}),
        ("smallest cohort", {"patients_min": 11}),
        ("generator families", {"families": ["diffusion"]}),
        ("generator families", {"families": ["moments"]}),
        ("shape of images", {"shapes": []}),
        ("shape of images", {"shapes": [[8, 7]]}),
        ("shape of images", {"shapes": [[8, 8, 8], [8]]}),
        ("messages with content", {"rounds_max": 2}),
        ("bytes at once", {"bytes_out_max": 1000}),
        ("quorum", {"quorum_min": 3}),
        ("secure sum", {"secure_sum_required": True}),
        ("audits here", {"audits": False}),
    ],
)
def test_each_limit_refuses_what_passes_it_and_says_which(hospital, plan, rule, changes):
    assert rule in refusal(load(hospital, policy_text(**changes)), plan)


def test_the_coordinator_must_be_pinned_by_name_and_key(hospital, plan, study_dict):
    policy = load(hospital, policy_text())
    assert "coordinator: Study" in refusal(policy, agree(study_dict, hospital, coordinator=EAST))
    renamed = replace(plan, coordinator=Party("Other", STUDY))
    assert "coordinator: Other" in refusal(policy, renamed)
    assert "coordinator: nobody" in refusal(policy, replace(plan, coordinator=None))


def test_a_pin_counts_until_its_day_and_not_after(hospital, plan):
    text = policy_text() + pin_lines("coordinator", "Study", STUDY, TODAY)
    policy = load(hospital, text)
    policy.check_plan(plan, today=TODAY)
    assert "coordinator" in refusal(policy, plan, TODAY + datetime.timedelta(days=1))
    policy = load(hospital, policy_text() + pin_lines("peer", "South", SOUTH, TODAY))
    policy.check_plan(plan, today=TODAY)
    assert "verified hospitals: 1" in refusal(policy, plan, TODAY + datetime.timedelta(days=1))


@pytest.mark.parametrize("key", [STUDY, SOUTH, WEST], ids=itertools.count())
def test_a_revoked_key_refuses_every_plan_that_names_it(hospital, plan, key):
    assert refusal(load(hospital, policy_text() + revoked_lines(key)), plan)


def test_this_hospitals_own_key_may_be_revoked_too(hospital, plan):
    own = hospital.signing_key.public_key.hex()
    assert "this hospital" in refusal(load(hospital, policy_text() + revoked_lines(own)), plan)


def test_only_pinned_peers_count_for_the_quorum(hospital, plan, study_dict):
    strangers = [("East", EAST), ("West", WEST)]
    policy = load(hospital, policy_text())
    assert "verified hospitals: 1" in refusal(policy, agree(study_dict, hospital, peers=strangers))
    impostor = [("South", WEST), ("Southern", SOUTH)]
    assert "verified hospitals: 1" in refusal(policy, agree(study_dict, hospital, peers=impostor))
    study_dict["federation"]["quorum"] = 3
    assert "verified hospitals: 2" in refusal(policy, agree(study_dict, hospital))


def test_a_party_named_twice_counts_once(hospital, plan):
    policy = load(hospital, policy_text(quorum_min=3))
    twice = replace(plan, participants=(*plan.participants, plan.participants[1]))
    assert "verified hospitals: 2" in refusal(policy, twice)


def test_a_plan_must_name_this_hospital_with_its_present_key(hospital, plan):
    policy = load(hospital, policy_text())
    for own in (Party("North", WEST), Party("Norden", hospital.signing_key.public_key.hex())):
        changed = replace(plan, participants=(own, *plan.participants[1:]))
        assert "this hospital" in refusal(policy, changed)


def test_what_leaves_is_told_stage_by_stage(plan):
    release, train = what_leaves(plan)
    assert (release.times, train.times) == (1, 2)
    assert release.size_bytes == 8 * 2 * (1 + 8 + 36 + 0 + 2 * 6)
    assert "moments" in release.what
    assert 1000 < train.size_bytes < 1_000_000


@pytest.mark.parametrize(
    "options", [{"coefficients": -1}, {"nonsense": 1}, {"coefficients": "many"}, {"coefficients": 1 << 40}]
)
def test_a_generator_that_cannot_be_made_is_refused(hospital, study_dict, options):
    study_dict["stage"][1].update(options)
    assert "bytes at once" in refusal(load(hospital, policy_text()), agree(study_dict, hospital))


@pytest.mark.parametrize(
    ("rule", "limits"), [("shape of images", {"shapes": [[7, 8]]}), ("generator families", {"families": ["moments"]})]
)
def test_sizes_are_reckoned_only_of_families_and_shapes_that_are_allowed(hospital, plan, monkeypatch, rule, limits):
    monkeypatch.setattr(module.generators, "create", lambda spec: pytest.fail("a generator was made"))
    policy = load(hospital, policy_text(**limits))
    assert rule in refusal(policy, plan)
    assert [part.size_bytes for part in policy.what_leaves(plan)] == [math.inf, math.inf]


def test_no_patient_is_looked_at(hospital, plan, monkeypatch):
    monkeypatch.setattr(Store, "open", lambda path: pytest.fail("the cohort was opened"))
    load(hospital, policy_text()).check_plan(plan, today=TODAY)


def test_the_first_policy_is_whole_narrow_and_never_written_over_another(hospital, plan):
    write_first(hospital.folder, pin_lines("coordinator", "Study", STUDY))
    policy = Policy.load(hospital.folder)
    assert policy.limits.epsilon <= 3
    assert policy.limits.quorum_min >= 3
    assert [pin.key for pin in policy.coordinators] == [STUDY]
    assert refusal(policy, plan)
    with pytest.raises(Misconfigured, match="never overwritten"):
        write_first(hospital.folder, pin_lines("coordinator", "Other", WEST))


def test_adding_leaves_what_is_written_byte_for_byte(hospital):
    text = policy_text().rstrip("\n") + "\n# our own words"
    load(hospital, text)
    (hospital.folder / "policy.toml").chmod(0o640)
    add(hospital.folder, pin_lines("peer", "West", WEST))
    after = (hospital.folder / "policy.toml").read_text()
    assert after.startswith(text)
    assert tomllib.loads(after)["peer"][1]["name"] == "West"
    assert (hospital.folder / "policy.toml").stat().st_mode & 0o777 == 0o640


def test_nothing_is_added_that_would_break_the_policy(hospital):
    load(hospital, policy_text())
    before = (hospital.folder / "policy.toml").read_bytes()
    with pytest.raises(Misconfigured):
        add(hospital.folder, pin_lines("peer", "We/st", WEST))
    assert (hospital.folder / "policy.toml").read_bytes() == before


def test_refusals_name_no_path(hospital, plan):
    policy = load(hospital, policy_text(epsilon=1.0))
    assert not re.search(r"/\w+/", refusal(policy, plan))
