"""A whole federation on one machine: plan, rounds, audits, release, with vaults in worker processes.

It may show what a real federation never sends (`local_only`), since all hospitals' folders are at hand, and it
says so. The coordinator's code sees nothing of that.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict

from manikin.client.cohort import Hospital
from manikin.common.errors import AuditFailed, ManikinError, Misconfigured, TransportFailure
from manikin.common.files import write_atomically
from manikin.common.plan import Party, Plan
from manikin.common.study import Study
from manikin.embedded.grid import EmbeddedGrid, mapping
from manikin.privacy.audit import Verdict, combine
from manikin.server import app as server_app
from manikin.server.asking import Phase, silent
from manikin.server.networked import ask_audits
from manikin.server.planning import propose
from manikin.server.releasing import AUDIT_STATEMENT, coordinator_key, release
from manikin.server.rounds import Rounds

EMBEDDED_STATEMENT = AUDIT_STATEMENT + (
    " This release was made by an embedded run, which would have stopped had one of them failed: "
    "that one yes-or-no is not covered by ε."
)


@dataclass
class FederationResult:
    """What a run leaves behind.

    Args:
        bundle: the signed release.
        trust: the trust file with the coordinator's public key.
        epsilon: the larger of two accountants.
        audits: each hospital's own audit page; local only.
        verdict: the worst verdict of all hospitals; local only.
        attendance: for each step, the hospitals that missed it and why.
        seconds: seconds by kind of work.
    """

    plan: Plan
    bundle: Path
    trust: Path
    epsilon: float
    hospitals: tuple[str, ...]
    verdict: str
    audits: dict[str, Path]
    attendance: dict[str, dict[str, str]]
    seconds: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The result as `--json` prints it."""
        study = self.plan.study
        return {
            "release": str(self.bundle),
            "trust": str(self.trust),
            "hospitals": len(self.hospitals),
            "unit": study.privacy.unit,
            "epsilon": self.epsilon,
            "delta": study.privacy.delta,
            "mode": study.federation.mode,
            "generator": study.generator.family,
            "attendance": self.attendance,
            "seconds": self.seconds,
            "audit": {"verdict": self.verdict, "report": str(next(iter(self.audits.values())).parent.parent)},
            "local_only": {"audits": {name: str(page) for name, page in self.audits.items()}},
        }


def federate(
    study: Study,
    hospitals: Sequence[Path],
    out: Path,
    *,
    workers: int | None = None,
    resume: bool = False,
    phase: Phase = silent,
) -> FederationResult:
    """Run a study over hospital folders, and release its generator.

    Args:
        study: the study.
        hospitals: folders made by `manikin hospital init` and filled by `import`.
        out: the run's folder; new, or with `resume` one that was started with the same study.
        workers: worker processes; as many as cores if None.

    Raises:
        Misconfigured: the folders or the study do not fit.
        TransportFailure: the quorum was missed; names the hospitals and their own reasons.
        AuditFailed: a hospital's audit failed; nothing was signed.
    """
    started = time.monotonic()
    names = hospital_names(hospitals)
    if len(names) < study.federation.quorum:
        raise Misconfigured(
            f"The study's quorum is {study.federation.quorum}, and {len(names)} hospitals were given.",
            "",
            "Give more --hospital folders, or propose another study.",
        )
    _check_folder(out, resume=resume)
    key = coordinator_key(out)
    plan = propose(study).agreed(Party("coordinator", key.public_key.hex()), _parties(names, hospitals))
    _keep_plan(out, plan)
    finished: dict[str, Any] = {}

    def finish(rounds: Rounds) -> None:
        asked = time.monotonic()
        ask_audits(rounds, plan)
        finished.update(rounds=rounds, seconds=time.monotonic() - asked)

    with EmbeddedGrid([p.resolve() for p in hospitals], workers=workers or os.cpu_count() or 1) as grid:
        config: dict[str, bool | float | int | str] = {"hospitals": json.dumps(mapping(names))}
        context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config)
        try:
            server_app.build(plan, out, key, phase=phase, finish=finish)(grid, context)
        except TransportFailure as failure:
            raise _explained(failure, dict(zip(names, hospitals, strict=True))) from None
    return _conclude(plan, out, names, hospitals, finished, started)


