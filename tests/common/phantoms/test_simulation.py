"""Simulated scans: same seed same bytes, the right shapes, findings where they belong and visible."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier

from manikin.common.errors import Misconfigured
from manikin.common.phantoms import HOSPITALS, KINDS, finding_names, population, simulate
from manikin.common.phantoms import simulation as simulation_module

PLACELESS = {"normal", "atrophy", "cardiomegaly"}
SHAPES = [
    ("chest-xr", (28, 28)),
    ("chest-xr", (32, 48)),
    ("chest-xr", (128, 128)),
    ("brain-mr", (64, 64)),
    ("brain-mr", (16, 24, 16)),
    ("brain-mr", (9, 30, 31)),
]


@pytest.mark.parametrize(("kind", "shape"), SHAPES)
def test_images_have_the_asked_shape_and_fill_the_range_without_leaving_it(kind: str, shape: tuple[int, ...]) -> None:
    phantoms = simulate(population("public", kind), shape=shape, count=6, seed=3)
    assert phantoms.images.shape == (6, 1, *shape)
    assert phantoms.images.dtype == np.float32
    assert phantoms.masks.shape == (6, *shape)
    assert phantoms.masks.dtype == np.uint8
    assert phantoms.labels.dtype == np.int64
    assert len(phantoms.spacing_mm) == len(shape)
    assert np.isfinite(phantoms.images).all()
    assert np.abs(phantoms.images).max() <= 1.0
    assert phantoms.images.reshape(6, -1).std(axis=1).min() > 0.05


@pytest.mark.parametrize(
    ("kind", "shape"), [("chest-xr", (32, 32)), ("brain-mr", (32, 32)), ("brain-mr", (12, 16, 12))]
)
@pytest.mark.parametrize("name", ["public", *HOSPITALS])
def test_a_seed_fixes_every_byte_and_another_seed_changes_them(name: str, kind: str, shape: tuple[int, ...]) -> None:
    first, again, other = (simulate(population(name, kind), shape=shape, count=4, seed=s) for s in (5, 5, 6))
    assert first.images.tobytes() == again.images.tobytes()
    assert first.masks.tobytes() == again.masks.tobytes()
    assert first.labels.tobytes() == again.labels.tobytes()
    assert not np.array_equal(first.images, other.images)
    assert not np.array_equal(first.images[0], first.images[1])


@pytest.mark.parametrize("name", ["public", *HOSPITALS])
@pytest.mark.parametrize("kind", KINDS)
def test_only_findings_with_a_place_have_a_mask(name: str, kind: str) -> None:
    for finding in population(name, kind).findings:
        phantoms = simulate(population(name, kind), shape=(32, 32), count=12, seed=2, findings={finding: 1.0})
        assert {phantoms.class_names[label] for label in phantoms.labels} == {finding}
        marked = phantoms.masks.any(axis=(1, 2))
        assert marked.all() if finding not in PLACELESS else not marked.any()


def test_volumes_carry_their_lesion_too() -> None:
    phantoms = simulate(population("public", "brain-mr"), shape=(24, 28, 24), count=4, seed=1, findings={"tumour": 1.0})
    share = phantoms.masks.reshape(4, -1).mean(axis=1)
    assert (share > 0).all()
    assert (share < 0.15).all()


@pytest.mark.parametrize("kind", KINDS)
def test_lesions_lie_inside_the_organ(kind: str) -> None:
    """No lesion touches the frame's edge or air: lungs and brains lie well within."""
    rare = "effusion" if kind == "chest-xr" else "stroke"
    phantoms = simulate(population("south", kind), shape=(64, 64), count=40, seed=9, findings={rare: 1.0})
    if kind == "brain-mr":
        air = phantoms.images[:, 0] < -0.93
        assert (air & (phantoms.masks > 0)).sum() <= 0.02 * phantoms.masks.sum()
    assert not phantoms.masks[:, :2].any()
    centre = [np.argwhere(mask).mean(axis=0) for mask in phantoms.masks]
    assert (np.abs(np.array(centre) - 31.5) < 28).all()


