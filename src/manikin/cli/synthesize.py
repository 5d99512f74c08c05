"""`manikin synthesize`: draw a data set from a release."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manikin.cli.console import finish, progress_bar, say


def synthesize(
    bundle: Annotated[Path, typer.Argument(help="The folder of the release.")],
    count: Annotated[int, typer.Option("--count", help="Number of images.")],
    file_format: Annotated[str, typer.Option("--format", help="nifti, dicom, png or npz.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the data set: new, or one to go on with.")],
    mix: Annotated[
        list[str] | None, typer.Option("--mix", help="label=share, repeated; shares sum to 1. Default: equal shares.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same files.")] = 0,
    trust: Annotated[Path | None, typer.Option("--trust", help="Trust file, to check the signature against.")] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes; the files do not depend on it.")] = 1,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")] = False,
) -> None:
    """Draw images of patients who do not exist. Run it again to go on after a stop."""
    from manikin.common import export
    from manikin.common.release import load_release

    release = load_release(bundle, trust)
    if release.signer_name is None:
        say("WARNING: the signature was NOT checked, as no --trust FILE was given. Anybody may have made this bundle.")
    else:
        say(f"Release of {release.signer_name}, sha256:{release.digest}")
    with progress_bar("Drawing", count) as advance:
        outcome = export.synthesize(
            release,
            out,
            count=count,
            file_format=file_format,
            mix=export.parse_mix(mix or []),
            seed=seed,
            workers=workers,
            progress=advance,
        )
    counts = dict(zip(release.spec.labels, outcome.request.counts, strict=True))
    if outcome.found:
        say(f"{outcome.found} images were there from an earlier run.")
    say(f"{count} images in {out}: " + ", ".join(f"{number} {label}" for label, number in counts.items()))
    result = {
        "out": str(out),
        "release": release.digest,
        "signer": release.signer_name,
        "count": count,
        "counts": counts,
        "made": outcome.made,
        "found": outcome.found,
        "seed": seed,
        "format": file_format,
        "contact": str(out / "contact.png"),
    }
    finish(
        result, json_output, next_step=f"look at {out / 'contact.png'}; labels are in {_labels_place(out, file_format)}"
    )


def _labels_place(out: Path, file_format: str) -> str:
    return "the shards" if file_format == "npz" else str(out / "labels.csv")
