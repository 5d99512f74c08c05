"""What root gives the gateway's user, which may have put links where it may write."""

import os
import pwd

import pytest

from manikin.client.starting import _give
from manikin.common.errors import Misconfigured

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
NOBODY = 65534


@pytest.fixture
def gateway(tmp_path):
    folder = tmp_path / "hospital" / "gateway"
    for name in ("home/logs", "inbox", "outbox"):
        (folder / name).mkdir(parents=True)
    for name in ("node.key", "home/superexec.secret", "home/logs/supernode.log", "outbox/enrolment.dsse.json"):
        (folder / name).write_bytes(b"")
    (tmp_path / "hospital" / "cohort.sqlite").write_bytes(b"")
    (tmp_path / "hospital" / "cohort").mkdir()
    (tmp_path / "hospital" / "cohort" / "image").write_bytes(b"")
    return folder


def owner(path):
    return path.lstat().st_uid


def test_the_gateways_user_owns_what_it_writes_and_neither_the_folder_nor_the_outbox(gateway):
    os.chown(gateway, NOBODY, NOBODY)
    _give(gateway, "nobody", None)
    for name in ("home", "home/logs", "home/logs/supernode.log", "home/superexec.secret", "inbox", "node.key"):
        assert owner(gateway / name) == NOBODY, name
    for name in ("", "outbox", "outbox/enrolment.dsse.json"):
        assert owner(gateway / name) == os.geteuid(), name


def test_what_a_captured_gateway_links_to_is_not_given_to_it(gateway):
    hospital = gateway.parent
    (gateway / "home" / "x").symlink_to(hospital / "cohort.sqlite")
    (gateway / "home" / "y").symlink_to(hospital / "cohort")
    os.link(hospital / "cohort" / "image", gateway / "inbox" / "z")
    (gateway / "inbox" / "plan").write_bytes(b"")
    os.mkfifo(gateway / "inbox" / "pipe")
    _give(gateway, "nobody", None)
    for name in ("cohort.sqlite", "cohort", "cohort/image"):
        assert owner(hospital / name) == os.geteuid(), name
    assert owner(gateway / "inbox" / "plan") == NOBODY


def test_without_a_group_it_is_the_users_own_and_never_roots(gateway):
    own = pwd.getpwnam("nobody").pw_gid
    assert _give(gateway, "nobody", None) == own != os.getegid()
    assert (gateway.lstat().st_gid, (gateway / "node.key").lstat().st_gid) == (own, own)
    assert _give(gateway, "nobody", "2000") == 2000
    assert gateway.lstat().st_gid == 2000


@pytest.mark.parametrize(("user", "group"), [("root", None), ("nobody", "root"), ("nobody", "0"), ("root", "nogroup")])
def test_a_gateway_that_would_keep_roots_rights_is_refused(gateway, user, group):
    before = owner(gateway / "node.key")
    with pytest.raises(Misconfigured, match="root"):
        _give(gateway, user, group)
    assert owner(gateway / "node.key") == before


def test_a_user_that_is_none_says_so(gateway):
    with pytest.raises(Misconfigured, match="no-such-user"):
        _give(gateway, "no-such-user", None)
