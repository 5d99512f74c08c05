"""Nearest neighbours are the true ones, copies at distance zero included."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from manikin.privacy.audit import neighbours
from manikin.privacy.audit.neighbours import nearest, typical_distance


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 60), st.integers(1, 30), st.floats(0, 1e4))
@settings(max_examples=60, deadline=None)
def test_agrees_with_all_pairs_in_double_precision(seed, queries, base, dimensions, offset):
    rng = np.random.default_rng(seed)
    a = (rng.normal(size=(queries, dimensions)) + offset).astype(np.float32)
    b = (rng.normal(size=(base, dimensions)) + offset).astype(np.float32)
    index, distance = nearest(a, b)
    truth = cdist(a.astype(np.float64), b.astype(np.float64))
    assert index.tolist() == truth.argmin(1).tolist()
    np.testing.assert_allclose(distance, truth.min(1), rtol=1e-9)


def test_blocks_do_not_matter_and_ties_go_to_the_first(monkeypatch):
    rng = np.random.default_rng(0)
    base = np.concatenate([rng.normal(size=(50, 7)), np.zeros((3, 7))]).astype(np.float32)
    base[40] = base[3]
    queries = np.concatenate([rng.normal(size=(30, 7)), base[[3, 50, 51]]]).astype(np.float32)
    whole = nearest(queries, base)
    monkeypatch.setattr(neighbours, "QUERY_BLOCK", 4)
    monkeypatch.setattr(neighbours, "BASE_BLOCK", 6)
    monkeypatch.setattr(neighbours, "STRIP", 4)
    monkeypatch.setattr(neighbours, "NUMBERS_WAITING", 40)
    done = []
    pieces = nearest(queries, base, progress=done.append)
    assert whole[0].tolist() == pieces[0].tolist()
    assert whole[1].tolist() == pieces[1].tolist()
    assert whole[0][-3:].tolist() == [3, 50, 50]
    assert whole[1][-3:].tolist() == [0.0, 0.0, 0.0]
    assert sum(done) == len(queries)


def test_a_near_copy_far_from_the_origin_is_not_lost_to_rounding():
    rng = np.random.default_rng(1)
    clusters = np.where(np.arange(200) % 2, 1000, -1000)[:, None]  # far from their common centre, too
    base = (clusters + 0.05 * rng.normal(size=(200, 64))).astype(np.float32)
    index, distance = nearest(base + np.float32(1e-3), base)
    assert index.tolist() == list(range(200))
    assert np.all(distance < 0.01)


def test_what_single_precision_cannot_tell_apart_is_measured_in_double():
    """All of the base at nearly one distance: the products alone would choose one of them at random."""
    rng = np.random.default_rng(2)
    directions = rng.normal(size=(600, 48))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    base = (100 * directions).astype(np.float32)
    queries = (1e-6 * rng.normal(size=(20, 48))).astype(np.float32)
    truth = cdist(queries.astype(np.float64), base.astype(np.float64))
    products = (queries @ base.T - (base**2).sum(1) / 2).argmax(1)
    index, distance = nearest(queries, base)
    assert (products != truth.argmin(1)).mean() > 0.3
    assert index.tolist() == truth.argmin(1).tolist()
    np.testing.assert_allclose(distance, truth.min(1), rtol=1e-12)


def test_an_empty_base_is_refused():
    with pytest.raises(ValueError, match="nothing to be near to"):
        nearest(np.zeros((1, 2), np.float32), np.zeros((0, 2), np.float32))


def test_typical_distance_skips_the_owner_and_is_infinite_where_others_are_too_few():
    points = np.array([[0.0], [0.1], [1.0], [3.0]], np.float32)
    owners = np.array([0, 0, 1, 2])
    found = typical_distance(points, owners, points, owners, rank=2)
    np.testing.assert_allclose(found, [3.0, 2.9, 1.0, 3.0 - 0.1], rtol=1e-5)
    assert np.isinf(typical_distance(points, owners, points, owners, rank=4)).all()
