"""The Flower ClientApp: hands each frame to the vault, and returns the frame that the vault gives back.

The only module of a hospital that knows Flower, and all that runs of Manikin in the gateway. It looks into nothing,
decides nothing, and imports neither torch nor anything that reads scans: behind a socket it could not. A vault that is
away for a moment is asked again, since the same frame gets the same answer.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from flwr.app import Array, ArrayRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from manikin.client.port import Port
from manikin.common.errors import ManikinError, TransportFailure
from manikin.common.faults import reach
from manikin.common.pieces import cut, join

LOST = 101  # Flower error code of a vault that cannot be reached, or of a frame that is none
PATIENCE_S, PAUSE_S = 120.0, 1.0
BODY, FRAME = "body", "frame"

_ports: dict[str, Port] = {}

app = ClientApp()


@app.query("open")
def open_plan(message: Message, context: Context) -> Message:
    """Hand over a plan."""
    return _relay(message, context)


@app.train("step")
def step(message: Message, context: Context) -> Message:
    """One charged step: a release, or a round of local DP-SGD."""
    return _relay(message, context)


@app.query("audit")
def audit(message: Message, context: Context) -> Message:
    """Audit at the hospital."""
    return _relay(message, context)


@app.query("canary")
def canary(message: Message, context: Context) -> Message:
    """A round that no patient is in."""
    return _relay(message, context)


def _relay(message: Message, context: Context) -> Message:
    try:
        frame = join({name: piece.data for name, piece in message.content.array_records[BODY].items()})
    except (KeyError, ValueError, TypeError):
        return Message(Error(LOST, "malformed"), reply_to=message)
    deadline = time.monotonic() + float(context.node_config.get("patience-s", PATIENCE_S))
    while True:
        try:
            reach("gateway: task received")
            reply = _port(context).exchange(frame)
            reach("gateway: reply received")
            return Message(packed(reply), reply_to=message)
        except TransportFailure:
            if time.monotonic() >= deadline:
                return Message(Error(LOST, "lost"), reply_to=message)
            time.sleep(PAUSE_S)
        except ManikinError as error:  # no vault could be opened; the reason is a code, never a text
            return Message(Error(LOST, error.code), reply_to=message)


def packed(frame: bytes) -> RecordDict:
    """Flower's records of a frame: arrays of bytes, small ones, since Flower holds three copies of what it carries."""
    pieces = {name: Array("uint8", (len(piece),), FRAME, piece) for name, piece in cut(frame).items()}
    return RecordDict({BODY: ArrayRecord(pieces)})


def _port(context: Context) -> Port:
    """The way to this node's vault, kept between messages: behind a socket, or embedded in this process."""
    config = context.node_config
    where = str(config["socket"] if "socket" in config else config["hospital"])
    if where not in _ports:
        _ports[where] = _open_port(where, socket="socket" in config)
    return _ports[where]


def _open_port(where: str, *, socket: bool) -> Port:
    if socket:
        from manikin.client.metered import TALLY, Logged, Metered, Tally
        from manikin.client.service import SocketPort
        from manikin.common.logs import open_log

        home = Path(os.environ.get("FLWR_HOME", "."))  # the gateway's own folder, in every process that Flower starts
        log = open_log("gateway").bind(program="clientapp")
        return Metered(Logged(SocketPort(Path(where)), log), Tally(home / TALLY))
    from manikin.client.vault import Vault

    return Vault(Path(where), embedded=True)
