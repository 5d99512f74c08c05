"""Bundles, executors and nodes that do not belong to the study, against real processes on loopback."""

import shutil
import time
from pathlib import Path

import pytest
from flwr.common.constant import ErrorCode

from manikin.common.certificates import Authority, new_node_key
from manikin.common.files import write_atomically
from manikin.common.processes import LOOPBACK, Supervised, flower_environment, script

pytestmark = pytest.mark.slow

REFUSED = f"error {ErrorCode.INVALID_FAB}"
ECHO = (Path(__file__).parent / "apps" / "network_echo.py").read_bytes()
CARRIED = {
    "the-apps": {"network_echo.py": ECHO.replace(b"[frame + 1", b"[frame + 2")},
    "the-package": {"manikin/__init__.py": b""},
    "torch": {"torch.py": b""},
}


@pytest.mark.parametrize("extra", CARRIED.values(), ids=CARRIED)
def test_a_bundle_that_carries_code_is_refused_by_the_gateway(network, extra):
    network.only("north").send(extra)
    network.start("north")
    network.line.run(network.settings(rounds=1))
    assert network.rounds()[0]["answers"] == {"north": REFUSED}
    assert "FAB verification failed" in network.log("north/supernode.log")


def test_an_unsigned_bundle_is_refused_by_the_gateway(network):
    write_atomically(network.line.state / "bundle.json", b"{}")
    network.only("north").start("north")
    network.line.run(network.settings(rounds=1))
    assert network.rounds()[0]["answers"] == {"north": REFUSED}


def test_a_gateway_that_trusts_another_reviewer_refuses(network):
    gateway = network.only("north").gateways["north"].folder
    entities = (gateway / "trusted-entities.yaml").read_text()
    rest = entities.partition(":")[2]
    write_atomically(gateway / "trusted-entities.yaml", f"fpk_another:{rest}".encode())
    network.start("north")
    network.line.run(network.settings(rounds=1))
    assert network.rounds()[0]["answers"] == {"north": REFUSED}


def test_a_rogue_executor_takes_neither_the_coordinators_nor_a_hospitals_task(network, tmp_path):
    settings = network.only("north").settings(rounds=2)
    guess = tmp_path / "guess"
    guess.write_bytes(b"guess")
    node, _ = network.start("north")
    node_port = node.command[list(node.command).index("--port") + 1]
    targets = {
        "server": (f"{LOOPBACK}:{settings.runtime_port}", ["--root-certificates", str(settings.tls / "ca.pem")]),
        "node": (f"{LOOPBACK}:{node_port}", ["--insecure"]),
    }
    rogues = []
    for target, (address, tls) in targets.items():
        for kind, secret in {"none": [], "guess": ["--superexec-auth-secret-file", str(guess)]}.items():
            command = [script("flower-superexec"), *tls, "--runtime-api-address", address, *secret]
            environment = flower_environment(tmp_path / "rogue")
            rogue = Supervised(f"{target}-{kind}", command, tmp_path / f"{target}-{kind}.log", environment)
            network.processes.append(rogue)
            rogues.append(rogue)
            rogue.start()
    watched = []
    network.line.run(settings, watch=lambda _: [rogue.watch() for rogue in rogues] and watched.append(1))
    assert [set(r["answers"]) for r in network.rounds()] == [{"north"}, {"north"}]
    assert all(isinstance(r["answers"]["north"], int) for r in network.rounds())
    for rogue in rogues:
        text = rogue.log.read_text()
        assert "Starting Flower SuperExec" in text
        assert "flwr-serverapp" not in text
        assert "flwr-clientapp" not in text
    assert watched


def test_a_node_that_is_not_of_the_study_is_turned_away(network):
    settings = network.settings(rounds=2)
    nodes = {"north": settings.nodes["north"]}
    network.start("north")
    node, _ = network.start("coast")
    network.line.run(settings.model_copy(update={"nodes": nodes}))
    assert all(set(r["answers"]) == {"north"} for r in network.rounds())
    deadline = time.monotonic() + 10
    while node.ended() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert node.ended() is not None
    assert "SuperNode ID" not in network.log("coast/supernode.log")


def test_a_coordinator_with_another_authority_is_not_spoken_to(network):
    folder = network.only("north").gateways["north"].folder
    write_atomically(folder / "ca.pem", Authority.create("another").certificate)
    node, _ = network.start("north")
    with pytest.raises(Exception, match="0 of 1 hospitals are connected"):
        network.line.run(network.settings(gather_s=8))
    assert node.ended() is not None
    assert "CERTIFICATE_VERIFY_FAILED" in network.log("north/supernode.log")


def test_a_copy_of_a_nodes_folder_without_its_key_is_turned_away(network, tmp_path):
    """Who has all public parts of a hospital's gateway, and another key, is nobody."""
    folder = network.only("north").gateways["north"].folder
    settings = network.settings(gather_s=8)
    shutil.copytree(folder, tmp_path / "copy")
    write_atomically(folder / "node.key", new_node_key().private, mode=0o600)
    network.start("north")
    with pytest.raises(Exception, match="0 of 1 hospitals are connected"):
        network.line.run(settings)
