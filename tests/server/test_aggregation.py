import numpy as np
import pytest
import torch

from manikin.common.errors import ProtocolViolation
from manikin.server.aggregation import add_sums, average_states


def test_sums_are_added_in_float64():
    assert add_sums([np.array([1e16, 1.0]), np.array([-1e16, 1.0])]).tolist() == [0.0, 2.0]


def test_sums_of_different_lengths_are_refused():
    with pytest.raises(ProtocolViolation):
        add_sums([np.zeros(2), np.zeros(3)])


def test_weights_are_normalised_and_untouched_tensors_stay_bit_for_bit():
    base = {"moved": torch.zeros(2), "still": torch.tensor([0.1, 0.2, 0.3])}
    replies = [
        {"moved": np.array([1, 2], np.float32), "still": base["still"].numpy()},
        {"moved": np.array([4, 8], np.float32), "still": base["still"].numpy()},
    ]
    merged = average_states(base, replies, [3.0, 1.0])
    assert merged["moved"].tolist() == [1.75, 3.5]
    assert torch.equal(merged["still"], base["still"])


@pytest.mark.parametrize("reply", [{}, {"w": np.zeros(3, np.float32)}, {"w": np.zeros(2, np.float64)}])
def test_a_state_that_does_not_fit_is_refused(reply):
    with pytest.raises(ProtocolViolation, match="no fitting tensor"):
        average_states({"w": torch.zeros(2)}, [reply], [1.0])
