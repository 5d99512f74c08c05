"""What a coordinator needs for a round with a hundred hospitals: memory and seconds, beside Flower's own `FedAvg`.

    python benchmarks/aggregate.py            # about five minutes on two cores
    python benchmarks/aggregate.py --quick    # ten hospitals; writes no page

Each case is a process of its own, with the hospitals in another (`many_hospitals.py`), and prints one JSON line. Memory
is the largest resident size (VmHWM) less that after a round with a tiny model, in units of the model's own bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import results
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.serverapp.strategy import FedAvg
from many_hospitals import FIRST_NODE, ObjectGrid, moved

from manikin.common import generators
from manikin.common.keys import SigningKey
from manikin.common.memory import give_back_large_blocks
from manikin.common.plan import Party, Plan
from manikin.common.study import parse_study
from manikin.common.wire import Arrays
from manikin.server.app import GridChannel
from manikin.server.checkpoints import Checkpoints
from manikin.server.rounds import Rounds, to_numpy

MANIKIN, PEER = "Manikin", "Flower 1.41, FedAvg"
CHANNELS, WARM_CHANNELS = 182, 8  # of the denoiser: the first has ten million parameters
HOSPITALS, QUICK_HOSPITALS = (3, 25, 100), (10,)
PEER_MOST = 25  # the peer holds every answer: a hundred would take more memory than many machines can spare
ALLOWED = 4.0
SECTION = "aggregate"
PAGE = results.ROOT / "benchmarks" / "RESULTS.md"
NOTES = f"""
- A model: float32, every weight of the network moved by every hospital. Memory: peak of the coordinator's process less
  what it held before (after a round with a tiny model), in models; allowed are {ALLOWED:g}, whatever the number of
  hospitals.
- Manikin: a whole run of the round loop with one round of training: the task signed and sent, each answer pulled,
  checked (layout, finite, signature of its vault) and folded in, the checkpoint written. Flower's own inflation holds
  an answer twice while it takes it in. The running sum lies in a file of two models' size, without a name.
- The peer: what `FedAvg` does with its defaults: all answers pulled, then `aggregate_train`; nothing signed or checked,
  nothing written. It was run with at most {PEER_MOST} hospitals, since it holds every answer.
- Seconds a hospital: processor time of the coordinator's process, so that the making of answers, a network, and other
  programs are not in it.
"""
Line = dict[str, Any]


def study(channels: int, hospitals: int) -> Line:
    stage = {"epsilon_share": 1.0, "sample_rate": 0.05, "batch_size": 4, "draws": 1, "clip": 1.0, "learning_rate": 1e-3}
    return {
        "schema": 1,
        "name": "aggregate",
        "data": {
            "modality": "CR",
            "spatial_dims": 2,
            "shape": [16, 16],
            "window_percentiles": [1, 99],
            "labels": ["a", "b"],
            "patients_min": 50,
            "split": {"train": 0.7, "holdout": 0.15, "calibration": 0.15},
        },
        "privacy": {"epsilon": 3.0, "delta": 1e-5, "unit": "patient", "multiplicity": 1},
        "federation": {"mode": "local", "quorum": hospitals, "round_deadline_s": 3600, "weights": "equal"},
        "generator": {
            "family": "diffusion",
            "channels": channels,
            "sampler_steps": 2,
            "private_parameters": ["all"],
        },
        "stage": [{"kind": "train", "rounds": 1, "steps": 1, **stage}],
        "audit": {"epsilon_share": 0.0, "fpr": 0.05, "alpha": 0.05, "synthetic": 30, "tpr_limit": 0.2},
    }


def run_manikin(channels: int, hospitals: int) -> Line:
    """One round of training, as the coordinator conducts it."""

    def work(channels: int, hospitals: int) -> Arrays:
        plan = Plan(parse_study(study(channels, hospitals)), (1.0,))
        parties = [Party(f"hospital-{i}", key) for i, key in enumerate(grid.public_keys[:hospitals])]
        nodes = {FIRST_NODE + i: party.name for i, party in enumerate(parties)}
        channel = GridChannel(grid, nodes, parties, SigningKey.generate())
        with tempfile.TemporaryDirectory() as folder:
            rounds = Rounds(plan, channel, Checkpoints(Path(folder), plan.digest))
            rounds.run()
            return to_numpy(rounds.checkpoint.state)

    with ObjectGrid(hospitals) as grid:
        return measured(work, channels, hospitals)


def run_peer(channels: int, hospitals: int) -> Line:
    """One round of Flower's own strategy on the same weights."""

    def work(channels: int, hospitals: int) -> Arrays:
        record = ArrayRecord({name: Array(array) for name, array in start_of(channels).items()})
        content = RecordDict({"arrays": record})
        messages = [Message(content, FIRST_NODE + i, "train", group_id="1") for i in range(hospitals)]
        arrays, _ = FedAvg().aggregate_train(1, grid.send_and_receive(messages))
        assert arrays is not None
        return {name: array.numpy() for name, array in arrays.items()}

    with ObjectGrid() as grid:
        return measured(work, channels, hospitals)


