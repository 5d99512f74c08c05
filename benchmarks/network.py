"""What a round over a network costs: three hospitals on loopback over TLS, beside plain Flower, in one run.

    python benchmarks/network.py            # about ten minutes on two cores
    python benchmarks/network.py --quick    # two rounds each; writes no page

Two models: a tiny one, and one of about 20 MB. Each is trained by the real networked runtime, every process apart,
as `manikin hospital start` and `manikin coordinator run` do it, on very few simulated patients; then the same number of
bytes goes round by plain Flower (`plain_flower.py`) in the same run. Each case prints one JSON line. The machine should
have nothing else to do: each line says how loaded it was before.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import results
from peer import run_plain
from watching import Watch, wait

from manikin.client.egress import EgressLog, Message
from manikin.common.processes import LOOPBACK, free_port, supervising
from manikin.common.study import Study, parse_study
from manikin.embedded.demo import HOSPITALS, make_hospital
from manikin.embedded.loopback import agree, coordinator_process, hospital_process, introduce
from manikin.server.agreements import create_coordinator
from manikin.server.asking import silent
from manikin.server.checkpoints import Checkpoints
from manikin.server.metrics import phase_of
from manikin.server.running import Study as Running

MODELS = {"tiny": 8, "20 MB": 128}  # channels of the denoiser
ALLOWED_S = {"tiny": 13.0, "20 MB": 18.0}  # a round, in the median
ALLOWED_MB = 150.0  # each process of a gateway
MANIKIN, PLAIN = "Manikin", "plain Flower 1.41"
GATEWAY = ("SuperNode", "executor", "ClientApp", "gateway's supervisor")
PHASES = ("asking", "hospitals' work", "aggregation", "checkpoint")
PATIENTS, ROUNDS, QUICK_ROUNDS = 100, 6, 2
TICKED = ("open", "release", "train", "audit", "canary", "refusal")  # kinds of messages that answer a task
SECTION = "network"
PAGE = results.ROOT / "benchmarks" / "RESULTS.md"
NOTES = f"""
- Hospitals: {len(HOSPITALS)}, with {PATIENTS} simulated patients each, images of 16 × 16. Every round is a real charged
  `train` step of DP-SGD (one gradient step on a few patients), not a canary; its seconds are in the phases.
- The peer trains nothing: its ClientApp imports torch, loads the weights, adds one, and sends them back; `FedAvg`
  averages them. Flower as it ships: SuperNodes without keys, state in memory, its own pauses between two looks.
  Manikin's rounds include node keys, signatures, policy, ledger, egress log, and a checkpoint.
- A round: from one question to the next, checkpoint included; of the peer, from one aggregation to the next.
- Bytes: of frames (of arrays, for the peer), all hospitals together, without Flower's envelope and TLS.
- Memory: the largest resident size (VmHWM) of any process of that kind, shared libraries included.
- Imports of torch: processes at the hospitals that had libtorch mapped, all hospitals together, from the start to the
  end of the study (opening and audits too); told apart by process id and start time.
- Allowed: seconds a round in the median, and {ALLOWED_MB:.0f} MB a process of a gateway with the tiny model.
- Asking: from sending to the last answer, without the slowest vault's own seconds: Flower, TLS, looks for answers, and
  starting Python for each message. Aggregation and checkpoint are means over the rounds, the others medians.
