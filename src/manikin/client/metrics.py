"""What a hospital shows to Prometheus: the gateway's traffic, and the few counters that its vault gives.

A closed list: a number that the vault gives under another name is not shown. Nothing here is moved by a patient but
elapsed seconds, which whoever watches the line sees anyway (docs/not-protected.md, side channels).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from manikin.client.metered import FAILURES, Tally
from manikin.common.errors import ManikinError
from manikin.common.files import write_atomically

ACTIONS = ("open", "release", "train", "audit", "canary")
REFUSALS = ("protocol-violation", "policy-refusal", "unavailable")
VAULT = "manikin_vault"
GATEWAY = "manikin_gateway"

Counters = Callable[[], Mapping[str, float]]


class Hospital:
    """Collects a hospital's metrics afresh at each scrape.

    Args:
        tally: the gateway's sums; None shows none of the gateway.
        counters: the vault's counters-only call; one that fails shows the vault as down. None shows none of the vault.
    """

    def __init__(self, *, tally: Tally | None = None, counters: Counters | None = None) -> None:
        self._tally, self._counters = tally, counters

    def collect(self) -> Iterator[Metric]:
        if self._tally is not None:
            yield from _gateway(self._tally.read())
        if self._counters is not None:
            try:
                counters = self._counters()
            except ManikinError:
                yield _gauge(f"{VAULT}_up", "Whether the vault answers on its socket.", 0.0)
            else:
                yield _gauge(f"{VAULT}_up", "Whether the vault answers on its socket.", 1.0)
                yield from _vault(counters)


def registry_of(hospital: Hospital) -> CollectorRegistry:
    """A Prometheus registry that holds a hospital's metrics and nothing of the process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(hospital)
    return registry


def serve(registry: CollectorRegistry, port: int, address: str = "127.0.0.1") -> tuple[Callable[[], None], int]:
    """Answer Prometheus at `address`:`port`; 0 takes a free port.

    Returns:
        A function that ends it, and the port.
    """
    server, thread = start_http_server(port, addr=address, registry=registry)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        if thread is not threading.current_thread():
            thread.join()

    return stop, int(server.server_port)


def write_textfile(path: Path, counters: Mapping[str, float]) -> None:
    """Write the vault's counters for node_exporter's textfile collector.

    Raises:
        StorageFailure: the disk is full or not writable; an older file stays.
    """
    write_atomically(path, generate_latest(registry_of(Hospital(counters=lambda: counters))))


def _gateway(sums: Mapping[str, float]) -> Iterator[Metric]:
    yield _counter(f"{GATEWAY}_messages", "Messages handed to the vault.", sums.get("messages", 0.0))
    yield _counters(
        f"{GATEWAY}_bytes",
        "Bytes of frames, to the vault and from it.",
        "direction",
        {"in": sums.get("to_vault", 0.0), "out": sums.get("from_vault", 0.0)},
    )
    yield _counter(f"{GATEWAY}_seconds", "Seconds that messages were with the vault.", sums.get("seconds", 0.0))
    yield _counters(
        f"{GATEWAY}_failures",
        "Messages that brought no answer, by the code of the failure.",
        "code",
        {code: sums.get(f"failed {code}", 0.0) for code in FAILURES},
    )
    yield _gauge(
        f"{GATEWAY}_last_message_timestamp_seconds", "When the last message was relayed.", sums.get("last", 0.0)
    )


def _vault(counters: Mapping[str, float]) -> Iterator[Metric]:
    known = {name.replace("-", "_"): float(value) for name, value in counters.items() if math.isfinite(value)}

    def of(prefix: str, words: Iterable[str]) -> dict[str, float]:
        return {word: known.get(f"{prefix}_{word.replace('-', '_')}", 0.0) for word in words}

    yield _counters(f"{VAULT}_answered", "Tasks answered since the vault started.", "action", of("answered", ACTIONS))
    yield _counters(f"{VAULT}_refused", "Tasks refused since the vault started.", "code", of("refused", REFUSALS))
    yield _counters(
        f"{VAULT}_bytes", "Bytes of frames since the vault started.", "direction", of("bytes", ("in", "out"))
    )
    yield _gauge(f"{VAULT}_plans_charged", "Plans in the ledger.", known.get("plans_charged", 0.0))
    yield _gauge(f"{VAULT}_steps_charged", "Steps in the ledger.", known.get("steps_charged", 0.0))
    yield _gauge(f"{VAULT}_epsilon_planned", "Sum of the plans' ε in the ledger.", known.get("epsilon_planned", 0.0))


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _counters(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for word, value in values.items():
        family.add_metric([word], value)
    return family
