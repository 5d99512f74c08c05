"""The benchmarks are scripts beside the package; and stand-ins for the real data, with the same names and keys."""

from __future__ import annotations

import sys

import nibabel
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _benchmarks_on_path(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    yield
    for path in (repository / "benchmarks").glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """A folder that looks like the shared data, with a few made-up images of each set."""
    root, rng = tmp_path / "shared", np.random.default_rng(0)
    for name in ("pneumoniamnist28", "mednist", "tcga_lgg_mri", "msd_hippocampus/images"):
        (root / name).mkdir(parents=True)

    def pixels(*shape):
        return rng.integers(0, 256, shape, dtype=np.uint8)

    split = {}
    for part, count in (("train", 90), ("val", 6), ("test", 24)):
        split[f"{part}_labels"] = np.sort(np.arange(count) % 2).astype(np.uint8)  # all of one class first
        split[f"{part}_images"] = pixels(count, 28, 28) // 2 + 100 * split[f"{part}_labels"][:, None, None]
    np.savez(root / "pneumoniamnist28/pneumoniamnist28.npz", class_names=["normal", "pneumonia"], **split)
    names = ["AbdomenCT", "BreastMRI", "CXR", "ChestCT", "Hand", "HeadCT"]
    labels = (np.arange(60) % 6).astype(np.uint8)
    np.savez(root / "mednist/mednist64_12k.npz", images=pixels(60, 64, 64), labels=labels, class_names=names)
    sites = np.repeat(["CS", "DU", "EZ", "FG", "HT"], [8, 12, 2, 8, 8])
    patients = np.array([f"TCGA_{site}_{i // 2}" for i, site in enumerate(sites)])
    slices = pixels(len(sites), 64, 64, 3)
    slices[0, ..., 1] = 7  # a blank slice
    np.savez(
        root / "tcga_lgg_mri/lgg_slices64.npz",
        images=slices,
        tumour=np.arange(len(sites), dtype=np.uint8) % 2,
        patient=patients,
        site=sites,
    )
    for number in range(7):
        volume = nibabel.Nifti1Image(pixels(35, 51, 36), np.eye(4))
        nibabel.save(volume, root / f"msd_hippocampus/images/hippocampus_{number:03d}.nii.gz")
    monkeypatch.setenv("MANIKIN_DATA", str(root))
    return root
