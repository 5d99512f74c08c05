"""`manikin evaluate`: a release beside a hospital's own patients. Its numbers stay in the hospital."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from manikin.cli.console import finish, progress_bar, say

USEFULNESS = {"auc": "classifier trained on it: AUC", "balanced_accuracy": "  balanced accuracy"}
LIKENESS = {
    "frechet": "Fréchet distance, 0 is best",
    "kernel": "kernel distance, 0 is best",
    "precision": "precision: how many look real",
    "density": "density: how deep among real ones",
    "recall": "recall: how much of the real is near",
    "coverage": "coverage: real places that are filled",
}


def evaluate(
    bundle: Annotated[Path, typer.Argument(help="The folder of the release.")],
    hospital: Annotated[
        Path, typer.Option("--hospital", help="The folder of the hospital whose patients are the test.")
    ],
    count: Annotated[
        int | None,
        typer.Option("--count", min=20, help="Synthetic images; by default as many as real training images."),
    ] = None,
    trust: Annotated[Path | None, typer.Option("--trust", help="Trust file, to check the signature against.")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Classifiers to train on each side.")] = 3,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")] = False,
) -> None:
    """Say how real a release's images look and what they are worth, against the hospital's held-out patients."""
    from manikin.common.evaluation import compare, default_count, draw_balanced
    from manikin.common.files import write_atomically
    from manikin.common.release import load_release

    release = load_release(bundle, trust)
    if release.signer_name is None:
        say("WARNING: the signature was NOT checked, as no --trust FILE was given.")
    parts = _load_patients(release.facts.plan, hospital)
    count = count or default_count(parts["train"])
    with progress_bar("Drawing synthetic images", count) as advance:
        synthetic = draw_balanced(release, count, progress=advance)
    with progress_bar("Comparing with patients", 2 * seeds + 1) as advance:
        result = compare(
            synthetic,
            train=parts["train"],
            holdout=parts["holdout"],
            classes=len(release.spec.labels),
            seeds=seeds,
            progress=advance,
        )
    _print_table(result)
    say("These numbers are computed from patients and are not noised: they stay in the hospital.")
    report = hospital / "evaluations" / release.digest[:12] / "evaluate.json"
    summary = {
        "release": str(bundle),
        "digest": release.digest,
        "signer": release.signer_name,
        "generator": release.spec.family,
        "epsilon": release.facts.epsilon,
        "unit": release.facts.unit,
        "seeds": seeds,
        "report": str(report),
        "local_only": result,
    }
    write_atomically(
        report, json.dumps(summary, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n", mode=0o600
    )
    finish(summary, json_output, next_step=f"keep {report} in the hospital; real images set what can be reached")


def _load_patients(plan: Any, hospital: Path) -> dict[str, list[Any]]:
    """The hospital's patients as the release's own study wants them; a small hospital may ask, too."""
    from manikin.client.cohort import Cohort
    from manikin.common.study import parse_study

    data = parse_study(dict(plan["study"])).data.model_copy(update={"patients_min": 1})
    cohort = Cohort.open(hospital)
    with progress_bar("Reading the cohort", cohort.counts()["images"]) as advance:
        return cohort.load(data, progress=advance)


def _print_table(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    counts, likeness = result["counts"], result["likeness"]
    table = Table(title=f"Against {counts['holdout_images']} held-out images of {counts['holdout_patients']} patients")
    for column in ("", "synthetic", "real"):
        table.add_column(column, justify="right" if column else "left")
    for name, text in USEFULNESS.items():
        table.add_row(text, *(_number(result[side], name) for side in ("trained_on_synthetic", "trained_on_real")))
    for name, text in LIKENESS.items():
        table.add_row(text, *(_number(likeness[side], name) for side in ("synthetic", "real")))
    Console().print(table)
    say(f"Distances compare {likeness['n']} images a side with as many of others; small sets make them larger.")
    if result["trained_on_real"]["auc"] is None:
        say("The held-out images are of one class, so no classifier was trained.")


def _number(side: dict[str, float | None], name: str) -> str:
    value, spread = side[name], side[f"{name}_spread"]
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" ± {spread:.3f}" if spread is not None else "")
