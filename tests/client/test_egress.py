"""The egress log: a closed list of kinds, entered before leaving, in a chain."""

import contextlib
import hashlib
import math
import shutil
import sqlite3
import struct
import threading

import hypothesis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manikin.client.egress import FREE_KINDS, EgressLog, Tensor, unaccounted, unlogged
from manikin.common.errors import PolicyRefusal, StorageFailure
from manikin.common.keys import SigningKey
from manikin.common.wire import CHARGED
from manikin.privacy.accounting import Mechanism
from manikin.privacy.ledger import Ledger

KEY = SigningKey.generate()
TENSORS = [{"name": "sum", "shape": [2, 3], "dtype": "float64"}]


@pytest.fixture
def log(tmp_path):
    return EgressLog(tmp_path / "egress.sqlite", signer=KEY)


def send(log, kind="release", step=0, content=b"noisy sum", **changed):
    cost = 1.0 if kind in CHARGED else None
    entry = {"kind": kind, "plan": "plan", "step": step, "tensors": TENSORS, "content": content, "epsilon": cost}
    log.record(**(entry | changed))


def query(path, statement, *values):
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        return db.execute(statement, values).fetchall()


def test_a_message_is_described_by_everything_but_its_values(log):
    send(log)
    (message,) = log.messages()
    assert (message.sequence, message.kind, message.plan, message.step) == (1, "release", "plan", 0)
    assert (message.size_bytes, message.digest) == (9, hashlib.sha256(b"noisy sum").hexdigest())
    assert (message.tensors, message.epsilon) == ((Tensor(name="sum", shape=(2, 3), dtype="float64"),), 1.0)
    assert message.at.endswith("+00:00")


@pytest.mark.parametrize("kind", sorted(CHARGED | FREE_KINDS))
def test_what_is_on_the_list_may_leave_and_again(log, kind):
    send(log, kind)
    send(log, kind)
    assert [message.kind for message in log.messages()] == [kind, kind]
    assert log.verify(KEY.public_key) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "metrics"},
        {"kind": ""},
        {"kind": "train", "epsilon": None},
        {"kind": "audit", "epsilon": 0.5},
        {"tensors": [{"name": "loss", "shape": [], "value": 0.25}]},
        {"tensors": [{"shape": [1]}]},
        {"tensors": [{"name": "sum", "shape": ["many"]}]},
    ],
)
def test_what_is_not_on_the_list_does_not_leave(log, wrong):
    with pytest.raises(PolicyRefusal, match="kept from leaving"):
        send(log, **wrong)
    assert log.messages() == []


def test_an_entry_without_tensors_plan_or_step_is_one(log):
    send(log, "refusal", step=-1, plan="", tensors=[])
    assert (log.messages()[0].step, log.messages()[0].tensors) == (-1, ())


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    path = tmp_path_factory.mktemp("honest") / "egress.sqlite"
    log = EgressLog(path, signer=KEY)
    for step, kind in enumerate(("open", "release", "train")):
        send(log, kind, step)
    return path


COLUMNS = ["sequence", "at", "kind", "plan", "step", "tensors", "size_bytes", "digest", "epsilon", "hash", "signature"]


def flip(value, position):
    if value is None:
        return 0.0
    if isinstance(value, int):
        return value ^ (1 << position % 62)
    content = bytearray(struct.pack(">d", value) if isinstance(value, float) else value)
    content[position // 8 % len(content)] ^= 1 << position % 8
    return struct.unpack(">d", content)[0] if isinstance(value, float) else bytes(content)


@settings(max_examples=100, deadline=None)
@given(column=st.sampled_from(COLUMNS), row=st.integers(1, 3), position=st.integers(0, 8 * 200))
def test_any_bit_of_any_field_is_found_when_it_is_turned(honest, tmp_path_factory, column, row, position):
    path = tmp_path_factory.mktemp("edited") / "egress.sqlite"
    shutil.copy(honest, path)
    kinds = dict(query(path, "SELECT name, type FROM pragma_table_info('message')"))
    read = f"CAST({column} AS BLOB)" if kinds[column] in ("TEXT", "BLOB") else column
    ((value,),) = query(path, f"SELECT {read} FROM message WHERE sequence = ?", row)
    edited = flip(value, position)
    hypothesis.assume(not (isinstance(edited, float) and math.isnan(edited)))  # sqlite stores no NaN
    with contextlib.suppress(sqlite3.IntegrityError):  # the number of another entry: this edit cannot be made
        query(path, f"UPDATE message SET {column} = CAST(? AS {kinds[column]}) WHERE sequence = ?", edited, row)
        assert EgressLog(path).verify(KEY.public_key)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM message WHERE sequence = 2",
        "UPDATE message SET sequence = 7 WHERE sequence = 3",
        "UPDATE message SET signature = NULL WHERE sequence = 3",
        "CREATE TABLE other (x)",
    ],
)
def test_deletions_moves_and_additions_are_found(honest, tmp_path, statement):
    path = tmp_path / "egress.sqlite"
    shutil.copy(honest, path)
    assert EgressLog(path).verify(KEY.public_key) == []
    query(path, statement)
    assert EgressLog(path).verify(KEY.public_key)


def test_a_log_signed_by_another_is_found(log):
    send(log)
    other = SigningKey.generate().public_key
    assert log.verify(other)
    assert log.verify(other, KEY.public_key) == log.verify() == []


def test_messages_and_ledger_account_for_each_other(log, tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.commit(ledger.reserve("plan", 0, bytes(32), Mechanism(3.73)), b"first")
    send(log, "release", 0)
    assert (unaccounted(log.messages(), ledger.spent()), unlogged(log.messages(), ledger.spent())) == ([], [])
    ledger.reserve("plan", 1, bytes(32), Mechanism(3.73))
    send(log, "train", 1)
    assert [message.step for message in unaccounted(log.messages(), ledger.spent())] == [1]
    ledger.commit(ledger.reserve("plan", 2, bytes(32), Mechanism(3.73)), b"third")
    assert unlogged(log.messages(), ledger.spent()) == [("plan", 2)]


def test_several_at_once_make_one_chain(log):
    threads = [threading.Thread(target=send, args=(log,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [message.sequence for message in log.messages()] == list(range(1, 9))
    assert log.verify(KEY.public_key) == []


def test_a_log_that_cannot_be_written_stops_the_message(log, tmp_path):
    for file in tmp_path.iterdir():
        file.unlink()
    with pytest.raises(StorageFailure, match="egress log"):
        send(log)


def test_only_its_owner_can_read_it(log, tmp_path):
    assert (tmp_path / "egress.sqlite").stat().st_mode & 0o077 == 0
