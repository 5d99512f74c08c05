"""What stands before Flower's SuperLink: the few of its calls that are let through, by whom, and how large.

Everything else does not exist. That a caller holds the key that it names, and that a task's token is good, Flower
checks behind it; that messages are honest, nobody does here.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER

BODY_BYTES_MAX = 32 << 20  # Flower cuts arrays in chunks of 5 MiB, and posts one at a time

FLEET_PATHS = frozenset(
    f"/v1/fleet/{call}"
    for call in (
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "get-fab",
        "push-object",
        "pull-object",
        "confirm-message-received",
    )
)
OUTSIDE = FLEET_PATHS | {"/health"}
RUNTIME_PATHS = frozenset(
    f"/v1/runtime/{call}"
    for call in (
        "acquire-task",
        "send-task-heartbeat",
        "pull-task-input",
        "push-task-output",
        "push-object",
        "pull-object",
        "confirm-message-received",
        "push-logs",
        "push-messages",
        "pull-messages",
        "get-nodes",
    )
)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guard:
    """Lets through the calls named, from the nodes named, with bounded bodies; everything else does not exist.

    Args:
        app: what is guarded.
        allowed: exact paths.
        nodes: public keys whose holders may call Flower's fleet; that they hold them, Flower checks. A node that a
            hospital had before it was revoked is known to Flower for ever, and stops here.
    """

    def __init__(self, app: Application, allowed: Iterable[str], nodes: Iterable[bytes] = ()) -> None:
        self._app, self._allowed = app, frozenset(allowed)
        self._nodes = frozenset(base64.b64encode(key) for key in nodes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            status = self._refusal(scope["path"], scope["headers"])
            if status is None:
                await self._bounded(scope, receive, send)
            else:
                await _answer(send, status)

    def _refusal(self, path: str, headers: Iterable[tuple[bytes, bytes]]) -> int | None:
        if path not in self._allowed:
            return 404
        values: dict[bytes, list[bytes]] = {}
        for name, value in headers:
            values.setdefault(name.lower(), []).append(value)
        keys = values.get(FLEET_HTTP_PUBLIC_KEY_HEADER.lower().encode(), [])
        if path in FLEET_PATHS and (len(keys) != 1 or keys[0] not in self._nodes):  # of several, Flower takes another
            return 401
        declared = values.get(b"content-length", [b"0"])
        if len(declared) != 1:
            return 400
        return None if declared[0].isdigit() and int(declared[0]) <= BODY_BYTES_MAX else 413

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        taken = 0

        async def counted() -> MutableMapping[str, Any]:
            nonlocal taken
            event = await receive()
            taken += len(event.get("body", b""))
            return event if taken <= BODY_BYTES_MAX else {"type": "http.disconnect"}

        async def closing(event: MutableMapping[str, Any]) -> None:
            if taken > BODY_BYTES_MAX and event["type"] == "http.response.start":
                event["headers"] = [*event["headers"], (b"connection", b"close")]
            await send(event)

        await self._app(scope, counted, closing)


async def _answer(send: Send, status: int) -> None:
    headers = [(b"content-type", b"text/plain"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"no\n"})
