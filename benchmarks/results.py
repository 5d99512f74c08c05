"""What a benchmark leaves: one JSON line a case, a table, and a section of RESULTS.md."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from manikin.common.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
WATCHED = ("src", "benchmarks", "pyproject.toml", ":!benchmarks/RESULTS.md", ":!benchmarks/results.jsonl")
COLUMNS = (
    "data",
    "learned by",
    "ε",
    "unit",
    "AUC",
    "balanced accuracy",
    "Fréchet",
    "kernel",
    "recall of rare",
    "runs",
    "audits",
    "s a run",
)
Line = dict[str, Any]


def commit() -> str:
    """The short hash of the code that runs, with a `+` if it was changed since."""
    head = _git("rev-parse", "--short=10", "HEAD") or "unknown"
    return head + ("+" if _git("status", "--porcelain", "--", *WATCHED) else "")


def today() -> str:
    return datetime.now(UTC).date().isoformat()


def read(path: Path) -> list[Line]:
    """The lines written so far; a last line that a crash cut short is left out."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


def append(path: Path, line: Line) -> None:
    """Add one line and see it on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cut_short = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    with path.open("a") as file:
        file.write(("\n" if cut_short else "") + json.dumps(line, sort_keys=True, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def answers(lines: Iterable[Line], *, series: str) -> dict[str, Line]:
    """The first line of each case in one series: a run that an audit stopped stays stopped, however often one asks.

    Args:
        lines: of a journal.
        series: a commit, or the name of a round that goes over several.
    """
    found: dict[str, Line] = {}
    for line in lines:
        if line.get("round", line["commit"]) == series:
            found.setdefault(line["case"], line)
    return found


def table(lines: Sequence[Line]) -> str:
    """A Markdown table: one row for the runs of one data set, family and ε, as mean ± standard deviation."""
    groups: dict[tuple[Any, ...], list[Line]] = {}
    for line in lines:
        groups.setdefault((line["dataset"], line["family"], line["epsilon"], line["unit"]), []).append(line)
    rows = [COLUMNS, ("---",) * len(COLUMNS)]
    for (dataset, family, epsilon, unit), runs in groups.items():
        keys = ("auc", "balanced_accuracy", "frechet", "kernel", "recall_of_rare")
        scores = [_mean(run.get(key) for run in runs) for key in keys]
        seconds = f"{np.mean([run['seconds'] for run in runs]):.0f}"
        limit = "∞" if epsilon is None else f"{epsilon:g}"
        rows.append((dataset, family, limit, unit, *scores, str(len(runs)), _verdicts(runs), seconds))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _verdicts(runs: Sequence[Line]) -> str:
    """How many audits ended how; a release that failed was not made, and has no scores."""
    counts = Counter(run["audit"] for run in runs if "audit" in run)
    return ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())) or "–"


def write_section(path: Path, name: str, text: str) -> None:
    """Replace the part of a file between this name's markers; append it where there is none."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    old = path.read_text() if path.exists() else "# Results\n"
    section = f"{begin}\n{text.strip()}\n{end}"
    if begin in old and end in old:
        head, rest = old.split(begin, 1)
        new = head + section + rest.split(end, 1)[1]
    else:
        new = f"{old.rstrip()}\n\n{section}\n"
    write_atomically(path, new.encode())


def _mean(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    spread = f" ± {np.std(known, ddof=1):.3f}" if len(known) > 1 else ""
    return f"{np.mean(known):.3f}{spread}"


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
