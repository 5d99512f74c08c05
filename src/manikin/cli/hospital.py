"""`manikin hospital`: make a hospital folder, import scans into it, and see what it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manikin.cli.accounts import egress, ledger
from manikin.cli.agreements import approve, enroll, refuse, review, sync
from manikin.cli.console import finish, progress_bar, say
from manikin.cli.running import check, gateway, start
from manikin.cli.vault import vault
from manikin.cli.watching import hospital_metrics

app = typer.Typer(no_args_is_help=True, add_completion=False)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on the last line.")]


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    name: Annotated[str, typer.Option("--name", help="What reports and other parties call the hospital.")],
    json_output: Json = False,
) -> None:
    """Make a hospital folder: its name, its secret key and an empty cohort."""
    from manikin.client.cohort import create_hospital

    hospital = create_hospital(folder, name)
    say(f"{hospital.name} is ready. Back up secret.key: without it the cohort's patients cannot be recognised again.")
    finish(
        {"hospital": hospital.name, "folder": str(folder)},
        json_output,
        next_step=f"manikin hospital import SCANS --hospital {folder}",
    )


@app.command("import")
def import_scans(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="DICOM, NIfTI, BIDS or image folder, or an .npz.")],
    hospital: Annotated[Path, typer.Option("--hospital", help="The hospital's folder.")],
    labels: Annotated[Path | None, typer.Option("--labels", help="CSV with file,patient,label[,site].")] = None,
    json_output: Json = False,
) -> None:
    """Import scans into the hospital's cohort; nothing leaves the folder."""
    from manikin.client.cohort import Hospital, open_source, take_in

    home = Hospital.open(hospital)
    opened = open_source(source, labels)
    say(f"{source.name} is taken for: {opened.kind}")
    with progress_bar("Importing", opened.total) as advance:
        report = take_in(opened, home, progress=advance)
    for line in report.lines():
        say(line)
    say(f"The whole report, with file names: {home.report}")
    step = "look at the refused files in the report" if report.refused else "wait for the study's plan, then take part"
    finish(report.summary(), json_output, next_step=step)


@app.command()
def show(
    hospital: Annotated[Path, typer.Argument(metavar="DIR", help="The hospital's folder.")],
    json_output: Json = False,
) -> None:
    """Print exact counts of the cohort. For the hospital's own eyes: they are not noised."""
    from manikin.client.cohort import Cohort

    cohort = Cohort.open(hospital)
    counts = cohort.counts()
    say(f"{cohort.name}: {counts['patients']} patients, {counts['images']} images, unit {cohort.unit}")
    for label, n in counts["labels"].items():
        say(f"  {label}: {n['patients']} patients, {n['images']} images")
    finish({"hospital": cohort.name, **counts}, json_output)


app.command()(check)
app.command()(start)
app.command()(gateway)
app.command()(vault)
app.command()(ledger)
app.command()(egress)
app.command("metrics")(hospital_metrics)
app.command()(enroll)
app.command()(review)
app.command()(approve)
app.command()(refuse)
app.command()(sync)
