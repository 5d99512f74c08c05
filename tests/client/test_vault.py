"""The vault under requests that are right, repeated, changed, forged or cut short."""

import dataclasses
import json

import numpy as np
import pytest

from manikin.client.vault import Vault
from manikin.common import generators
from manikin.common.errors import BadData, PolicyRefusal, ProtocolViolation
from manikin.common.plan import Plan
from manikin.common.study import parse_study
from manikin.common.wire import Task
from manikin.server.planning import propose
from manikin.server.rounds import to_numpy

RELEASE, TRAIN, AUDIT = 1, 2, 4


@pytest.fixture
def plan(study_dict):
    return propose(parse_study(study_dict))


@pytest.fixture
def vault(make_hospital, plan):
    vault = Vault(make_hospital("north"))
    vault.handle(opening(plan))
    return vault


def opening(plan):
    return Task(plan.digest, 0, "open", plan.to_dict())


def release_task(plan):
    family = generators.create(plan.release_spec(plan.study.stage[1]))
    return Task(plan.digest, RELEASE, "release", arrays=to_numpy(family.state()))


def train_task(plan):
    return Task(plan.digest, TRAIN, "train", arrays=to_numpy(generators.create(plan.generator_spec()).state()))


def audit_task(plan):
    rng = np.random.default_rng(0)
    arrays = to_numpy(generators.create(plan.generator_spec()).state())
    arrays["synthetic.images"] = rng.uniform(-1, 1, (20, 1, 8, 8)).astype(np.float32)
    arrays["synthetic.labels"] = np.arange(20) % 2
    return Task(plan.digest, AUDIT, "audit", arrays=arrays)


def same(left, right):
    return left.keys() == right.keys() and all(np.array_equal(left[k], right[k]) for k in left)


@pytest.mark.parametrize("make", [release_task, train_task])
def test_the_same_request_gives_the_same_bytes_even_after_a_restart(vault, plan, make):
    if make is train_task:
        vault.handle(release_task(plan))
    first = vault.handle(make(plan)).arrays
    assert same(first, vault.handle(make(plan)).arrays)
    assert same(first, Vault(vault.folder).handle(make(plan)).arrays)


def test_a_done_step_with_any_other_content_is_refused(vault, plan):
    task = release_task(plan)
    vault.handle(task)
    name = next(iter(task.arrays))
    changed = dataclasses.replace(task, arrays={**task.arrays, name: task.arrays[name] + np.float32(1)})
    with pytest.raises(ProtocolViolation):
        vault.handle(changed)


