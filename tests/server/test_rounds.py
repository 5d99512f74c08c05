"""The round loop against a hostile federation in memory: hospitals that drop, lie, or die at a chosen step."""

import copy
import weakref

import numpy as np
import pytest
import torch

from manikin.common import generators
from manikin.common.errors import Misconfigured, TransportFailure
from manikin.common.images import Patient
from manikin.common.plan import Plan
from manikin.common.study import parse_study
from manikin.common.wire import Reply
from manikin.server.channel import Missing
from manikin.server.checkpoints import Checkpoints
from manikin.server.rounds import Rounds


class Killed(Exception):
    """The coordinator's process ended here."""


class Hospitals:
    """Deterministic answers for every step, as vaults give them; `fault(name, task)` may replace one."""

    def __init__(self, names=("north", "south"), *, fault=None, crash_at=None):
        self.names = names
        self.fault = fault or (lambda name, task: None)
        self.crash_at = crash_at
        self.asked = []

    def ask(self, tasks, *, deadline_s):
        step = next(iter(tasks.values())).step
        if step == self.crash_at:
            raise Killed
        self.asked.append(step)
        return ((name, self.fault(name, task) or self._answer(name, task)) for name, task in tasks.items())

    def _answer(self, name, task):
        rng = np.random.default_rng([len(name), ord(name[0]), task.step])
        if task.action == "release":
            return Reply({"sum": rng.normal(size=self.width)}, name)
        if task.action == "train":
            arrays = sorted(task.arrays.items())  # a vault knows names, no order
            moved = {k: a + rng.normal(size=a.shape).astype(a.dtype) / 100 for k, a in arrays}
            return Reply(moved, name)
        return Reply(name=name)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MANIKIN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def plan(study_dict):
    return Plan(parse_study(study_dict), (None, 2.0, 1.5))


def run(plan, folder, hospitals):
    stage = next(stage for stage in plan.study.stage if stage.kind == "release")
    patient = Patient("00", np.zeros((1, 1, 8, 8), np.float32), np.zeros(1, np.int64))
    hospitals.width = len(generators.create(plan.release_spec(stage)).statistic(patient))
    return Rounds(plan, hospitals, Checkpoints(folder, plan.digest)).run().state()


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_every_step_is_asked_once_and_in_order(plan, tmp_path):
    hospitals = Hospitals()
    run(plan, tmp_path / "run", hospitals)
    assert hospitals.asked == [0, 1, 2, 3]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_run_killed_at_any_step_and_resumed_ends_with_the_same_generator(plan, tmp_path, step):
    undisturbed = run(plan, tmp_path / "whole", Hospitals())
    with pytest.raises(Killed):
        run(plan, tmp_path / "cut", Hospitals(crash_at=step))
    assert same(run(plan, tmp_path / "cut", Hospitals()), undisturbed)


def test_a_finished_run_asks_nothing_but_the_plan_again(plan, tmp_path):
    first = run(plan, tmp_path, Hospitals())
    again = Hospitals()
    assert same(run(plan, tmp_path, again), first)
    assert again.asked == [0]


def test_a_missed_quorum_stops_the_run_and_names_the_hospital(plan, tmp_path):
    lost = Hospitals(fault=lambda name, task: Missing("bad-data") if (name, task.step) == ("south", 2) else None)
    with pytest.raises(TransportFailure, match=r"1 of 2.*south \(bad-data\)"):
        run(plan, tmp_path / "run", lost)
    assert same(run(plan, tmp_path / "run", Hospitals()), run(plan, tmp_path / "whole", Hospitals()))


def test_with_a_smaller_quorum_the_run_goes_on_and_remembers_who_missed_what(study_dict, tmp_path):
    study_dict["federation"]["quorum"] = 1
    plan = Plan(parse_study(study_dict), (None, 2.0, 1.5))
    lost = Hospitals(fault=lambda name, task: Missing("deadline") if (name, task.step) == ("south", 2) else None)
    run(plan, tmp_path, lost)
    assert Checkpoints(tmp_path, plan.digest).load().attendance == {"2": {"south": "deadline"}}


@pytest.mark.parametrize("late", ["north", "south"])
def test_the_generator_does_not_depend_on_who_answers_first(plan, tmp_path, late):
    class Unhurried(Hospitals):
        def ask(self, tasks, *, deadline_s):
            return sorted(super().ask(tasks, deadline_s=deadline_s), key=lambda answer: answer[0] == late)

    assert same(run(plan, tmp_path / "late", Unhurried()), run(plan, tmp_path / "whole", Hospitals()))


def test_no_more_than_one_answer_is_held(plan, tmp_path):
    alive = []

    class Counted(Hospitals):
        def ask(self, tasks, *, deadline_s):
            for name, answer in super().ask(tasks, deadline_s=deadline_s):
                assert [weak for weak in alive if weak() is not None] == []
                alive.append(weakref.ref(answer))
                yield name, answer
                del answer

    run(plan, tmp_path, Counted(("north", "south", "coast")))
    assert len(alive) == 12


def test_nothing_of_a_hospital_that_moves_a_weight_beyond_reach_is_folded_in(study_dict, tmp_path):
    study_dict["federation"]["quorum"] = 1
    plan = Plan(parse_study(study_dict), (None, 2.0, 1.5))

    def wild(name, task):
        if name == "south" and task.step == 2:
            last = sorted(task.arrays)[-1]
            return Reply({**task.arrays, last: task.arrays[last] + np.float32(1e6)}, name)
        return None

    absent = Hospitals(fault=lambda name, task: Missing("lost") if (name, task.step) == ("south", 2) else None)
    without = run(plan, tmp_path / "without", absent)
    assert same(run(plan, tmp_path / "wild", Hospitals(fault=wild)), without)
    assert Checkpoints(tmp_path / "wild", plan.digest).load().attendance == {"2": {"south": "malformed"}}


def test_planned_weights_follow_the_hospitals_order(study_dict, tmp_path):
    alone = copy.deepcopy(study_dict)
    alone["federation"]["weights"] = [1.0, 1e-9]
    plan = Plan(parse_study(alone), (None, 2.0, 1.5))
    equal = Plan(parse_study(study_dict), (None, 2.0, 1.5))
    assert not same(run(plan, tmp_path / "a", Hospitals()), run(equal, tmp_path / "b", Hospitals()))


@pytest.mark.parametrize("arrays", [{"sum": np.zeros(3)}, {}, {"sum": np.zeros(3), "more": np.zeros(1)}])
def test_an_answer_of_another_layout_is_missing_and_nothing_of_it_is_kept(plan, tmp_path, arrays):
    liar = Hospitals(fault=lambda name, task: Reply(arrays) if name == "south" and task.step == 1 else None)
    with pytest.raises(TransportFailure, match=r"south \(malformed\)"):
        run(plan, tmp_path, liar)
    assert Checkpoints(tmp_path, plan.digest).load().done == 1


def test_a_release_without_pretraining_cannot_be_carried_over(study_dict, tmp_path):
    study_dict["stage"] = study_dict["stage"][1:]
    plan = Plan(parse_study(study_dict), (2.0, 1.5))
    with pytest.raises(Misconfigured, match="pretrain stage"):
        run(plan, tmp_path, Hospitals())
