"""The units: what they start exists, who runs them, and how exposed systemd itself calls them."""

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from manikin.cli.main import build

UNITS = [
    "manikin-vault.service",
    "manikin-gateway.service",
    "manikin-coordinator@.service",
    "manikin-resume@.service",
    "manikin-metrics-hospital.service",
    "manikin-metrics-coordinator.service",
]
EXPOSURE_MAX = {"manikin-vault.service": 2.0}
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")


@pytest.fixture
def systemd(repository):
    return repository / "deploy" / "systemd"


class _Unit(configparser.RawConfigParser):
    """Systemd's files look like INI files whose keys may come again."""

    def __init__(self, text):
        super().__init__(strict=False, delimiters=("=",), comment_prefixes=("#",))
        self.optionxform = str
        self.read_string(text)


def unit(systemd, name):
    return _Unit((systemd / name).read_text())["Service"]


def command_of(words):
    """The click command that the words of a command line name, and the words after it."""
    command = typer.main.get_command(build())
    while hasattr(command, "commands"):
        word, *words = words
        command = command.commands[word]
    return command, words


def test_every_unit_is_looked_at(systemd):
    assert {file.name for file in systemd.glob("*.service")} == set(UNITS)


@pytest.mark.parametrize("name", UNITS)
def test_what_a_unit_starts_is_a_command_with_these_options(systemd, name):
    program, *words = shlex.split(unit(systemd, name)["ExecStart"])
    assert program == "/opt/manikin/bin/manikin"
    command, rest = command_of(words)
    command.make_context(command.name, rest, resilient_parsing=False)


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_runs_as_a_user_of_its_own_that_sysusers_makes(systemd, name):
    service = unit(systemd, name)
    made = re.findall(r"^[ug] (\S+)", (systemd / "manikin-users.conf").read_text(), re.MULTILINE)
    assert service["User"] in made
    assert service["User"] != "manikin-vault" or name == "manikin-vault.service"
    assert service["Group"] in made


def test_the_vault_has_no_network_and_shares_only_the_sockets_folder(systemd):
    vault, gateway = unit(systemd, "manikin-vault.service"), unit(systemd, "manikin-gateway.service")
    assert vault["PrivateNetwork"] == "yes"
    assert vault["RestrictAddressFamilies"] == "AF_UNIX"
    assert "--network" not in vault["ExecStart"]  # so that it looks for itself, and refuses to start with a network
    assert (vault["RuntimeDirectory"], vault["RuntimeDirectoryMode"]) == ("manikin", "0750")
    assert vault["Group"] == gateway["Group"] == "manikin"
    assert vault["User"] != gateway["User"]
    for name in ("manikin-gateway.service", "manikin-metrics-hospital.service"):
        service = unit(systemd, name)
        seen = f"{service.get('BindPaths', '')} {service.get('BindReadOnlyPaths', '')}".split()
        assert service["TemporaryFileSystem"] == "/var/lib/manikin:ro"
        assert all(path.startswith("/var/lib/manikin/vault/gateway") for path in seen)


@needs_systemd
@pytest.mark.parametrize("name", UNITS)
def test_systemd_reads_the_units_without_a_word(systemd, tmp_path, name):
    folder = tmp_path / "units"
    shutil.copytree(systemd, folder)
    program = str(Path(sys.executable).parent / "manikin")
    for file in folder.glob("*.service"):
        file.write_text(file.read_text().replace("/opt/manikin/bin/manikin", program))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(folder / name)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def exposure(path):
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    return float(re.search(r"Overall exposure level for .*: ([0-9.]+)", done.stdout).group(1))


@needs_systemd
@pytest.mark.parametrize("name", UNITS)
def test_how_exposed_a_unit_is_and_that_the_page_says_so(systemd, repository, name):
    value = exposure(systemd / name)
    assert value <= EXPOSURE_MAX.get(name, 2.0)
    page = (repository / "docs" / "deploy.md").read_text()
    assert f"| `{name}` | {value} |" in page


@needs_systemd
def test_a_vault_with_a_network_would_be_called_more_exposed(systemd, tmp_path):
    shutil.copytree(systemd, tmp_path / "units")
    file = tmp_path / "units" / "manikin-vault.service"
    before = exposure(file)
    file.write_text(file.read_text().replace("PrivateNetwork=yes", "PrivateNetwork=no"))
    assert exposure(file) > before
