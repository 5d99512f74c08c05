import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manikin.common.errors import ProtocolViolation
from manikin.common.wire import Task, check_arrays


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
