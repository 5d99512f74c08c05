"""A gateway that root starts as another user: what its processes may do, read from the system and tried."""

import contextlib
import grp
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from manikin.client.enrolment import enroll
from manikin.common.keys import fingerprint
from manikin.common.processes import GRACE_S, LOOPBACK, Supervised, free_port, supervising
from manikin.server.agreements import create_coordinator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(500),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root starts processes as another user"),
]

USER = "nobody"
OWN = pwd.getpwnam(USER)
PYTHON = Path(sys.base_prefix)
CLOSED = next((str(parent) for parent in reversed(PYTHON.parents) if not parent.stat().st_mode & 0o001), "")
SHOWN = """
set -e
mount --bind "$1" "$2"
mount -t tmpfs -o mode=755 tmpfs "$3"
mkdir -p "$1"
mount --bind "$2" "$1"
shift 3
exec "$@"
"""

TRY = """
import sys
from pathlib import Path
for name in sys.argv[1:]:
    try:
        (list if Path(name).is_dir() else len)(Path(name).iterdir() if Path(name).is_dir() else Path(name).read_bytes())
        print("read", name)
    except OSError as error:
        print(type(error).__name__, name)
"""
GROUPS = "import os, sys; os.setgroups([0, 4]); os.execvp(sys.argv[1], sys.argv[1:])"  # as root's shells have them
ASK = """
import sys
from pathlib import Path
from manikin.client.service import SocketPort
SocketPort(Path(sys.argv[1])).ready()
"""


def shown(command, place):
    """The command, where every user can read Python: if it lies in root's home, in a view of the files of its own."""
    if not CLOSED:
        return command
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip(
            f"{USER} cannot read Python in {CLOSED}, and no process may have a view of the files of its own here"
        )
    (place / "python").mkdir()
    return ["unshare", "--mount", "sh", "-c", SHOWN, "sh", str(PYTHON), str(place / "python"), CLOSED, *command]


def as_user(like, code, *arguments):
    """Run code with the user, the group and the view of the files of a gateway's process, and without more rights."""
    rights = ["--setuid", str(OWN.pw_uid), "--setgid", str(OWN.pw_gid)]
    command = ["nsenter", "--target", str(like), "--mount", *rights, sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout


def status(pid):
    """The lines of /proc/PID/status."""
    pairs = (line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: value.split() for name, value in pairs}


def processes(folder):
    """Command line by process id, of those that speak of a folder."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if any(str(folder) in word for word in line):
                found[int(entry.name)] = line
    return found


@pytest.fixture
def hospital(make_hospital, tmp_path):
    """An enrolled hospital in a folder that others may pass through; its coordinator is not running."""
    place = Path(tempfile.mkdtemp(prefix="mk-"))
    place.chmod(0o711)
    folder = place / "north"
    shutil.move(make_hospital("north"), folder)
    home = create_coordinator(tmp_path / "coordinator", "coordinator", f"{LOOPBACK}:{free_port()}")
    enroll(folder, home.card.read_bytes(), [fingerprint(home.signing_key.public_key)])
    yield folder
    shutil.rmtree(place)


@pytest.mark.parametrize("group", [None, grp.getgrgid(OWN.pw_gid).gr_name], ids=["own-group", "named-group"])
def test_a_gateway_of_another_user_has_none_of_roots_rights_and_sees_no_scan(hospital, group):
    command = [sys.executable, "-P", "-m", "manikin", "hospital", "start", "--hospital", str(hospital)]
    command += ["--gateway-user", USER, *(["--group", group] if group else [])]
    command = [sys.executable, "-c", GROUPS, *shown(command, hospital.parent)]
    start = Supervised("start", command, hospital.parent / "start.log", restart=False, grace_s=6 * GRACE_S)
    with supervising([start]):
        start.start()
        found = wait_for(hospital, start)
        gateway = {pid: line for pid, line in found.items() if "gateway" in line}
        assert len(gateway) == 3, gateway  # supervisor, SuperNode, executor
        for pid, line in gateway.items():
            known = status(pid)
            assert known["Uid"] == [str(OWN.pw_uid)] * 4, line
            assert known["Gid"] == [str(OWN.pw_gid)] * 4, line
            assert known["Groups"] == [], line
            assert int(known["CapEff"][0], 16) == int(known["CapPrm"][0], 16) == 0, line
        vault = next(pid for pid, line in found.items() if "vault" in line)
        assert status(vault)["Uid"] == ["0"] * 4

        private = [hospital, hospital / "secret.key", hospital / "keys", hospital / "cohort"]
        private += [file for folder in ("keys", "cohort") for file in (hospital / folder).rglob("*") if file.is_file()]
        private += list(hospital.glob("*.sqlite"))
        assert len(private) >= 7, private
        said = as_user(next(iter(gateway)), TRY, *private).splitlines()
        assert [line.split()[0] for line in said] == ["PermissionError"] * len(private), said
        assert as_user(next(iter(gateway)), TRY, hospital / "gateway" / "node.key").startswith("read")
        as_user(next(iter(gateway)), ASK, hospital / "run" / "vault.sock")
    assert start.ended() is not None
    assert not [line for line in processes(hospital).values() if "gateway" in line]


def wait_for(hospital, start):
    """All processes, once the executor runs."""
    deadline = time.monotonic() + 200
    while True:
        found = processes(hospital)
        if any("flower-superexec" in line for line in found.values()):
            time.sleep(1.0)  # a process just forked bears the line of its parent
            return processes(hospital)
        assert start.ended() is None, start.last_words(20)
        assert time.monotonic() < deadline, (start.last_words(20), (hospital / "logs" / "gateway.log").read_text())
        time.sleep(0.3)
