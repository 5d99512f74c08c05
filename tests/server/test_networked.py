"""What a coordinator holds beside its runs: the newest ledger head of each hospital, over all plans."""

import json

import pytest

from manikin.common.keys import SigningKey
from manikin.common.plan import Party, Plan
from manikin.common.study import parse_study
from manikin.privacy.chain import LedgerHead, sign_head
from manikin.server.networked import Heads

KEYS = {name: SigningKey.generate() for name in ("north", "south", "west", "east")}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "heads.json"


@pytest.fixture
def plan_of(study_dict):
    def make(*names, **keys):
        held = KEYS | keys
        parties = [Party(name, held[name].public_key.hex()) for name in names]
        coordinator = Party("Study", SigningKey.generate().public_key.hex())
        return Plan(parse_study(study_dict), (None, 5.0, 2.5)).agreed(coordinator, parties)

    return make


def head(name, sequence, key=None):
    facts = LedgerHead(hospital=name, sequence=sequence, hash="ab" * 32, plan="", step=1, request="")
    return sign_head(facts, key or KEYS[name])


def test_a_plan_is_opened_with_what_earlier_plans_left_of_its_own_hospitals(file, plan_of):
    Heads(file, plan_of("north", "south")).keep({"north": head("north", 2), "south": head("south", 2)})
    Heads(file, plan_of("south", "west")).keep({"south": head("south", 5), "west": head("west", 3)})
    assert Heads(file, plan_of("north", "south")).latest() == {"north": head("north", 2), "south": head("south", 5)}
    assert Heads(file, plan_of("west", "north")).latest() == {"north": head("north", 2), "west": head("west", 3)}
    assert Heads(file, plan_of("east", "west")).latest() == {"west": head("west", 3)}


def test_a_hospital_that_missed_a_step_keeps_the_head_that_it_had(file, plan_of):
    heads = Heads(file, plan_of("north", "south"))
    heads.keep({"north": head("north", 2), "south": head("south", 2)})
    heads.keep({"south": head("south", 4)})
    assert heads.latest() == {"north": head("north", 2), "south": head("south", 4)}


def test_an_older_plan_that_is_gone_on_with_does_not_take_the_newest_head_away(file, plan_of):
    older, later = (Heads(file, plan_of("north", "south")) for _ in range(2))
    older.keep({"north": head("north", 2)})
    later.keep({"north": head("north", 6)})
    older.keep({"north": head("north", 4)})
    assert older.latest() == {"north": head("north", 6)}


def test_another_hospital_of_the_same_name_is_not_told_of_as_this_one(file, plan_of):
    other = SigningKey.generate()
    Heads(file, plan_of("north", "south")).keep({"north": head("north", 9)})
    namesake = Heads(file, plan_of("north", "south", north=other))
    assert namesake.latest() == {}
    namesake.keep({"north": head("north", 1, other)})
    assert namesake.latest() == {"north": head("north", 1, other)}
    assert Heads(file, plan_of("north", "south")).latest() == {"north": head("north", 9)}


def test_what_is_no_head_is_not_kept_and_what_was_damaged_is_not_sent(file, plan_of):
    heads = Heads(file, plan_of("north", "south"))
    heads.keep({"north": "", "south": head("south", 2, KEYS["north"]), "west": head("west", 1)})
    assert heads.latest() == {}
    file.write_text(json.dumps({KEYS["north"].public_key.hex(): "rubbish"}))
    assert heads.latest() == {}
    heads.keep({"north": head("north", 1)})
    assert heads.latest() == {"north": head("north", 1)}
