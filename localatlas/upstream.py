"""The backend's half of a client's connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Protocol

from localatlas import wire

log = logging.getLogger(__name__)

_SHORT = 1024
"""An error that says that this is no primary is shorter."""


class Downstream(Protocol):
    """The client's half, as the backend's half sees it."""

    transport: asyncio.Transport | None
    address: str

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None: ...

    def settled(self) -> None: ...


class Upstream(asyncio.Protocol):
    """The backend's half: passes replies on, rewrites hellos, keeps what the front asked for."""

    def __init__(self, client: Downstream) -> None:
        self._client = client
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._streaming = 0
        self._streaming_ends = False  # whether the message being passed on ends an exchange
        self._outstanding = 0
        self._hellos: set[int] = set()
        self._topology: Mapping[str, Any] | None = None  # as the last hello told it
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._idle: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        error = ConnectionResetError("the backend closed the connection")
        waiting: list[asyncio.Future[Any]] = list(self._asked.values())
        if self._idle is not None:
            waiting.append(self._idle)
        for future in waiting:
            if not future.done():
                future.set_exception(error)
                future.exception()  # nobody may be waiting any more
        self._client.close()

    def pause_writing(self) -> None:
        self._client.pause()

    def resume_writing(self) -> None:
        self._client.resume()

    def pause(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def send(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def expect(self, request_id: int, *, hello: bool) -> None:
        """Notes that a reply to `request_id` is to come for the client."""
        self._outstanding += 1
        if hello:
            self._hellos.add(request_id)

    async def idle(self) -> None:
        """Returns when nothing that the client asked is still unanswered."""
        if self._outstanding:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle

    async def ask(self, request_id: int, data: bytes) -> dict[str, Any]:
        """The backend's reply to the front's own request."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the backend closed the connection")
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[request_id] = future
        try:
            self.send(data)
            return await future
        finally:
            del self._asked[request_id]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            while self._buffer and self._take_one():
                pass
        except wire.WireError as error:
            log.warning("the backend sent something unreadable: %s", error)
            self._client.close()

    def _take_one(self) -> bool:
        buffer = self._buffer
        if not self._streaming:
            if len(buffer) < 20:
                return False
            head = wire.header(buffer)
            if head.response_to in self._asked or head.response_to in self._hellos:
                if len(buffer) < head.length:
                    return False
                whole = bytes(buffer[: head.length])
                del buffer[: head.length]
                self._keep(head, whole)
                return True
            if head.length <= _SHORT and len(buffer) < head.length:
                return False
            if head.length <= _SHORT and self._topology is not None:
                told = wire.with_topology(bytes(buffer[: head.length]), self._topology)
                buffer[: head.length] = told
                head = wire.header(buffer)
            self._streaming = head.length
            self._streaming_ends = not _more_to_come(head, buffer)
        part = bytes(buffer[: self._streaming])
        del buffer[: len(part)]
        self._streaming -= len(part)
        self._pass(part)
        if not self._streaming and self._streaming_ends:
            self._ended()
        return True

    def _keep(self, head: wire.Header, whole: bytes) -> None:
        body = wire.reply_body(whole)
        self._topology = body.get("topologyVersion", self._topology)
        future = self._asked.get(head.response_to)
        if future is not None:
            if not future.done():
                future.set_result(body)
            return
        self._pass(wire.with_body(whole, wire.rewritten_hello(body, self._client.address)))
        if _more_to_come(head, whole):
            # A stream's next reply may name this one, or the request again.
            self._hellos.add(head.request_id)
        else:
            self._hellos.discard(head.response_to)
            self._ended()

    def _pass(self, data: bytes) -> None:
        if self._client.transport is not None:
            self._client.transport.write(data)

    def _ended(self) -> None:
        # The embedded engine answers what it cannot read even where no answer was wanted.
        self._outstanding = max(0, self._outstanding - 1)
        if self._outstanding:
            return
        self._client.settled()
        if self._idle is not None:
            if not self._idle.done():
                self._idle.set_result(None)
            self._idle = None


def _more_to_come(head: wire.Header, data: bytes | bytearray) -> bool:
    return (
        head.op_code == wire.OP_MSG
        and int.from_bytes(data[16:20], "little") & wire.MORE_TO_COME != 0
    )
