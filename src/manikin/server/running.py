"""Running a study over the network: the SuperLink and the ServerApp's executor, supervised until the run has ended.

`Study` is a plan on its way: which hospitals take part, where its run lies, what it says of itself. `Line` is the
coordinator's end of the network, and knows nothing of plans.

A SuperLink that dies is started again and goes on with its run, since its state is in a file; an executor or a
ServerApp that dies costs a new Flower run over the same run folder, which goes on from the last checkpoint. Both end
with the same weights as an undisturbed run, because hospitals answer a step with the same bytes again.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manikin.common.errors import ManikinError, Misconfigured, TransportFailure
from manikin.common.files import write_atomically
from manikin.common.plan import Plan
from manikin.common.processes import (
    LOOPBACK,
    WATCH_S,
    Supervised,
    accepts,
    flower_environment,
    flower_executor,
    free_port,
    only_one,
    split_address,
    supervising,
    wait_until,
)
from manikin.server.agreements import Coordinator, enrolled, load_plan, require_approvals
from manikin.server.bundle import build_bundle, sign_bundle
from manikin.server.flower import LinkStatus, Settings
from manikin.server.journal import Journal

START_S = 60.0
ATTEMPTS = 3  # Flower runs of one command; each goes on where the one before stopped
SECRET_BYTES = 32

Watch = Callable[[LinkStatus], None]


def ignore(status: LinkStatus) -> None:
    """Watches nothing."""
    del status


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

    def require_address(self) -> None:
        """Bind to the address as the SuperLink will, and let go of it.

        Raises:
            Misconfigured: it is taken, or not of this machine.
        """

        async def bind() -> None:
            loop = asyncio.get_running_loop()
            (await loop.create_server(asyncio.Protocol, self.host, self.port, start_serving=False)).close()

        try:
            asyncio.run(bind())
        except OSError as error:
            raise Misconfigured(
                f"The coordinator cannot listen at {self.host}:{self.port}.",
                str(error),
                "End what listens there, or name an interface of this machine: --listen HOST (0.0.0.0 is all).",
            ) from None

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
        return flower_executor(
            "serverapp",
            "coordinator",
            port=settings.runtime_port,
            secret=settings.superexec_secret,
            ca=settings.tls / "ca.pem",
            log=settings.run_folder / "logs" / "serverapp.log",
            home=self.state / "home",
        )

    def run(self, settings: Settings, *, watch: Watch = ignore, given_up: Callable[[], bool] = lambda: False) -> None:
        """Run until the ServerApp has ended well; whatever ends this ends every process.

        Args:
            settings: from `settings`.
            watch: told every moment where the SuperLink stands.
            given_up: whether the ServerApp itself says why it failed, so that trying again is no use.

        Raises:
            TransportFailure: the run failed.
        """
        with Journal.open(settings.run_folder / "logs", settings.nodes) as journal:
            for attempt in range(ATTEMPTS):
                journal.started(attempt + 1)
                ended = self._attempt(settings, watch, journal)
                if ended.outcome == "completed":
                    return
                if ended.run == 0 or given_up():
                    break
        raise TransportFailure(
            "The run failed.", ended.details, f"Read {settings.run_folder / 'logs'}, mend the cause, then resume."
        )

    def _attempt(self, settings: Settings, watch: Watch, journal: Journal) -> LinkStatus:
        settings.status.unlink(missing_ok=True)
        superlink, executor = self.superlink(settings), self.executor(settings)
        with supervising([superlink, executor]) as processes:
            _start_superlink(superlink, settings)
            executor.start()
            while True:
                for process in processes:
                    if process.watch():
                        journal.restarted(process)
                status = read_status(settings.status)
                if status is not None:
                    journal.see(status)
                    watch(status)
                    if status.state == "finished":
                        return status
                time.sleep(WATCH_S)


@dataclass(frozen=True)
class Study:
    """A plan that enough hospitals approved, and its run.

    Args:
        home: the coordinator's folder.
        plan: the plan.
        canary: only one round that no patient is in, in a folder of its own.
    """

    home: Coordinator
    plan: Plan
    canary: bool = False

    @property
    def folder(self) -> Path:
        return self.home.plan_folder(self.plan.digest) / ("canary" if self.canary else "run")

    @property
    def started(self) -> bool:
        return any((self.folder / name).exists() for name in ("checkpoint.safetensors", "status.json", "link.json"))

    def said(self) -> dict[str, Any]:
        """What the ServerApp says of itself in `status.json`: "starting" before it does, nothing before a run."""
        file = self.folder / "status.json"
        found: dict[str, Any] = json.loads(file.read_bytes()) if file.exists() else {}
        return found

    def note(self, **changes: str) -> None:
        """Write down in `status.json` what became of a run that has ended."""
        write_atomically(self.folder / "status.json", json.dumps(self.said() | changes, sort_keys=True).encode())

    def nodes(self) -> dict[str, str]:
        """The gateways' public keys of the hospitals that take part.

        Raises:
            PolicyRefusal: fewer hospitals than the quorum approved the plan.
        """
        known = enrolled(self.home)
        return {p.name: known[p.name].node_key for p in require_approvals(self.home, self.plan) if p.name in known}

    def run(self, listen: str | None = None, *, watch: Callable[[LinkStatus, dict[str, Any]], None]) -> dict[str, Any]:
        """Run it, or go on with it where it stopped.

        Args:
            listen: host to listen at; the host of the coordinator's address if None.
            watch: told every moment where SuperLink and ServerApp stand.

        Returns:
            The last `status.json`.

        Raises:
            ManikinError: why it failed, as the ServerApp says; TransportFailure if it does not.
        """
        nodes, federation = self.nodes(), self.plan.study.federation
        host, port = split_address(self.home.address)
        line = Line(self.home.folder, listen or host, port)
        with only_one(self.home.folder / "superlink" / "lock", "A study of this coordinator"):
            settings = line.settings(
                self.folder, nodes, quorum=federation.quorum, gather_s=float(federation.round_deadline_s)
            )
            line.require_address()
            self._prepare()
            try:
                line.run(settings, watch=lambda status: watch(status, self.said()), given_up=self._given_up)
            except TransportFailure:
                if self._given_up():
                    raise explained(self.said()["error"]) from None
                raise
        return self.said()

    def _prepare(self) -> None:
        if self.canary:
            if self.folder.exists():
                shutil.rmtree(self.folder)
            write_atomically(self.folder / "canary", b"")
        write_atomically(self.folder / "status.json", json.dumps({"state": "starting"}).encode())

    def _given_up(self) -> bool:
        return self.said().get("state") == "failed"


def proposed(home: Coordinator) -> list[str]:
    """The digests of a coordinator's plans; whatever else lies beside them is none."""
    plans = (file.parent.name for file in (home.folder / "plans").glob("*/plan.dsse.json"))
    return sorted(name for name in plans if re.fullmatch("[0-9a-f]{64}", name))


