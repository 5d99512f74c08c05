"""The channel over a grid whose hospitals answer what a vault never would."""

import dataclasses
import gc
import weakref

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict

from manikin.client.app import packed
from manikin.common import frames
from manikin.common.keys import SigningKey
from manikin.common.pieces import join
from manikin.common.plan import Party
from manikin.common.wire import Refused, Reply, Task
from manikin.embedded.grid import take_identity
from manikin.server import app as module
from manikin.server.app import GridChannel
from manikin.server.channel import Missing

COORDINATOR, NORTH = SigningKey.generate(), SigningKey.generate()
TASK = Task("ab" * 32, 1, "train", {"heads": {}}, {"w": np.zeros(2, np.float32)})


class Grid:
    """Answers each message at once by `hospital(task)`: a reply frame, an error, or None for never."""

    def __init__(self, hospital):
        take_identity(node_id=1)
        self.hospital, self.ready, self.asked = hospital, {}, []

    def push_messages(self, messages):
        return [self._push(message) for message in messages]

    def _push(self, message):
        message.metadata.__dict__["_message_id"] = identity = f"m{len(self.asked)}"
        pieces = message.content.array_records["body"]
        task = frames.decode_task(join({name: piece.data for name, piece in pieces.items()}))
        self.asked.append(task)
        answer = self.hospital(task)
        if isinstance(answer, Error):
            self.ready[identity] = Message(answer, reply_to=message)
        elif answer is not None:
            self.ready[identity] = Message(packed(answer), reply_to=message)
        return identity

    def pull_messages(self, identities):
        return [self.ready.pop(i) for i in identities if i in self.ready]


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(module, "PAUSE_S", 0.0)


def ask(hospital, *, deadline_s=5.0):
    grid = Grid(hospital)
    channel = GridChannel(grid, {7: "north"}, [Party("north", NORTH.public_key.hex())], COORDINATOR)
    ((_, answer),) = channel.ask({"north": TASK}, deadline_s=deadline_s)
    return answer, grid


def honest(task, **changes):
    reply = Reply({"w": np.ones(2, np.float32)}, "north", "head")
    return frames.encode_reply(dataclasses.replace(reply, **changes).signed(NORTH, task))


def test_a_task_goes_out_signed_and_a_signed_reply_counts():
    answer, grid = ask(honest)
    assert isinstance(answer, Reply)
    grid.asked[0].check_signature(COORDINATOR.public_key)


@pytest.mark.parametrize(
    ("hospital", "code"),
    [
        (lambda t: honest(t, arrays={"w": np.array([np.nan, 1], np.float32)}), "malformed"),
        (lambda t: b"no frame at all", "malformed"),
        (lambda t: honest(t, name="south"), "forged"),
        (lambda t: frames.encode_reply(Reply({"w": np.ones(2)}, "north").signed(SigningKey.generate(), t)), "forged"),
        (lambda t: honest(dataclasses.replace(t, step=0, signature=b"")), "forged"),  # stale: the step before
        (lambda t: frames.encode_reply(Refused("policy-refusal")), "policy-refusal"),
        (lambda t: Error(100, "text about Ada Lovelace"), "lost"),
        (lambda t: None, "deadline"),
    ],
)
def test_a_hospital_that_answers_wrongly_is_missing_and_says_why_in_a_word(hospital, code):
    answer, _ = ask(hospital, deadline_s=1.0)
    assert answer == Missing(code)


def test_a_lost_hospital_is_asked_the_very_same_again_and_not_for_ever():
    answers = iter([Error(101, "lost"), Error(3, "Node Unavailable")])
    answer, grid = ask(lambda task: next(answers, None) or honest(task))
    assert isinstance(answer, Reply)
    assert len({(task.digest, task.signature) for task in grid.asked}) == 1
    assert len(grid.asked) == 3
    answer, grid = ask(lambda task: Error(101, "lost"))
    assert (answer, len(grid.asked)) == (Missing("lost"), module.ATTEMPTS)


def test_an_array_beyond_the_bound_is_refused_before_anything_is_done_with_it(monkeypatch):
    monkeypatch.setattr(frames, "FRAME_BYTES_MAX", 5000)
    answer, _ = ask(lambda task: honest(task) + bytes(6000))
    assert answer == Missing("malformed")


def test_a_hospital_that_never_connected_is_asked_again_and_then_lost_without_holding_up_the_others(monkeypatch):
    refusals = []

    class Fresh(Grid):
        def _push(self, message):
            if message.metadata.dst_node_id == 8:
                refusals.append(message)
                return None  # what Flower's SuperLink answers for a node that was never online
            return super()._push(message)

    parties = [Party("north", NORTH.public_key.hex()), Party("south", NORTH.public_key.hex())]
    grid = Fresh(lambda task: honest(task))
    channel = GridChannel(grid, {7: "north", 8: "south"}, parties, COORDINATOR, poll_s=0.001)
    answers = dict(channel.ask({"north": TASK, "south": TASK}, deadline_s=5))
    assert isinstance(answers["north"], Reply)
    assert answers["south"] == Missing("lost")
    assert len(refusals) == module.ATTEMPTS


def test_one_message_is_pulled_at_a_time_and_it_and_its_answer_are_gone_before_the_next(monkeypatch):
    """Without the garbage collector: a message in a cycle with itself would wait for it, with a model in it."""
    pieces, answers = [], []

    def alive(things):
        return [weak for weak in things if weak() is not None]

    def decode_reply(frame):
        assert alive(pieces) == []
        return frames.decode_reply(frame)

    class Careful(Grid):
        def pull_messages(self, identities):
            (identity,) = identities
            assert alive(pieces) == alive(answers) == []
            found = super().pull_messages([identity])
            pieces.extend(weakref.ref(piece) for message in found for piece in message.content["body"].values())
            return found

        def _push(self, message):
            bare = Message(RecordDict(), message.metadata.dst_node_id, message.metadata.message_type)
            bare.metadata.__dict__["_message_id"] = identity = f"m{len(self.asked)}"
            self.asked.append(identity)
            name = {7: "north", 8: "south"}[message.metadata.dst_node_id]
            signed = TASK.signed(COORDINATOR)
            self.ready[identity] = Message(packed(honest(signed, name=name)), reply_to=bare)
            return identity

    parties = [Party("north", NORTH.public_key.hex()), Party("south", NORTH.public_key.hex())]
    channel = GridChannel(Careful(None), {7: "north", 8: "south"}, parties, COORDINATOR, poll_s=0.001)
    monkeypatch.setattr(module, "decode_reply", decode_reply)
    gc.collect()
    gc.disable()
    try:
        for _, answer in channel.ask({"north": TASK, "south": TASK}, deadline_s=5):
            assert isinstance(answer, Reply)
            answers.append(weakref.ref(answer))
            del answer
    finally:
        gc.enable()
    assert len(pieces) == len(answers) == 2
    assert channel.bytes_in == 2 * len(honest(TASK, name="north"))
