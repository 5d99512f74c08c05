"""Random fields, edges and lengths that anatomies are drawn with."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manikin.common.phantoms.fields import Draws, dome, edge, length, mesh, ramp, union


@pytest.mark.parametrize("cells", [(0.5, 3.0), (6.0, 6.0), (20.0, 11.0)])
def test_fields_have_mean_zero_and_variance_one_everywhere(cells: tuple[float, float]) -> None:
    field = Draws(np.random.default_rng(1), 4000, (16, 20)).field(cells)
    assert field.dtype == np.float32
    assert np.abs(field.mean(axis=0)).max() < 6 / np.sqrt(4000)
    assert np.abs(field.var(axis=0) - 1.0).max() < 6 * np.sqrt(2 / 4000)


def test_more_cells_make_a_rougher_field() -> None:
    smooth, rough = (Draws(np.random.default_rng(1), 50, (64, 64)).field((c, c)) for c in (3.0, 20.0))
    assert np.abs(np.diff(rough, axis=2)).mean() > 3 * np.abs(np.diff(smooth, axis=2)).mean()


@given(st.floats(-10, 10), st.floats(0.01, 5))
def test_edge_and_ramp_are_shares(value: float, width: float) -> None:
    for share in (edge(np.float32(value), width), ramp(np.float32(value), width)):
        assert 0.0 <= share <= 1.0
    assert edge(np.float32(width), width) == 1.0
    assert edge(np.float32(-width), width) == 0.0
    assert edge(np.float32(0.0), width) == pytest.approx(0.5)


def test_a_place_is_always_an_eligible_one_where_there_is_one() -> None:
    rng = np.random.default_rng(0)
    eligible = rng.random((200, 8, 8)) < 0.05
    eligible[:, 3, 3] = True
    rows, columns = Draws(rng, 200, (8, 8)).place(eligible)
    assert eligible[np.arange(200), rows, columns].all()


def test_union_is_at_least_either_body_and_exact_far_from_the_seam() -> None:
    first, second = np.float32([1.0, 5.0, -3.0]), np.float32([1.0, 0.0, 4.0])
    blended = union(first, second, 2.0)
    assert (blended >= np.maximum(first, second)).all()
    assert blended[1:] == pytest.approx([5.0, 4.0])
    assert blended[0] == pytest.approx(1.5)


def test_length_dome_and_mesh() -> None:
    assert length(np.float32([3.0]), np.float32([4.0])) == pytest.approx(5.0)
    assert dome(np.float32([0.0, 0.75, 2.0])) == pytest.approx([1.0, 0.5, 0.0])
    rows, columns = mesh((4, 2))
    assert rows.shape == (1, 4, 1)
    assert columns.ravel() == pytest.approx([-0.5, 0.5])
