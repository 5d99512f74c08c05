"""`manikin release`: check what a consortium released, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manikin.cli.console import finish, say

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps `verify` a command of its own while it is the only one."""


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="The folder of the release.")],
    trust: Annotated[Path, typer.Option("--trust", help="Trust file, obtained by another way than the bundle.")],
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")] = False,
) -> None:
    """Check a release's signature and every file of it against a trust file. Uses no network."""
    from manikin.common.release import verify_bundle

    release = verify_bundle(bundle, trust)
    facts = release.facts
    say(f"Verified: {facts.study_name}, signed by {release.signer_name}.")
    say(f"Release sha256:{release.digest}")
    say(
        f"Claims ε = {facts.epsilon:.4g} at δ = {facts.delta:.4g} per {facts.unit}, over {facts.hospitals} hospital(s)."
    )
    result = {
        "verified": True,
        "release": str(bundle),
        "digest": release.digest,
        "signer": release.signer_name,
        "study": facts.study_name,
        "generator": release.spec.family,
        "hospitals": facts.hospitals,
        "unit": facts.unit,
        "epsilon": facts.epsilon,
        "delta": facts.delta,
        "created": facts.created,
    }
    file_format = "png" if release.spec.spatial_dims == 2 else "nifti"
    finish(
        result,
        json_output,
        next_step=f"manikin synthesize {bundle} --trust {trust} --count 100 --format {file_format} --out DIR",
    )
