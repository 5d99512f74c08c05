"""The database: whole batches, exact pixels, clear sentences when the disk is full."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from manikin.client.cohort.native import UNLABELLED, NativeImage
from manikin.client.cohort.pseudonyms import Pseudonyms
from manikin.client.cohort.store import Record, Store, database_errors
from manikin.common.errors import BadData, Misconfigured, StorageFailure

KEYED = Pseudonyms(bytes(32))


def record(patient="p", content="c", label="a", pixels=None, **image) -> Record:
    if pixels is None:
        pixels = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
    return Record(patient, content, label, "site", True, NativeImage(pixels, image.pop("axes", "HW"), **image))


@pytest.fixture
def path(tmp_path):
    Store.create(tmp_path / "cohort.sqlite")
    return tmp_path / "cohort.sqlite"


@settings(max_examples=25)
@given(hnp.arrays(st.sampled_from([np.uint8, np.int16, np.uint16, np.float32]), st.tuples(*[st.integers(1, 4)] * 4)))
def test_an_image_comes_back_as_it_was(tmp_path_factory, pixels):
    path = tmp_path_factory.mktemp("store") / "cohort.sqlite"
    Store.create(path)
    mask = np.zeros(pixels.shape[1:], np.uint8)
    given_image = record(pixels=pixels, axes="RAS", spacing_mm=(0.1, 2.0, 3.0), modality="MR", mask=mask)
    with Store.open(path) as store:
        store.add([given_image], KEYED)
        (layout,) = store.layouts()
        (image,) = store.images([layout.row_key])
    assert image.pixels.tobytes() == pixels.tobytes()
    assert (image.pixels.dtype, image.pixels.shape) == (pixels.dtype, pixels.shape)
    assert (image.axes, image.spacing_mm, image.modality) == ("RAS", (0.1, 2.0, 3.0), "MR")
    np.testing.assert_array_equal(image.mask, mask)


def test_adding_twice_changes_nothing(path):
    with Store.open(path) as store:
        assert store.add([record(), record(label="b")], KEYED) == ["added", "added"]
        before = store.layouts()
        assert store.add([record(), record(label="b")], KEYED) == ["present", "present"]
        assert store.layouts() == before
        assert store.several_labels() == 1


def test_a_label_that_comes_later_is_taken_and_one_that_leaves_is_kept(path):
    with Store.open(path) as store:
        assert store.add([record(label=UNLABELLED)], KEYED) == ["added"]
        assert store.add([record(label="a")], KEYED) == ["labelled"]
        assert store.add([record(label=UNLABELLED)], KEYED) == ["present"]
        (layout,) = store.layouts()
    assert (layout.label, layout.row_key) == ("a", KEYED.row("p", "c", "a"))


def test_a_batch_that_fails_leaves_nothing(path):
    broken = record(content="d")
    object.__setattr__(broken, "site", object())
    with Store.open(path) as store:
        store.add([record()], KEYED)
        with pytest.raises(BadData):
            store.add([record(content="x"), broken], KEYED)
        assert len(store.layouts()) == 1


def test_contents_shared_by_patients_are_counted(path):
    with Store.open(path) as store:
        store.add([record("p"), record("q"), record("q", content="other"), record("q", label="b")], KEYED)
        assert store.shared_contents() == 3


def test_a_full_database_is_a_storage_failure_and_keeps_what_it_had(path):
    noise = np.random.default_rng(0).integers(0, 256, (1, 256, 256)).astype(np.uint8)
    with Store.open(path) as store:
        store.add([record()], KEYED)
        store._connection.execute("PRAGMA max_page_count = 20")
        with pytest.raises(StorageFailure, match="what was imported is kept"):
            store.add([record(content="big", pixels=noise)], KEYED)
        assert len(store.layouts()) == 1
    with Store.open(path) as store:
        assert store.add([record(content="big", pixels=noise)], KEYED) == ["added"]


def test_a_cohort_in_use_is_refused_with_the_reason(path, monkeypatch):
    monkeypatch.setattr("manikin.client.cohort.store.LOCK_TIMEOUT_S", 0.05)
    with Store.open(path) as one, Store.open(path) as other:
        one._connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(Misconfigured, match="Another import"):
            other.add([record()], KEYED)


def test_a_damaged_database_is_bad_data(path):
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(BadData, match="damaged"):
        Store.open(path)


def test_damaged_pixels_are_bad_data(path):
    with Store.open(path) as store:
        store.add([record()], KEYED)
        store._connection.execute("UPDATE images SET pixels = x'00'")
        keys = [layout.row_key for layout in store.layouts()]
        with pytest.raises(BadData, match="damaged"):
            list(store.images(keys))


def test_a_missing_database_is_misconfigured(tmp_path):
    with pytest.raises(Misconfigured):
        Store.open(tmp_path / "none.sqlite")


def test_other_errors_pass():
    with pytest.raises(KeyError), database_errors():
        raise KeyError
