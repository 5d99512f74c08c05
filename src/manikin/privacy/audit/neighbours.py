"""Exact nearest neighbours among flat vectors, by blocked matrix products.

Promises: the neighbour returned is the true one by float64 distance, ties going to the lowest index. Single precision
only proposes: every vector within the rounding error of the best proposal is measured again in double precision, so
that exact copies have distance 0 and not the square root of a cancellation. Approximate indices are never used: a
neighbour that they miss is a leak that is not found.

>>> index, distance = nearest(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)[::-1])
>>> index.tolist(), distance.tolist()
([2, 1, 0], [0.0, 0.0, 0.0])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from manikin.common.images import Float32Array, Int64Array

Float64Array = NDArray[np.float64]
QUERY_BLOCK = 6144
BASE_BLOCK = 4096
STRIP = 256
NUMBERS_AT_ONCE = 1 << 20
NUMBERS_WAITING = 1 << 26


def nearest(
    queries: Float32Array, base: Float32Array, *, progress: Callable[[int], None] | None = None
) -> tuple[Int64Array, Float64Array]:
    """Index and Euclidean distance of each query's nearest vector in `base`.

    Args:
        queries: float32 (n, d), finite.
        base: float32 (m, d), finite, m >= 1.
        progress: called with the number of queries just done.

    Returns:
        int64 (n,) and float64 (n,).
    """
    if len(base) == 0:
        raise ValueError("there is nothing to be near to")
    centre = base.mean(axis=0)  # any point would do: near the middle, rounding is smallest
    known, half_norms = _centred(base, centre)
    largest = half_norms.max()
    known[:, -1] = -half_norms
    index, distance = np.zeros(len(queries), np.int64), np.full(len(queries), np.inf)
    for rows in _even_blocks(len(queries), QUERY_BLOCK):
        block, own = _centred(queries[rows], centre)
        search = _Search(queries[rows], base, slack=_rounding_error(base.shape[1]) * (own + largest))
        index[rows], distance[rows] = search.run(block, known)
        if progress is not None:
            progress(len(block))
    return index, distance


def _centred(vectors: Float32Array, centre: Float32Array) -> tuple[Float32Array, Float32Array]:
    """The vectors minus `centre` with a column of ones, float32 (n, d + 1), and half of their squared norms, (n,)."""
    moved = np.empty((len(vectors), vectors.shape[1] + 1), np.float32)
    np.subtract(vectors, centre, out=moved[:, :-1])
    moved[:, -1] = 1
    return moved, np.einsum("ij,ij->i", moved[:, :-1], moved[:, :-1]) / np.float32(2)


class _Search:
    """One block of queries on its way through the base.

    The nearest b has the largest q·b − ‖b‖²/2, one product for vectors with one column more. Only strips of
    the base whose best comes near a query's best so far are looked at again; what is found is measured at the end.
    """

    def __init__(self, queries: Float32Array, base: Float32Array, *, slack: Float32Array) -> None:
        self.queries, self.base, self.slack = queries, base, slack
        self.best = np.full(len(queries), -np.inf, np.float32)
        self.index, self.square = np.zeros(len(queries), np.int64), np.full(len(queries), np.inf)
        self.waiting: list[tuple[Int64Array, Int64Array, Float32Array]] = []
        self.pairs_waiting = 0

    def run(self, block: Float32Array, known: Float32Array) -> tuple[Int64Array, Float64Array]:
        products = np.empty((min(BASE_BLOCK, len(known)), len(block)), np.float32)
        for rows in _blocks(len(known), BASE_BLOCK):
            scores = products[: rows.stop - rows.start]
            np.matmul(known[rows], block.T, out=scores)
            self._propose(scores, rows.start)
        self._measure()
        return self.index, np.sqrt(self.square)

    def _propose(self, scores: Float32Array, start: int) -> None:
        """Keep every pair within the rounding error of its query's best so far; `scores` is (base, queries)."""
        strips = list(_blocks(len(scores), STRIP))
        tops = np.stack([scores[strip].max(axis=0) for strip in strips])
        np.maximum(self.best, tops.max(axis=0), out=self.best)
        floor = self.best - self.slack
        for strip, top in zip(strips, tops, strict=True):
            query = np.flatnonzero(top >= floor)
            if len(query):
                seen = scores[strip, query]
                row, column = np.divmod(np.flatnonzero(seen >= floor[query]), len(query))
                self._keep(query[column], row + (start + strip.start), seen[row, column])

    def _keep(self, query: Int64Array, candidate: Int64Array, score: Float32Array) -> None:
        self.waiting.append((query, candidate, score))
        self.pairs_waiting += len(query)
        if self.pairs_waiting * self.queries.shape[1] > NUMBERS_WAITING:
            self._measure()

    def _measure(self) -> None:
        """Measure what was kept in double precision; among equals the lowest index wins."""
        if not self.waiting:
            return
        parts = [np.concatenate(part) for part in zip(*self.waiting, strict=True)]
        near = parts[2] >= (self.best - self.slack)[parts[0]]
        query, candidate = parts[0][near], parts[1][near]
        exact = _exact_squares(self.queries, self.base, query, candidate)
        order = np.lexsort((candidate, exact, query))
        first = order[np.unique(query[order], return_index=True)[1]]
        better = first[exact[first] < self.square[query[first]]]
        self.square[query[better]] = exact[better]
        self.index[query[better]] = candidate[better]
        self.waiting, self.pairs_waiting = [], 0


def _rounding_error(dimensions: int) -> float:
    """Bound of twice the error of a single-precision q·b − ‖b‖²/2, as a share of half the squared norms' sum.

    A sum of d products errs by at most about d·2⁻²⁴ of the norms (Higham 2002, section 3.1): the product itself, the
    norm in it, and the norm before it. Twice, because the best proposal and the true neighbour may err apart.
    """
    return (6 * dimensions + 48) * 2.0**-24


def _exact_squares(queries: Float32Array, base: Float32Array, query: Int64Array, candidate: Int64Array) -> Float64Array:
    squares = np.empty(len(query))
    for pairs in _blocks(len(query), max(1, NUMBERS_AT_ONCE // queries.shape[1])):
        gap = queries[query[pairs]].astype(np.float64) - base[candidate[pairs]]
        squares[pairs] = np.einsum("ij,ij->i", gap, gap)
    return squares


def typical_distance(
    queries: Float32Array, owners: Int64Array, base: Float32Array, base_owners: Int64Array, *, rank: int
) -> Float64Array:
    """Distance from each query to the `rank`-th nearest vector that belongs to another owner, float64 (n,).

    Single precision: this is a yardstick, not a score. Infinite where there are fewer than `rank` such vectors.
    """
    norms = np.einsum("ij,ij->i", base, base)
    distance = np.full(len(queries), np.inf)
    if len(base) < rank:
        return distance
    for rows in _blocks(len(queries), QUERY_BLOCK):
        block = queries[rows]
        squares = np.einsum("ij,ij->i", block, block)[:, None] + norms[None, :] - 2 * (block @ base.T)
        squares[owners[rows][:, None] == base_owners[None, :]] = np.inf
        kth = np.partition(squares, rank - 1, axis=1)[:, rank - 1].astype(np.float64)
        distance[rows] = np.sqrt(np.maximum(kth, 0.0))
    return distance


def _even_blocks(length: int, largest: int) -> Iterator[slice]:
    """As few blocks as may be, about equally long: a short last one would use the processor badly."""
    return _blocks(length, -(-length // max(1, -(-length // largest))))


def _blocks(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, max(size, 1)))
