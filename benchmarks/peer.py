"""Plain Flower beside the benchmark: a SuperLink and SuperNodes over TLS as they ship, with the app `plain_flower`."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import results
from watching import Watch, wait

from manikin.common.certificates import Authority
from manikin.common.files import write_atomically
from manikin.common.processes import LOOPBACK, Supervised, accepts, flower_environment, free_port, script, supervising


def run_plain(size: int, rounds: int, nodes: int, work: Path) -> tuple[list[float], Watch]:
    """Rounds of weights by plain Flower, as it ships: when each ended and the first began, and the processes.

    Args:
        size: bytes of weights, each way and node.

    Raises:
        SystemExit: it failed.
    """
    authority, port = Authority.create("peer"), free_port()
    server = authority.issue_server([LOOPBACK])
    for name, content in {"ca.pem": authority.certificate, "server.pem": server.public, "key": server.private}.items():
        write_atomically(work / name, content, mode=0o600)
    link = [
        script("flower-superlink"),
        "--host",
        LOOPBACK,
        "--port",
        str(port),
        "--ssl-certfile",
        str(work / "server.pem"),
    ]
    link += ["--ssl-keyfile", str(work / "key"), "--ssl-ca-certfile", str(work / "ca.pem")]
    superlink = Supervised(
        "superlink", link, work / "superlink.log", plain_environment(work / "superlink"), restart=False
    )
    gateways = [_supernode(work, f"node-{i}", port) for i in range(nodes)]
    times, watch = work / "rounds.txt", Watch()

    def look() -> bool:
        watch.look(process.pid for process in gateways if process.pid)
        return times.exists() and len(times.read_text().splitlines()) == rounds + 1

    with supervising([superlink, *gateways]) as processes:
        superlink.start()
        wait(lambda: accepts(LOOPBACK, port), [superlink])
        for process in gateways:
            process.start()
        _submit(work, port, {"bytes": size, "rounds": rounds, "nodes": nodes, "out": str(times)})
        wait(look, processes)
    return [float(line.split()[1]) for line in times.read_text().splitlines()], watch


def plain_environment(home: Path) -> dict[str, str]:
    """Flower's own pauses; no telemetry, and nothing installed."""
    return {k: v for k, v in flower_environment(home).items() if k != "FLWR_SUPEREXEC_TASK_POLL_INTERVAL"}


def _supernode(work: Path, name: str, port: int) -> Supervised:
    command = [
        script("flower-supernode"),
        "--superlink",
        f"{LOOPBACK}:{port}",
        "--root-certificates",
        str(work / "ca.pem"),
    ]
    command += ["--host", LOOPBACK, "--port", str(free_port())]
    return Supervised(name, command, work / f"{name}.log", plain_environment(work / name), restart=False)


def _submit(work: Path, port: int, config: Mapping[str, str | int]) -> None:
    """`flwr run` of the peer's app."""
    app, home = work / "app", work / "cli"
    app.mkdir()
    shutil.copy(results.ROOT / "benchmarks" / "plain_flower.py", app)
    shutil.copy(results.ROOT / "LICENSE", app)
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in config.items())
    (app / "pyproject.toml").write_text(
        '[project]\nname = "plain-flower"\nversion = "1.0.0"\nlicense = { file = "LICENSE" }\n'
        'dependencies = ["flwr>=1.41.0"]\n[tool.flwr.app]\npublisher = "manikin"\nfab-format-version = 1\n'
        'flwr-version-target = "1.41.0"\nfab-include = ["plain_flower.py", "LICENSE"]\n[tool.flwr.app.components]\n'
        f'serverapp = "plain_flower:server"\nclientapp = "plain_flower:client"\n[tool.flwr.app.config]\n{lines}'
    )
    write_atomically(
        home / "config.toml",
        f'[superlink]\ndefault = "peer"\n[superlink.peer]\naddress = "{LOOPBACK}:{port}"\n'
        f'root-certificates = "{work / "ca.pem"}"\n'.encode(),
    )
    command = [script("flwr"), "run", str(app), "peer"]
    done = subprocess.run(command, env=plain_environment(home), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"The peer's run was not taken: {done.stdout}{done.stderr}")
