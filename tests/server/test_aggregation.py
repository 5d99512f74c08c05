"""Sums and means that come out the same whatever the order, hold one answer, and take in a whole answer or nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manikin.common.errors import ProtocolViolation
from manikin.server import aggregation
from manikin.server.aggregation import REACH, ReleaseSum, StateMean

GRID = 2.0**-24


def sums(vectors, *, hospitals=None):
    total = ReleaseSum(len(vectors[0]), grid=GRID, hospitals=hospitals or len(vectors))
    for vector in vectors:
        total.add("north", {"sum": vector})
    return total.total


def mean(base, replies, weights, folder):
    """The mean of replies by name, taken in the order given."""
    with StateMean(base, weights, folder) as running:
        for name, reply in replies.items():
            running.add(name, reply)
        return running.result()


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=30), st.randoms(use_true_random=False))
def test_a_released_sum_does_not_depend_on_the_order(values, random):
    vectors = [np.array([value]) for value in values]
    shuffled = random.sample(vectors, len(vectors))
    assert sums(vectors).tobytes() == sums(shuffled).tobytes()


def test_a_released_sum_on_its_grid_is_exact():
    vectors = [np.array([k * GRID, 1e6 + k * GRID]) for k in range(-5, 95)]
    total = sum(range(-5, 95))
    assert sums(vectors).tolist() == [total * GRID, 1e8 + total * GRID]


@pytest.mark.parametrize("vector", [np.zeros(3), np.array([0.0, 1e9]), np.array([np.nan, 0.0])])
def test_a_released_sum_of_another_length_or_size_is_refused_whole(vector):
    total = ReleaseSum(2, grid=GRID, hospitals=2)
    total.add("north", {"sum": np.ones(2)})
    with pytest.raises(ProtocolViolation):
        total.add("south", {"sum": vector})
    assert total.total.tolist() == [1.0, 1.0]


def test_weights_are_normalised_and_untouched_tensors_stay_bit_for_bit(tmp_path):
    base = {"moved": np.zeros(2, np.float32), "still": np.array([0.1, -0.0, 0.3], np.float32), "n": np.array(3)}
    replies = {
        "a": base | {"moved": np.array([1, 2], np.float32)},
        "b": base | {"moved": np.array([4, 8], np.float32)},
    }
    merged = mean(base, replies, {"a": 3.0, "b": 1.0}, tmp_path)
    assert merged["moved"].tolist() == [1.75, 3.5]
    assert merged["still"].numpy().tobytes() == base["still"].tobytes()
    assert (merged["n"].shape, int(merged["n"])) == ((), 3)
    assert merged["moved"].dtype == torch.float32


def test_the_mean_is_over_those_who_answered(tmp_path):
    base = {"w": np.zeros(1, np.float32)}
    replies = {"b": {"w": np.full(1, 6, np.float32)}, "d": {"w": np.full(1, 2, np.float32)}}
    weights = {"a": 5.0, "b": 1.0, "c": 7.0, "d": 3.0}
    assert mean(base, replies, weights, tmp_path)["w"].tolist() == [3.0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 12), st.sampled_from([1e-4, 1.0, 1e3]))
def test_any_order_gives_the_same_bits_and_the_mean_of_float64(tmp_path_factory, seed, hospitals, size):
    folder, rng = tmp_path_factory.getbasetemp(), np.random.default_rng(seed)
    base = {"w": rng.normal(size=(3, 5)).astype(np.float32), "wide": rng.normal(size=7)}
    weights = {f"h{i}": float(w) for i, w in enumerate(rng.uniform(0.1, 3, hospitals))}
    replies = {
        name: {k: a + rng.normal(scale=size, size=a.shape).astype(a.dtype) for k, a in base.items()} for name in weights
    }
    shuffled = {name: replies[name] for name in rng.permutation(list(replies))}
    once, again = (mean(base, order, weights, folder) for order in (replies, shuffled))
    for name, rounding in (("w", 2**-23), ("wide", 0)):
        assert once[name].numpy().tobytes() == again[name].numpy().tobytes()
        sent = [reply[name].astype(np.float64) for reply in replies.values()]
        exact = np.average(sent, axis=0, weights=list(weights.values()))
        np.testing.assert_allclose(once[name].numpy(), exact, rtol=rounding, atol=2.0**-44 + size * 2.0**-48)


def test_a_tensor_of_many_blocks_is_worked_on_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(aggregation, "BLOCK", 4)
    base = {"first": np.zeros((2, 3), np.float32), "second": np.arange(11, dtype=np.float32)}
    replies = {f"h{i}": {"first": np.full((2, 3), i, np.float32), "second": base["second"] + i} for i in (1, 2, 3)}
    merged = mean(base, replies, dict.fromkeys(replies, 1.0), tmp_path)
    assert merged["first"].tolist() == [[2.0] * 3] * 2
    assert merged["second"].tolist() == [float(i + 2) for i in range(11)]


@pytest.mark.parametrize(
    "reply",
    [
        {"v": np.ones(2, np.float32)},
        {"v": np.ones(2, np.float32), "w": np.zeros(3, np.float32)},
        {"v": np.ones(2, np.float32), "w": np.zeros(2, np.float64)},
        {"v": np.ones(2, np.float32), "w": np.array([0, np.nan], np.float32)},
        {"v": np.ones(2, np.float32), "w": np.array([0, REACH], np.float32)},
        {"v": np.ones(2, np.float32), "w": np.zeros(2, np.float32), "n": np.array(4)},
    ],
    ids=["missing", "shape", "dtype", "nan", "reach", "integer"],
)
def test_a_state_that_does_not_fit_is_refused_whole(reply, tmp_path):
    base = {"v": np.zeros(2, np.float32), "w": np.zeros(2, np.float32), "n": np.array(3)}
    with StateMean(base, {"a": 1.0, "b": 1.0}, tmp_path) as running:
        running.add("a", base | {"v": np.full(2, 5, np.float32)})
        with pytest.raises(ProtocolViolation, match="no fitting tensor"):
            running.add("b", {"n": base["n"], **reply})
        assert running.result()["v"].tolist() == [5.0, 5.0]


def test_nothing_of_the_running_sum_is_left_on_disk(tmp_path):
    base = {"w": np.zeros(4, np.float32)}
    mean(base, {"a": {"w": np.ones(4, np.float32)}}, {"a": 1.0}, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
