"""The vault under requests that are right, repeated, changed, forged or cut short."""

import contextlib
import dataclasses
import json
import shutil
import sqlite3
from datetime import date, datetime

import numpy as np
import pytest

from manikin.client.cohort import Hospital, import_source
from manikin.client.vault import Vault
from manikin.common import frames, generators
from manikin.common.errors import BadData, PolicyRefusal, ProtocolViolation, StorageFailure
from manikin.common.keys import SigningKey
from manikin.common.plan import Party, Plan
from manikin.common.study import parse_study
from manikin.common.wire import Refused, Task
from manikin.privacy.costs import Total
from manikin.server.asking import to_numpy
from manikin.server.planning import propose

RELEASE, TRAIN, AUDIT = 1, 2, 4


COORDINATOR = SigningKey.generate()


@pytest.fixture
def hospital(make_hospital):
    return make_hospital("north")


@pytest.fixture
def plan(study_dict, hospital):
    study_dict["federation"]["quorum"] = 1
    return agreed(study_dict, hospital)


@pytest.fixture
def vault(hospital, plan):
    vault = Vault(hospital, embedded=True)
    vault.handle(opening(plan))
    return vault


def agreed(study_dict, *folders, key=COORDINATOR):
    parties = [Party(folder.name, Hospital.open(folder).signing_key.public_key.hex()) for folder in folders]
    return propose(parse_study(study_dict)).agreed(Party("consortium", key.public_key.hex()), parties)


def task(plan, step, action, arrays, *heads, key=COORDINATOR):
    return Task(plan.digest, step, action, {"heads": {str(step - 1): dict(heads)}}, arrays).signed(key)


def opening(plan):
    return Task(plan.digest, 0, "open", {"plan": plan.to_dict(), "heads": {}}).signed(COORDINATOR)


def release_task(plan):
    return task(plan, RELEASE, "release", to_numpy(generators.create(plan.release_spec(plan.study.stage[1])).state()))


def train_task(plan, *heads, step=TRAIN):
    return task(plan, step, "train", to_numpy(generators.create(plan.generator_spec()).state()), *heads)


def audit_task(plan, *heads):
    rng = np.random.default_rng(0)
    arrays = to_numpy(generators.create(plan.generator_spec()).state())
    arrays["synthetic.images"] = rng.uniform(-1, 1, (20, 1, 8, 8)).astype(np.float32)
    arrays["synthetic.labels"] = np.arange(20) % 2
    return task(plan, AUDIT, "audit", arrays, *heads)


def changed(task, **changes):
    """A task with other content, signed by the same coordinator."""
    return dataclasses.replace(task, **changes).signed(COORDINATOR)


def same(left, right):
    return left.keys() == right.keys() and all(np.array_equal(left[k], right[k]) for k in left)


def test_the_same_request_gives_the_same_bytes_even_after_a_restart(vault, plan):
    first = vault.handle(release_task(plan))
    training = train_task(plan, ("north", first.head))
    second = vault.handle(training)
    for task, reply in ((release_task(plan), first), (training, second)):
        for again in (vault.handle(task), Vault(vault.folder, embedded=True).handle(task)):
            assert same(reply.arrays, again.arrays)
            assert (reply.head, reply.signature) == (again.head, again.signature)


def test_a_done_step_with_any_other_content_is_refused(vault, plan):
    task = release_task(plan)
    vault.handle(task)
    name = next(iter(task.arrays))
    with pytest.raises(ProtocolViolation, match="another request"):
        vault.handle(changed(task, arrays={**task.arrays, name: task.arrays[name] + np.float32(1)}))


