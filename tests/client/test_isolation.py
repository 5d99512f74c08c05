"""A process without a network, asked of the kernel and not of a stand-in."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from manikin.client import isolation
from manikin.common.errors import Misconfigured

REPORT = """
import json, os
from manikin.client import isolation
links = []
for fd in os.listdir("/proc/self/fd"):
    try:
        links.append(os.readlink(f"/proc/self/fd/{fd}"))
    except OSError:
        pass  # that of the listing itself
sockets = sum(link.startswith("socket:") for link in links)
print(json.dumps([isolation.isolated(), isolation.interfaces(), isolation.routes(), sockets]))
"""


@pytest.fixture
def without_network():
    try:
        return isolation.prefix_without_network()
    except Misconfigured:
        pytest.skip("this system does not let us make a network namespace")


def python(code, *, prefix=(), **settings):
    command = [*prefix, sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **settings)


def test_a_process_of_its_own_namespace_is_isolated(without_network):
    assert json.loads(python(REPORT, prefix=without_network).stdout) == [True, [], [], 0]


@pytest.mark.skipif(isolation.isolated(), reason="this machine has no network to leave")
def test_a_process_with_a_network_leaves_it_and_the_sockets_it_inherited(without_network):
    code = f"""
import os, socket, sys
from manikin.client import isolation
held = socket.socket(); held.bind(("127.0.0.1", 0)); held.listen(); held.set_inheritable(True)
assert not isolation.isolated()
isolation.ensure([sys.executable, "-c", {REPORT!r}])
"""
    done = python(code)
    assert json.loads(done.stdout) == [True, [], [], 0], done.stderr


@pytest.mark.skipif(shutil.which("ip") is None or os.geteuid() != 0, reason="needs ip and root to lay a route")
def test_a_route_to_the_outside_is_found_even_without_another_interface(without_network):
    lay = "ip link set lo up && ip route add default dev lo && exec "
    command = [*without_network, "sh", "-c", lay + '"$0" -c "$1"', sys.executable, REPORT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout)[:3] == [False, [], ["192.0.2.1"]]


@pytest.mark.skipif(shutil.which("ip") is None or os.geteuid() != 0, reason="needs ip and root to add an interface")
def test_another_interface_is_found_even_when_it_is_down(without_network):
    add = "ip link add name leak0 type veth peer name leak1 || exit 77; exec "
    command = [*without_network, "sh", "-c", add + '"$0" -c "$1"', sys.executable, REPORT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == 77:
        pytest.skip("this kernel makes no veth interface")
    whether, names, *_ = json.loads(done.stdout)
    assert not whether
    assert sorted(names) == ["leak0", "leak1"]


@pytest.mark.skipif(isolation.isolated(), reason="this machine has no network to leave")
def test_without_a_way_out_of_the_network_it_is_refused(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Misconfigured, match="--network"):
        isolation.ensure(["true"])


@pytest.mark.skipif(isolation.isolated(), reason="this machine has no network to leave")
def test_it_does_not_begin_again_forever(monkeypatch):
    monkeypatch.setenv(isolation.ENTERED, "1")
    with pytest.raises(Misconfigured, match="Inside there still is"):
        isolation.ensure(["false"])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_a_plain_user_can_do_without_a_network_too():
    code = """
import os, subprocess
from manikin.client import isolation
os.setgroups([]); os.setgid(64321); os.setuid(64321)
try:
    prefix = isolation.prefix_without_network()
except isolation.Misconfigured:
    raise SystemExit(77)
table = subprocess.run([*prefix, "cat", "/proc/self/net/dev"], capture_output=True, text=True, check=True).stdout
print("--user" in prefix, isolation.interfaces(table))
"""
    done = python(code)
    if done.returncode == 77:
        pytest.skip("this system gives plain users no namespaces")
    assert done.stdout.split(maxsplit=1) == ["True", "[]\n"], done.stderr
