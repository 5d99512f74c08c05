"""The embedded grid with real worker processes and the real ClientApp."""

import os
import signal

import pytest
from flwr.app import Message

from manikin.client.app import packed
from manikin.embedded.grid import FIRST_NODE, WORKER_LOST, EmbeddedGrid


@pytest.fixture
def grid(tmp_path):
    with EmbeddedGrid([tmp_path / "nowhere", tmp_path / "neither"], workers=2) as grid:
        yield grid


def a_message(node):
    return Message(packed(b"rubbish"), node, "query.open", group_id="0")


def test_a_refusal_crosses_as_a_code_and_its_text_stays(grid):
    (reply,) = grid.send_and_receive([a_message(FIRST_NODE)])
    assert reply.error.reason == "misconfigured"


def test_a_killed_worker_costs_an_error_reply_and_the_next_message_gets_a_new_one(grid):
    (first,) = grid.send_and_receive([a_message(FIRST_NODE)])
    process = grid._workers[0]._process
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (lost,) = grid.send_and_receive([a_message(FIRST_NODE)])
    (again,) = grid.send_and_receive([a_message(FIRST_NODE)])
    assert (lost.error.code, lost.error.reason) == (WORKER_LOST, "lost")
    assert again.error.reason == first.error.reason


def test_closing_ends_every_worker(tmp_path):
    with EmbeddedGrid([tmp_path], workers=1) as grid:
        grid.send_and_receive([a_message(FIRST_NODE)])
        process = grid._workers[0]._process
        assert process.poll() is None
    assert process.poll() is not None
