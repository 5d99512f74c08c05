"""A coordinator's folder and gateways on loopback, as the commands leave them, with apps that only echo."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from manikin.client.gateway import Gateway
from manikin.common.certificates import Authority, new_node_key, new_reviewer_key, reviewer_id
from manikin.common.files import write_atomically
from manikin.common.processes import LOOPBACK, Supervised, free_port, supervising
from manikin.server.bundle import build_bundle, sign_bundle
from manikin.server.running import Line

APPS = Path(__file__).parent / "apps"

ECHO = b"""
[project]
name = "manikin-study"
version = "1.0.0"
license = { file = "LICENSE" }
dependencies = ["flwr>=1.41.0"]
[tool.flwr.app]
publisher = "manikin"
fab-format-version = 1
flwr-version-target = "1.41.0"
fab-include = INCLUDE
[tool.flwr.app.components]
serverapp = "network_echo:server"
clientapp = "network_echo:client"
[tool.flwr.app.config]
folder = ""
"""


def make_coordinator(folder: Path) -> Line:
    """tls/ and keys/reviewer, and a free port to listen at."""
    authority = Authority.create("test")
    server = authority.issue_server([LOOPBACK])
    write_atomically(folder / "tls" / "ca.pem", authority.certificate)
    write_atomically(folder / "tls" / "server.pem", server.public)
    write_atomically(folder / "tls" / "server.key", server.private, mode=0o600)
    reviewer = new_reviewer_key()
    write_atomically(folder / "keys" / "reviewer", reviewer.private, mode=0o600)
    write_atomically(folder / "keys" / "reviewer.pub", reviewer.public)
    return Line(folder, LOOPBACK, free_port())


def make_gateway(folder: Path, line: Line) -> Gateway:
    """What enrolment leaves in a gateway's folder."""
    node = new_node_key()
    write_atomically(folder / "node.key", node.private, mode=0o600)
    write_atomically(folder / "node.pub", node.public)
    write_atomically(folder / "ca.pem", (line.folder / "tls" / "ca.pem").read_bytes())
    reviewer = (line.folder / "keys" / "reviewer.pub").read_text().strip()
    write_atomically(folder / "trusted-entities.yaml", f'{reviewer_id(reviewer)}: "{reviewer}"\n'.encode())
    write_atomically(folder / "superlink.json", json.dumps({"address": f"{LOOPBACK}:{line.port}"}).encode())
    return Gateway.open(folder)


@dataclass
class Network:
    """A coordinator and gateways; what a test changes before it runs."""

    line: Line
    gateways: dict[str, Gateway]
    folder: Path
    processes: list[Supervised]
    reviewed: bytes

    def send(self, extra: dict[str, bytes]) -> None:
        """Send a bundle with these files besides, and the reviewer's signature of the one without."""
        write_atomically(self.line.state / "bundle.fab", echo_bundle(extra))
        signature = sign_bundle(self.reviewed, self.line.folder / "keys" / "reviewer")
        write_atomically(self.line.state / "bundle.json", json.dumps(signature).encode())

    def only(self, *names: str) -> Network:
        """Leave the other gateways out."""
        self.gateways = {name: self.gateways[name] for name in names}
        return self

    @property
    def nodes(self) -> dict[str, str]:
        return {name: (gateway.folder / "node.pub").read_text() for name, gateway in self.gateways.items()}

    def settings(self, *, gather_s: float = 30.0, quorum: int = 1, **echo: Any) -> Any:
        """Settings of a run that echoes."""
        asked = {"rounds": 2, "bytes": 1000, "deadline_s": 40.0} | echo
        write_atomically(self.folder / "echo.json", json.dumps(asked).encode())
        return self.line.settings(self.folder, self.nodes, quorum=quorum, gather_s=gather_s)

    def start(self, name: str) -> list[Supervised]:
        """Start one gateway."""
        new = self.gateways[name].processes(self.folder / "no.sock", logs=self.folder / "logs" / name)
        for process in new:
            self.processes.append(process)
            process.start()
        return new

    def rounds(self) -> list[dict[str, Any]]:
        file = self.folder / "rounds.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def log(self, name: str) -> str:
        return (self.folder / "logs" / name).read_text(errors="replace")


@pytest.fixture
def network(tmp_path, monkeypatch):
    """Three gateways and a coordinator whose bundle names the echo apps and is signed by the reviewer."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(APPS), os.environ.get("PYTHONPATH", "")]))
    line = make_coordinator(tmp_path / "coordinator")
    monkeypatch.setattr(Line, "_write_bundle", lambda self: None)  # the bundle is this test's own
    gateways = {name: make_gateway(tmp_path / name / "gateway", line) for name in ("north", "south", "coast")}
    (tmp_path / "run").mkdir()
    with supervising([]) as processes:
        network = Network(line, gateways, tmp_path / "run", processes, echo_bundle({}))
        network.send({})
        yield network


def echo_bundle(extra: dict[str, bytes]) -> bytes:
    """A bundle that names the echo apps, with these files besides."""
    names = json.dumps(["LICENSE", *extra]).encode()
    return build_bundle({"pyproject.toml": ECHO.replace(b"INCLUDE", names), **extra})
