"""The case of the audit benchmark about speed: exact nearest neighbours beside the bare matrix product and others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from audit_case import Case, Measured

WHOLE, QUICK, DIMENSIONS = (10_000, 100_000), (2_000, 20_000), 512
MEMORY_MAX_MB = 3000


def neighbours(quick: bool) -> tuple[bool, Measured]:
    """20: in a process of its own, for its memory; the methods take turns."""
    queries, base = QUICK if quick else WHOLE
    command = [sys.executable, str(Path(__file__)), str(queries), str(base), "5" if quick else "3"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    reached = json.loads(done.stdout.splitlines()[-1])
    seconds = reached["seconds"]
    others = [seconds["scikit-learn"]] if quick else [seconds["scikit-learn"], seconds["faiss"]]
    held = reached["of_bare_product"] >= 0.8 and reached["peak_mb"] < MEMORY_MAX_MB and reached["wrong"] == 0
    return held and seconds["manikin"] < min(others), reached


def main() -> None:
    """Prints one JSON line: least CPU seconds of each method, one thread, and the peak memory of ours."""
    import faiss
    from sklearn.metrics import pairwise_distances_argmin_min

    from manikin.privacy.audit.neighbours import nearest

    queries, base, repeats = map(int, sys.argv[1:])
    faiss.omp_set_num_threads(1)
    rng = np.random.default_rng(20)
    b = rng.standard_normal((base, DIMENSIONS), dtype=np.float32)
    q = rng.standard_normal((queries, DIMENSIONS), dtype=np.float32)
    q[:100] = b[:100]  # exact copies
    index, distance = nearest(q, b)
    peak = peak_mb()
    product = np.empty((1000, base), np.float32)

    def bare() -> None:
        for start in range(0, queries, 1000):
            np.matmul(q[start : start + 1000], b.T, out=product)

    def sklearn() -> None:
        pairwise_distances_argmin_min(q, b)

    methods: dict[str, Callable[[], object]] = {
        "bare product": bare,
        "manikin": lambda: nearest(q, b),
        "faiss": lambda: faiss.knn(q, b, 1),
        "scikit-learn": sklearn,
    }
    taken: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(repeats):
        for name, method in methods.items():
            start = time.process_time()
            method()
            taken[name].append(time.process_time() - start)
    seconds = {name: round(min(times), 3) for name, times in taken.items()}
    theirs = faiss.knn(q, b, 1)[1][:, 0]
    wrong = int((distance > np.linalg.norm(q.astype(float) - b[theirs], axis=1) * (1 + 1e-12)).sum())
    wrong += int((index[:100] != np.arange(100)).sum() + (distance[:100] != 0).sum())
    print(
        json.dumps(
            {
                "size": f"{queries} × {base} × {DIMENSIONS}",
                "seconds": seconds,
                "of_bare_product": round(seconds["bare product"] / seconds["manikin"], 3),
                "peak_mb": peak,
                "wrong": wrong,
                "repeats": repeats,
            }
        )
    )


def peak_mb() -> float | None:
    """Largest resident size so far; None where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((round(int(line.split()[1]) / 1024, 1) for line in lines if line.startswith("VmHWM")), None)


CASES = (
    Case(
        20,
        "exact nearest neighbours",
        "at least 0.8 of the bare matrix product, under 3 GB, none wrong, faster than scikit-learn and (whole) faiss",
        neighbours,
    ),
    Case(20, "whole battery on 500 + 500 patients and 5,000 images", "under 3 minutes on two cores"),
)

if __name__ == "__main__":
    main()
