"""Putting hospitals' answers together: sums of noisy sums, and means of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manikin.common.errors import ProtocolViolation
from manikin.common.wire import Arrays


def add_sums(sums: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Sum of hospitals' vectors, in the order given.

    Raises:
        ProtocolViolation: their shapes differ.
    """
    if len({s.shape for s in sums}) != 1:
        raise ProtocolViolation("Hospitals sent sums of different lengths.", "", "Check that all run one version.")
    total: NDArray[np.float64] = np.stack(sums).sum(axis=0)
    return total


def average_states(
    base: Mapping[str, Tensor], replies: Sequence[Arrays], weights: Sequence[float]
) -> dict[str, Tensor]:
    """Weighted mean of hospitals' states, tensor by tensor, in float64.

    A tensor that every hospital returned unchanged stays bit for bit as it was. Weights are the plan's, never
    a count of patients.

    Raises:
        ProtocolViolation: a state lacks a tensor, or has another shape or dtype.
    """
    share = np.asarray(weights, dtype=np.float64) / float(np.sum(weights))
    merged = {}
    for name, tensor in base.items():
        start = tensor.detach().numpy()
        moved = [_checked(reply, name, start) for reply in replies]
        if all(np.array_equal(array, start) for array in moved):
            merged[name] = tensor.detach()
            continue
        mean = np.tensordot(share, np.stack(moved).astype(np.float64), axes=1)
        merged[name] = torch.from_numpy(np.ascontiguousarray(mean.astype(start.dtype)))
    return merged


def _checked(reply: Arrays, name: str, start: NDArray[Any]) -> NDArray[Any]:
    array = reply.get(name)
    if array is None or array.shape != start.shape or array.dtype != start.dtype:
        raise ProtocolViolation(
            f"A hospital's state has no fitting tensor {name!r}.",
            "It is missing, or has another shape or dtype.",
            "Check that all run one version.",
        )
    return array