def hospital_names(hospitals: Sequence[Path]) -> tuple[str, ...]:
    """Names from the hospitals' own files.

    Raises:
        Misconfigured: a folder is no hospital, or two share a name.
    """
    names = []
    for folder in hospitals:
        try:
            names.append(str(tomllib.loads((folder / "hospital.toml").read_text())["name"]))
        except (OSError, KeyError, tomllib.TOMLDecodeError):
            raise Misconfigured(
                f"{folder} is not a hospital's folder.",
                "It has no readable hospital.toml.",
                "Make one with: manikin hospital init DIR --name NAME",
            ) from None
    if len(set(names)) != len(names):
        raise Misconfigured("Two hospitals have the same name.", "", "Give each hospital a name of its own.")
    return tuple(names)


def _parties(names: Sequence[str], hospitals: Sequence[Path]) -> list[Party]:
    """Every hospital with its key, which is at hand on one machine."""
    keys = [Hospital.open(folder).signing_key for folder in hospitals]
    return [Party(name, key.public_key.hex()) for name, key in zip(names, keys, strict=True)]


def _check_folder(out: Path, *, resume: bool) -> None:
    if not resume and out.exists() and any(out.iterdir()):
        raise Misconfigured(
            f"The folder {out} is not empty.",
            "A run never overwrites another.",
            "Choose another --out folder, or add --resume to go on with the run in it.",
        )


def _keep_plan(out: Path, plan: Plan) -> None:
    file = out / "plan.json"
    if file.exists() and file.read_bytes() != plan.canonical:
        raise Misconfigured(
            "The run was started with another plan.",
            "A plan is never edited.",
            "Resume with the study that it was started with, or choose another --out folder.",
        )
    write_atomically(file, plan.canonical)


def _explained(failure: TransportFailure, folders: dict[str, Path]) -> ManikinError:
    """Add the hospitals' own words, which are at hand on one machine."""
    words = []
    for name, folder in folders.items():
        file = folder / "last-refusal.json"
        if name in failure.why and file.exists():
            said = json.loads(file.read_bytes())
            words.append(f"{name} says: {said['what']} {said['why']}".strip())
    return TransportFailure(failure.what, " ".join([failure.why, *words]), failure.next_step)


def _conclude(
    plan: Plan,
    out: Path,
    names: Sequence[str],
    hospitals: Sequence[Path],
    finished: dict[str, Any],
    started: float,
) -> FederationResult:
    rounds: Rounds = finished["rounds"]
    audits, verdicts = collect_audits(plan, out, dict(zip(names, hospitals, strict=True)))
    verdict = combine(verdicts)
    if len(verdicts) < plan.study.federation.quorum:
        raise AuditFailed(
            "An audit came to no verdict, so nothing was signed.",
            f"{len(verdicts)} hospitals have a page of it, and the quorum is {plan.study.federation.quorum}.",
            "Read last-refusal.json in the hospitals' folders, then run the same command with --resume.",
        )
    if verdict == "fail":
        raise AuditFailed(
            "An audit failed, so nothing was signed.",
            "A hospital found evidence that its patients can be recognised.",
            f"Read {next(iter(audits.values())).parent.parent}, then propose a study with less ε or another generator.",
        )
    bundle, trust, spent = release(
        out,
        plan=plan,
        generator=rounds.generator,
        hospitals=len(names),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        audit_statement=EMBEDDED_STATEMENT,
        key=coordinator_key(out),
    )
    seconds = {f"stage {kind}": round(value, 2) for kind, value in rounds.checkpoint.seconds.items()}
    seconds |= {
        "train": round(sum(rounds.checkpoint.seconds.values()), 2),
        "audit": round(finished["seconds"], 2),
        "total": round(time.monotonic() - started, 2),
    }
    attendance = rounds.checkpoint.attendance
    return FederationResult(plan, bundle, trust, spent.value, tuple(names), verdict, audits, attendance, seconds)


def collect_audits(plan: Plan, out: Path, folders: dict[str, Path]) -> tuple[dict[str, Path], list[Verdict]]:
    """Copy each hospital's own page beside the run, in a folder whose name says what it is."""
    pages: dict[str, Path] = {}
    verdicts: list[Verdict] = []
    for name, folder in folders.items():
        source = folder / "reports" / plan.digest[:12]
        if not (source / "audit.json").exists():
            continue
        target = out / "local_only" / "audits" / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        pages[name] = target / "audit.html"
        verdicts.append(json.loads((source / "audit.json").read_bytes())["verdict"])
    return pages, verdicts
