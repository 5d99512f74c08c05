"""The demo: three simulated hospitals, one study, and everything it leaves behind in one folder.

The patients are phantoms, so nothing here is secret; every step is the real one, through the same code that real
hospitals run.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from manikin.client.cohort import Cohort, create_hospital, import_source
from manikin.common import phantoms
from manikin.common.evaluation import evaluate_release
from manikin.common.export import synthesize
from manikin.common.files import write_atomically
from manikin.common.images import Patient
from manikin.common.release import load_release, verify_bundle
from manikin.common.study import Study, load_study
from manikin.embedded.demo_page import write_page
from manikin.embedded.federation import FederationResult, federate
from manikin.embedded.loopback import federate_over_loopback
from manikin.server.asking import Phase, silent

HOSPITALS = ("north", "south", "coast")
PATIENTS = 2000
KIND = "chest-xr"
RARE = "effusion"
SYNTHETIC = 1000
SEED = 2026  # of the simulated hospitals; the privacy noise comes from each hospital's own secret


@dataclass(frozen=True)
class DemoResult:
    """What the demo leaves behind; `page` is where to look first."""

    page: Path
    federation: FederationResult
    summary: dict[str, Any]


def demo_study() -> Study:
    """The demo's study file, as it ships with the package."""
    with resources.as_file(resources.files("manikin.embedded") / "demo.toml") as file:
        return load_study(file)


def run_demo(
    out: Path,
    *,
    study: Study | None = None,
    patients: int = PATIENTS,
    count: int = SYNTHETIC,
    networked: bool = False,
    phase: Phase = silent,
) -> DemoResult:
    """Simulate hospitals, federate, verify, synthesise with the rare finding raised to half, evaluate, report.

    Args:
        out: folder for everything; must be new or empty.
        study: the study; the shipped one if None.
        patients: simulated patients a hospital.
        count: synthetic images to draw from the release.
        networked: with every process apart, over TLS on loopback, and vaults that have no network.
    """
    started = time.monotonic()
    study = study or demo_study()
    folders = [
        make_hospital(out / "hospitals" / name, name, study, patients=patients, seed=SEED + i, phase=phase)
        for i, name in enumerate(HOSPITALS)
    ]
    run = federate_over_loopback if networked else federate
    federation = run(study, folders, out / "run", phase=phase)
    verify_bundle(federation.bundle, federation.trust)
    synthetic = _synthesize(federation, study, out / "synthetic", count=count, phase=phase)
    scores = _evaluate(federation, study, folders, phase=phase)
    summary = _summary(federation, scores, folders)
    summary["seconds"]["total"] = round(time.monotonic() - started, 1)
    page = write_page(out, federation=federation, synthetic=synthetic, scores=scores, summary=summary, real=folders)
    write_atomically(out / "summary.json", json.dumps(summary, indent=1, sort_keys=True).encode())
    return DemoResult(page, federation, summary)


def make_hospital(folder: Path, name: str, study: Study, *, patients: int, seed: int, phase: Phase) -> Path:
    """A hospital whose patients are simulated: scans written as npz, then imported like anybody's."""
    people = phantoms.population(name, KIND)
    with phase(f"Simulating the patients of {name}", patients) as advance:
        scans = phantoms.simulate(people, shape=study.data.shape, count=patients, seed=seed, progress=advance)
    source = folder.parent.parent / "scans" / f"{name}.npz"
    source.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        source,
        images=np.round((scans.images[:, 0] + 1) * 127.5).astype(np.uint8),
        axes="NHW",
        labels=scans.labels,
        class_names=np.array(scans.class_names),
        patients=np.array([f"{name}-{i}" for i in range(patients)]),
    )
    create_hospital(folder, name)
    with phase(f"Importing the scans of {name}", patients) as advance:
        import_source(source, folder, progress=advance)
    return folder


def _synthesize(federation: FederationResult, study: Study, out: Path, *, count: int, phase: Phase) -> Path:
    others = [label for label in study.data.labels if label != RARE]
    mix = {RARE: 0.5} | {label: 0.5 / len(others) for label in others}
    release = load_release(federation.bundle, federation.trust)
    with phase("Drawing synthetic patients from the release", count) as advance:
        synthesize(release, out, count=count, file_format="png", mix=mix, workers=os.cpu_count() or 1, progress=advance)
    return out


def _evaluate(federation: FederationResult, study: Study, folders: list[Path], *, phase: Phase) -> dict[str, Any]:
    """Train on synthetic, test on real, over all hospitals: local only, a real federation cannot pool patients."""
    release = load_release(federation.bundle, federation.trust)
    train: list[Patient] = []
    holdout: list[Patient] = []
    for folder in folders:
        patients = Cohort.open(folder).load(study.data)
        train += patients["train"]
        holdout += patients["holdout"]
    with phase("Training classifiers on synthetic and on real images", None) as advance:
        return evaluate_release(release, train=train, holdout=holdout, seeds=1, progress=advance)


def _summary(federation: FederationResult, scores: dict[str, Any], folders: list[Path]) -> dict[str, Any]:
    summary = {**federation.to_dict(), "verified": True}
    counts = [Cohort.open(folder).counts() for folder in folders]
    summary["local_only"] |= {
        "patients": sum(c["patients"] for c in counts),
        "images": sum(c["images"] for c in counts),
        "trained_on_synthetic_auc": scores["trained_on_synthetic"]["auc"],
        "trained_on_real_auc": scores["trained_on_real"]["auc"],
        "evaluation": scores,
    }
    return summary
