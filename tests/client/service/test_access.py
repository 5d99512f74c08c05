"""A hospital's folder that others can read is not served from, and the message says how to close it."""

import os
import subprocess

import pytest

from manikin.client.service.access import check_private, group_id, remedies
from manikin.common.errors import Misconfigured


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "a hospital's folder"
    for name in ("cohort", "keys", "reports", "plans", "agreements"):
        (folder / name).mkdir(parents=True, mode=0o700)
    for name in ("secret.key", "ledger.sqlite", "ledger.sqlite-wal", "egress.sqlite", "last-refusal.json"):
        (folder / name).touch(mode=0o600)
    (folder / "run").mkdir(mode=0o750)
    (folder / "gateway").mkdir(mode=0o755)
    for name in ("hospital.toml", "policy.toml", "enrolment.dsse.json"):
        (folder / name).touch(mode=0o644)
    folder.chmod(0o711)
    return folder


def test_a_closed_folder_is_fine(folder):
    check_private(folder)


@pytest.mark.parametrize("name", ["secret.key", "keys", "cohort", "ledger.sqlite", "egress.sqlite", "reports", "new"])
@pytest.mark.parametrize("bit", [0o040, 0o004, 0o020, 0o002, 0o010, 0o001])
def test_anything_that_others_can_touch_is_refused_and_the_command_closes_it(folder, name, bit):
    (folder / name).touch(mode=0o600)
    (folder / name).chmod((folder / name).stat().st_mode | bit)
    with pytest.raises(Misconfigured) as refused:
        check_private(folder)
    subprocess.run(refused.value.next_step.removeprefix("Run: "), shell=True, check=True)
    check_private(folder)


@pytest.mark.parametrize("mode", [0o755, 0o733, 0o777, 0o731])
def test_a_folder_that_others_can_list_or_change_is_refused(folder, mode):
    folder.chmod(mode)
    assert len(remedies(folder)) == 1
    subprocess.run(remedies(folder)[0], shell=True, check=True)
    check_private(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_folder_of_another_user_is_refused(folder):
    os.chown(folder, 12345, -1)
    assert remedies(folder)[0].startswith("chown")


def test_a_folder_that_is_no_hospital_is_refused(tmp_path):
    with pytest.raises(Misconfigured, match=r"no hospital\.toml"):
        check_private(tmp_path)


def test_groups_are_found_by_name_or_number():
    assert group_id("root") == 0
    assert group_id("4711") == 4711
    with pytest.raises(Misconfigured, match="groupadd"):
        group_id("no-such-group")
