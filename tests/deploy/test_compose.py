"""The containers: no network for the vault, nothing writable but folders, no privilege, and commands that exist."""

import re

import pytest
import typer
import yaml

from manikin.cli.main import build

ROLES = ("vault", "gateway", "hospital-metrics", "coordinator", "coordinator-metrics")


@pytest.fixture(scope="module")
def compose(repository):
    return yaml.safe_load((repository / "deploy" / "compose" / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def containerfile(repository):
    return (repository / "deploy" / "compose" / "Containerfile").read_text()


def test_every_role_is_here(compose):
    assert tuple(compose["services"]) == ROLES


def test_the_vault_has_no_network(compose):
    vault = compose["services"]["vault"]
    assert vault["network_mode"] == "none"
    assert "networks" not in vault
    assert "ports" not in vault
    assert "--network" not in vault["command"]


@pytest.mark.parametrize("role", ROLES)
def test_a_container_is_read_only_without_capabilities_and_not_root(compose, containerfile, role):
    service = compose["services"][role]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert "privileged" not in service
    user, group = map(int, service["user"].split(":"))
    assert min(user, group) > 0
    assert f"--uid {user}" in containerfile


def test_vault_and_gateway_share_the_sockets_group_and_nothing_else(compose):
    vault, gateway = compose["services"]["vault"], compose["services"]["gateway"]
    assert vault["user"].split(":")[1] == gateway["user"].split(":")[1] == "2000"
    assert vault["user"] != gateway["user"]
    shared = set(vault["volumes"]) & set(gateway["volumes"])
    assert shared == {"socket:/run/manikin"}
    for volume in set(gateway["volumes"]) - shared:
        assert volume.split(":")[-1] == "/var/lib/manikin/vault/gateway"
    assert "mode=0750" in compose["volumes"]["socket"]["driver_opts"]["o"]


@pytest.mark.parametrize("role", ROLES)
def test_metrics_are_published_on_loopback_only(compose, role):
    if "metrics" in role:
        assert all(port.startswith("127.0.0.1:") for port in compose["services"][role]["ports"])


@pytest.mark.parametrize("role", ROLES)
def test_what_a_container_starts_is_a_command_with_these_options(compose, role):
    words = [re.sub(r"\$\{\w+:-(\w+)\}", r"\1", word) for word in compose["services"][role]["command"]]
    command = typer.main.get_command(build())
    while hasattr(command, "commands"):
        word, *words = words
        command = command.commands[word]
    command.make_context(command.name, words)


def test_the_image_ends_as_a_user_and_says_nothing_to_anybody(containerfile):
    last = [line for line in containerfile.splitlines() if line.startswith("USER")][-1]
    assert last == "USER manikin-gateway"
    for variable in ("FLWR_TELEMETRY_ENABLED=0", "FLWR_DISABLE_UPDATE_CHECK=1"):
        assert variable in containerfile
