"""Findings before any scanner: the same body with and without one differs where the finding is."""

from __future__ import annotations

import numpy as np
import pytest

from manikin.common.phantoms import BrainAnatomy, ChestAnatomy, population
from manikin.common.phantoms.brain_findings import BRAIN_FINDINGS, render_brain
from manikin.common.phantoms.chest_findings import CHEST_FINDINGS, render_chest
from manikin.common.phantoms.fields import Draws, Map

COUNT = 12


def _scene(kind: str, finding: str) -> tuple[Map, Map]:
    anatomy = population("south", kind).anatomy  # without devices, which are drawn after the finding
    draws = Draws(np.random.default_rng(8), COUNT, (48, 48))
    if isinstance(anatomy, ChestAnatomy):
        return render_chest(anatomy, [finding] * COUNT, draws, (1.0, 1.0))
    assert isinstance(anatomy, BrainAnatomy)
    return render_brain(anatomy, [finding] * COUNT, draws, (1.0, 1.0))


@pytest.mark.parametrize("finding", ["pneumonia", "effusion", "nodule"])
def test_opacities_add_to_the_ray_where_they_are(finding: str) -> None:
    (healthy, _), (ill, cover) = _scene("chest-xr", "normal"), _scene("chest-xr", finding)
    added = ill - healthy
    assert (added.mean(axis=(1, 2)) > 0).all()
    assert added[cover > 0.5].mean() > 8 * np.abs(added[cover < 0.05]).mean()


def test_a_pneumothorax_takes_from_the_ray() -> None:
    (healthy, _), (ill, cover) = _scene("chest-xr", "normal"), _scene("chest-xr", "pneumothorax")
    assert (ill - healthy)[cover > 0.5].mean() < -0.02


@pytest.mark.parametrize("finding", ["tumour", "lesions", "stroke"])
def test_lesions_brighten_flair_inside_the_brain_and_nothing_else(finding: str) -> None:
    (healthy, _), (ill, cover) = _scene("brain-mr", "normal"), _scene("brain-mr", finding)
    assert np.abs(ill - healthy)[cover == 0].max() < 0.02
    assert (ill - healthy)[cover > 0.5].mean() > 0.1
    assert healthy[cover > 0.5].mean() > 0.3, "grey and white matter, neither fluid nor bone nor air"


def test_a_large_heart_and_a_shrunken_brain_change_the_body_without_a_place() -> None:
    for kind, finding in (("chest-xr", "cardiomegaly"), ("brain-mr", "atrophy")):
        (healthy, _), (ill, cover) = _scene(kind, "normal"), _scene(kind, finding)
        assert not cover.any()
        assert ((ill - healthy).mean() > 0) == (kind == "chest-xr")


@pytest.mark.parametrize(("kind", "names"), [("chest-xr", CHEST_FINDINGS), ("brain-mr", BRAIN_FINDINGS)])
def test_maps_are_finite_and_single_precision(kind: str, names: tuple[str, ...]) -> None:
    for name in names:
        scene, cover = _scene(kind, name)
        assert scene.dtype == np.float32
        assert cover.dtype == np.float32
        assert np.isfinite(scene).all()
        assert cover.min() >= 0.0
        assert cover.max() <= 1.0
