"""The gateway: Flower's SuperNode and its executor, kept alive, with nothing of patients at hand.

It needs one folder (`gateway/` of the hospital's), reaches the coordinator over TLS with the hospital's node key,
accepts only bundles that the consortium's reviewer signed, and hands each message to the vault's socket. Telemetry,
update checks and dependency installs are off. The executor is authenticated by a secret made at each start, so that
no other user of the machine can take its tasks.

What it does not promise: that the bundle is harmless. Whatever code it might bring would find only the vault's few
calls here.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket as sockets
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

from manikin.common import launching
from manikin.common.errors import Misconfigured
from manikin.common.files import write_atomically
from manikin.common.logs import open_log
from manikin.common.processes import (
    LOOPBACK,
    WATCH_S,
    Supervised,
    accepts,
    ending_signals,
    flower_environment,
    flower_executor,
    free_port,
    only_one,
    split_address,
    supervising,
    wait_until,
)

START_S = 60.0
NEEDED = ("node.key", "ca.pem", "trusted-entities.yaml", "superlink.json")


@dataclass(frozen=True)
class Gateway:
    """A hospital's gateway folder.

    Args:
        folder: holds node.key, ca.pem, trusted-entities.yaml and superlink.json.
        address: host:port of the coordinator.
    """

    folder: Path
    address: str

    @classmethod
    def open(cls, folder: Path) -> Gateway:
        """Read a gateway folder.

        Raises:
            Misconfigured: something is missing, or the node key is readable by others.
        """
        missing = [name for name in NEEDED if not (folder / name).is_file()]
        if missing:
            raise Misconfigured(
                "The gateway is not ready.",
                f"{folder} lacks {', '.join(missing)}.",
                "Enrol with the coordinator's card: manikin hospital enroll",
            )
        if (folder / "node.key").stat().st_mode & 0o007:  # its group is the gateway's
            raise Misconfigured(
                "The gateway's node.key is not used.", "Everybody can read it.", f"Run: chmod o= {folder / 'node.key'}"
            )
        try:
            address = str(json.loads((folder / "superlink.json").read_bytes())["address"])
        except (ValueError, KeyError, TypeError):
            raise Misconfigured("superlink.json has no address.", "", "Enrol again.") from None
        return cls(folder.absolute(), address)

    def processes(self, socket: Path, *, port: int | None = None, logs: Path | None = None) -> list[Supervised]:
        """The SuperNode and its executor, not started.

        Args:
            socket: the vault's socket.
            port: loopback port between the two; a free one if None.
            logs: folder of their logs; `home/logs` of the gateway if None.
        """
        folder, home, port = self.folder, self.folder / "home", port or free_port()
        logs, secret = logs or home / "logs", home / "superexec.secret"
        write_atomically(secret, secrets.token_bytes(32), mode=0o600)
        node = [*launching.command("gateway", "flower-supernode"), "--superlink", self.address]
        node += ["--root-certificates", str(folder / "ca.pem")]
        node += ["--auth-supernode-private-key", str(folder / "node.key")]
        node += ["--trusted-entities", str(folder / "trusted-entities.yaml")]
        node += ["--node-config", f"socket={json.dumps(str(socket.absolute()))}"]
        node += ["--isolation", "process", "--superexec-auth-secret-file", str(secret)]
        node += ["--host", LOOPBACK, "--port", str(port)]
        return [
            Supervised("supernode", node, logs / "supernode.log", flower_environment(home)),
            flower_executor("superexec", "gateway", port=port, secret=secret, log=logs / "superexec.log", home=home),
        ]

    def run(self, socket: Path, *, port: int | None = None) -> None:
        """Run until SIGTERM or Ctrl-C.

        Raises:
            Misconfigured: it is running already.
        """
        former = os.umask(0o077)
        try:
            with only_one(self.folder / "home" / "gateway.lock", "This gateway"):
                self._run(*self.processes(socket, port=port))
        finally:
            os.umask(former)

    def _run(self, node: Supervised, executor: Supervised) -> None:
        listening, log = _port_of(node), open_log("gateway").bind(program="gateway")
        log.info("starting", port=listening)
        with ending_signals(), supervising([node, executor]), contextlib.suppress(KeyboardInterrupt):
            node.start()
            wait_until(lambda: accepts(LOOPBACK, listening), [node], timeout_s=START_S, what="Starting the gateway")
            executor.start()
            log.info("ready")
            while True:
                for process in (node, executor):
                    if process.watch():
                        log.warning("restarting", program=process.name, attempt=process.starts)
                time.sleep(WATCH_S)
        log.info("stopped")

    def greeting(self, *, timeout_s: float = 5.0) -> tuple[str, float]:
        """The coordinator's clock as its answers give it, and when its certificate ends, over TLS held against ca.pem.

        Returns:
            The text of its date, "" if it gives none, and seconds since 1970.

        Raises:
            OSError: no line, or a certificate that does not hold (ssl.SSLError).
        """
        host, port = split_address(self.address)
        context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
        with (
            sockets.create_connection((host, port), timeout=timeout_s) as raw,
            context.wrap_socket(raw, server_hostname=host) as line,
        ):
            line.sendall(f"GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            certificate = line.getpeercert() or {}
            answer = b""
            while b"\r\n\r\n" not in answer and (part := line.recv(4096)):
                answer += part
        heads = [head.partition(b":") for head in answer.split(b"\r\n\r\n")[0].split(b"\r\n")[1:]]
        date = next((value.strip().decode() for name, _, value in heads if name.lower() == b"date"), "")
        return date, ssl.cert_time_to_seconds(str(certificate["notAfter"]))


def _port_of(process: Supervised) -> int:
    return int(process.command[list(process.command).index("--port") + 1])
