"""What a coordinator shows to Prometheus: where each of its runs stands, read afresh from its folder at each scrape.

Everything comes from files that the run itself goes by (plan, checkpoint, status.json, link.json), so that nothing has
to be told to this, and nothing is lost when either is started again. Labels are a plan's first digits, hospitals that
the plan names, and words of closed lists. Nothing here is moved by a patient but elapsed seconds, which the
coordinator sees anyway (docs/not-protected.md, side channels); verdicts of audits do not leave the hospitals.
"""

from __future__ import annotations

import base64
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric

from manikin.common.errors import ManikinError

PREFIX = "manikin_run"
DIGITS = 12  # of a plan's digest
HEADER_BYTES_MAX = 64 << 20
OTHER = "other"
STATES = ("proposed", "starting", "running", "finished", "failed")
KINDS = ("pretrain", "release", "train")
CHARGED = ("release", "train")
VERDICTS = ("pass", "fail", "inconclusive", "kept")
CODES = (
    *sorted({"error", *(kind.code for kind in ManikinError.__subclasses__())}),
    "unavailable",
    "lost",
    "deadline",
    "forged",
    "malformed",
)
MISSED = ("deadline", "forged", "lost", "malformed", "policy-refusal", "protocol-violation", "unavailable")
PHASES = {  # the phases of `rounds`, by how their titles begin
    "Hospitals check": "open",
    "Hospitals release": "release",
    "Hospitals train": "train",
    "Hospitals audit": "audit",
    "Hospitals answer a canary": "canary",
    "Simulating scans": "simulate",
    "Learning anatomy": "pretrain",
    "Carrying the release": "adapt",
    "Matching the generator": "adapt",
    "Drawing synthetic": "draw",
}


def phase_of(title: str) -> str:
    """The word for a phase, from the title that a person reads.

    >>> phase_of("Hospitals train privately, round 2 of 5")
    'train'
    """
    return next((word for start, word in PHASES.items() if title.startswith(start)), OTHER)


@dataclass(frozen=True)
class Run:
    """Where one plan stands.

    Args:
        plan: the first digits of its digest.
        hospitals: names that the plan gives.
        moves: the kind of each move of the plan, in order.
        epsilon, delta: what the plan costs as a whole.
        state: one of `STATES`.
        changed: when status.json was last written, in Unix seconds; 0 if never.
        done: moves that are finished.
        phase: the one under way; "" if there is none.
        phases: seconds that each phase took, each time.
        attendance: for each step that someone missed, who did and the code of the reason.
        bytes_in, bytes_out: bytes of frames, from and to hospitals.
        online: hospitals whose gateway is connected.
        error: code of a failure; "" if there is none.
        verdict: one of `VERDICTS` once audits are done; "kept" where verdicts stay in the hospitals.
    """

    plan: str
    hospitals: tuple[str, ...]
    moves: tuple[str, ...]
    epsilon: float
    delta: float
    state: str = "proposed"
    changed: float = 0.0
    done: int = 0
    phase: str = ""
    phases: Mapping[str, list[float]] = field(default_factory=dict)
    attendance: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    bytes_in: float = 0.0
    bytes_out: float = 0.0
    online: tuple[str, ...] = ()
    error: str = ""
    verdict: str = ""

    @property
    def charged(self) -> bool:
        """Whether hospitals may have charged the plan's ε: one of its charged steps was asked."""
        return any(kind in CHARGED for kind in (*self.moves[: self.done], *self.phases, self.phase))

    def missed(self) -> Counter[tuple[str, str]]:
        """How many steps each hospital missed, by (hospital, code); 0 for what is usual and did not happen.

        An alert sees a count that grows, not one that appears.
        """
        missed = Counter({(name, code): 0 for name in self.hospitals for code in MISSED})
        missed.update(pair for missing in self.attendance.values() for pair in missing.items())
        return missed

    def answered(self) -> dict[str, int]:
        """How many of the charged steps that are done each hospital answered; they are numbered from 1."""
        asked = range(1, 1 + sum(kind in CHARGED for kind in self.moves[: self.done]))
        return {name: sum(name not in self.attendance.get(step, {}) for step in asked) for name in self.hospitals}


