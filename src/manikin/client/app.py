"""The Flower ClientApp: hands each message to the vault, and returns what the vault gives back.

The only module of a hospital that knows Flower. It decides nothing.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from manikin.client.vault import Vault
from manikin.common.errors import ManikinError, ProtocolViolation
from manikin.common.files import write_atomically
from manikin.common.wire import Reply, Task

REFUSED = 100  # Flower error code of a vault's refusal; the reason is the error's code, never its text

_vaults: dict[Path, Vault] = {}

app = ClientApp()


@app.query("open")
def open_plan(message: Message, context: Context) -> Message:
    """Hand over a plan."""
    return _relay(message, context)


@app.train("release")
def release(message: Message, context: Context) -> Message:
    """One noisy sum."""
    return _relay(message, context)


@app.train("local")
def train(message: Message, context: Context) -> Message:
    """One round of local DP-SGD."""
    return _relay(message, context)


@app.query("audit")
def audit(message: Message, context: Context) -> Message:
    """Audit at the hospital."""
    return _relay(message, context)


def _relay(message: Message, context: Context) -> Message:
    folder = Path(str(context.node_config["hospital"]))
    try:
        vault = _vault(folder, embedded=bool(context.node_config.get("embedded", False)))
        reply = vault.handle(decode_task(message.content))
    except ManikinError as error:
        _keep(folder, error)
        return Message(Error(REFUSED, error.code), reply_to=message)
    return Message(encode_reply(reply), reply_to=message)


def _vault(folder: Path, *, embedded: bool) -> Vault:
    """The vault of a hospital, kept between messages: cohort and models are loaded once."""
    if folder not in _vaults:
        _vaults[folder] = Vault(folder, embedded=embedded)
    return _vaults[folder]


def _keep(folder: Path, error: ManikinError) -> None:
    """Leave the text of a refusal at the hospital, where its engineer reads it."""
    text = json.dumps({"code": error.code, "what": error.what, "why": error.why, "next_step": error.next_step})
    if folder.is_dir():
        write_atomically(folder / "last-refusal.json", text.encode())


def decode_task(content: RecordDict) -> Task:
    """A task from Flower's records.

    Raises:
        ProtocolViolation: a record is missing or malformed.
    """
    try:
        head = json.loads(str(content.config_records["task"]["json"]))
        arrays = to_arrays(content.array_records["arrays"])
        return Task(head["plan"], head["step"], head["action"], head["parameters"], arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolViolation("A message was refused.", f"It is malformed: {error}.", "Check versions.") from None


def encode_reply(reply: Reply) -> RecordDict:
    """Flower's records of a reply."""
    head = ConfigRecord({"json": json.dumps({"name": reply.name})})
    arrays = ArrayRecord(OrderedDict((name, Array(array)) for name, array in reply.arrays.items()))
    return RecordDict({"reply": head, "arrays": arrays})


def to_arrays(record: ArrayRecord) -> dict[str, np.ndarray[Any, Any]]:
    """Writable numpy arrays by name; Flower reads them without pickle."""
    return {name: np.array(array.numpy()) for name, array in record.items()}