def find_study(home: Coordinator, plan: str, *, canary: bool = False) -> Study:
    """The study of a plan named by its digest, the beginning of it, or its file.

    Raises:
        Misconfigured: no plan, or more than one, is named so.
    """
    digest = Path(plan).absolute().parent.name if plan.endswith(".dsse.json") else plan
    found = [name for name in proposed(home) if digest and name.startswith(digest)]
    if len(found) != 1:
        raise Misconfigured(
            f"{len(found)} plans of this coordinator are named {plan!r}.",
            "",
            "Give the digest or the file that `manikin coordinator propose` printed.",
        )
    return Study(home, load_plan(home, found[0]), canary)


def _start_superlink(superlink: Supervised, settings: Settings) -> None:
    """Start it and return when it serves; from then on it is started again when it dies.

    Raises:
        TransportFailure: it ends instead; its own words are given.
    """
    superlink.restart = False
    superlink.start()
    try:
        wait_until(
            lambda: accepts(LOOPBACK, settings.runtime_port) and settings.status.exists(),
            [superlink],
            timeout_s=START_S,
            what="Starting the SuperLink",
        )
    except TransportFailure as failure:
        raise TransportFailure(failure.what, superlink.last_words(), failure.next_step) from None
    superlink.restart = True


def explained(error: dict[str, str]) -> ManikinError:
    """The error that a ServerApp wrote down."""
    kinds = {kind.code: kind for kind in ManikinError.__subclasses__()}
    kind = kinds.get(error.get("code", ""), TransportFailure)
    return kind(error.get("what", ""), error.get("why", ""), error.get("next_step", ""))


def read_status(file: Path) -> LinkStatus | None:
    """Where a SuperLink process stands; None before it says so."""
    try:
        return LinkStatus.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
