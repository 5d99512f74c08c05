"""`manikin demo`: the whole loop on simulated patients, in one folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manikin.cli.console import finish, progress_bar, say


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo makes; new or empty.")] = Path("demo"),
    networked: Annotated[
        bool,
        typer.Option("--networked", help="Every process apart, over TLS on loopback; vaults without a network."),
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON on the last line.")] = False,
) -> None:
    """Three simulated hospitals train, audit and release a generator; draw patients who do not exist from it."""
    from manikin.common.errors import Misconfigured
    from manikin.embedded.demo import run_demo

    if out.exists() and any(out.iterdir()):
        raise Misconfigured(
            f"The folder {out} is not empty.", "The demo starts from nothing.", "Remove it, or give another --out."
        )
    say("Three hospitals of 2,000 simulated patients each will train a shared generator without sharing a scan.")
    result = run_demo(out, networked=networked, phase=progress_bar)
    summary, local = result.summary, result.summary["local_only"]
    say()
    say(f"Guarantee: ε = {summary['epsilon']:.3f} at δ = {summary['delta']:g} for one patient, add or remove.")
    say(f"Audit on this machine: {summary['audit']['verdict']}.")
    say(
        f"A classifier trained on synthetic images reaches AUC {local['trained_on_synthetic_auc']:.3f} on real "
        f"ones; trained on real images, {local['trained_on_real_auc']:.3f}."
    )
    say(f"Signed release: {summary['release']} (verified against {summary['trust']})")
    say(f"Synthetic patients: {out / 'synthetic'}")
    finish(summary, json_output, next_step=f"open {result.page} in a browser.")
