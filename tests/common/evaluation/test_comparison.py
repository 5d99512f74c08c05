"""A release beside real patients: the real side is the yardstick, and nobody is on both sides."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from manikin.common import phantoms
from manikin.common.errors import BadData
from manikin.common.evaluation.comparison import _matched, compare, default_count, evaluate_release
from manikin.common.images import Patient

LABELS = ("normal", "pneumonia")


def scans(count, seed, *, findings=None, shape=(16, 16)):
    drawn = phantoms.simulate(
        phantoms.population("public", "chest-xr"),
        shape=shape,
        count=count,
        seed=seed,
        findings=findings or {"normal": 0.6, "pneumonia": 0.4},
    )
    return drawn.images, drawn.labels


def patients(count, seed, **settings):
    images, labels = scans(count, seed, **settings)
    return [Patient(f"{seed}-{i}", images[i : i + 1], labels[i : i + 1]) for i in range(count)]


class Echo:
    """A generator that draws fresh phantoms: as good as a generator can be."""

    def sample(self, conditions, *, generator):
        seed = int(torch.randint(1 << 30, (1,), generator=generator))
        images = np.empty((len(conditions), 1, 16, 16), np.float32)
        for index, label in enumerate(LABELS):
            rows = np.flatnonzero(conditions.numpy() == index)
            images[rows] = scans(len(rows), seed + index, findings={label: 1.0})[0]
        return torch.from_numpy(images)


class Noise:
    """A generator that has learned nothing."""

    def sample(self, conditions, *, generator):
        return torch.rand(len(conditions), 1, 16, 16, generator=generator) * 2 - 1


@pytest.fixture(scope="module")
def hospital():
    return {"train": patients(200, 1), "holdout": patients(150, 2)}


def released(generator):
    return SimpleNamespace(generator=generator, spec=SimpleNamespace(labels=LABELS))


def test_a_perfect_generator_scores_like_real_images(hospital):
    steps = []
    result = evaluate_release(released(Echo()), **hospital, count=200, seeds=2, progress=steps.append)
    synthetic, real = result["likeness"]["synthetic"], result["likeness"]["real"]
    assert sum(steps) == 2 * 2 + 1
    assert synthetic["frechet"] < 2 * real["frechet"]
    assert synthetic["coverage"] > 0.85
    assert result["trained_on_synthetic"]["auc"] > 0.75
    assert abs(result["trained_on_synthetic"]["auc"] - result["trained_on_real"]["auc"]) < 0.15
    assert result["counts"]["holdout_patients"] == 150
    assert result["counts"]["synthetic_images"] == 200
    json.dumps(result, allow_nan=False)


def test_noise_is_seen_to_be_noise(hospital):
    result = evaluate_release(released(Noise()), **hospital, count=200, seeds=1)
    assert result["likeness"]["synthetic"]["frechet"] > 20 * result["likeness"]["real"]["frechet"]
    assert result["likeness"]["synthetic"]["coverage"] < 0.1
    assert result["trained_on_synthetic"]["auc"] < 0.7
    assert result["trained_on_synthetic"]["auc_spread"] is None


def test_the_same_question_has_the_same_answer():
    people = {"train": patients(60, 6), "holdout": patients(30, 7)}
    first, second = (evaluate_release(released(Noise()), **people, count=60, seeds=1) for _ in range(2))
    assert first == second


def test_one_class_is_compared_by_likeness_alone():
    one = {"findings": {"normal": 1.0}}
    people = {"train": patients(60, 3, **one), "holdout": patients(40, 4, **one)}
    result = compare(scans(80, 5, **one), **people, classes=1, seeds=2)
    assert result["trained_on_synthetic"]["auc"] is None
    assert result["likeness"]["n"] == 40


def test_volumes_are_compared_too():
    def brains(count, seed):
        people = phantoms.population("public", "brain-mr")
        drawn = phantoms.simulate(people, shape=(12, 14, 12), count=count, seed=seed, findings={"normal": 1.0})
        return drawn.images, drawn.labels

    train, holdout = (
        [Patient(f"{seed}-{i}", image[None], np.zeros(1, np.int64)) for i, image in enumerate(brains(20, seed)[0])]
        for seed in (1, 2)
    )
    result = compare(brains(20, 3), train=train, holdout=holdout, classes=1, seeds=1)
    assert result["likeness"]["synthetic"]["frechet"] < 5 * result["likeness"]["real"]["frechet"]


def test_a_patient_on_both_sides_is_refused(hospital):
    with pytest.raises(BadData):
        compare(scans(50, 9), train=hospital["train"], holdout=hospital["train"][:30], classes=2)


@pytest.mark.parametrize("part", ["train", "holdout"])
def test_an_empty_side_is_refused(hospital, part):
    with pytest.raises(BadData):
        compare(scans(50, 9), **{**hospital, part: []}, classes=2)


def test_matching_keeps_the_class_mix():
    rng = np.random.default_rng(0)
    labels, wanted = np.repeat([0, 1], 100), np.repeat([0, 1], [90, 30])
    here, there = _matched(labels, wanted, rng)
    np.testing.assert_array_equal(np.bincount(labels[here]), [90, 30])
    np.testing.assert_array_equal(there, np.arange(120))


def test_matching_shrinks_both_sides_where_one_is_small():
    rng = np.random.default_rng(0)
    labels, wanted = np.repeat([0, 1], [45, 50]), np.repeat([0, 1], [90, 30])
    here, there = _matched(labels, wanted, rng)
    np.testing.assert_array_equal(np.bincount(labels[here]), [45, 15])
    np.testing.assert_array_equal(np.bincount(wanted[there]), [45, 15])
    assert len(set(here)) == len(here)


def test_a_class_that_is_missing_stays_missing():
    rng = np.random.default_rng(0)
    here, there = _matched(np.zeros(80, np.int64), np.repeat([0, 1], 50), rng)
    assert len(here) == len(there) == 80


def test_the_default_count_follows_the_training_set(hospital):
    assert default_count(hospital["train"]) == 500
    assert default_count(hospital["train"] * 3) == 600
    assert default_count(hospital["train"] * 100) == 5000
