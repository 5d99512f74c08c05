import pytest
from hypothesis import given
from hypothesis import strategies as st

from manikin.common import pieces


@given(st.binary(max_size=100))
def test_pieces_come_back_in_any_order(content):
    assert pieces.join(dict(reversed(pieces.cut(content).items()))) == content


@pytest.mark.parametrize(("size", "count"), [(0, 0), (1, 1), (8, 1), (9, 2), (8 * 100, 100)])
def test_no_piece_is_larger_than_allowed(monkeypatch, size, count):
    monkeypatch.setattr(pieces, "PIECE_BYTES", 8)
    cut = pieces.cut(bytes(range(256)) * 4)
    assert max(len(piece) for piece in cut.values()) == 8
    content = (bytes(range(256)) * 4)[:size]
    assert len(pieces.cut(content)) == count
    assert pieces.join(pieces.cut(content)) == content