def read_runs(folder: Path) -> list[Run]:
    """Every plan of a coordinator's folder; one that cannot be read is left out."""
    runs = []
    for file in sorted(folder.glob("plans/*/plan.dsse.json")):
        try:
            runs.append(_read_run(file))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return runs


def _read_run(file: Path) -> Run:
    plan = json.loads(base64.b64decode(json.loads(file.read_bytes())["payload"]))["predicate"]["plan"]
    hospitals = tuple(str(party["name"]) for party in plan["participants"])
    kinds = ((stage["kind"], stage.get("rounds", 1)) for stage in plan["study"]["stage"])
    run = file.parent / "run"
    status, head = _json(run / "status.json"), _checkpoint(run / "checkpoint.safetensors")
    traffic = status.get("bytes", {})
    state = status.get("state", "proposed")
    return Run(
        plan=file.parent.name[:DIGITS],
        hospitals=hospitals,
        moves=tuple(kind for kind, rounds in kinds if kind in KINDS for _ in range(rounds)),
        epsilon=float(plan["study"]["privacy"]["epsilon"]),
        delta=float(plan["study"]["privacy"]["delta"]),
        state=state if state in STATES else OTHER,
        changed=(run / "status.json").stat().st_mtime if status else 0.0,
        done=int(head.get("done", 0)),
        phase=phase_of(str(status["phase"])) if status.get("phase") else "",
        phases=_phases(status.get("seconds", {})),
        attendance=_attendance({**head.get("attendance", {}), **status.get("attendance", {})}, hospitals),
        bytes_in=float(traffic.get("in", 0)),
        bytes_out=float(traffic.get("out", 0)),
        online=tuple(name for name in _json(run / "link.json").get("online", ()) if name in hospitals),
        error=_word(status["error"].get("code"), CODES) if state == "failed" and "error" in status else "",
        verdict=_word(status.get("verdict", "kept"), VERDICTS) if state == "finished" else "",
    )


def _json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_bytes()))
    except FileNotFoundError:
        return {}


def _checkpoint(file: Path) -> dict[str, Any]:
    """The head of a checkpoint; the weights are not read."""
    try:
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(size, HEADER_BYTES_MAX)))
    except FileNotFoundError:
        return {}
    return dict(json.loads(header["__metadata__"]["manikin"]))


def _phases(seconds: Mapping[str, list[float]]) -> dict[str, list[float]]:
    phases: dict[str, list[float]] = {}
    for title, times in seconds.items():
        phases.setdefault(phase_of(title), []).extend(float(time) for time in times)
    return phases


def _attendance(raw: Mapping[str, Mapping[str, str]], hospitals: Iterable[str]) -> dict[int, dict[str, str]]:
    named = set(hospitals)
    return {
        int(step): {name: _word(code, CODES) for name, code in missing.items() if name in named}
        for step, missing in raw.items()
    }


def _word(word: object, known: Iterable[str]) -> str:
    return word if isinstance(word, str) and word in known else OTHER