"""
Line = dict[str, Any]


def study(model: str, rounds: int) -> Study:
    """Very little to learn, in as many rounds as asked."""
    stage = {"epsilon_share": 1.0, "sample_rate": 0.05, "batch_size": 4, "draws": 1, "clip": 1.0, "learning_rate": 1e-3}
    return parse_study(
        {
            "schema": 1,
            "name": f"network-{MODELS[model]}",
            "data": {
                "modality": "CR",
                "spatial_dims": 2,
                "shape": [16, 16],
                "window_percentiles": [1, 99],
                "labels": ["normal", "pneumonia", "effusion"],
                "patients_min": 50,
                "split": {"train": 0.7, "holdout": 0.15, "calibration": 0.15},
            },
            "privacy": {"epsilon": 3.0, "delta": 1e-5, "unit": "patient", "multiplicity": 1},
            "federation": {"mode": "local", "quorum": 3, "round_deadline_s": 300, "weights": "equal"},
            "generator": {"family": "diffusion", "channels": MODELS[model], "sampler_steps": 2},
            "stage": [{"kind": "train", "rounds": rounds, "steps": rounds, **stage}],
            "audit": {"epsilon_share": 0.0, "fpr": 0.05, "alpha": 0.05, "synthetic": 30, "tpr_limit": 0.2},
        }
    )


def run_manikin(model: str, rounds: int, work: Path) -> Line:
    """A whole study; one JSON line's facts.

    Raises:
        SystemExit: it failed; in the coordinator's words.
    """
    plan_of = study(model, rounds)
    folders = {
        name: make_hospital(work / "hospitals" / name, name, plan_of, patients=PATIENTS, seed=i, phase=silent)
        for i, name in enumerate(HOSPITALS)
    }
    home = create_coordinator(work / "coordinator", "coordinator", f"{LOOPBACK}:{free_port()}")
    introduce(home, folders)
    run = Running(home, agree(home, plan_of, folders))
    parties = [hospital_process(folder) for folder in folders.values()]
    coordinator = coordinator_process(home, run.plan)
    watch, begun = Watch(), dict[str, float]()

    def look() -> bool:
        watch.look(process.pid for process in parties if process.pid)
        phase, moment = read_phase(run.folder / "status.json")
        begun.setdefault(phase, moment)
        return coordinator.ended() is not None

    with supervising([*parties, coordinator]) as processes:
        for process in reversed(processes):
            process.start()
        wait(look, processes[:-1])
    said = run.said()
    if said.get("state") != "finished" or said["attendance"]:
        raise SystemExit(f"The study failed or was disturbed: {coordinator.last_words(20)}")
    checkpoints = Checkpoints(run.folder, run.plan.digest)
    ended = checkpoints.file.stat().st_ctime  # when the last one was renamed into its place
    checkpoint = checkpoints.load()
    assert checkpoint is not None
    vaults = [exchanges(folder) for folder in folders.values()]
    took = {title: seconds for title, (seconds,) in said["seconds"].items()}
    found = manikin_rounds(begun, took, ended=ended, spent=checkpoint.seconds["train"], vaults=vaults)
    return found | {"bytes_total": said["bytes"]} | watch.facts()


def read_phase(file: Path) -> tuple[str, float]:
    """What a run says it is doing, and since when: the file is replaced at each change."""
    try:
        with file.open() as stream:
            return str(json.load(stream).get("phase", "")), os.fstat(stream.fileno()).st_mtime
    except FileNotFoundError:
        return "", 0.0


def exchanges(folder: Path) -> list[Line]:
    """What a vault answered, in order: kind and bytes as its egress log has them, and its own seconds.

    Raises:
        SystemExit: the log of the process and the egress log do not tell the same.
    """
    entries = [m for m in EgressLog(folder / "egress.sqlite").messages() if m.kind in TICKED]
    return matched(entries, (folder / "logs" / "vault.log").read_text().splitlines())


def matched(entries: Sequence[Message], log: Sequence[str]) -> list[Line]:
    """Entries of an egress log beside the vault's log lines of the same answers."""
    lines = [json.loads(text) for text in log if text.startswith("{")]
    answered = [line for line in lines if line.get("event") == "answered"]
    if [entry.size_bytes for entry in entries] != [line["bytes_out"] for line in answered]:
        raise SystemExit("A vault's log and its egress log do not tell the same.")
    return [
        {"kind": entry.kind, "out": entry.size_bytes, "in": line["bytes_in"], "seconds": line["seconds"]}
        for entry, line in zip(entries, answered, strict=True)
    ]


def manikin_rounds(
    begun: Mapping[str, float], took: Mapping[str, float], *, ended: float, spent: float, vaults: Sequence[list[Line]]
) -> Line:
    """Seconds and bytes a round.

    Args:
        begun: when each phase began, by its title.
        took: seconds of each phase.
        ended: when the last round's checkpoint stood on disk.
        spent: seconds of all rounds without their checkpoints, as the coordinator sums them.
        vaults: what each vault answered.
    """
    starts = sorted(moment for title, moment in begun.items() if phase_of(title) == "train")
    asked = [seconds for title, seconds in took.items() if phase_of(title) == "train"]
    steps = list(zip(*([line for line in vault if line["kind"] == "train"] for vault in vaults), strict=True))
    work = [max(line["seconds"] for line in step) for step in steps]
    count = len(starts)
    if not count == len(asked) == len(work):
        raise SystemExit(f"{count} rounds were seen, {len(asked)} asked, {len(work)} worked on.")
    return summary([*starts, ended]) | {
        "phases": {
            "asking": round(statistics.median(a - w for a, w in zip(asked, work, strict=True)), 2),
            "hospitals' work": round(statistics.median(work), 2),
            "aggregation": round((spent - sum(asked)) / count, 3),
            "checkpoint": round((ended - starts[0] - spent) / count, 3),
        },
        "once": {phase_of(title): s for title, s in took.items() if phase_of(title) != "train"},
        "bytes_out": statistics.median(sum(line["in"] for line in step) for step in steps),
        "bytes_in": statistics.median(sum(line["out"] for line in step) for step in steps),
    }


