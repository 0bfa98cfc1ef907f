"""One request on the wire: its id, its body in bounded chunks, and whether the client is there."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncIterator

from starlette.types import Message, Receive, Scope

from app.gate import ClientGone
from faces.errors import MalformedRequest, RequestTimeout, RequestTooLarge

BODY_SECONDS = 9.5
"""How long a body may take to arrive: the contract says within 10 s, answer included."""
WORK_SECONDS = 25.0
"""Our own deadline once the body is there; the platform's router gives up at 30."""
KEY = "likeness.exchange"


class Exchange:
    """What the edge and the routes share about one request. Lives in the ASGI scope."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, value)
        self.headers: dict[bytes, bytes] = headers
        self.request_id = _request_id(headers.get(b"x-request-id", b""))
        self.started = time.monotonic()
        self.deadline = self.started + BODY_SECONDS + WORK_SECONDS
        self.gone = threading.Event()
        self.caller = ""
        self._receive = receive
        self._watcher: asyncio.Task[None] | None = None
        self._left = asyncio.Event()
        chunked = b"transfer-encoding" in headers
        self.declared = None if chunked else _length(headers.get(b"content-length"))
        self.body_pending = chunked or bool(self.declared)
        if not self.body_pending:
            self.deadline = self.started + WORK_SECONDS

    async def chunks(self, cap: int) -> AsyncIterator[bytes]:
        """The body, chunk by chunk.

        Raises RequestTooLarge as soon as more than `cap` bytes are declared or have come,
        RequestTimeout when it takes longer than `BODY_SECONDS`, ClientGone when the client leaves.
        """
        if self.declared is not None and self.declared > cap:
            raise _too_large(cap)
        limit = time.monotonic() + BODY_SECONDS
        size = 0
        while self.body_pending:
            left = limit - time.monotonic()
            try:
                message = await asyncio.wait_for(self._next(), max(left, 0.001))
            except TimeoutError:
                raise RequestTimeout(
                    f"The request body did not arrive within {BODY_SECONDS:g} seconds."
                ) from None
            body = message.get("body", b"")
            size += len(body)
            if size > cap:
                raise _too_large(cap)
            if body:
                yield body
        self.deadline = time.monotonic() + WORK_SECONDS

    async def receive(self) -> Message:
        """The ASGI `receive` that the framework gets; after the body it waits for the end."""
        if self._watcher is not None:
            await self._left.wait()
            return {"type": "http.disconnect"}
        return await self._receive_one()

    def watch(self) -> None:
        """From now on set `gone` when the client hangs up. The body must have been read."""
        if self._watcher is None and not self.body_pending:
            self._watcher = asyncio.create_task(self._watch())

    async def drain(self, seconds: float, most: int) -> None:
        """Read and drop what is left of the body, for a while: a client that is still sending gets
        to read its answer instead of a reset connection."""
        limit = time.monotonic() + seconds
        while self.body_pending and most > 0:
            try:
                message = await asyncio.wait_for(self._next(), max(limit - time.monotonic(), 0.001))
            except (TimeoutError, ClientGone):
                return
            most -= len(message.get("body", b""))

    def close(self) -> None:
        """Stop watching."""
        if self._watcher is not None:
            self._watcher.cancel()

    async def _next(self) -> Message:
        message = await self._receive_one()
        if message["type"] == "http.disconnect":
            raise ClientGone
        return message

    async def _receive_one(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.body_pending = False
            self.gone.set()
        elif not message.get("more_body", False):
            self.body_pending = False
        return message

    async def _watch(self) -> None:
        while not self.gone.is_set():
            await self._receive_one()
        self._left.set()


def of(scope: Scope) -> Exchange:
    """The exchange of a request."""
    exchange = scope[KEY]
    assert isinstance(exchange, Exchange)  # noqa: S101 - the edge put it there; for the type only
    return exchange


def _too_large(cap: int) -> RequestTooLarge:
    return RequestTooLarge(f"The request body may hold at most {cap} bytes here.")


def _length(value: bytes | None) -> int | None:
    if value is None:
        return None
    if not value.isdigit():
        raise MalformedRequest("The Content-Length header is not a number.")
    return int(value)


def _request_id(given: bytes) -> str:
    """The router's id when it is a UUID, which nobody can put a message into; else a new one."""
    try:
        return str(uuid.UUID(given.decode("ascii"))) if len(given) == 36 else str(uuid.uuid4())
    except ValueError:
        return str(uuid.uuid4())
