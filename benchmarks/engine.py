"""What privacy costs in time and memory: a training step of the engine beside plain training and the known libraries.

    python benchmarks/engine.py            # all cases
    python benchmarks/engine.py --quick    # a few minutes
    python benchmarks/engine.py --json     # JSON lines only, no page

Every step is a whole one: draws, gradients, clipping, noise, Adam (`rivals`). Each side has one thread. The steps of
all variants take turns in one process and the median of their processor seconds counts, so that other programs disturb
all alike. Memory is the most that a fresh process held in a step, less what it held before. All seeds are fixed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import results

PAGE = results.ROOT / "benchmarks" / "RESULTS.md"
SECTION = "engine"
OTHERS = ("opacus_hooks", "functorch", "vmap", "expanded_weights", "ghost")
WORKER_TIMEOUT_S = 1200
NOTES = """
- Time: what the variant's step takes of one core, as a multiple of Manikin's in the same run (above 1: slower).
  "Of non-private" is plain minibatch training's time over Manikin's: 1 means that privacy costs nothing.
- A step takes that many patients with one image and K draws each; plain training takes all rows in one pass.
- Opacus hooks, functorch (`GradSampleModule` with and without `force_functorch`), `vmap(grad)` over patients, expanded
  weights: rows' gradients are averaged for each patient before Opacus' optimiser clips them. Ghost clipping cannot do
  that: it bounds each draw, a weaker guarantee for the same name.
- Opacus' hooks and ghost clipping run on plain layouts, the others on channels-last ones: there Opacus 1.6 gives wrong
  gradients of convolutions without a word. That costs it a few percent. `vmap` knows no channels-last batch of batches.
- Memory: peak of a process over the step, less what it held before. Manikin's is bounded by the size of a pass (2**17
  voxels where small patients share one, 2**18 of one patient), whatever the number of patients.
- `few parameters`: FiLM, embedding and output, what the studies train; all others are frozen on every side.
- `patch 1`: the network works at the image's own resolution. `patch 2`, the studies' default, folds 2 × 2 pixels into
  channels: plain training is four times as fast, and what a patient costs by itself weighs more.
- Mixed precision does not exist here. CUDA was not run: there was no GPU.
"""


@dataclass(frozen=True)
class Case:
    """One network, one size of images, one K."""

    name: str
    shape: tuple[int, ...]
    draws: int
    patients: int
    options: dict[str, Any]
    variants: tuple[str, ...] = OTHERS
    repeats: int = 5
    memory: tuple[int, ...] = field(default=())


def options(width: int, *, patch: int = 2, private: tuple[str, ...] = ("all",)) -> dict[str, Any]:
    return {"channels": width, "patch": patch, "private_parameters": list(private)}


def cases(*, quick: bool) -> Iterator[Case]:
    """Small ones first; the quick ones are among the others."""
    few = options(24, private=("film", "embedding", "output"))
    yield Case("unet2d-k8", (28, 28), 8, 16, options(24, patch=1), memory=(16,))
    yield Case("unet2d-patch2-k8", (28, 28), 8, 32, options(24))
    yield Case("unet2d-patch2-k8-few", (28, 28), 8, 32, few)
    yield Case("unet2d-patch2-k1-few", (28, 28), 1, 64, few)
    yield Case("unet3d-32x48x32-k4", (32, 48, 32), 4, 2, options(16), ("opacus_hooks",), 3, (1, 2, 4, 8))
    if quick:
        return
    yield Case("unet2d-k16", (28, 28), 16, 16, options(24, patch=1))
    yield Case("unet2d-patch2-k16", (28, 28), 16, 32, options(24))
    yield Case("unet2d-patch2-k1", (28, 28), 1, 64, options(24))
    yield Case("unet2d-64-k8", (64, 64), 8, 8, options(24), memory=(8,))
    yield Case("unet3d-64-k1", (64, 64, 64), 1, 2, options(16), ("opacus_hooks",), 3, (1, 2, 4))


def run_case(case: Case, *, code: str) -> dict[str, Any]:
    """One JSON line."""
    times = ask({"task": "time", "case": asdict(case)})
    memory = memory_curve(case) if case.memory else {}
    seconds = times["seconds"]
    line = {
        "case": case.name,
        "parameters": times["parameters"],
        "shape": list(case.shape),
        "draws": case.draws,
        "patients": case.patients,
        "milliseconds_a_patient": {name: round(1e3 * s / case.patients, 2) for name, s in seconds.items()},
        "not_run": times["not_run"],
        "ratio_to_nonprivate": round(seconds["nonprivate"] / seconds["manikin"], 3),
        "ratio_to_opacus_hooks": _ratio(seconds, "opacus_hooks"),
        "load": round(os.getloadavg()[0], 1),
        "commit": code,
        "date": results.today(),
    }
    return {**line, **memory, "peak_memory_ratio": memory.get("peak_memory_ratio")}


def memory_curve(case: Case) -> dict[str, Any]:
    """Peak megabytes of a step for growing numbers of patients.

    The ratios are of the last number: to plain training of as many patients, and to a plain step of one alone.
    """
    plain = ask({"task": "memory", "case": asdict(case), "variant": "nonprivate", "patients": 1})["megabytes"]
    curves: dict[str, dict[str, float]] = {}
    for variant in ("manikin", "nonprivate", "opacus_hooks"):
        curves[variant] = {
            str(n): ask({"task": "memory", "case": asdict(case), "variant": variant, "patients": n})["megabytes"]
            for n in case.memory
        }
    last = str(case.memory[-1])
    return {
        "megabytes": curves,
        "megabytes_nonprivate_one_patient": plain,
        "peak_memory_ratio": round(curves["manikin"][last] / curves["nonprivate"][last], 3),
        "peak_memory_ratio_to_one_patient": round(curves["manikin"][last] / plain, 3),
    }


def processes_and_threads(*, quick: bool, code: str) -> dict[str, Any]:
    """Patients a second of a machine's two cores: two processes of one thread, and one process of two threads."""
    case = Case("processes-threads", (28, 28), 8, 16, options(24, patch=1), (), 3 if quick else 7)
    task = {"task": "rate", "case": asdict(case)}
    runs = []
    for _ in range(2 if quick else 4):  # in turns
        threads = ask(task, threads=2)["patients_a_second"]
        pair = [start(task) for _ in range(2)]
        runs.append((sum(finish(p)["patients_a_second"] for p in pair), threads))
    processes, threads = (statistics.median(column) for column in zip(*runs, strict=True))
    return {
        "case": case.name,
        "two_processes": round(processes, 1),
        "two_threads": round(threads, 1),
        "ratio_to_threads": round(processes / threads, 2),
        "ratio_to_nonprivate": None,
        "ratio_to_opacus_hooks": None,
        "peak_memory_ratio": None,
        "load": round(os.getloadavg()[0], 1),
        "commit": code,
        "date": results.today(),
    }