class Runs:
    """Collects the metrics of a coordinator's folder at each scrape."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        runs = read_runs(self._folder)
        for name, text, labels, samples in _GAUGES:
            family: Metric = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=["plan", *labels])
            _fill(family, runs, samples)
            yield family
        for name, text, labels, samples in _COUNTERS:
            family = CounterMetricFamily(f"{PREFIX}_{name}", text, labels=["plan", *labels])
            _fill(family, runs, samples)
            yield family
        phases = SummaryMetricFamily(f"{PREFIX}_phase_seconds", "Seconds of each phase.", labels=["plan", "phase"])
        for run in runs:
            for phase, times in sorted(run.phases.items()):
                phases.add_metric([run.plan, phase], count_value=len(times), sum_value=sum(times))
        yield phases


Samples = Callable[[Run], Iterable[tuple[tuple[str, ...], float]]]


def _fill(family: Any, runs: Iterable[Run], samples: Samples) -> None:
    for run in runs:
        for labels, value in samples(run):
            family.add_metric([run.plan, *labels], value)


def _by_kind(kinds: Iterable[str]) -> list[tuple[tuple[str, ...], float]]:
    counted = Counter(kinds)
    return [((kind,), float(counted[kind])) for kind in KINDS]


def _refused(run: Run) -> list[tuple[tuple[str, ...], float]]:
    codes = dict.fromkeys(MISSED, 0)
    for (_, code), count in run.missed().items():
        codes[code] = codes.get(code, 0) + count
    return [((code,), float(count)) for code, count in sorted(codes.items())]


_GAUGES: tuple[tuple[str, str, tuple[str, ...], Samples], ...] = (
    (
        "state",
        "1 for the state that the run is in.",
        ("state",),
        lambda r: [((s,), float(s == r.state)) for s in STATES],
    ),
    ("changed_timestamp_seconds", "When status.json was last written.", (), lambda r: [((), r.changed)]),
    ("moves", "Moves of the plan, by kind: train counts rounds.", ("kind",), lambda r: _by_kind(r.moves)),
    ("hospitals", "Hospitals that the plan names.", (), lambda r: [((), float(len(r.hospitals)))]),
    (
        "hospital_online",
        "Whether a hospital's gateway is connected.",
        ("hospital",),
        lambda r: [((name,), float(name in r.online)) for name in r.hospitals],
    ),
    ("epsilon_planned", "The plan's ε.", (), lambda r: [((), r.epsilon)]),
    ("delta_planned", "The plan's δ.", (), lambda r: [((), r.delta)]),
    (
        "epsilon_charged",
        "ε that hospitals may have charged: the plan's whole, from its first charged step on.",
        (),
        lambda r: [((), r.epsilon if r.charged else 0.0)],
    ),
    (
        "error",
        "1 for the code of the failure that stopped the run.",
        ("code",),
        lambda r: [((r.error,), 1.0)][: bool(r.error)],
    ),
    (
        "audit",
        "1 for the verdict of the audits; kept: verdicts stay in the hospitals.",
        ("verdict",),
        lambda r: [((r.verdict,), 1.0)][: bool(r.verdict)],
    ),
)
_COUNTERS: tuple[tuple[str, str, tuple[str, ...], Samples], ...] = (
    ("moves_done", "Moves that are finished, by kind.", ("kind",), lambda r: _by_kind(r.moves[: r.done])),
    (
        "bytes",
        "Bytes of frames, from hospitals and to them, since the run was last started.",
        ("direction",),
        lambda r: [(("in",), r.bytes_in), (("out",), r.bytes_out)],
    ),
    (
        "answers",
        "Charged steps that a hospital answered.",
        ("hospital",),
        lambda r: [((n,), float(c)) for n, c in r.answered().items()],
    ),
    (
        "missed",
        "Steps that a hospital missed, by the code of the reason.",
        ("hospital", "code"),
        lambda r: [(key, float(count)) for key, count in sorted(r.missed().items())],
    ),
    ("refusals", "Steps that were missed, by the code of the reason.", ("code",), _refused),
)


def registry_of(folder: Path) -> CollectorRegistry:
    """A Prometheus registry that holds a coordinator's metrics and nothing of the process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Runs(folder))
    return registry


def serve(folder: Path, port: int, address: str = "127.0.0.1") -> tuple[Callable[[], None], int]:
    """Answer Prometheus at `address`:`port` for a coordinator's folder; 0 takes a free port.

    Returns:
        A function that ends it, and the port.
    """
    server, thread = start_http_server(port, addr=address, registry=registry_of(folder))

    def stop() -> None:
        server.shutdown()
        server.server_close()
        if thread is not threading.current_thread():
            thread.join()

    return stop, int(server.server_port)
