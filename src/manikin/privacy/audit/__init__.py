"""Audits of a generator against the patients it was trained on: a package that is usable alone.

`run_audit` computes, `write_report` writes the page. The first battery holds membership inference and
re-identification; see `audit.NOT_TESTED` for what it leaves open.
"""

from __future__ import annotations

from manikin.privacy.audit.audit import AuditResult, Pair, run_audit, work_units
from manikin.privacy.audit.finding import Finding, Verdict, combine
from manikin.privacy.audit.report import ReportContext, write_report
from manikin.privacy.audit.settings import AuditSettings

__all__ = [
    "AuditResult",
    "AuditSettings",
    "Finding",
    "Pair",
    "ReportContext",
    "Verdict",
    "combine",
    "run_audit",
    "work_units",
    "write_report",
]
