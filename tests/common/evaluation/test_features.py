"""The feature space that ships with the package: what it accepts, what it tells apart, and that nobody swapped it."""

from __future__ import annotations

import dataclasses
from importlib import resources

import numpy as np
import pytest
import torch

from manikin.common import phantoms
from manikin.common.errors import BadData, VerificationFailed
from manikin.common.evaluation import features, train_features
from manikin.common.evaluation.features import FEATURES, FeatureNet, extract, read_weights
from manikin.common.evaluation.fidelity import frechet_distance
from manikin.common.evaluation.train_features import Pool, Recipe, class_names, disturb, pack, train


def chests(count, *, seed=0, name="public", shape=(32, 32)):
    people = phantoms.population(name, "chest-xr")
    return phantoms.simulate(people, shape=shape, count=count, seed=seed).images


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 40), (1, 300, 170), (1, 8, 8, 8), (2, 20, 50, 12)])
def test_any_image_has_features(shape):
    images = np.random.default_rng(0).uniform(-1, 1, (3, *shape)).astype(np.float32)
    found = extract(images)
    assert found.shape == (3, FEATURES * shape[0])
    assert found.dtype == np.float32
    assert np.isfinite(found).all()


def test_features_of_an_image_do_not_depend_on_its_neighbours():
    images = chests(300)
    alone = extract(images[270:271])
    np.testing.assert_allclose(extract(images)[270:271], alone, atol=1e-4)


def test_each_channel_is_read_by_itself():
    images = chests(4)
    both = extract(np.concatenate([images[:2], images[2:]], axis=1))
    np.testing.assert_allclose(both, np.concatenate([extract(images[:2]), extract(images[2:])], axis=1), atol=1e-4)


def test_no_images_have_no_features():
    assert extract(np.zeros((0, 1, 16, 16), np.float32)).shape == (0, FEATURES)


def test_distances_grow_with_the_damage():
    real, other = extract(chests(300)), chests(300, seed=1)
    rng = np.random.default_rng(0)
    grain = [
        frechet_distance(real, extract(np.clip(other + s * rng.standard_normal(other.shape), -1, 1).astype(np.float32)))
        for s in (0, 0.1, 0.3)
    ]
    texture = train_features._lose_phase(torch.from_numpy(other), torch.Generator().manual_seed(0)).numpy()
    assert grain[0] < grain[1] < grain[2]
    assert frechet_distance(real, extract(texture)) > 5 * grain[0]


def test_hospitals_that_the_network_has_never_seen_are_told_apart():
    real = extract(chests(300))
    own, north, south = (
        frechet_distance(real, extract(chests(300, seed=1, name=name))) for name in ("public", "north", "south")
    )
    assert north > 3 * own
    assert south > 3 * own


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 28, 28), np.float32),
        np.zeros((2, 1, 7, 28), np.float32),
        np.zeros((2, 1, 8, 8, 8, 8), np.float32),
        np.full((2, 1, 28, 28), np.nan, np.float32),
    ],
)
def test_other_arrays_are_refused(images):
    with pytest.raises(BadData):
        extract(images)


def test_the_shipped_weights_are_small_and_pinned():
    content = resources.files("manikin.common.evaluation").joinpath(features.WEIGHTS).read_bytes()
    assert len(content) < 500_000
    with pytest.raises(VerificationFailed):
        read_weights(content[:-1] + bytes([content[-1] ^ 1]), 2, sha256=features.WEIGHTS_SHA256)


@pytest.mark.parametrize(
    ("dims", "frames"), [(2, (((28, 28), None), ((16, 20), None))), (3, (((12, 14, 12), None),))], ids=["2d", "3d"]
)
def test_training_is_reproducible_and_its_weights_come_back(dims, frames):
    recipe = Recipe(frames, count=20, batch_size=16, steps=4)
    steps = []
    first, second = train(dims, recipe, seed=1, progress=steps.append), train(dims, recipe, seed=1)
    assert pack({dims: first}) == pack({dims: second})
    assert pack({dims: first}) != pack({dims: train(dims, dataclasses.replace(recipe, steps=5), seed=1)})
    assert sum(steps) == 4
    content = pack({dims: first})
    images = torch.rand(3, 1, *frames[0][0])
    loaded = read_weights(content, dims, sha256=features.hashlib.sha256(content).hexdigest())
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), first(images), atol=0.05, rtol=0.05)


def test_disturbances_leave_the_pool_alone_and_stay_in_range():
    images = torch.from_numpy(chests(40))
    pool = Pool(images.clone(), torch.zeros_like(images), torch.zeros(40, dtype=torch.int64))
    disturbed, masks, failure, size = disturb(pool, torch.arange(40), torch.Generator().manual_seed(0))
    assert torch.equal(pool.images, images)
    assert disturbed.shape == masks.shape == images.shape
    assert float(disturbed.abs().max()) <= 1
    assert set(failure.tolist()) <= {0, 1, 2, 3}
    assert float(size.abs().max()) <= 1


def test_a_blur_is_what_its_width_says():
    point = torch.zeros(2, 1, 33, 33)
    point[:, :, 16, 16] = 1
    blurred = train_features._blur(point, torch.tensor([0.0, 2.0]))
    torch.testing.assert_close(blurred[0], point[0], atol=1e-5, rtol=0)
    across = (torch.arange(33) - 16.0).square()
    assert float((blurred[1, 0].sum(0) * across).sum()) == pytest.approx(4, rel=0.01)


def test_classes_are_named_by_kind_and_finding():
    assert "chest-xr pneumonia" in class_names(2)
    assert all(name.startswith("brain-mr") for name in class_names(3))


def test_networks_for_planes_and_volumes_share_their_width():
    for dims in (2, 3):
        assert FeatureNet(dims).eval()(torch.zeros(2, 1, *[16] * dims)).shape == (2, FEATURES)
