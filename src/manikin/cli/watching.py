"""`manikin hospital metrics` and `manikin coordinator metrics`: a page for Prometheus, or a file for node_exporter."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from manikin.cli.console import say
from manikin.common.errors import Misconfigured

PORT_MAX = 65535
CONNECT_S = 1.0  # a scrape does not wait for a vault that is away

Listen = Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="Where Prometheus asks.")]


def hospital_metrics(
    gateway: Annotated[Path, typer.Option("--gateway", metavar="DIR", help="The gateway's folder.")],
    socket: Annotated[Path, typer.Option("--socket", help="The vault's socket.")],
    listen: Listen = "127.0.0.1:9465",
    textfile: Annotated[
        Path | None, typer.Option("--textfile", metavar="FILE", help="Write the vault's counters to FILE and end.")
    ] = None,
) -> None:
    """Show the gateway's traffic and the vault's few counters to Prometheus; nothing that a patient moves."""
    from manikin.client import metrics
    from manikin.client.metered import TALLY, Tally
    from manikin.client.service import SocketPort

    counters = SocketPort(socket, connect_s=CONNECT_S).counters
    if textfile is not None:
        metrics.write_textfile(textfile, counters())
        return say(f"Written: {textfile}")
    tally = Tally(gateway / "home" / TALLY)
    registry = metrics.registry_of(metrics.Hospital(tally=tally, counters=counters))
    _until_told(lambda port, host: metrics.serve(registry, port, host), listen)
    return None


def coordinator_metrics(
    coordinator: Annotated[Path, typer.Option("--coordinator", metavar="DIR", help="The coordinator's folder.")],
    listen: Listen = "127.0.0.1:9464",
) -> None:
    """Show where the coordinator's runs stand to Prometheus."""
    from manikin.server import metrics

    _until_told(lambda port, host: metrics.serve(coordinator, port, host), listen)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > PORT_MAX:
        raise typer.BadParameter(f"{text!r} is not HOST:PORT.", param_hint="--listen")
    return host.strip("[]"), int(port)


def _until_told(serve: Callable[[int, str], tuple[Callable[[], None], int]], listen: str) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    host, port = _address(listen)
    try:
        stop, port = serve(port, host)
    except OSError as error:
        why = f"The system says: {error.strerror or error}."
        raise Misconfigured(f"Nothing can listen at {listen}.", why, "Give another address as --listen.") from None
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    say(f"Metrics at http://{host}:{port}/metrics")
    ended.wait()
    stop()