def test_a_vault_killed_after_reserving_answers_with_what_it_would_have_sent(make_hospital, plan, monkeypatch):
    folder = make_hospital("north")
    vault = Vault(folder)
    vault.handle(opening(plan))

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(vault.ledger, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            vault.handle(release_task(plan))
    task = release_task(plan)
    name = next(iter(task.arrays))
    other = dataclasses.replace(task, arrays={**task.arrays, name: task.arrays[name] + np.float32(1)})
    with pytest.raises(ProtocolViolation):
        Vault(folder).handle(other)
    revived = Vault(folder).handle(release_task(plan)).arrays
    assert same(revived, Vault(folder).handle(release_task(plan)).arrays)


def test_what_is_spent_stands_on_disk_before_a_patient_is_touched(vault, plan, monkeypatch):
    seen = []

    def reads(*_, **__):
        seen.append(len(Vault(vault.folder).ledger.spent()))
        raise KeyboardInterrupt

    monkeypatch.setattr("manikin.client.vault.release_sum", reads)
    with pytest.raises(KeyboardInterrupt):
        vault.handle(release_task(plan))
    assert seen == [1]


def test_another_plan_gets_other_noise(make_hospital, study_dict):
    vault = Vault(make_hospital("north"))
    sums = []
    for name in ("first", "second"):
        plan = propose(parse_study(study_dict | {"name": name}))
        vault.handle(opening(plan))
        sums.append(vault.handle(release_task(plan)).arrays["sum"])
    assert not np.array_equal(*sums)


def test_tensors_that_no_gradient_may_touch_come_back_bit_for_bit(vault, plan):
    vault.handle(release_task(plan))
    task = train_task(plan)
    reply = vault.handle(task).arrays
    model = generators.create(plan.generator_spec())
    private = sum(p.numel() for p in model.private_parameters())
    moved = sum(int((reply[k] != task.arrays[k]).sum()) for k in reply)
    assert 0 < moved <= private
    assert same({k: v.shape for k, v in reply.items()}, {k: v.shape for k, v in task.arrays.items()})


def test_an_audit_leaves_a_page_at_home_and_sends_nothing(vault, plan):
    vault.handle(release_task(plan))
    for step, task in enumerate((train_task(plan), train_task(plan)), start=TRAIN):
        vault.handle(dataclasses.replace(task, step=step))
    reply = vault.handle(audit_task(plan))
    assert not reply.arrays
    report = vault.folder / "reports" / plan.digest[:12]
    assert (report / "audit.html").exists()
    assert json.loads((report / "audit.json").read_bytes())["verdict"] in {"pass", "fail", "inconclusive"}


@pytest.mark.parametrize(
    "forge",
    [
        lambda t: dataclasses.replace(t, plan_digest="0" * 64),
        lambda t: dataclasses.replace(t, plan_digest="../../etc/passwd"),
        lambda t: dataclasses.replace(t, step=3),
        lambda t: dataclasses.replace(t, step=-1),
        lambda t: dataclasses.replace(t, step=99),
        lambda t: dataclasses.replace(t, action="audit"),
        lambda t: dataclasses.replace(t, action="shell"),
        lambda t: dataclasses.replace(t, arrays={}),
        lambda t: dataclasses.replace(t, arrays={k: np.full_like(a, np.nan) for k, a in t.arrays.items()}),
        lambda t: dataclasses.replace(t, arrays={k: a[..., :-1] if a.ndim else a for k, a in t.arrays.items()}),
    ],
)
def test_a_forged_task_is_refused(vault, plan, forge):
    with pytest.raises(ProtocolViolation):
        vault.handle(forge(release_task(plan)))


def test_a_plan_whose_noise_was_lowered_is_refused(make_hospital, plan):
    vault = Vault(make_hospital("north"))
    weak = Plan(plan.study, tuple(n and n / 2 for n in plan.noise_multipliers))
    with pytest.raises(PolicyRefusal, match="would spend"):
        vault.handle(opening(weak))


def test_a_plan_under_another_digest_is_refused(make_hospital, plan):
    vault = Vault(make_hospital("north"))
    with pytest.raises(ProtocolViolation, match="digest"):
        vault.handle(dataclasses.replace(opening(plan), plan_digest="0" * 64))


def test_a_cohort_without_patient_ids_does_not_join_a_study_that_protects_patients(make_hospital, plan):
    vault = Vault(make_hospital("north", with_ids=False))
    with pytest.raises(PolicyRefusal, match="no patient ids"):
        vault.handle(opening(plan))


def test_fewer_patients_than_the_minimum_is_bad_data(make_hospital, study_dict):
    study_dict["data"]["patients_min"] = 1000
    plan = propose(parse_study(study_dict))
    with pytest.raises(BadData):
        Vault(make_hospital("north")).handle(opening(plan))


def test_noise_is_drawn_at_the_planned_scale(vault, plan):
    family = generators.create(plan.release_spec(plan.study.stage[1]))
    noisy = vault.handle(release_task(plan)).arrays["sum"]
    patients = vault.cohort.load(plan.study.data)["train"]
    noise = noisy - sum(family.statistic(patient) for patient in patients)
    expected = plan.noise_multipliers[1] * family.norm_bound
    assert noise.std() == pytest.approx(expected, rel=4 / (2 * len(noise)) ** 0.5)  # four standard errors: 1 in 16,000
