"""The mix is met exactly, and a request that makes no sense is refused."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manikin.common.errors import Misconfigured
from manikin.common.export.request import Request, parse_mix, shards, shares_of

LABELS = ("normal", "pneumonia", "rare")
weights = st.lists(st.integers(0, 1000), min_size=3, max_size=3).filter(any)


def request(**changes):
    values = {"release_digest": "ab" * 32, "count": 10, "labels": LABELS, "mix": (0.5, 0.25, 0.25), "seed": 0}
    return Request(**(values | {"format": "npz"} | changes))


@given(weights=weights, count=st.integers(1, 500))
def test_the_mix_is_met_exactly(weights, count):
    shares = tuple(weight / sum(weights) for weight in weights)
    counts = request(mix=shares, count=count).counts
    assert sum(counts) == count
    assert all(abs(n - share * count) < 1 + 1e-9 for n, share in zip(counts, shares, strict=True))
    assert all(n == 0 for n, weight in zip(counts, weights, strict=True) if weight == 0)


@given(weights=weights, count=st.integers(1, 500))
def test_the_images_have_the_counts_of_the_mix(weights, count):
    made = request(mix=tuple(weight / sum(weights) for weight in weights), count=count)
    assert tuple(np.bincount(made.classes(), minlength=3)) == made.counts


@given(count=st.integers(2, 500), rare=st.floats(0, 1))
def test_every_beginning_nearly_has_the_mix(count, rare):
    made = request(labels=LABELS[:2], mix=(1 - rare, rare), count=count)
    drawn = np.cumsum(made.classes() == 1)
    expected = made.counts[1] / count * np.arange(1, count + 1)
    assert np.abs(drawn - expected).max() <= 1


def test_a_tie_goes_to_the_first_classes():
    assert request(mix=(1 / 3, 1 / 3, 1 / 3), count=8).counts == (3, 3, 2)


@pytest.mark.parametrize(
    "change",
    [
        {"count": 0},
        {"count": -5},
        {"count": 10**9},
        {"seed": -1},
        {"seed": 2**53},
        {"format": "bmp"},
        {"mix": (0.5, 0.25, 0.2)},
        {"mix": (0.5, 0.5)},
        {"mix": (1.5, -0.5, 0.0)},
        {"mix": (math.nan, 0.5, 0.5)},
        {"mix": (math.inf, 0.0, 0.0)},
    ],
    ids=str,
)
def test_requests_that_make_no_sense_are_refused(change):
    with pytest.raises(Misconfigured):
        request(**change)


def test_a_mix_is_read_from_texts():
    assert parse_mix(["normal=0.9", "a=b=0.1"]) == {"normal": 0.9, "a=b": 0.1}
    assert parse_mix([]) is None


@pytest.mark.parametrize("parts", [["normal"], ["=1"], ["normal=half"], ["normal=0.5", "normal=0.5"], [""]], ids=str)
def test_texts_of_another_form_are_refused(parts):
    with pytest.raises(Misconfigured, match="not understood"):
        parse_mix(parts)


def test_without_a_mix_classes_have_equal_shares():
    assert shares_of(None, LABELS) == (1 / 3, 1 / 3, 1 / 3)


def test_classes_that_a_mix_does_not_name_get_nothing():
    assert shares_of({"rare": 1.0}, LABELS) == (0.0, 0.0, 1.0)


def test_unknown_classes_are_refused_by_name():
    with pytest.raises(Misconfigured, match=r"no class 'rar'\. The classes are normal, pneumonia, rare"):
        shares_of({"rar": 1.0}, LABELS)


@given(count=st.integers(1, 2000), values=st.integers(1, 1 << 22))
def test_shards_cover_every_image_once(count, values):
    pieces = shards(request(count=count), values)
    assert [index for piece in pieces for index in range(piece.start, piece.stop)] == list(range(count))


def test_shards_of_large_images_are_small():
    assert [piece.stop - piece.start for piece in shards(request(count=5), 1 << 19)] == [2, 2, 1]


def test_streams_differ_by_release_seed_and_shard():
    first, second = shards(request(), 1 << 20)[:2]
    seeds = {first.seed(request()), second.seed(request()), first.seed(request(seed=1))}
    assert len(seeds | {first.seed(request(release_digest="cd" * 32))}) == 4


def test_a_data_set_is_the_same_in_every_format_and_differs_in_all_else():
    same = {request(format=f).data_set_digest for f in ("npz", "dicom", "png", "nifti")}
    others = {request(**change).data_set_digest for change in ({"seed": 1}, {"count": 9}, {"mix": (1.0, 0.0, 0.0)})}
    assert len(same) == 1
    assert len(others | same) == 4
