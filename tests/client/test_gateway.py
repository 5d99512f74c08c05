"""What a gateway is started with, and what it is not started without."""

import json

import pytest

from manikin.client.gateway import NEEDED, Gateway
from manikin.common.certificates import new_node_key
from manikin.common.errors import Misconfigured
from manikin.common.files import write_atomically
from manikin.common.processes import only_one


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "gateway"
    for name in NEEDED:
        write_atomically(folder / name, b"")
    write_atomically(folder / "node.key", new_node_key().private, mode=0o640)
    write_atomically(folder / "superlink.json", json.dumps({"address": "study.example.org:8443"}).encode())
    return folder


def test_both_processes_are_hardened_and_share_a_fresh_secret(folder, tmp_path):
    gateway = Gateway.open(folder)
    node, executor = gateway.processes(tmp_path / "vault.sock", port=9999)
    line = " ".join(node.command)
    assert f"--trusted-entities {folder}/trusted-entities.yaml" in line
    assert f"--root-certificates {folder}/ca.pem" in line
    assert f"--auth-supernode-private-key {folder}/node.key" in line
    assert "--superlink study.example.org:8443" in line
    assert "--isolation process" in line
    assert "--host 127.0.0.1 --port 9999" in line
    assert "--insecure" not in line
    assert "--allow-runtime-dependency-installation" not in line + " ".join(executor.command)
    secret = folder / "home" / "superexec.secret"
    for process in (node, executor):
        assert f"--superexec-auth-secret-file {secret}" in " ".join(process.command)
        assert process.environment["FLWR_HOME"] == str(folder / "home")
    assert secret.stat().st_mode & 0o777 == 0o600
    first = secret.read_bytes()
    gateway.processes(tmp_path / "vault.sock")
    assert len(first) == 32
    assert secret.read_bytes() != first


@pytest.mark.parametrize("name", NEEDED)
def test_a_gateway_that_lacks_a_part_is_not_started(folder, name):
    (folder / name).unlink()
    with pytest.raises(Misconfigured, match="not ready") as refused:
        Gateway.open(folder)
    assert name in refused.value.why


def test_a_key_that_everybody_can_read_is_not_used(folder):
    (folder / "node.key").chmod(0o644)
    with pytest.raises(Misconfigured, match=r"node\.key"):
        Gateway.open(folder)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff"])
def test_an_address_that_is_none_is_refused(folder, content):
    write_atomically(folder / "superlink.json", content)
    with pytest.raises(Misconfigured, match="address"):
        Gateway.open(folder)


def test_a_second_gateway_is_refused_and_leaves_the_secret_of_the_first(folder, tmp_path, monkeypatch):
    gateway = Gateway.open(folder)
    gateway.processes(tmp_path / "vault.sock")
    secret = (folder / "home" / "superexec.secret").read_bytes()
    started = []
    monkeypatch.setattr("manikin.client.gateway.Supervised.start", lambda process: started.append(process))
    monkeypatch.setattr("manikin.client.gateway.START_S", 0.0)
    with (
        only_one(folder / "home" / "gateway.lock", "x"),
        pytest.raises(Misconfigured, match="This gateway is running already") as refused,
    ):
        gateway.run(tmp_path / "vault.sock")
    assert refused.value.exit_code == 10
    assert not started
    assert (folder / "home" / "superexec.secret").read_bytes() == secret
