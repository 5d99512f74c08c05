"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real scans, which are not part of the repository; tests that need them skip where they are absent."""
    folder = Path(os.environ.get("MANIKIN_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set MANIKIN_DATA")
    return folder


@pytest.fixture
def study_dict() -> dict[str, Any]:
    """A small study with every kind of stage, as its TOML file would give it."""
    return small_study()


def small_study() -> dict[str, Any]:
    """See `study_dict`."""
    return {
        "schema": 1,
        "name": "small",
        "data": {
            "modality": "CR",
            "spatial_dims": 2,
            "shape": [8, 8],
            "window": [0, 255],
            "labels": ["normal", "ill"],
            "patients_min": 10,
            "split": {"train": 0.8, "holdout": 0.1, "calibration": 0.1},
        },
        "privacy": {"epsilon": 8.0, "delta": 1e-5, "unit": "patient", "multiplicity": 1},
        "federation": {"mode": "local", "quorum": 2, "round_deadline_s": 120, "weights": "equal"},
        "generator": {
            "family": "diffusion",
            "channels": 8,
            "adapt_steps": 3,
            "sampler_steps": 2,
            "private_parameters": ["film", "embedding", "output"],
        },
        "stage": [
            {"kind": "pretrain", "source": "phantoms", "count": 32, "steps": 2},
            {"kind": "release", "family": "moments", "epsilon_share": 0.5, "coefficients": 8, "prior": "phantoms"},
            {
                "kind": "train",
                "epsilon_share": 0.4,
                "sample_rate": 0.2,
                "batch_size": 10,
                "draws": 2,
                "steps": 5,
                "rounds": 2,
                "clip": 1.0,
                "learning_rate": 1e-3,
            },
        ],
        "audit": {"epsilon_share": 0.1, "fpr": 0.05, "alpha": 0.05, "synthetic": 20, "tpr_limit": 0.2},
    }


STUDY = """
schema = 1
name = "small"
[data]
modality = "CR"
spatial_dims = 2
shape = [8, 8]
window = [0, 255]
labels = ["normal", "ill"]
patients_min = {patients_min}
split = {{train = 0.8, holdout = 0.1, calibration = 0.1}}
[privacy]
epsilon = 3.0
delta = 1e-5
unit = "patient"
multiplicity = 1
[federation]
mode = "local"
quorum = 2
round_deadline_s = 120
weights = "equal"
[generator]
family = "moments"
coefficients = 8
[[stage]]
kind = "release"
family = "moments"
epsilon_share = 1.0
[audit]
epsilon_share = 0.0
fpr = 0.05
alpha = 0.05
synthetic = 20
tpr_limit = 0.2
"""


@pytest.fixture(scope="session")
def release_study() -> Callable[..., str]:
    """A study of one release as its TOML file: `release_study(patients_min=10)`."""

    def write(*, patients_min: int) -> str:
        return STUDY.format(patients_min=patients_min)

    return write


@pytest.fixture
def make_hospital(tmp_path: Path) -> Any:
    """Make a hospital folder with small random patients of two classes, through the real import."""
    import numpy as np

    from manikin.client.cohort import create_hospital, import_source

    def make(name: str, *, patients: int = 60, seed: int = 0, with_ids: bool = True) -> Path:
        rng = np.random.default_rng(seed)
        labels = np.arange(patients) % 2
        images = rng.integers(0, 120, (patients, 8, 8)) + labels[:, None, None] * 100
        arrays = {"images": images.astype(np.uint8), "axes": "NHW", "labels": labels, "class_names": ["normal", "ill"]}
        if with_ids:
            arrays["patients"] = np.array([f"{name}-{i}" for i in range(patients)])
        source = tmp_path / f"{name}.npz"
        np.savez(source, **arrays)
        create_hospital(tmp_path / name, name)
        import_source(source, tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the cache of pre-trained networks inside the test's folder."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("MANIKIN_CACHE", str(folder))
    return folder


class Consortium:
    """A coordinator, its hospitals and three officers, with a plan and what they sign; all keys are at hand."""

    def __init__(self, study: dict[str, Any], hospitals: tuple[str, ...] = ("north", "south")) -> None:
        from manikin.common.keys import SigningKey

        self.study, self.hospitals = study, hospitals
        self.officers = {"Ada": "North Clinic", "Bo": "South Clinic", "Cy": "South Clinic"}
        self.keys = {name: SigningKey.generate() for name in ("coordinator", *hospitals, *self.officers)}

    def plan(self, *, needed: int = 2, noise: float = 5.0) -> Any:
        """A plan with one charged step a stage, from number 1, and these officers; none if none are needed."""
        from manikin.common.officers import Officer
        from manikin.common.plan import Party, Plan
        from manikin.common.study import parse_study

        held = {name: key.public_key.hex() for name, key in self.keys.items()}
        officers = [Officer(name, held[name], institution) for name, institution in self.officers.items()]
        return Plan(parse_study(self.study), (noise,) * len(self.study["stage"])).agreed(
            Party("Study", held["coordinator"]),
            [Party(name, held[name]) for name in self.hospitals],
            officers=officers if needed else (),
            officers_needed=needed,
        )

    def head(self, plan: Any, name: str, /, *, signer: str = "", **changes: Any) -> str:
        """A hospital's ledger head of the plan's charged step, as its vault signs it."""
        from manikin.privacy.chain import LedgerHead, sign_head

        facts = {
            "hospital": name,
            "sequence": 2,
            "hash": "ab" * 32,
            "plan": plan.digest,
            "step": 1,
            "request": "cd" * 32,
        }
        return sign_head(LedgerHead(**(facts | changes)), self.keys[signer or name])

    def heads(self, plan: Any) -> dict[str, str]:
        """Those of all hospitals."""
        return {name: self.head(plan, name) for name in self.hospitals}

    def facts(self, plan: Any, **changes: Any) -> Any:
        """What is claimed of the plan's generator."""
        from manikin.common.release import ReleaseFacts

        claims = {
            "plan": plan.to_dict(),
            "plan_digest": plan.digest,
            "hospitals": len(self.hospitals),
            "epsilon": 2.5,
            "delta": 1e-5,
            "unit": "patient",
            "multiplicity": 1,
            "mode": "local",
            "accountants": {"pld": 2.5},
            "mechanisms": [],
            "data": plan.study.data.model_dump(mode="json"),
            "audit_statement": "See audit/report.json.",
            "code_version": plan.code_version,
            "created": "2026-01-02T03:04:05+00:00",
        }
        return ReleaseFacts(**(claims | changes))

    def report(self, plan: Any, state: bytes, verdict: str = "pass", /, **changes: Any) -> dict[str, bytes]:
        """A signed audit report on a generator's file, and its one file."""
        import hashlib

        from manikin.common import agreements
        from manikin.common.decisions import AuditReport, AuditTest

        page = verdict.encode()
        content = {
            "plan": plan.digest,
            "generator": hashlib.sha256(state).hexdigest(),
            "verdict": verdict,
            "tests": (AuditTest(name="copies", verdict=verdict, finding="none of 100", ceiling="3 of 100"),),
            "files": {"audit/report.json": hashlib.sha256(page).hexdigest()},
        }
        signer = self.keys[changes.pop("signer", "coordinator")]
        signed = agreements.write(AuditReport(**(content | changes)), signer)
        return {"audit.dsse.json": signed, "audit/report.json": page}

    def candidate(
        self,
        folder: Path,
        *,
        plan: Any = None,
        verdict: str = "pass",
        replaced: dict[str, bytes | None] | None = None,
        seed: int = 0,
        **claims: Any,
    ) -> Path:
        """A candidate in a new folder; `replaced` evidence files take the place of the right ones, or of none."""
        import torch

        from manikin.common import generators
        from manikin.common.release.bundle import state_file, write_candidate
        from manikin.common.release.evidence import heads_file

        plan = plan or self.plan()
        generator = generators.create(plan.generator_spec())
        state = generator.state()
        state["mean"] = torch.full_like(state["mean"], seed / 100)
        generator.load_state(state)
        extra = self.report(plan, state_file(generator), verdict)
        extra["ledger-heads.json"] = heads_file(plan, 1, self.heads(plan), ())
        chosen = {name: content for name, content in (extra | (replaced or {})).items() if content is not None}
        write_candidate(
            folder,
            generator=generator,
            facts=self.facts(plan, **claims),
            signer=self.keys["coordinator"],
            extra=chosen,
        )
        return folder

    def decision(
        self, candidate: Path, name: str, choice: str = "approve", /, *, signer: str = "", **changes: Any
    ) -> bytes:
        """An officer's decision on a candidate, with whatever is to be wrong with it."""
        from manikin.common import agreements
        from manikin.common.decisions import Decision
        from manikin.common.release import open_candidate

        opened = open_candidate(candidate)
        said = {
            "officer": name,
            "plan": opened.plan.digest,
            "generator": opened.evidence.generator,
            "report": opened.evidence.report,
            "candidate": opened.digest,
            "decision": choice,
            "reason": f"as {name} sees it",
            "waiver": "",
        }
        return agreements.write(Decision(**(said | changes)), self.keys[signer or name])

    def write_trust(self, file: Path, plan: Any) -> Path:
        """The trust file of the plan's parties."""
        from manikin.common.keys import write_trust
        from manikin.common.release.evidence import signatories

        trust = signatories(plan)
        write_trust(file, trust.keys, officers_needed=trust.officers_needed, plan=trust.plan)
        return file

    def release(self, folder: Path, candidate: Path, decisions: dict[str, bytes]) -> Path:
        """What a coordinator would sign who checks nothing."""
        from manikin.common.release import open_candidate
        from manikin.common.release.bundle import write_decided

        opened = open_candidate(candidate)
        by_key = {self.keys[name].public_key.hex(): content for name, content in decisions.items()}
        signer = self.keys["coordinator"]
        write_decided(folder, files=opened.files, facts=opened.facts, decisions=by_key, signer=signer)
        return folder


@pytest.fixture(scope="session")
def form_consortium() -> Any:
    """Form a consortium: everybody who has a say in a release, and a small study."""

    def form(*hospitals: str) -> Consortium:
        study = small_study()
        study["generator"] = {"family": "moments", "coefficients": 4, "bands": 2}
        study["stage"] = [{"kind": "release", "family": "moments", "epsilon_share": 0.4}]
        return Consortium(study, hospitals)

    return form


@pytest.fixture
def consortium(form_consortium: Any) -> Consortium:
    """A consortium of two hospitals."""
    formed: Consortium = form_consortium("north", "south")
    return formed
