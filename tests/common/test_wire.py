import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manikin.common.errors import ProtocolViolation
from manikin.common.wire import Task, check_arrays, request_digest


def a_task(**changes):
    base = {
        "plan_digest": "ab",
        "step": 1,
        "action": "release",
        "parameters": {"x": 1},
        "arrays": {"w": np.zeros(3, np.float32)},
    }
    return Task(**(base | changes))


def test_the_digest_covers_every_part_of_the_request():
    changed = [
        a_task(plan_digest="ac"),
        a_task(step=2),
        a_task(action="train"),
        a_task(parameters={"x": 2}),
        a_task(arrays={"w": np.zeros((3, 1), np.float32)}),
        a_task(arrays={"w": np.zeros(3, np.float64)}),
        a_task(arrays={"v": np.zeros(3, np.float32)}),
        a_task(arrays={"w": np.array([0, 0, 1e-30], np.float32)}),
    ]
    assert a_task().digest == a_task().digest
    assert len({task.digest for task in [a_task(), *changed]}) == len(changed) + 1


@given(st.permutations(["a", "b", "c"]))
def test_the_digest_does_not_depend_on_the_order_of_arrays(order):
    arrays = {name: np.full(2, ord(name), np.float64) for name in order}
    assert a_task(arrays=arrays).digest == a_task(arrays=dict(sorted(arrays.items()))).digest


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value):
    with pytest.raises(ProtocolViolation, match="not finite"):
        check_arrays({"w": np.array([0.0, value])})


def test_other_dtypes_and_floods_of_arrays_are_refused():
    with pytest.raises(ProtocolViolation, match="dtype"):
        check_arrays({"w": np.array(["text"], dtype=object)})
    with pytest.raises(ProtocolViolation, match="more than"):
        check_arrays({str(i): np.zeros(1) for i in range(5000)})


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50)
@given(metadata=st.dictionaries(st.text("abc"), JSON, max_size=4))
def test_digest_ignores_the_order_of_keys(metadata):
    assert request_digest(metadata) == request_digest(dict(reversed(metadata.items())))
    assert request_digest(metadata) != request_digest({**metadata, "d": 0})


def test_digest_covers_name_dtype_shape_and_every_byte_of_arrays():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    changed = array.copy()
    changed[1, 2] = np.nextafter(changed[1, 2], 7)
    digests = [
        request_digest({}, {"a": array}),
        request_digest({}, {"b": array}),
        request_digest({}, {"a": array.astype(np.float64)}),
        request_digest({}, {"a": array.reshape(3, 2)}),
        request_digest({}, {"a": changed}),
        request_digest({}, {"a": array, "b": array}),
        request_digest({"a": 1}, {"a": array}),
        request_digest({}),
    ]
    assert len(set(digests)) == len(digests)
    assert all(len(digest) == 32 for digest in digests)


def test_digest_is_that_of_the_values_not_of_their_layout_in_memory():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    swapped = array.astype(">f4")
    assert request_digest({}, {"a": array}) == request_digest({}, {"a": np.asfortranarray(array)})
    assert request_digest({}, {"a": array}) == request_digest({}, {"a": swapped})
    assert request_digest({}, {"a": array, "b": swapped}) == request_digest({}, {"b": swapped, "a": array})


@pytest.mark.parametrize("metadata", [{"x": float("nan")}, {"x": float("inf")}, {"x": 2**60}, {"x": object()}])
def test_metadata_without_a_canonical_form_are_refused(metadata):
    with pytest.raises(ProtocolViolation):
        request_digest(metadata)


def test_arrays_of_objects_are_refused():
    with pytest.raises(ProtocolViolation):
        request_digest({}, {"a": np.array([{}], dtype=object)})
