"""Running a study over the network: the SuperLink and the ServerApp's executor, supervised until the run has ended.

A SuperLink that dies is started again and goes on with its run, since its state is in a file; an executor or a
ServerApp that dies costs a new Flower run over the same run folder, which goes on from the last checkpoint. Both end
with the same weights as an undisturbed run, because hospitals answer a step with the same bytes again.
"""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from manikin.common.errors import Misconfigured, TransportFailure
from manikin.common.files import write_atomically
from manikin.common.processes import (
    LOOPBACK,
    WATCH_S,
    Supervised,
    accepts,
    flower_environment,
    free_port,
    script,
    supervising,
    wait_until,
)
from manikin.server.flower import LinkStatus, Settings, build_bundle, sign_bundle

START_S = 60.0
ATTEMPTS = 3  # Flower runs of one command; each goes on where the one before stopped
SECRET_BYTES = 32

Watch = Callable[[LinkStatus], None]


@dataclass(frozen=True)
class Line:
    """The coordinator's end of the network.

    Args:
        folder: the coordinator's folder, with tls/, keys/reviewer and superexec.secret.
        host: address to listen at.
        port: port that hospitals reach.
    """

    folder: Path
    host: str
    port: int

    @property
    def state(self) -> Path:
        """Flower's own state, apart from the studies'."""
        return self.folder / "superlink"

    def settings(self, run_folder: Path, nodes: Mapping[str, str], *, quorum: int, gather_s: float) -> Settings:
        """What the SuperLink process is told; writes the bundle and the secret it needs.

        Raises:
            Misconfigured: a key is missing, or fewer hospitals than the quorum are enrolled.
        """
        if len(nodes) < quorum:
            raise Misconfigured(
                f"{len(nodes)} hospitals are enrolled, and the quorum is {quorum}.", "", "Enrol the others first."
            )
        state = self.state
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._write_bundle()
        return Settings(
            host=self.host,
            port=self.port,
            runtime_port=free_port(),
            tls=self.folder / "tls",
            database=state / "state.db",
            superexec_secret=self._secret(),
            bundle=state / "bundle.fab",
            verifications=state / "bundle.json",
            nodes=dict(nodes),
            run_folder=run_folder.absolute(),
            status=(run_folder / "link.json").absolute(),
            gather_s=gather_s,
            quorum=quorum,
        )

    def _write_bundle(self) -> None:
        """The code-free bundle and its signature; a signature made elsewhere is kept if it is for this bundle."""
        content, bundle, signed = build_bundle(), self.state / "bundle.fab", self.state / "bundle.json"
        reviewer = self.folder / "keys" / "reviewer"
        if bundle.exists() and bundle.read_bytes() == content and signed.exists() and not reviewer.exists():
            return
        write_atomically(signed, json.dumps(sign_bundle(content, reviewer)).encode())
        write_atomically(bundle, content)

    def _secret(self) -> Path:
        file = self.folder / "superexec.secret"
        if not file.exists():
            write_atomically(file, secrets.token_bytes(SECRET_BYTES), mode=0o600)
        return file

    def superlink(self, settings: Settings) -> Supervised:
        """The SuperLink process, not started."""
        file = settings.run_folder / "superlink.json"
        write_atomically(file, settings.model_dump_json(indent=1).encode(), mode=0o600)
        return Supervised(
            "superlink",
            [sys.executable, "-m", "manikin.server.flower", str(file)],
            settings.run_folder / "logs" / "superlink.log",
            flower_environment(self.state / "home"),
        )

    def executor(self, settings: Settings) -> Supervised:
        """The process that runs the ServerApp, not started."""
        command = [script("flower-superexec"), "--root-certificates", str(settings.tls / "ca.pem")]
        command += ["--runtime-api-address", f"{LOOPBACK}:{settings.runtime_port}"]
        command += ["--superexec-auth-secret-file", str(settings.superexec_secret)]
        log = settings.run_folder / "logs" / "serverapp.log"
        return Supervised("serverapp", command, log, flower_environment(self.state / "home"))

    def run(self, settings: Settings, *, watch: Watch | None = None, failed: Callable[[], bool] | None = None) -> None:
        """Run until the ServerApp has ended well; Ctrl-C ends every process.

        Args:
            settings: from `settings`.
            watch: told of every change of state.
            failed: whether the ServerApp has said itself why it failed, so that trying again is no use.

        Raises:
            TransportFailure: the run failed.
        """
        for _ in range(ATTEMPTS):
            ended = self._attempt(settings, watch or (lambda _: None))
            if ended.outcome == "completed":
                return
            if ended.run == 0 or (failed is not None and failed()):
                break
        raise TransportFailure(
            "The run failed.", ended.details, f"Read {settings.run_folder / 'logs'}, mend the cause, then resume."
        )

    def _attempt(self, settings: Settings, watch: Watch) -> LinkStatus:
        settings.status.unlink(missing_ok=True)
        superlink, executor = self.superlink(settings), self.executor(settings)
        with supervising([superlink, executor]) as processes:
            superlink.start()
            wait_until(
                lambda: accepts(LOOPBACK, settings.runtime_port) and settings.status.exists(),
                [superlink],
                timeout_s=START_S,
                what="Starting the SuperLink",
            )
            executor.start()
            last = None
            while True:
                for process in processes:
                    process.watch()
                status = read_status(settings.status)
                if status is not None and status != last:
                    watch(status)
                    last = status
                if status is not None and status.state == "finished":
                    return status
                time.sleep(WATCH_S)


def read_status(file: Path) -> LinkStatus | None:
    """Where a SuperLink process stands; None before it says so."""
    try:
        return LinkStatus.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
