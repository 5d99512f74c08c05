"""The coordinator's audit report on a generator: from what left the hospitals, and nothing else."""

from __future__ import annotations

import json

from manikin.common.decisions import AuditReport, AuditTest
from manikin.common.documents import Subject
from manikin.common.plan import Plan

REPORT_FILE = "audit/report.json"

AT_HOME = AuditTest(
    name="audits at the hospitals",
    verdict="inconclusive",
    finding="Each hospital audited this generator; the verdicts were computed from patients and stay in the hospitals.",
    ceiling="Nothing: no evidence has left a hospital, so that no leak could have been seen here.",
)


def audit_report(plan: Plan, generator: str) -> tuple[AuditReport, dict[str, bytes]]:
    """The report on one generator, and the report's files by their names in the release.

    In this version no evidence leaves a hospital, so that the report is inconclusive and says why.

    Args:
        plan: the plan.
        generator: SHA-256 of the generator's file in the release, hex.
    """
    verdict, tests = AT_HOME.verdict, (AT_HOME,)
    readable = {"verdict": verdict, "tests": [test.model_dump() for test in tests]}
    files = {REPORT_FILE: json.dumps(readable, indent=1, sort_keys=True).encode() + b"\n"}
    digests = {name: Subject.of(name, content).sha256 for name, content in files.items()}
    return AuditReport(plan=plan.digest, generator=generator, verdict=verdict, tests=tests, files=digests), files
