"""`manikin federate`: a whole study on one machine, over hospital folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manikin.cli.console import finish, progress_bar, say


def federate(
    study: Annotated[Path, typer.Argument(help="The study's TOML file.")],
    hospital: Annotated[list[Path], typer.Option(help="A hospital's folder; repeat for each.")],
    out: Annotated[Path, typer.Option(help="Folder for the run.")],
    workers: Annotated[int | None, typer.Option(help="Worker processes; as many as cores by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was interrupted.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON on the last line.")] = False,
) -> None:
    """Train, audit and release a shared generator over hospitals' folders on this machine."""
    from manikin.common.release import verify_bundle
    from manikin.common.study import load_study
    from manikin.embedded.federation import federate as run

    result = run(load_study(study), hospital, out, workers=workers, resume=resume, phase=progress_bar)
    verify_bundle(result.bundle, result.trust)
    privacy = result.plan.study.privacy
    say(f"Released: {result.bundle} (signature verified)")
    say(f"Guarantee: ε = {result.epsilon:.3f} at δ = {privacy.delta:g} for one {privacy.unit}, add or remove.")
    for step, missing in result.attendance.items():
        say(f"Step {step} was missed by: " + ", ".join(f"{name} ({code})" for name, code in missing.items()))
    say(f"Audit on this machine: {result.verdict}. Each page is its hospital's own and leaves no real hospital:")
    for name, page in result.audits.items():
        say(f"  {name}: {page}")
    finish(
        {**result.to_dict(), "verified": True},
        json_output,
        next_step=f"manikin synthesize {result.bundle} --count 100 --format png --out synthetic",
    )
