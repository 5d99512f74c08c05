"""Distributed mode between real vaults and the real round loop: what is asked, what leaves, and what a loss costs."""

import dataclasses

import numpy as np
import pytest
import torch

from manikin.client.cohort import Hospital
from manikin.client.egress import EgressLog, unaccounted, unlogged
from manikin.client.vault import Vault
from manikin.common import frames
from manikin.common.errors import TransportFailure
from manikin.common.keys import SigningKey
from manikin.common.plan import Party
from manikin.common.study import parse_study
from manikin.common.wire import Refused, Task
from manikin.server.channel import Missing
from manikin.server.checkpoints import Checkpoints
from manikin.server.planning import propose
from manikin.server.rounds import Rounds

KEY = SigningKey.generate()
NAMES = ("north", "south", "west", "east")
pytestmark = pytest.mark.usefixtures("private_cache")


class Wire:
    """Real vaults behind frames; hospitals in `down` at a step do not answer it, and `heard` keeps what they say."""

    def __init__(self, folders, down=None, killed_at=None):
        self.vaults = {folder.name: Vault(folder, embedded=True) for folder in folders}
        self.names, self.down, self.killed_at = tuple(self.vaults), down or {}, killed_at
        self.asked, self.tasks, self.heard = [], {}, {}

    def ask(self, tasks, *, deadline_s):
        for name, task in tasks.items():
            self.asked.append((task.step, name))
            self.tasks[task.step] = task
            if (task.step, name) == self.killed_at:
                raise KeyboardInterrupt
            if name in self.down.get(task.step, ()):
                yield name, Missing("deadline")
                continue
            reply = frames.decode_reply(self.vaults[name].exchange(frames.encode_task(task.signed(KEY))))
            self.heard[task.step, name] = reply
            yield name, Missing(reply.code) if isinstance(reply, Refused) else reply


@pytest.fixture
def distributed(study_dict):
    study_dict["federation"] |= {"mode": "distributed", "quorum": 3, "collusion": 1}
    study_dict["stage"][1]["spares"] = 1
    study_dict["stage"][2] |= {"steps": 3, "rounds": 3}
    return study_dict


@pytest.fixture
def folders(make_hospital):
    return [make_hospital(name, seed=i) for i, name in enumerate(NAMES)]


def agreed(study_dict, folders):
    parties = [Party(f.name, Hospital.open(f).signing_key.public_key.hex()) for f in folders]
    return propose(parse_study(study_dict)).agreed(Party("consortium", KEY.public_key.hex()), parties)


def run(plan, wire, folder):
    rounds = Rounds(plan, wire, Checkpoints(folder, plan.digest))
    return rounds.run().state(), rounds


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def actions(plan):
    return {step.index: (step.action, step.round) for step in plan.steps()}


def test_a_study_of_sums_ends_with_a_generator_and_every_answer_is_masked_logged_and_charged(
    distributed, folders, tmp_path
):
    plan = agreed(distributed, folders)
    assert [action for action, _ in actions(plan).values()] == ["open", *2 * ["release"], *3 * ["train"], "audit"]
    wire = Wire(folders)
    _, rounds = run(plan, wire, tmp_path / "run")
    assert sorted({step for step, _ in wire.asked}) == [0, 1, 3, 4, 5], "a spare is not asked without a loss"
    for (step, _), reply in wire.heard.items():
        assert set(reply.arrays) == (set() if step == 0 else {"masked"})
        assert all(array.dtype == np.uint64 for array in reply.arrays.values())
        assert (reply.offer is None) == (step == 5), "each answer brings the key for the next step, and the last none"
    for folder, party in zip(folders, plan.participants, strict=True):
        entries, spent = EgressLog(folder / "egress.sqlite").messages(), wire.vaults[folder.name].ledger.spent()
        assert not unaccounted(entries, spent)
        assert not unlogged(entries, spent)
        assert spent[0].charged == (distributed["privacy"]["epsilon"], distributed["privacy"]["delta"])
        assert (
            wire.vaults[folder.name]
            .ledger.verify(party.public_key, [rounds.checkpoint.latest_heads[folder.name]])
            .holds
        )


@pytest.mark.parametrize("killed_at", [(1, "south"), (3, "north"), (4, "east"), (5, "west")])
def test_a_run_killed_in_the_middle_of_a_sum_ends_with_the_same_generator(distributed, folders, tmp_path, killed_at):
    plan = agreed(distributed, folders)
    with pytest.raises(KeyboardInterrupt):
        run(plan, Wire(folders, killed_at=killed_at), tmp_path / "cut")
    resumed, _ = run(plan, Wire(folders), tmp_path / "cut")
    for folder in folders:
        assert len(Vault(folder, embedded=True).ledger.spent()[0].entries) == 4, "a step is charged once"
    whole, _ = run(plan, Wire(folders), tmp_path / "whole")  # the vaults give the very same answers again
    assert same(resumed, whole)


