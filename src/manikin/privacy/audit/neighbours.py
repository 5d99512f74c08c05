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
QUERY_BLOCK = 1024
BASE_BLOCK = 8192
PAIRS_AT_ONCE = 1 << 22


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
    centre = base.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = base - centre
    norms = np.einsum("ij,ij->i", centred, centred)
    index, distance = np.zeros(len(queries), np.int64), np.full(len(queries), np.inf)
    for rows in _blocks(len(queries), QUERY_BLOCK):
        block = queries[rows] - centre
        index[rows], distance[rows] = _nearest_in_block(queries[rows], block, base, centred, norms)
        if progress is not None:
            progress(len(block))
    return index, distance


def _nearest_in_block(
    queries: Float32Array, block: Float32Array, base: Float32Array, centred: Float32Array, norms: Float32Array
) -> tuple[Int64Array, Float64Array]:
    own = np.einsum("ij,ij->i", block, block)
    slack = _rounding_error(block.shape[1]) * (own + norms.max())
    proposed = np.full(len(block), np.inf, np.float32)
    index, square = np.zeros(len(block), np.int64), np.full(len(block), np.inf)
    for columns in _blocks(len(base), BASE_BLOCK):
        squares = block @ centred[columns].T
        squares *= -2
        squares += own[:, None]
        squares += norms[None, columns]
        proposed = np.minimum(proposed, squares.min(axis=1))
        query, candidate = np.nonzero(squares <= (proposed + slack)[:, None])
        exact = _exact_squares(queries, base[columns], query, candidate)
        order = np.lexsort((candidate, exact, query))
        first = order[np.unique(query[order], return_index=True)[1]]
        better = first[exact[first] < square[query[first]]]
        square[query[better]] = exact[better]
        index[query[better]] = candidate[better] + columns.start
    return index, np.sqrt(square)


def _rounding_error(dimensions: int) -> float:
    """Bound of the error of a single-precision squared distance, as a share of the squared norms' sum.

    A product summed over d terms errs by at most about d·2⁻²⁴ of the norms (Higham 2002, section 3.1).
    """
    return (2 * dimensions + 16) * 2.0**-24


def _exact_squares(queries: Float32Array, base: Float32Array, query: Int64Array, candidate: Int64Array) -> Float64Array:
    squares = np.empty(len(query))
    for pairs in _blocks(len(query), max(1, PAIRS_AT_ONCE // queries.shape[1])):
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


def _blocks(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))