@pytest.mark.parametrize(
    ("name", "kind", "finding"),
    [("public", "chest-xr", "pneumonia"), ("north", "chest-xr", "effusion"), ("coast", "brain-mr", "tumour")],
)
def test_a_linear_classifier_tells_a_finding_from_normal(name: str, kind: str, finding: str) -> None:
    """At chance the error of 300 draws has standard deviation 0.03, so that 0.6 is more than three of them away."""
    share = {"normal": 0.5, finding: 0.5}
    train, test = (
        simulate(population(name, kind), shape=(28, 28), count=n, seed=s, findings=share)
        for n, s in ((900, 1), (300, 2))
    )
    model = RidgeClassifier(alpha=100.0, class_weight="balanced").fit(train.images.reshape(900, -1), train.labels)
    assert model.score(test.images.reshape(300, -1), test.labels) > 0.6


def test_shares_of_findings_are_kept() -> None:
    phantoms = simulate(population("north", "chest-xr"), shape=(8, 8), count=3000, seed=1)
    shares = np.bincount(phantoms.labels, minlength=3) / 3000
    wanted = list(population("north", "chest-xr").findings.values())
    assert phantoms.class_names == ("normal", "pneumonia", "effusion")
    assert np.abs(shares - wanted).max() < 4 * np.sqrt(0.25 / 3000)


def test_a_small_field_of_view_is_a_crop_and_spacing_is_reported() -> None:
    crop = simulate(population("public", "brain-mr"), shape=(32, 48, 32), count=2, seed=1, spacing_mm=(1.0, 1.0, 1.0))
    whole = simulate(population("public", "brain-mr"), shape=(32, 48, 32), count=2, seed=1)
    assert crop.spacing_mm == pytest.approx((1.0, 1.0, 1.0))
    assert whole.spacing_mm == pytest.approx((5.5, 4.5, 5.5))
    corners = (slice(None), 0, slice(0, 2), slice(0, 2), slice(0, 2))
    assert whole.images[corners].mean() < -0.85
    assert crop.images[:, 0].std() > 0.05


def test_progress_counts_every_image_and_memory_stays_with_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    monkeypatch.setattr(simulation_module, "CHUNK_VOXELS", 1 << 14)
    public = population("public", "chest-xr")
    simulate(public, shape=(32, 32), count=4, seed=0)
    peaks = []
    for count in (40, 160):
        tracemalloc.start()
        result = simulate(public, shape=(32, 32), count=count, seed=0, progress=done.append)
        peaks.append(tracemalloc.get_traced_memory()[1] - result.images.nbytes - result.masks.nbytes)
        tracemalloc.stop()
    assert sum(done) == 200
    assert len(done) > 10
    assert peaks[1] < 1.3 * peaks[0]


def test_no_chunk_repeats_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation_module, "CHUNK_VOXELS", 1)
    phantoms = simulate(population("north", "chest-xr"), shape=(16, 16), count=8, seed=0)
    assert len({image.tobytes() for image in phantoms.images}) == 8


def test_an_empty_set_is_a_set() -> None:
    phantoms = simulate(population("public", "chest-xr"), shape=(32, 32), count=0, seed=0)
    assert phantoms.images.shape == (0, 1, 32, 32)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("chest-xr", {"shape": (32, 32, 32)}),
        ("brain-mr", {"shape": (32,)}),
        ("chest-xr", {"shape": (32, 4)}),
        ("chest-xr", {"count": -1}),
        ("chest-xr", {"seed": -1}),
        ("chest-xr", {"findings": {"effusion": 1.0}}),
        ("chest-xr", {"findings": {"normal": float("nan")}}),
        ("chest-xr", {"findings": {"normal": -1.0, "pneumonia": 2.0}}),
        ("chest-xr", {"findings": {}}),
        ("brain-mr", {"spacing_mm": (1.0,)}),
        ("brain-mr", {"spacing_mm": (1.0, float("inf"))}),
    ],
)
def test_senseless_requests_are_refused(kind: str, change: dict[str, object]) -> None:
    request: dict[str, object] = {"shape": (32, 32), "count": 1, "seed": 0} | change
    with pytest.raises(Misconfigured):
        simulate(population("public", kind), **request)  # type: ignore[arg-type]


def test_findings_names_begin_with_normal() -> None:
    for kind in KINDS:
        assert finding_names(kind)[0] == "normal"
