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
