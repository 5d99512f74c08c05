"""A SuperLink that takes orders from nobody but us: Flower's server as a process of our own.

It runs as `python -m manikin.server.flower SETTINGS.json`, registers the hospitals' nodes, stores the signed bundle
(`bundle`), starts the run when the hospitals are there, and writes where it stands to a file.

What it promises: from outside only the calls that a registered node needs, over TLS, bounded in size (`guard`); the
ServerApp's own calls on a loopback port only, over TLS as well; Flower's control calls (start a run, register a
node: code execution at every hospital, and unauthenticated in the open version) answered to nobody at all, since the
process that would be asked is the one that asks. What it does not promise: that messages are honest; tasks and replies
are signed elsewhere, and this process is not trusted with more than carrying them.

Flower is pinned exactly, and `tests/server/test_flower.py` fails when an upgrade moves what these three use of it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.common.constant import (
    HEARTBEAT_DEFAULT_INTERVAL,
    NOOP_ACCOUNT_NAME,
    NOOP_FLWR_AID,
    TRANSPORT_TYPE_GRPC_RERE,
    Status,
)
from flwr.common.serde import user_config_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fab_pb2 import Fab as ProtoFab
from flwr.server.superlink.linkstate import LinkState
from flwr.supercore.auth.typing import AccountInfo
from flwr.supercore.constant import NOOP_FEDERATION_ID, NodeStatus, TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app
from flwr.superlink.servicer.control.control_handlers import start_run
from pydantic import BaseModel, ConfigDict, Field

from manikin.common.errors import ManikinError, Misconfigured, TransportFailure
from manikin.common.files import write_atomically
from manikin.common.launching import speak_through
from manikin.common.logs import open_log
from manikin.common.processes import LOOPBACK
from manikin.server.guard import OUTSIDE, RUNTIME_PATHS, Guard

APP_ID = "@manikin/manikin-study"
WATCH_S = 0.25

ACCOUNT = AccountInfo(flwr_aid=NOOP_FLWR_AID, account_name=NOOP_ACCOUNT_NAME)


class Settings(BaseModel):
    """What the SuperLink process is told.

    Args:
        host, port: where hospitals reach it.
        runtime_port: loopback port for the ServerApp.
        tls: folder with server.pem, server.key, ca.pem.
        database: Flower's own state; nodes keep their numbers in it.
        superexec_secret: file whose holder may run the ServerApp.
        bundle: the bundle that hospitals are sent.
        verifications: the reviewer's signature of it, as `sign_bundle` gives it.
        nodes: OpenSSH public key of each hospital's gateway, by name.
        run_folder: given to the ServerApp.
        status: file that this process keeps up to date.
        gather_s: longest wait for all hospitals before the run starts.
        quorum: with fewer hospitals connected by then, the run does not start.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str
    port: int = Field(ge=1, le=65535)
    runtime_port: int = Field(ge=1, le=65535)
    tls: Path
    database: Path
    superexec_secret: Path
    bundle: Path
    verifications: Path
    nodes: dict[str, str]
    run_folder: Path
    status: Path
    gather_s: float = Field(gt=0)
    quorum: int = Field(ge=1)


