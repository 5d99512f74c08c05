"""The wall between gateway and vault, tried by a process that really is another user.

The vault runs as this test's user, the gateway's part as a user of its own that shares one group with the socket and
nothing else. It tries what a captured gateway would try; what it may do is tried as well, so that a wall that is only
in the way of everything does not pass.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from manikin.client.cohort import create_hospital, import_source

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

GATEWAY_USER, GATEWAY_GROUP, SHARED_GROUP = 64321, 64321, 64400
PUBLIC = {"hospital.toml", "policy.toml"}

INTRUDER = """
import json, os, sys
import grpc._channel  # grpc would read it later, when the interpreter may be out of reach
from manikin.client.service import SocketPort
from manikin.common.errors import ManikinError
asked = json.load(sys.stdin)
os.setgroups(asked["groups"]); os.setgid(asked["gid"]); os.setuid(asked["uid"])

def attempt(action):
    try:
        action()
    except (OSError, ManikinError) as error:
        return type(error).__name__
    return "done"

def touch(path):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))

def write(path):
    os.close(os.open(path, os.O_WRONLY))

ways = {
    "read": lambda path: os.close(os.open(path, os.O_RDONLY)),
    "write": write,
    "list": os.listdir,
    "enter": os.chdir,
    "create": lambda path: touch(path + "/planted"),
    "remove": os.unlink,
    "loosen": lambda path: os.chmod(path, 0o666),
    "link": lambda path: os.link(path, asked["home"] + "/linked"),
    "resolve": os.readlink,
    "signal": lambda pid: os.kill(int(pid), 15),
    "exchange": lambda path: SocketPort(path, connect_s=1).exchange(b"garbage"),
}
print(json.dumps([[way, path, attempt(lambda: ways[way](path))] for way, path in asked["attempts"]]))
"""


@pytest.fixture(scope="module")
def hospital():
    """A hospital where other users can pass through, so that nothing but its own modes is in their way."""
    place = Path(tempfile.mkdtemp(prefix="mk-"))
    place.chmod(0o711)
    folder = place / "north"
    create_hospital(folder, "north")
    images = np.random.default_rng(0).integers(0, 255, (20, 8, 8)).astype(np.uint8)
    patients, labels = np.array([f"north-{i}" for i in range(20)]), np.arange(20) % 2
    np.savez(place / "scans.npz", images=images, axes="NHW", labels=labels, patients=patients, class_names=["a", "b"])
    import_source(place / "scans.npz", folder)
    gateway = folder / "gateway"
    gateway.mkdir(mode=0o700)
    (gateway / "node.key").touch(mode=0o600)
    for path in (gateway, gateway / "node.key"):
        os.chown(path, GATEWAY_USER, GATEWAY_GROUP)
    yield folder
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def vault(hospital):
    """The real vault of the hospital, at work."""
    command = [
        sys.executable,
        "-m",
        "manikin",
        "hospital",
        "vault",
        f"--hospital={hospital}",
        f"--group={SHARED_GROUP}",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = []
    for line in process.stdout:
        said.append(line)
        if "listening" in line:
            break
    assert "listening" in "".join(said), said
    yield process
    process.kill()
    process.communicate()


def intrude(hospital, attempts, groups=(SHARED_GROUP,)):
    """What came of the gateway's attempts: {(way, path): "done" or the error}."""
    asked = {
        "attempts": [[way, str(path)] for way, path in attempts],
        "uid": GATEWAY_USER,
        "gid": GATEWAY_GROUP,
        "groups": list(groups),
        "home": str(hospital / "gateway"),
    }
    command = [sys.executable, "-c", INTRUDER]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {(way, path): outcome for way, path, outcome in json.loads(done.stdout)}


def private(hospital):
    """Every file and folder of the hospital that is none of the gateway's business."""
    return [
        path
        for path in sorted(hospital.rglob("*"))
        if path.relative_to(hospital).parts[0] not in {"gateway", "run"} and path.name not in PUBLIC
    ]


def test_the_gateways_user_can_read_or_change_nothing_of_the_vaults(hospital, vault):
    paths = private(hospital)
    assert {"secret.key", "cohort", "cohort.sqlite", "ledger.sqlite", "egress.sqlite", "keys", "vault.pem"} <= {
        path.name for path in paths
    }
    attempts = [(way, path) for path in paths for way in ("read", "remove", "loosen", "link")]
    attempts += [("write", path) for path in paths if path.is_file()]
    attempts += [(way, path) for path in paths if path.is_dir() for way in ("list", "enter", "create")]
    outcomes = intrude(hospital, attempts)
    assert {key: outcome for key, outcome in outcomes.items() if outcome != "PermissionError"} == {}


def test_the_gateways_user_can_neither_move_into_the_folders_nor_replace_the_socket(hospital, vault):
    run = hospital / "run"
    attempts = [
        ("list", hospital),
        ("create", hospital),
        ("create", run),
        ("remove", run / "vault.sock"),
        ("remove", hospital / "hospital.toml"),
        ("write", hospital / "hospital.toml"),
        ("loosen", run / "vault.sock"),
        ("read", run / "vault.sock.lock"),
    ]
    assert set(intrude(hospital, attempts).values()) == {"PermissionError"}


def test_the_gateways_user_can_neither_look_into_the_vaults_process_nor_end_it(hospital, vault):
    proc = f"/proc/{vault.pid}"
    attempts = [
        ("read", f"{proc}/mem"),
        ("read", f"{proc}/environ"),
        ("list", f"{proc}/fd"),
        ("resolve", f"{proc}/cwd"),
    ]
    outcomes = intrude(hospital, [*attempts, ("signal", vault.pid)])
    assert set(outcomes.values()) == {"PermissionError"}
    assert vault.poll() is None


def test_what_the_gateway_needs_it_has(hospital, vault):
    attempts = [
        ("read", hospital / "gateway" / "node.key"),
        ("read", hospital / "hospital.toml"),
        ("exchange", hospital / "run" / "vault.sock"),
    ]
    assert set(intrude(hospital, attempts).values()) == {"done"}


def test_without_the_shared_group_the_socket_does_not_open(hospital, vault):
    outcomes = intrude(hospital, [("exchange", hospital / "run" / "vault.sock")], groups=())
    assert set(outcomes.values()) == {"Misconfigured"}