def summary(moments: Sequence[float]) -> Line:
    """Median and range of the seconds between moments.

    >>> summary([1.0, 2.0, 5.0, 7.0])["median_s"]
    2.0
    """
    seconds = [round(after - before, 2) for before, after in itertools.pairwise(moments)]
    median = round(statistics.median(seconds), 2)
    return {
        "rounds": len(seconds),
        "median_s": median,
        "min_s": min(seconds),
        "max_s": max(seconds),
        "seconds": seconds,
    }


def page(lines: Sequence[Line]) -> str:
    """Markdown: rounds beside the peer's, the phases of Manikin's, and processes larger than allowed."""
    peers = {line["model"]: line["median_s"] for line in lines if line["runtime"] == PLAIN}
    head = ("model", "runtime", "s a round: median (min to max)", "to plain Flower", "allowed", "rounds")
    memory = [f"{kind}, MB" for kind in GATEWAY]
    rounds: list[tuple[str, ...]] = [(*head, "bytes out, in a round", *memory, "imports of torch")]
    phases: list[tuple[str, ...]] = [("model", *(f"{name}, s a round" for name in PHASES), "opening, s", "audits, s")]
    for line in lines:
        rounds.append(_row(line, peers.get(line["model"])))
        if line["runtime"] == MANIKIN:
            parts = [f"{line['phases'][name]:.2f}" for name in PHASES]
            phases.append((line["model"], *parts, *(f"{line['once'][name]:.1f}" for name in ("open", "audit"))))
    return f"{_markdown(rounds)}\n\n{_markdown(phases)}\n\n{_oversized(lines)}"


def _row(line: Line, peer: float | None) -> tuple[str, ...]:
    median, allowed = line["median_s"], ALLOWED_S[line["model"]]
    ours = line["runtime"] == MANIKIN
    return (
        line["model"],
        line["runtime"],
        f"{median:.1f} ({line['min_s']:.1f} to {line['max_s']:.1f})",
        f"{median / peer:.2f}" if peer else "–",
        f"{allowed:g}, {'met' if median <= allowed else 'missed'}" if ours else "–",
        str(line["rounds"]),
        f"{line['bytes_out']:,.0f}, {line['bytes_in']:,.0f}",
        *(f"{line['memory_mb'][kind]:.0f}" if kind in line["memory_mb"] else "–" for kind in GATEWAY),
        ", ".join(f"{count} ({kind})" for kind, count in line["torch_imports"].items()) or "none",
    )


def _oversized(lines: Sequence[Line]) -> str:
    found = [
        f"{line['model']}: {kind} {line['memory_mb'][kind]:.0f} MB"
        for line in lines
        for kind in GATEWAY
        if line["runtime"] == MANIKIN and line["memory_mb"].get(kind, 0) >= ALLOWED_MB
    ]
    return f"Processes of Manikin's gateways of {ALLOWED_MB:.0f} MB or more: {', '.join(found) or 'none'}."


def _markdown(table: Sequence[tuple[str, ...]]) -> str:
    head, *rows = table
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *rows))


def run_case(model: str, runtime: str, rounds: int, size: int) -> Line:
    """One case in a folder of its own; `size`: bytes that the peer sends each node."""
    with tempfile.TemporaryDirectory(prefix="manikin-network-") as name:
        if runtime == MANIKIN:
            return run_manikin(model, rounds, Path(name))
        moments, watch = run_plain(size, rounds, len(HOSPITALS), Path(name))
        moved = {"bytes_out": size * len(HOSPITALS), "bytes_in": size * len(HOSPITALS)}
        return summary(moments) | moved | watch.facts()


def main() -> None:
    """All cases in one go; the page is written by a whole run only."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="two rounds each, and no page")
    parser.add_argument("--out", type=Path, default=PAGE, help="page of the tables; results.jsonl is beside it")
    arguments = parser.parse_args()
    rounds, code, lines = QUICK_ROUNDS if arguments.quick else ROUNDS, results.commit(), list[Line]()
    for model, runtime in itertools.product(MODELS, (MANIKIN, PLAIN)):
        head = {"case": f"network: {model}, {runtime}", "model": model, "runtime": runtime, "commit": code}
        head |= {"cores": os.cpu_count(), "load_before": round(os.getloadavg()[0], 2), "date": results.today()}
        size = int(lines[-1]["bytes_in"]) // len(HOSPITALS) // 4 * 4 if runtime == PLAIN else 0
        lines.append(head | run_case(model, runtime, rounds, size))
        print(json.dumps(lines[-1], sort_keys=True), flush=True)
    print(page(lines))
    if not arguments.quick:
        for line in lines:
            results.append(arguments.out.with_name("results.jsonl"), line)
        heading = f"## Rounds over a network\n\nCommit {code}, {results.today()}, `make bench-network`"
        text = f"{heading}, {os.cpu_count()} cores.\n\n{page(lines)}\n{NOTES}"
        results.write_section(arguments.out, SECTION, text)


if __name__ == "__main__":
    main()
