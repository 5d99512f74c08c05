"""Putting hospitals' answers together as they come: sums of noisy sums, and means of weights.

Each answer is checked as a whole, folded in, and dropped. Values are taken as whole multiples of a public unit, and
whole numbers add up to the same in any order: so the result depends neither on the order in which hospitals answer nor
on a restart, bit for bit. The running sum of weights lies in a file without a name beside the checkpoints, and is held
in memory block by block: whatever the number of hospitals, a coordinator holds the weights that it sent and one answer.

>>> import pathlib, tempfile
>>> base = {"w": np.array([1, 2], np.float32)}
>>> with StateMean(base, {"a": 3.0, "b": 1.0}, pathlib.Path(tempfile.gettempdir())) as mean:
...     mean.add("b", {"w": np.array([5, 2], np.float32)})
...     mean.add("a", {"w": np.array([1, 2], np.float32)})
...     mean.result()["w"].tolist()
[2.0, 2.0]

It does not promise that a result is good: a hospital that sends other weights than it learned moves the mean, by as
much as its share. Sums of floats depend on their order: Goldberg 1991; exact sums by whole numbers: Demmel and Nguyen
2013.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manikin.common.errors import ProtocolViolation
from manikin.common.files import storage_errors
from manikin.common.wire import Arrays

BLOCK = 1 << 17  # values worked on at a time
UNIT = 2.0**-48  # of a moved weight: what a hospital moves a weight by is rounded to this over its share
REACH = 2.0**14  # how far one answer may move one weight: int64 holds the sum of all shares of it
SUM_BITS = 52  # of a released sum in its grid: float64 holds it exactly


class ReleaseSum:
    """Running sum of hospitals' released vectors, each a multiple of the mechanism's public grid.

    Args:
        size: length of a vector.
        grid: of the noise (`mechanisms.public_grid`), a power of two.
        hospitals: how many may answer.
    """

    def __init__(self, size: int, *, grid: float, hospitals: int) -> None:
        self.total: NDArray[np.float64] = np.zeros(size)
        self._grid, self._limit = grid, 2.0**SUM_BITS / hospitals * grid

    def add(self, name: str, arrays: Arrays) -> None:
        """Fold in one hospital's `sum`.

        Raises:
            ProtocolViolation: it has another length, or no released sum is as large; nothing was folded in.
        """
        vector = arrays["sum"]
        if vector.shape != self.total.shape or not bool((np.abs(vector) < self._limit).all()):
            raise ProtocolViolation(
                f"The sum of {name!r} was refused.",
                "It has another length, or values beyond any sum over patients.",
                "Check that all run one version.",
            )
        self.total += np.rint(vector / self._grid) * self._grid


class StateMean:
    """Running weighted mean of hospitals' states; a tensor that nobody moved stays bit for bit as it was.

    The mean is exact up to half of `UNIT` a hospital, far below float32's own rounding of weights that matter. Weights
    are the plan's, never a count of patients. It is a context, at whose end the running sum is gone.

    Args:
        base: the state that the hospitals were sent.
        weights: of all hospitals that may answer, by name.
        folder: where the running sum lies; twice as large as a float32 state.
    """

    def __init__(self, base: Arrays, weights: Mapping[str, float], folder: Path) -> None:
        self._base = base
        total = math.fsum(weights.values())
        self._shares = {name: weight / total for name, weight in weights.items()}
        self._answered: list[str] = []
        self._moved: set[str] = set()
        self._starts = dict(zip(base, np.cumsum([0, *(array.size for array in base.values())]).tolist(), strict=False))
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed at the context's end)
            self._file.truncate(8 * sum(array.size for array in base.values()))

    def __enter__(self) -> StateMean:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def add(self, name: str, arrays: Arrays) -> None:
        """Fold in one hospital's state.

        Raises:
            ProtocolViolation: it lacks a tensor, has another shape or dtype, moves one that is not of floats, or moves
                a value farther than `REACH`; nothing was folded in.
            StorageFailure: the disk is full.
        """
        moved = [tensor for tensor, start in self._base.items() if _moves(arrays, tensor, start)]
        with storage_errors(Path("the running sum")):
            for tensor in moved:
                self._fold(tensor, arrays[tensor], self._shares[name])
        self._moved.update(moved)
        self._answered.append(name)

    def _fold(self, tensor: str, array: NDArray[Any], share: float) -> None:
        start, values = self._base[tensor].reshape(-1), array.reshape(-1)
        for block in _blocks(values.size):
            difference = values[block].astype(np.float64) - start[block]
            units = np.rint(difference * (share / UNIT)).astype(np.int64)
            place = 8 * (self._starts[tensor] + block.start)
            units += self._read(place, units.size)
            self._file.seek(place)
            self._file.write(units.data)

    def _read(self, place: int, count: int) -> NDArray[np.int64]:
        self._file.seek(place)
        return np.frombuffer(self._file.read(8 * count), np.int64)

    def result(self) -> dict[str, Tensor]:
        """The mean over those who answered, by their shares among themselves."""
        answered = math.fsum(self._shares[name] for name in self._answered)
        merged = {}
        for tensor, start in self._base.items():
            mean = start if tensor not in self._moved else self._mean(tensor, start, answered)
            merged[tensor] = torch.from_numpy(mean)
        return merged

    def _mean(self, tensor: str, start: NDArray[Any], answered: float) -> NDArray[Any]:
        mean, flat = np.empty(start.size, start.dtype), start.reshape(-1)
        for block in _blocks(start.size):
            units = self._read(8 * (self._starts[tensor] + block.start), mean[block].size)
            mean[block] = flat[block] + units * (UNIT / answered)
        return mean.reshape(start.shape)


def _moves(arrays: Arrays, tensor: str, start: NDArray[Any]) -> bool:
    """Whether a state moves a tensor; refuses one that does so in a way that no training does."""
    array = arrays.get(tensor)
    if array is None or array.shape != start.shape or array.dtype != start.dtype:
        raise _violation(tensor, "It is missing, or has another shape or dtype.")
    if np.array_equal(array, start):
        return False
    if start.dtype.kind != "f":
        raise _violation(tensor, "It is not one that training moves.")
    old, new = start.reshape(-1), array.reshape(-1)
    if not all(bool((np.abs(new[b].astype(np.float64) - old[b]) < REACH).all()) for b in _blocks(old.size)):
        raise _violation(tensor, "It is too far from what was sent.")
    return True


def _blocks(size: int) -> Iterator[slice]:
    return (slice(i, min(i + BLOCK, size)) for i in range(0, size, BLOCK))


def _violation(tensor: str, why: str) -> ProtocolViolation:
    return ProtocolViolation(
        f"A hospital's state has no fitting tensor {tensor!r}.", why, "Check that all run one version."
    )