def test_a_vault_killed_after_reserving_answers_with_what_it_would_have_sent(vault, plan, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(vault.ledger, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            vault.handle(release_task(plan))
    task = release_task(plan)
    name = next(iter(task.arrays))
    with pytest.raises(ProtocolViolation):
        Vault(vault.folder, embedded=True).handle(
            changed(task, arrays={**task.arrays, name: task.arrays[name] + np.float32(1)})
        )
    revived = Vault(vault.folder, embedded=True).handle(release_task(plan)).arrays
    assert same(revived, Vault(vault.folder, embedded=True).handle(release_task(plan)).arrays)


def test_what_is_spent_stands_on_disk_before_a_patient_is_touched(vault, plan, monkeypatch):
    seen = []

    def reads(*_, **__):
        seen.append(len(Vault(vault.folder, embedded=True).ledger.spent()))
        raise KeyboardInterrupt

    monkeypatch.setattr("manikin.client.steps.release_sum", reads)
    with pytest.raises(KeyboardInterrupt):
        vault.handle(release_task(plan))
    assert seen == [1]


def test_another_plan_gets_other_noise(vault, study_dict):
    sums = []
    for name in ("first", "second"):
        plan = agreed(study_dict | {"name": name}, vault.folder)
        vault.handle(opening(plan))
        sums.append(vault.handle(release_task(plan)).arrays["sum"])
    assert not np.array_equal(*sums)


def test_tensors_that_no_gradient_may_touch_come_back_bit_for_bit(vault, plan):
    task = train_task(plan, ("north", vault.handle(release_task(plan)).head))
    reply = vault.handle(task).arrays
    model = generators.create(plan.generator_spec())
    private = sum(p.numel() for p in model.private_parameters())
    moved = sum(int((reply[k] != task.arrays[k]).sum()) for k in reply)
    assert 0 < moved <= private
    assert same({k: v.shape for k, v in reply.items()}, {k: v.shape for k, v in task.arrays.items()})


def test_an_audit_leaves_a_page_at_home_and_sends_nothing(vault, plan):
    head = vault.handle(release_task(plan)).head
    for step in (TRAIN, TRAIN + 1):
        head = vault.handle(train_task(plan, ("north", head), step=step)).head
    reply = vault.handle(audit_task(plan, ("north", head)))
    assert not reply.arrays
    report = vault.folder / "reports" / plan.digest[:12]
    assert (report / "audit.html").exists()
    assert json.loads((report / "audit.json").read_bytes())["verdict"] in {"pass", "fail", "inconclusive"}


@pytest.mark.parametrize(
    "forge",
    [
        lambda t: changed(t, plan_digest="0" * 64),
        lambda t: changed(t, plan_digest="../../etc/passwd"),
        lambda t: changed(t, step=3),
        lambda t: changed(t, step=-1),
        lambda t: changed(t, step=99),
        lambda t: changed(t, action="audit"),
        lambda t: changed(t, action="shell"),
        lambda t: changed(t, arrays={}),
        lambda t: changed(t, arrays={k: np.full_like(a, np.nan) for k, a in t.arrays.items()}),
        lambda t: changed(t, arrays={k: a[..., :-1] if a.ndim else a for k, a in t.arrays.items()}),
    ],
)
def test_a_forged_task_is_refused(vault, plan, forge):
    with pytest.raises(ProtocolViolation):
        vault.handle(forge(release_task(plan)))


def test_a_task_that_the_coordinator_did_not_sign_is_refused(vault, plan):
    for forged in (
        dataclasses.replace(release_task(plan), signature=b""),
        release_task(plan).signed(SigningKey.generate()),
        dataclasses.replace(release_task(plan), parameters={"heads": {}, "more": 1}),
    ):
        with pytest.raises(ProtocolViolation, match=r"not signed|coordinator"):
            vault.handle(forged)
    assert not vault.ledger.spent()


def test_a_plan_whose_noise_was_lowered_is_refused(vault, plan):
    weak = dataclasses.replace(plan, noise_multipliers=tuple(n and n / 2 for n in plan.noise_multipliers))
    with pytest.raises(PolicyRefusal, match="would spend"):
        vault.handle(opening(weak))


def test_a_plan_under_another_digest_is_refused(vault, plan):
    with pytest.raises(ProtocolViolation, match="digest"):
        vault.handle(changed(opening(plan), plan_digest="0" * 64))


def test_a_plan_that_names_nobody_or_another_key_is_refused(vault, plan):
    stranger = Party("north", SigningKey.generate().public_key.hex())
    for other in (Plan(plan.study, plan.noise_multipliers), dataclasses.replace(plan, participants=(stranger,))):
        with pytest.raises(PolicyRefusal):
            vault.handle(opening(other))


def test_a_cohort_without_patient_ids_does_not_join_a_study_that_protects_patients(make_hospital, study_dict):
    study_dict["federation"]["quorum"] = 1
    folder = make_hospital("south", with_ids=False)
    with pytest.raises(BadData, match="no patient ids"):
        Vault(folder, embedded=True).handle(opening(agreed(study_dict, folder)))


def test_fewer_patients_than_the_minimum_is_bad_data_and_crosses_as_unavailable(hospital, study_dict):
    study_dict["federation"]["quorum"] = 1
    study_dict["data"]["patients_min"] = 1000
    vault = Vault(hospital, embedded=True)
    opened = opening(agreed(study_dict, hospital))
    with pytest.raises(BadData):
        vault.handle(opened)
    assert frames.decode_reply(vault.exchange(frames.encode_task(opened))) == Refused("unavailable")
    assert "1000" in (hospital / "last-refusal.json").read_text()


def test_the_budget_is_looked_at_again_at_each_step(vault, plan, monkeypatch):
    def dearer(plan):
        """What accountants say that were mended since the plan was opened."""
        return Total(9.0, {"pld": 9.0})

    asked = release_task(plan)
    monkeypatch.setattr("manikin.client.admission.plan_epsilon", dearer)
    with pytest.raises(PolicyRefusal, match="would spend ε = 9"):
        vault.handle(asked)
    assert not vault.ledger.spent()


def test_the_unit_is_looked_at_again_at_each_step(vault, plan, tmp_path):
    images = np.random.default_rng(7).integers(0, 255, (8, 8, 8)).astype(np.uint8)
    source = tmp_path / "more.npz"
    np.savez(source, images=images, axes="NHW", labels=np.arange(8) % 2, class_names=["normal", "ill"])
    import_source(source, vault.folder)
    grown = Vault(vault.folder, embedded=True)
    with pytest.raises(BadData, match="no patient ids"):
        grown.handle(release_task(plan))
    assert not grown.ledger.spent()


def test_a_step_number_that_no_book_can_hold_is_refused_and_entered(vault, plan):
    frame = frames.encode_task(dataclasses.replace(release_task(plan), step=1 << 70))
    assert frames.decode_reply(vault.exchange(frame)) == Refused("protocol-violation")
    assert vault.counters()["refused_protocol-violation"] == 1


def test_a_frame_of_rubbish_is_refused_and_entered_in_the_egress_log(vault):
    assert frames.decode_reply(vault.exchange(b"rubbish" * 9)) == Refused("protocol-violation")
    assert vault.counters()["refused_protocol-violation"] == 1


def test_without_a_policy_everything_is_refused_unless_one_machine_holds_all(hospital, plan):
    with pytest.raises(PolicyRefusal, match=r"policy\.toml"):
        Vault(hospital).handle(opening(plan))


def test_a_canary_brings_zeros_and_touches_no_ledger(vault, plan):
    asked = task(plan, 0, "canary", {"w": np.ones((3, 2), np.float32)})
    reply = vault.handle(asked)
    assert same(reply.arrays, {"w": np.zeros((3, 2), np.float32)})
    assert not vault.ledger.spent()
    reply.check_signature(Hospital.open(vault.folder).signing_key.public_key, asked)


def test_an_edited_ledger_takes_part_in_nothing(vault, plan):
    vault.handle(release_task(plan))
    with contextlib.closing(sqlite3.connect(vault.folder / "ledger.sqlite")) as db, db:
        db.execute("UPDATE event SET epsilon = epsilon / 2 WHERE epsilon IS NOT NULL")
    with pytest.raises(StorageFailure, match="does not hold"):
        Vault(vault.folder, embedded=True)


def test_after_a_roll_back_other_weights_get_other_noise(vault, plan, tmp_path):
    first = release_task(plan)
    name = next(n for n, a in first.arrays.items() if a.dtype == np.float32 and a.size)
    other = changed(first, arrays={**first.arrays, name: first.arrays[name] + np.float32(1e-3)})
    one = vault.handle(first).arrays["sum"]
    forget(vault.folder)
    two = Vault(vault.folder, embedded=True).handle(other).arrays["sum"]
    noise = plan.noise_multipliers[1] * generators.create(plan.release_spec(plan.study.stage[1])).norm_bound
    assert (one - two).std() == pytest.approx(noise * 2**0.5, rel=0.5)


def forget(folder):
    """What a hospital has that was restored from before its first step."""
    for file in (*folder.glob("ledger.sqlite*"), folder / "anchors" / "own.json"):
        file.unlink()


def test_the_same_request_to_another_cohort_meets_other_noise(vault, plan, tmp_path):
    one = vault.handle(release_task(plan)).arrays["sum"]
    forget(vault.folder)
    images = np.random.default_rng(7).integers(0, 255, (8, 8, 8)).astype(np.uint8)
    names = [f"new-{i}" for i in range(8)]
    source = tmp_path / "more.npz"
    np.savez(source, images=images, axes="NHW", labels=np.arange(8) % 2, class_names=["normal", "ill"], patients=names)
    import_source(source, vault.folder)
    two = Vault(vault.folder, embedded=True).handle(release_task(plan)).arrays["sum"]
    noise = plan.noise_multipliers[1] * generators.create(plan.release_spec(plan.study.stage[1])).norm_bound
    assert (one - two).std() == pytest.approx(noise * 2**0.5, rel=0.3)


def test_a_ledger_that_lacks_what_the_egress_log_says_was_sent_takes_part_in_nothing(vault, plan):
    vault.exchange(frames.encode_task(release_task(plan)))
    forget(vault.folder)
    with pytest.raises(StorageFailure, match="egress log says"):
        Vault(vault.folder, embedded=True)


def test_an_audit_is_asked_once_and_acknowledged_whatever_it_found(vault, plan, monkeypatch):
    head = vault.handle(release_task(plan)).head
    for step in (TRAIN, TRAIN + 1):
        head = vault.handle(train_task(plan, ("north", head), step=step)).head
    asked = audit_task(plan, ("north", head))
    labels = asked.arrays["synthetic.labels"].copy()
    labels[0] = -999
    with pytest.raises(ProtocolViolation, match="no synthetic images"):
        vault.handle(changed(asked, arrays={**asked.arrays, "synthetic.labels": labels}))

    def fails(*_, **__):
        raise IndexError("whom this depends on stays here")

    monkeypatch.setattr("manikin.client.auditing.run_audit", fails)
    assert vault.handle(asked).name == "north"
    assert "whom this depends on" in (vault.folder / "last-refusal.json").read_text()
    images = asked.arrays["synthetic.images"] * np.float32(0.5)
    with pytest.raises(ProtocolViolation, match="another request"):
        vault.handle(changed(asked, arrays={**asked.arrays, "synthetic.images": images}))


def test_weights_that_overflow_for_one_patient_tell_nobody_of_that_patient(make_hospital, study_dict, tmp_path):
    study_dict["federation"]["quorum"] = 1
    study_dict["stage"][1]["middle"] = 4
    answers = []
    for name, seed in (("north", 0), ("south", 5)):
        folder = make_hospital(name, seed=seed)
        plan = agreed(study_dict, folder)
        vault = Vault(folder, embedded=True)
        vault.handle(opening(plan))
        first = release_task(plan)
        scales = {n: np.full_like(a, 1e-38) for n, a in first.arrays.items() if n in ("spectrum_std", "band_std")}
        reply = vault.handle(changed(first, arrays={**first.arrays, **scales}))
        answers.append(np.isfinite(reply.arrays["sum"]).all())
    assert answers == [True, True]


def test_a_plan_of_another_version_and_one_changed_on_disk_are_refused(vault, plan):
    with pytest.raises(PolicyRefusal, match="version"):
        vault.handle(opening(dataclasses.replace(plan, code_version="0.0.1")))
    file = vault.folder / "plans" / f"{plan.digest}.json"
    file.write_bytes(file.read_bytes().replace(b'"clip":1', b'"clip":2'))
    with pytest.raises(StorageFailure, match="changed"):
        Vault(vault.folder, embedded=True).handle(release_task(plan))


def test_an_expired_key_stays_expired_when_the_clock_is_set_back(vault, monkeypatch):
    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2030, 1, 1, tzinfo=tz)

    with monkeypatch.context() as patch:
        patch.setattr("manikin.client.egress.datetime", Later)
        vault.exchange(b"rubbish")
    assert vault._admission.today() == date(2030, 1, 1)


class TestHeads:
    """Two hospitals, and a coordinator that would like to tell them different things."""

    @pytest.fixture
    def pair(self, make_hospital, study_dict):
        folders = [make_hospital("north"), make_hospital("south", seed=1)]
        plan = agreed(study_dict, *folders)
        vaults = [Vault(folder, embedded=True) for folder in folders]
        for vault in vaults:
            vault.handle(opening(plan))
        return plan, vaults

    def test_a_server_that_sends_different_weights_to_different_sites_is_found_out(self, pair):
        plan, (north, south) = pair
        first = release_task(plan)
        name = next(n for n, a in first.arrays.items() if a.dtype == np.float32 and a.size)
        other = changed(first, arrays={**first.arrays, name: first.arrays[name] + np.float32(1)})
        heads = [("north", north.handle(first).head), ("south", south.handle(other).head)]
        for vault in (north, south):
            with pytest.raises(ProtocolViolation, match="different things"):
                vault.handle(train_task(plan, *heads))

    def test_a_head_kept_back_a_forged_one_and_a_strangers_are_refused(self, pair):
        plan, (north, south) = pair
        heads = {vault.cohort.name: vault.handle(release_task(plan)).head for vault in (north, south)}
        for wrong in (
            {"north": heads["north"]},
            {**heads, "south": heads["north"]},
            {**heads, "south": heads["south"].replace("A", "B", 1)},
            {**heads, "west": heads["north"]},
            {},
        ):
            with pytest.raises(ProtocolViolation):
                north.handle(train_task(plan, *wrong.items()))
        north.handle(train_task(plan, *heads.items()))

    def test_a_ledger_that_went_back_is_refused_by_itself_and_by_its_peers(self, pair, tmp_path):
        plan, (north, south) = pair
        backup = tmp_path / "backup.sqlite"
        with contextlib.closing(sqlite3.connect(south.folder / "ledger.sqlite")) as db:
            db.execute("VACUUM INTO ?", (str(backup),))
        heads = {vault.cohort.name: vault.handle(release_task(plan)).head for vault in (north, south)}
        north.handle(train_task(plan, *heads.items()))
        for file in south.folder.glob("ledger.sqlite*"):
            file.unlink()
        shutil.copy(backup, south.folder / "ledger.sqlite")
        with pytest.raises(ProtocolViolation, match="held elsewhere"):
            Vault(south.folder, embedded=True)
        (south.folder / "anchors" / "own.json").unlink()
        restored = Vault(south.folder, embedded=True)
        with pytest.raises(ProtocolViolation, match="held elsewhere"):
            restored.handle(train_task(plan, *heads.items()))
        first = release_task(plan)
        name = next(n for n, a in first.arrays.items() if a.dtype == np.float32 and a.size)
        forked = restored.handle(changed(first, arrays={**first.arrays, name: first.arrays[name] + np.float32(1)})).head
        with pytest.raises(ProtocolViolation, match="two histories"):
            north.handle(train_task(plan, ("north", heads["north"]), ("south", forked)))


def test_noise_is_drawn_at_the_planned_scale(vault, plan):
    family = generators.create(plan.release_spec(plan.study.stage[1]))
    noisy = vault.handle(release_task(plan)).arrays["sum"]
    patients = vault.cohort.load(plan.study.data)["train"]
    noise = noisy - sum(family.statistic(patient) for patient in patients)
    expected = plan.noise_multipliers[1] * family.norm_bound
    assert noise.std() == pytest.approx(expected, rel=4 / (2 * len(noise)) ** 0.5)  # four standard errors: 1 in 16,000