class LinkStatus(BaseModel):
    """Where the SuperLink process stands.

    Args:
        state: "gathering", "running" or "finished".
        run: Flower's number of the run, 0 before it starts.
        outcome: "completed", "failed" or "stopped" once finished.
        details: Flower's own words on a failure.
        nodes: node number of each hospital.
        online: hospitals whose gateway is connected.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    state: str
    run: int = 0
    outcome: str = ""
    details: str = ""
    nodes: dict[str, int] = Field(default_factory=dict)
    online: list[str] = Field(default_factory=list)


class SuperLink:
    """Flower's SuperLink behind two guards, with the run started from inside.

    Args:
        settings: what to serve and for whom.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._keys = {name: _node_key(name, text) for name, text in settings.nodes.items()}
        self._app = create_app(_flower_config(settings), SuperLinkLifespan)
        self._state: LinkState = self._app.state.linkstate_factory.state()

    def register(self) -> dict[str, int]:
        """A node for each hospital, the same number as ever for the same key."""
        return {name: self._node(name, key) for name, key in self._keys.items()}

    def _node(self, name: str, key: bytes) -> int:
        known = self._state.get_node_id_by_public_key(key)
        if known is not None:
            return known
        return self._state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, HEARTBEAT_DEFAULT_INTERVAL, name=name)

    def online(self, nodes: Mapping[str, int]) -> list[str]:
        """Hospitals whose gateway is connected."""
        connected = {info.node_id for info in self._state.get_node_info(statuses=[NodeStatus.ONLINE])}
        return [name for name, node in nodes.items() if node in connected]

    def start_run(self) -> int:
        """Store the signed bundle and start a run of it."""
        content = self.settings.bundle.read_bytes()
        fab = Fab(hashlib.sha256(content).hexdigest(), content, json.loads(self.settings.verifications.read_bytes()))
        self._state.store_app(fab, NOOP_FEDERATION_ID, APP_ID, TaskType.SERVER_APP, NOOP_FLWR_AID)
        request = StartRunRequest(
            app_spec=APP_ID,
            fab=ProtoFab(hash_str=fab.hash_str),
            override_config=user_config_to_proto({"folder": str(self.settings.run_folder)}),
        )
        return int(start_run(request, ACCOUNT, self._state, TRANSPORT_TYPE_GRPC_RERE).run_id)

    def outcome(self, run: int) -> tuple[str, str] | None:
        """How a run ended and in which words; None while it goes on."""
        status = self._state.get_run_status({run})[run]
        return (status.sub_status, status.details) if status.status == Status.FINISHED else None

    def unfinished_run(self) -> int:
        """The run of a SuperLink that was killed, with the same run folder; 0 if there is none."""
        for run in self._state.get_run_info():
            folder = run.override_config.get("folder")
            if run.status.status != Status.FINISHED and folder == str(self.settings.run_folder):
                return int(run.run_id)
        return 0

    def forget(self, run: int) -> None:
        """Drop a finished run's messages from Flower's state."""
        self._state.cleanup_run(run)

    def serve(self) -> None:
        """Serve until SIGTERM or Ctrl-C; the run is started and watched meanwhile."""
        settings = self.settings
        public = self._server(OUTSIDE, settings.host, settings.port, "on")
        private = self._server(RUNTIME_PATHS, LOOPBACK, settings.runtime_port, "off")
        threading.Thread(target=private.run, daemon=True, name="runtime").start()
        threading.Thread(target=self._conduct, args=(public, private), daemon=True, name="conductor").start()
        public.run()
        private.should_exit = True

    def _server(self, allowed: Iterable[str], host: str, port: int, lifespan: Literal["on", "off"]) -> uvicorn.Server:
        return uvicorn.Server(
            uvicorn.Config(
                Guard(self._app, allowed, self._keys.values()),
                host=host,
                port=port,
                ssl_certfile=str(self.settings.tls / "server.pem"),
                ssl_keyfile=str(self.settings.tls / "server.key"),
                lifespan=lifespan,
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                ws="none",
                timeout_graceful_shutdown=3,
            )
        )

    def _conduct(self, *servers: uvicorn.Server) -> None:
        """Gather, run, watch; whatever goes wrong is said in the status file."""
        nodes: dict[str, int] = {}
        run = 0
        try:
            while not all(server.started for server in servers):
                time.sleep(0.05)
            nodes = self.register()
            self._announce(nodes)
            run = self.unfinished_run() or self._gather(nodes)
            self._write(LinkStatus(state="running", run=run, nodes=nodes, online=self.online(nodes)))
            while (ended := self.outcome(run)) is None:
                time.sleep(WATCH_S)
                self._write(LinkStatus(state="running", run=run, nodes=nodes, online=self.online(nodes)))
            self.forget(run)
            self._write(LinkStatus(state="finished", run=run, outcome=ended[0], details=ended[1], nodes=nodes))
        except Exception as error:  # noqa: BLE001 (a thread's last words: the supervisor reads them)
            details = str(error) if isinstance(error, ManikinError) else f"{type(error).__name__}: {error}"
            self._write(LinkStatus(state="finished", run=run, outcome="failed", details=details, nodes=nodes))

    def _gather(self, nodes: Mapping[str, int]) -> int:
        """Wait for every hospital, or for as long as the settings say; then start the run.

        Raises:
            TransportFailure: fewer than the quorum are connected.
        """
        deadline = time.monotonic() + self.settings.gather_s
        while True:
            online = self.online(nodes)
            self._write(LinkStatus(state="gathering", nodes=dict(nodes), online=online))
            if len(online) == len(nodes):
                return self.start_run()
            if time.monotonic() > deadline:
                break
            time.sleep(WATCH_S)
        if len(online) < self.settings.quorum:
            raise TransportFailure(
                f"{len(online)} of {len(nodes)} hospitals are connected, and the quorum is {self.settings.quorum}.",
                f"Not connected: {', '.join(sorted(set(nodes) - set(online)))}.",
                "Ask them to run `manikin hospital check`, then resume.",
            )
        return self.start_run()

    def _announce(self, nodes: Mapping[str, int]) -> None:
        """Tell the ServerApp which node is which hospital."""
        names = {str(node): name for name, node in nodes.items()}
        write_atomically(self.settings.run_folder / "nodes.json", json.dumps(names, sort_keys=True).encode())

    def _write(self, status: LinkStatus) -> None:
        content = status.model_dump_json().encode()
        if not self.settings.status.exists() or self.settings.status.read_bytes() != content:
            write_atomically(self.settings.status, content)


def _flower_config(settings: Settings) -> SuperLinkLifespanConfig:
    tls = settings.tls
    files = [tls / "ca.pem", tls / "server.pem", tls / "server.key"]
    ca, certificate, key = (file.read_bytes() for file in files)
    return SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host=settings.host,
        port=settings.port,
        insecure=False,
        certificates=(ca, certificate, key),
        superexec_auth_secret=settings.superexec_secret.read_bytes(),
        authn_plugin=NoOpControlAuthnPlugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=str(files[0]),
        ssl_certfile=str(files[1]),
        ssl_keyfile=str(files[2]),
        database=str(settings.database),
        isolation="process",
        runtime_dependency_install=False,
    )


def _node_key(name: str, text: str) -> bytes:
    try:
        key = load_ssh_public_key(text.encode())
    except ValueError:
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Misconfigured(
            f"The node key of {name} cannot be used.", "It is no EC key in OpenSSH form.", "Enrol again."
        )
    return public_key_to_bytes(key)


def main(arguments: list[str]) -> None:
    """Serve what a settings file says."""
    speak_through(open_log("coordinator").bind(program="superlink"))
    logging.getLogger("flwr").setLevel(logging.WARNING)
    settings = Settings.model_validate_json(Path(arguments[0]).read_bytes())
    os.umask(0o077)
    SuperLink(settings).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