def start_of(channels: int) -> Arrays:
    """The weights that go out."""
    return to_numpy(generators.create(Plan(parse_study(study(channels, 1)), (1.0,)).generator_spec()).state())


def measured(work: Callable[[int, int], Arrays], channels: int, hospitals: int) -> Line:
    """Peak memory and seconds of some work, and whether its mean is the right one.

    Raises:
        SystemExit: the mean is wrong.
    """
    give_back_large_blocks()
    work(WARM_CHANNELS, 1)  # whatever is imported late is there now
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, started = resident("VmHWM"), time.process_time()
    mean = work(channels, hospitals)
    seconds, peak = time.process_time() - started, resident("VmHWM")
    start = start_of(channels)
    wanted = moved(start, (hospitals - 1) / 2)
    if not all(np.allclose(mean[name], wanted[name], rtol=0, atol=1e-6) for name in start):
        raise SystemExit("The mean is wrong.")
    size = sum(array.nbytes for array in start.values())
    return {
        "parameters": size // 4,
        "peak_models": round((peak - before) / size, 2),
        "peak_mb": round((peak - before) / 1e6, 1),
        "seconds": round(seconds, 2),
        "seconds_a_hospital": round(seconds / hospitals, 3),
    }


def resident(field: str) -> int:
    """Bytes of a field of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def run_case(runtime: str, channels: int, hospitals: int) -> Line:
    """One case in a process of its own.

    Raises:
        SystemExit: it failed.
    """
    command = [sys.executable, __file__, "--case", runtime, str(channels), str(hospitals)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"The case of {hospitals} hospitals by {runtime} failed.")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def page(lines: Sequence[Line]) -> str:
    """Markdown: one row a case."""
    rows = [("coordinator", "hospitals", "parameters", "peak memory, models", "allowed", "s a hospital")]
    rows.append(("---",) * len(rows[0]))
    for line in lines:
        met = f"{ALLOWED:g}, {'met' if line['peak_models'] <= ALLOWED else 'missed'}"
        rows.append(
            (
                line["runtime"],
                str(line["hospitals"]),
                f"{line['parameters']:,}",
                f"{line['peak_models']:.2f}",
                met if line["runtime"] == MANIKIN else "–",
                f"{line['seconds_a_hospital']:.2f}",
            )
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    """All cases in one go; the page is written by a whole run only."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="ten hospitals, and no page")
    parser.add_argument("--json", action="store_true", help="only JSON lines, no table")
    parser.add_argument("--out", type=Path, default=PAGE, help="page of the table; results.jsonl is beside it")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        runtime, channels, hospitals = arguments.case[0], int(arguments.case[1]), int(arguments.case[2])
        print(json.dumps((run_manikin if runtime == MANIKIN else run_peer)(channels, hospitals)))
        return
    lines, code = list[Line](), results.commit()
    for hospitals in QUICK_HOSPITALS if arguments.quick else HOSPITALS:
        for runtime in (MANIKIN, PEER) if hospitals <= PEER_MOST else (MANIKIN,):
            head = {"case": f"aggregate: {hospitals} hospitals, {runtime}", "runtime": runtime, "hospitals": hospitals}
            head |= {"commit": code, "cores": os.cpu_count(), "date": results.today()}
            head |= {"load_before": round(os.getloadavg()[0], 2)}
            lines.append(head | run_case(runtime, CHANNELS, hospitals))
            print(json.dumps(lines[-1], sort_keys=True), flush=True)
    if not arguments.json:
        print(page(lines))
    if not arguments.quick:
        for line in lines:
            results.append(arguments.out.with_name("results.jsonl"), line)
        heading = f"## A round with a hundred hospitals\n\nCommit {code}, {results.today()}, `make bench-aggregate`"
        text = f"{heading}, {os.cpu_count()} cores.\n\n{page(lines)}\n{NOTES}"
        results.write_section(arguments.out, SECTION, text)


if __name__ == "__main__":
    main()
