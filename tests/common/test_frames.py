import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manikin.common import frames
from manikin.common.errors import ProtocolViolation
from manikin.common.keys import SigningKey
from manikin.common.wire import Refused, Reply, Task

KEY = SigningKey.generate()

DTYPES = (np.float32, np.float64, np.int64, np.uint8)


@st.composite
def arrays(draw):
    """A few small arrays of every dtype that may travel."""
    names = draw(st.lists(st.text(min_size=1, max_size=8).filter(lambda n: n != "__metadata__"), max_size=3))
    shapes = st.lists(st.integers(0, 3), max_size=3)
    return {n: np.full(draw(shapes), draw(st.integers(0, 255)), draw(st.sampled_from(DTYPES))) for n in names}


@given(arrays())
def test_a_task_and_a_reply_come_back_whole_and_their_signatures_hold(named):
    task = Task("ab" * 32, 3, "train", {"heads": {"north": "…"}}, named).signed(KEY)
    back = frames.decode_task(frames.encode_task(task))
    assert (back.digest, back.parameters) == (task.digest, task.parameters)
    back.check_signature(KEY.public_key)
    reply = Reply(named, "north", "head").signed(KEY, task)
    answered = frames.decode_reply(frames.encode_reply(reply))
    answered.check_signature(KEY.public_key, task)
    assert answered.head == "head"


@given(st.data())
def test_any_changed_byte_is_refused_or_breaks_the_signature(data):
    task = Task("ab" * 32, 3, "train", {"x": 1}, {"w": np.arange(3.0)}).signed(KEY)
    frame = bytearray(frames.encode_task(task))
    place = data.draw(st.integers(0, len(frame) - 1))
    frame[place] ^= data.draw(st.integers(1, 255))
    try:
        back = frames.decode_task(bytes(frame))
    except ProtocolViolation:
        return
    if back.signature != task.signature or back.digest != task.digest:
        with pytest.raises(ProtocolViolation):
            back.check_signature(KEY.public_key)


@given(st.binary(max_size=200))
def test_rubbish_is_refused(content):
    for read in (frames.decode_task, frames.decode_reply):
        with pytest.raises(ProtocolViolation):
            read(content)


def test_a_reply_answers_one_task_and_speaks_for_one_hospital():
    task, other = (Task("ab" * 32, step, "train") for step in (1, 2))
    reply = Reply({}, "north").signed(KEY, task)
    with pytest.raises(ProtocolViolation, match="not signed"):
        reply.check_signature(KEY.public_key, other)
    with pytest.raises(ProtocolViolation, match="not signed"):
        reply.check_signature(SigningKey.generate().public_key, task)


def test_a_refusal_is_one_of_three_codes():
    assert frames.decode_reply(frames.encode_reply(Refused("policy-refusal"))) == Refused("policy-refusal")
    with pytest.raises(ProtocolViolation, match="no reason that is known"):
        frames.decode_reply(frames.encode_reply(Refused("because Ada Lovelace")))


def test_a_head_that_claims_gigabytes_costs_none():
    frame = (1 << 60).to_bytes(8, "little") + b"{}"
    with pytest.raises(ProtocolViolation, match="cut off or too large"):
        frames.decode_task(frame)


def test_arrays_that_are_not_finite_or_of_another_kind_are_refused():
    frame = frames.encode_task(Task("ab" * 32, 1, "release", arrays={"w": np.array([np.nan])}))
    with pytest.raises(ProtocolViolation, match="not finite"):
        frames.decode_task(frame)
    size = int.from_bytes(frame[:8], "little")
    header = json.loads(frame[8 : 8 + size])
    header["w"] |= {"dtype": "F16", "shape": [4]}
    text = json.dumps(header).encode()
    with pytest.raises(ProtocolViolation, match="dtype"):
        frames.decode_task(len(text).to_bytes(8, "little") + text + bytes(8))


@pytest.mark.parametrize("step", [-1, frames.STEPS_MAX, 1 << 63, 1 << 200])
def test_a_step_number_out_of_bounds_is_refused(step):
    last = Task("ab" * 32, frames.STEPS_MAX - 1, "train")
    assert frames.decode_task(frames.encode_task(last)).step == last.step
    with pytest.raises(ProtocolViolation, match="step"):
        frames.decode_task(frames.encode_task(replace(last, step=step)))
