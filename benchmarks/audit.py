"""Is the auditor right? Its acceptance numbers: false alarms, power, coverage, canaries, speed.

    python benchmarks/audit.py            # about half an hour on one core; writes the page
    python benchmarks/audit.py --quick    # fewer repetitions, a few minutes; writes no page
    python benchmarks/audit.py --json     # JSON lines alone
    python benchmarks/audit.py --only 9   # one acceptance number; writes no page

Every case has fixed seeds. What is not built yet is listed as such and never counts as reached. Exits with 1 if a case
that was measured missed its number.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import audit_bounds
import audit_copies
import audit_speed
import results
from audit_case import Case

NOT_BUILT = "not built"
SECTION = "audit"
PAGE = Path(__file__).with_name("RESULTS.md")
CASES: tuple[Case, ...] = tuple(
    sorted((*audit_bounds.CASES, *audit_copies.CASES, *audit_speed.CASES), key=lambda case: case.number)
)
NOTES = """
- Embeddings are made up: 32 independent normal coordinates; near-copies have noise of 0.1 on each. On images the
  detector is weaker than here by what the embedding loses: cases 11, 12, 15 and 22 are for that.
- A copy test's score: distance to the nearest synthetic image over the distance to the fifth nearest other patient.
- Canaries: directions uniform on the sphere, of which only the components along each other are drawn; the update holds
  noise and canaries only, no patients.
- Mutants in the same lines (`uncorrected`, `share_closer_to_train`, `by_image`, `ignoring_noise`, `mismatched`,
  `rate_ignoring_the_threshold`) show what goes wrong without the correction that the case is about.
- Seconds of nearest neighbours: least CPU seconds of one thread; the methods took turns in one process.
"""


def run(case: Case, *, quick: bool) -> dict[str, Any]:
    """One line of the table."""
    line: dict[str, Any] = {"case": f"audit: {case.title}", "must_reach": case.must_reach}
    if case.measure is None:
        return line | {"reached": NOT_BUILT, "ok": False}
    start = time.perf_counter()
    ok, reached = case.measure(quick)
    return line | {"reached": reached, "ok": bool(ok), "seconds": round(time.perf_counter() - start, 1)}


def page(lines: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row a case, then the count."""
    rows = [("case", "must reach", "reached", "ok"), ("---",) * 4]
    for line in lines:
        built = line["reached"] != NOT_BUILT
        verdict = ("yes" if line["ok"] else "**no**") if built else "–"
        rows.append((line["case"].removeprefix("audit: "), line["must_reach"], _words(line["reached"]), verdict))
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    measured = [line for line in lines if line["reached"] != NOT_BUILT]
    reached = sum(line["ok"] for line in measured)
    return f"{table}\n\n{reached} of {len(measured)} measured cases reached; {len(lines) - len(measured)} not built."


def _words(reached: object) -> str:
    if isinstance(reached, dict):
        return "; ".join(f"{_name(key)}: {_words(value)}" for key, value in reached.items())
    return f"{reached:,}" if isinstance(reached, int) and not isinstance(reached, bool) else str(reached)


def _name(key: str) -> str:
    return key.replace("_", " ")


def missed(lines: Sequence[dict[str, Any]]) -> bool:
    """Whether a measured case missed its number."""
    return any(not line["ok"] for line in lines if line["reached"] != NOT_BUILT)


def main() -> int:
    """All cases; the page is written by a whole run only."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions; no page")
    parser.add_argument("--json", action="store_true", help="print JSON lines alone")
    parser.add_argument("--only", type=int, help="one acceptance number; no page")
    parser.add_argument("--out", type=Path, default=PAGE, help="page of the table; results.jsonl is beside it")
    arguments = parser.parse_args()
    code, lines = results.commit(), list[dict[str, Any]]()
    head = {"commit": code, "cores": os.cpu_count(), "quick": arguments.quick, "date": results.today()}
    for case in CASES:
        if arguments.only in (None, case.number):
            lines.append(head | run(case, quick=arguments.quick))
            print(json.dumps(lines[-1], sort_keys=True, ensure_ascii=False), flush=True)
    if not arguments.json:
        print(page(lines))
    if not arguments.quick and arguments.only is None:
        for line in lines:
            results.append(arguments.out.with_name("results.jsonl"), line)
        heading = f"## Is the auditor right?\n\nCommit {code}, {results.today()}, `make bench-audit`"
        results.write_section(
            arguments.out, SECTION, f"{heading}, one core of {os.cpu_count()}.\n\n{page(lines)}\n{NOTES}"
        )
    return int(missed(lines))


if __name__ == "__main__":
    sys.exit(main())