def ask(task: dict[str, Any], *, threads: int = 1) -> dict[str, Any]:
    """The answer of a fresh process."""
    return finish(start(task, threads=threads))


def start(task: dict[str, Any], *, threads: int = 1) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [sys.executable, str(Path(__file__).resolve()), "--task", json.dumps(task)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, _ = process.communicate(timeout=WORKER_TIMEOUT_S)
    if process.returncode:
        raise RuntimeError(f"a measuring process ended with code {process.returncode}")
    answer: dict[str, Any] = json.loads(output.splitlines()[-1])
    return answer


def work(task: dict[str, Any]) -> dict[str, Any]:
    """What a measuring process does."""
    raw = task["case"]
    case = Case(**{**raw, **{name: tuple(raw[name]) for name in ("shape", "variants", "memory")}})
    if task["task"] == "memory":
        return measure_memory(case, task["variant"], task["patients"])
    return measure_time(case) if task["task"] == "time" else measure_rate(case)


def measure_time(case: Case) -> dict[str, Any]:
    """Median processor seconds of a step, the variants taking turns; and why some could not run."""
    import rivals

    steps, not_run = {}, {}
    for name in ("manikin", "nonprivate", *case.variants):
        family = rivals.make_family(case.options, case.shape)
        step = rivals.VARIANTS[name](family, rivals.make_patients(case.patients, case.shape), case.draws)
        try:
            step()
        except Exception as error:  # a rival that cannot run is a finding
            if name in ("manikin", "nonprivate"):
                raise
            not_run[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
        else:
            steps[name] = step
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(case.repeats):
        for name, step in steps.items():
            started = time.process_time()
            step()
            seconds[name].append(time.process_time() - started)
    parameters = sum(p.numel() for p in rivals.make_family(case.options, case.shape).private_parameters())
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {"seconds": medians, "not_run": not_run, "parameters": parameters}


def measure_rate(case: Case) -> dict[str, Any]:
    """Patients a second by the clock on the wall."""
    import rivals

    family, patients = rivals.make_family(case.options, case.shape), rivals.make_patients(case.patients, case.shape)
    step = rivals.manikin(family, patients, case.draws)
    step()
    started = time.perf_counter()
    for _ in range(case.repeats):
        step()
    return {"patients_a_second": case.repeats * case.patients / (time.perf_counter() - started)}


def measure_memory(case: Case, variant: str, patients: int) -> dict[str, Any]:
    """Megabytes that a step added to the process at its peak."""
    import rivals

    warm = rivals.VARIANTS["nonprivate"](
        rivals.make_family({**case.options, "channels": 4}, (8,) * len(case.shape)),
        rivals.make_patients(1, (8,) * len(case.shape)),
        1,
    )
    warm()  # so that what a first step loads is not counted
    family = rivals.make_family(case.options, case.shape)
    step = rivals.VARIANTS[variant](family, rivals.make_patients(patients, case.shape), case.draws)
    before = status_megabytes("VmRSS")
    step()
    return {"megabytes": round(status_megabytes("VmHWM") - before, 1)}


def status_megabytes(name: str) -> float:
    """A size from the kernel's account of this process."""
    text = Path("/proc/self/status").read_text()
    return next(int(row.split()[1]) for row in text.splitlines() if row.startswith(f"{name}:")) / 1024


def _ratio(seconds: dict[str, float], name: str) -> float | None:
    return round(seconds[name] / seconds["manikin"], 2) if name in seconds else None


def table(lines: list[dict[str, Any]]) -> str:
    """Times, memory, and processes beside threads."""
    timed = [line for line in lines if "milliseconds_a_patient" in line]
    rows = [("case", "parameters", "patients, K", "ms a patient", "of non-private", *OTHERS), ("---",) * 10]
    for line in timed:
        times = line["milliseconds_a_patient"]
        others = [f"{times[n] / times['manikin']:.2f}" if n in times else _absent(line, n) for n in OTHERS]
        size = (line["case"], f"{line['parameters']:,}", f"{line['patients']}, {line['draws']}")
        rows.append((*size, f"{times['manikin']:.1f}", f"{line['ratio_to_nonprivate']:.2f}", *others))
    memory = [
        ("case", "plain step of one patient, MB", "variant", "MB by number of patients", "the last to it"),
        ("---",) * 5,
    ]
    for line in (line for line in timed if "megabytes" in line):
        one = line["megabytes_nonprivate_one_patient"]
        for variant, curve in line["megabytes"].items():
            sizes = ", ".join(f"{n}: {mb:.0f}" for n, mb in curve.items())
            last = list(curve.values())[-1]
            memory.append((line["case"], f"{one:.0f}", variant, sizes, f"{last / one:.2f}"))
    parts = ["\n".join("| " + " | ".join(row) + " |" for row in part) for part in (rows, memory)]
    parts += [f"Could not run: {text}" for text in _reasons(timed)]
    parts += [
        f"Two cores, patients a second: {line['two_processes']} in two processes of one thread, {line['two_threads']} "
        f"in one process of two threads ({line['ratio_to_threads']} times)."
        for line in lines
        if "two_processes" in line
    ]
    return "\n\n".join(parts)


def _absent(line: dict[str, Any], name: str) -> str:
    return "cannot" if name in line["not_run"] else "–"


def _reasons(lines: list[dict[str, Any]]) -> list[str]:
    found = {f"{name} ({line['case']}): {text}" for line in lines for name, text in line["not_run"].items()}
    return sorted(found)


def main() -> None:
    """Run the cases, one line each, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="the cases of a few minutes")
    parser.add_argument("--json", action="store_true", help="JSON lines only, and no page")
    parser.add_argument("--only", default="", help="run only cases whose name holds this text; no page")
    parser.add_argument("--out", type=Path, default=PAGE, help="page of the tables")
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        print(json.dumps(work(arguments.task)))
        return
    code, lines = results.commit(), []
    for case in (case for case in cases(quick=arguments.quick) if arguments.only in case.name):
        lines.append(run_case(case, code=code))
        print(json.dumps(lines[-1], sort_keys=True), flush=True)
    if arguments.only in "processes-threads":
        lines.append(processes_and_threads(quick=arguments.quick, code=code))
        print(json.dumps(lines[-1], sort_keys=True), flush=True)
    if arguments.json:
        return
    print(table(lines))
    if not arguments.only:
        loads = [line["load"] for line in lines]
        which = "`make bench-engine QUICK=--quick`" if arguments.quick else "`make bench-engine`"
        head = f"## Speed and memory of the engine\n\nCommit {code}, {results.today()}, {which}, "
        head += f"{os.cpu_count()} cores, load {min(loads)} to {max(loads)} (other programs ran beside it)."
        results.write_section(arguments.out, SECTION, f"{head}\n\n{table(lines)}\n\n{NOTES}")


if __name__ == "__main__":
    main()