def test_a_sum_that_lost_a_hospital_is_charged_left_behind_and_asked_anew_of_those_who_are_left(
    distributed, folders, tmp_path
):
    plan = agreed(distributed, folders)
    wire = Wire(folders, down={1: {"west"}, 4: {"north"}})
    _, rounds = run(plan, wire, tmp_path / "run")
    assert rounds.checkpoint.lost == [1, 4]
    assert rounds.checkpoint.attendance == {"1": {"west": "deadline"}, "4": {"north": "deadline"}}
    assert {name for step, name in wire.asked if step == 2} == set(NAMES), "who is back takes part again"
    first, second = wire.tasks[1].parameters["roster"], wire.tasks[2].parameters["roster"]
    assert not {o["public"] for o in first} & {o["public"] for o in second}, "a key serves one step"
    charged = {f.name: [e.step for e in Vault(f, embedded=True).ledger.spent()[0].entries] for f in folders}
    assert charged == {"north": [1, 2, 3, 5], "south": [1, 2, 3, 4, 5], "west": [2, 3, 4, 5], "east": [1, 2, 3, 4, 5]}


def test_who_stays_away_is_left_out_until_the_run_is_resumed(distributed, folders, tmp_path):
    plan = agreed(distributed, folders)
    wire = Wire(folders, down={0: {"west"}, 1: {"west"}})
    run(plan, wire, tmp_path / "run")
    assert {name for step, name in wire.asked if step in (2, 3, 4)} == set(NAMES) - {"west"}


def test_a_release_without_a_spare_waits_for_the_one_who_was_lost(distributed, folders, tmp_path):
    distributed["stage"][1]["spares"] = 0
    plan = agreed(distributed, folders)
    with pytest.raises(TransportFailure, match="lacks west"):
        run(plan, Wire(folders, down={1: {"west"}}), tmp_path / "cut")
    resumed, rounds = run(plan, Wire(folders), tmp_path / "cut")
    assert not rounds.checkpoint.lost
    assert same(resumed, run(plan, Wire(folders), tmp_path / "whole")[0])


def test_fewer_than_the_quorum_stop_the_run(distributed, folders, tmp_path):
    plan = agreed(distributed, folders)
    with pytest.raises(TransportFailure, match="2 of 4"):
        run(plan, Wire(folders, down={4: {"west", "north"}}), tmp_path / "cut")
    resumed, rounds = run(plan, Wire(folders), tmp_path / "cut")
    assert not rounds.checkpoint.lost
    assert same(resumed, run(plan, Wire(folders), tmp_path / "whole")[0])


class TestARosterThatAVaultDoesNotAccept:
    @pytest.fixture
    def wire(self, distributed, folders, tmp_path):
        self.plan = agreed(distributed, folders)
        wire = Wire(folders, killed_at=(1, "north"))
        with pytest.raises(KeyboardInterrupt):
            run(self.plan, wire, tmp_path / "run")
        return wire

    def refusal(self, wire, change):
        task = wire.tasks[1]
        roster = [dict(offer) for offer in task.parameters["roster"]]
        changed = change(roster)
        parameters = dict(task.parameters) | ({"roster": changed} if changed is not None else {})
        if changed is None:
            del parameters["roster"]
        answer = wire.vaults["north"].exchange(
            frames.encode_task(dataclasses.replace(task, parameters=parameters).signed(KEY))
        )
        assert not wire.vaults["north"].ledger.spent(), "nothing is charged"
        return frames.decode_reply(answer)

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda roster: None, id="none"),
            pytest.param(lambda roster: roster[:2], id="below-the-quorum"),
            pytest.param(lambda roster: [o for o in roster if o["hospital"] != "north"], id="without-itself"),
            pytest.param(lambda roster: [*roster, roster[0]], id="twice"),
            pytest.param(lambda roster: [{**o, "signature": "00" * 64} for o in roster], id="forged"),
            pytest.param(lambda roster: [{**o, "hospital": "nowhere"} for o in roster], id="strangers"),
            pytest.param(lambda roster: "all", id="no-list"),
        ],
    )
    def test_costs_nothing(self, wire, change):
        assert self.refusal(wire, change) == Refused("protocol-violation")

    def test_another_key_under_its_own_name_is_refused(self, wire, tmp_path):
        def swap(roster):
            own = next(o for o in roster if o["hospital"] == "north")
            later = wire.vaults["north"]._masking.offer(self.plan, self.plan.steps()[3])
            return [*(o for o in roster if o is not own), dict(later)]

        assert self.refusal(wire, swap) == Refused("protocol-violation")

    def test_the_same_step_with_another_roster_is_not_answered_twice(self, wire):
        task = wire.tasks[1]
        vault = wire.vaults["north"]
        assert not isinstance(frames.decode_reply(vault.exchange(frames.encode_task(task.signed(KEY)))), Refused)
        fewer = [o for o in task.parameters["roster"] if o["hospital"] != "west"]
        again = dataclasses.replace(task, parameters={**task.parameters, "roster": fewer}).signed(KEY)
        assert frames.decode_reply(vault.exchange(frames.encode_task(again))) == Refused("protocol-violation")


def test_a_vault_offers_no_key_for_a_step_that_is_not_charged(distributed, folders):
    plan = agreed(distributed, folders)
    opening = {"plan": plan.to_dict(), "heads": {}, "offer": 6}
    answer = Vault(folders[0], embedded=True).exchange(
        frames.encode_task(Task(plan.digest, 0, "open", opening).signed(KEY))
    )
    assert frames.decode_reply(answer) == Refused("protocol-violation")
