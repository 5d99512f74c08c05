"""The round loop against a hostile federation in memory: hospitals that drop, lie, or die at a chosen step."""

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from manikin.common import generators
from manikin.common.errors import Misconfigured, TransportFailure
from manikin.common.images import Patient
from manikin.common.keys import SigningKey
from manikin.common.plan import Party, Plan
from manikin.common.study import parse_study
from manikin.common.wire import Reply
from manikin.privacy.chain import LedgerHead, sign_head
from manikin.server import replies
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
        self.keys = {}
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
            return Reply({"sum": rng.normal(size=self.width)}, name, self._head(name, task))
        if task.action == "train":
            moved = {k: task.arrays[k] + rng.normal(size=task.arrays[k].shape) / 100 for k in sorted(self.private)}
            moved = {k: array.astype(np.float32) for k, array in moved.items()}
            return Reply({**task.arrays, **moved}, name, self._head(name, task))
        return Reply(name=name)

    def _head(self, name, task):
        if name not in self.keys:
            return ""
        step, request = task.step, task.digest.hex()
        facts = LedgerHead(hospital=name, sequence=1, hash="ab" * 32, plan=task.plan_digest, step=step, request=request)
        return sign_head(facts, self.keys[name])


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MANIKIN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def plan(study_dict):
    return Plan(parse_study(study_dict), (None, 2.0, 1.5))


def run(plan, folder, hospitals):
    stage = next(stage for stage in plan.study.stage if stage.kind == "release")
    patient = Patient("00", np.zeros((1, 1, 8, 8), np.float32), np.zeros(1, np.int64))
    hospitals.private = generators.private_names(plan.generator_spec())
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


def test_no_generator_is_made_while_answers_come(plan, tmp_path, monkeypatch):
    """Beside the weights sent and an answer it would be one model more, or three."""
    made, asking = [], []
    original = generators.create
    monkeypatch.setattr(generators, "create", lambda spec: made.append(bool(asking)) or original(spec))
    replies._private.cache_clear()

    class Watched(Hospitals):
        def ask(self, tasks, *, deadline_s):
            asking.append(True)
            yield from super().ask(tasks, deadline_s=deadline_s)
            asking.clear()

    run(plan, tmp_path, Watched())
    assert made
    assert not any(made)


def test_nothing_of_a_hospital_that_moves_a_weight_beyond_reach_is_folded_in(study_dict, tmp_path):
    study_dict["federation"]["quorum"] = 1
    plan = Plan(parse_study(study_dict), (None, 2.0, 1.5))

    def wild(name, task):
        if name == "south" and task.step == 2:
            last = max(generators.private_names(plan.generator_spec()))
            return Reply({**task.arrays, last: task.arrays[last] + np.float32(1e6)}, name)
        return None

    absent = Hospitals(fault=lambda name, task: Missing("lost") if (name, task.step) == ("south", 2) else None)
    without = run(plan, tmp_path / "without", absent)
    assert same(run(plan, tmp_path / "wild", Hospitals(fault=wild)), without)
    assert Checkpoints(tmp_path / "wild", plan.digest).load().attendance == {"2": {"south": "malformed"}}


@pytest.mark.parametrize("order", [("north", "south"), ("south", "north")])
def test_planned_weights_are_of_hospitals_by_name_in_whatever_order_they_answer(study_dict, tmp_path, order):
    study_dict["federation"]["weights"] = [1.0, 1e-12]
    draft = Plan(parse_study(study_dict), (None, 2.0, 1.5))
    hospitals = Hospitals(("north", "south"))
    hospitals.keys = {name: SigningKey.generate() for name in order}
    parties = [Party(name, hospitals.keys[name].public_key.hex()) for name in order]
    plan = draft.agreed(Party("Study", SigningKey.generate().public_key.hex()), parties)
    sent = {}

    def listen(name, task):
        sent.update({(name, task.step): hospitals._answer(name, task).arrays})

    hospitals.fault = listen
    state = run(plan, tmp_path, hospitals)
    assert all(np.allclose(state[k], sent[order[0], 3][k], atol=1e-6) for k in hospitals.private)
    assert not all(np.allclose(state[k], sent[order[1], 3][k], atol=1e-6) for k in hospitals.private)


@pytest.mark.parametrize("arrays", [{"sum": np.zeros(3)}, {}, {"sum": np.zeros(3), "more": np.zeros(1)}])
def test_an_answer_of_another_layout_is_missing_and_nothing_of_it_is_kept(plan, tmp_path, arrays):
    liar = Hospitals(fault=lambda name, task: Reply(arrays) if name == "south" and task.step == 1 else None)
    with pytest.raises(TransportFailure, match=r"south \(malformed\)"):
        run(plan, tmp_path, liar)
    assert Checkpoints(tmp_path, plan.digest).load().done == 1


def _nudged(array):
    """The smallest change that there is."""
    other = array.copy()
    other.view(np.uint8).reshape(-1)[0] ^= 1
    return other


@pytest.mark.parametrize("frozen", ["shift", "net.input.weight", "moments.bank"])
def test_a_hospital_that_changes_what_training_may_not_touch_is_missing_and_the_others_go_on(
    study_dict, tmp_path, frozen
):
    study_dict["federation"]["quorum"] = 1
    plan = Plan(parse_study(study_dict), (None, 2.0, 1.5))
    names = ("north", "south")

    def lie(name, task):
        if (name, task.action) != ("south", "train"):
            return None
        honest = liars._answer(name, task)
        return replace(honest, arrays={**honest.arrays, frozen: _nudged(task.arrays[frozen])})

    liars = Hospitals(names, fault=lie)
    state = run(plan, tmp_path / "lied", liars)
    kept = Checkpoints(tmp_path / "lied", plan.digest).load()
    assert kept.attendance == {"2": {"south": "malformed"}, "3": {"south": "malformed"}}
    silent = Hospitals(names, fault=lambda n, t: Missing("lost") if (n, t.action) == ("south", "train") else None)
    assert same(state, run(plan, tmp_path / "silent", silent))


def test_a_release_without_pretraining_cannot_be_carried_over(study_dict, tmp_path):
    study_dict["stage"] = study_dict["stage"][1:]
    plan = Plan(parse_study(study_dict), (2.0, 1.5))
    with pytest.raises(Misconfigured, match="pretrain stage"):
        run(plan, tmp_path, Hospitals())
