"""Frames in chunks: what goes in comes out, and nothing is read beyond the bound."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manikin.client.service import protocol
from manikin.client.service.protocol import CHUNK_BYTES, check_address, chunks, collect
from manikin.common import frames
from manikin.common.errors import Misconfigured, ProtocolViolation

BOUND = 8 * CHUNK_BYTES


def size(n):
    return n.to_bytes(8, "big")


def zeros(consumed):
    """10 GB of zeros, if anybody takes them."""
    chunk = bytes(CHUNK_BYTES)
    for _ in range(10_000):
        consumed.append(1)
        yield chunk


def test_the_bound_is_that_of_frames():
    assert protocol.FRAME_BYTES_MAX == frames.FRAME_BYTES_MAX


@given(st.binary(min_size=1, max_size=5000))
def test_a_frame_comes_out_as_it_went_in(frame):
    assert collect(chunks(frame)) == frame


@pytest.mark.parametrize("n", [CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, BOUND])
def test_no_message_is_larger_than_a_chunk(n):
    frame = bytes(n)
    assert all(len(message) <= CHUNK_BYTES for message in chunks(frame))
    assert collect(chunks(frame), frame_bytes_max=BOUND) == frame


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [b""],
        [b"a frame without its size"],
        [size(0)],
        [size(BOUND + 1), b"x"],
        [size(2**63), b"x"],
        [size(5), b"cut"],
        [size(5)],
        [size(2), b"long"],
        [size(2), b"ab", b""],
        [size(2), b"ab", b"c"],
        [size(CHUNK_BYTES + 1), bytes(CHUNK_BYTES + 1)],
    ],
)
def test_a_stream_that_breaks_a_rule_is_refused(messages):
    with pytest.raises(ProtocolViolation):
        collect(iter(messages), frame_bytes_max=BOUND)


@given(st.lists(st.binary(max_size=20), max_size=6))
def test_any_stream_is_a_frame_or_a_refusal(messages):
    try:
        frame = collect(messages, frame_bytes_max=100)
    except ProtocolViolation:
        return
    assert [size(len(frame)), frame] == [messages[0], b"".join(messages[1:])]


def test_a_stream_that_declares_too_much_is_not_read():
    consumed = []
    with pytest.raises(ProtocolViolation):
        collect((m for part in ([size(BOUND + 1)], zeros(consumed)) for m in part), frame_bytes_max=BOUND)
    assert not consumed


def test_zeros_without_end_are_refused_at_the_bound_with_bounded_memory():
    consumed = []
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolViolation):
            collect((m for part in ([size(BOUND)], zeros(consumed)) for m in part), frame_bytes_max=BOUND)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(consumed) == BOUND // CHUNK_BYTES + 1
    assert peak < 2.5 * BOUND


def test_a_path_that_no_socket_can_have_is_refused():
    check_address("/" + "a" * 106)
    with pytest.raises(Misconfigured, match="108"):
        check_address("/" + "ä" * 53 + "a")
