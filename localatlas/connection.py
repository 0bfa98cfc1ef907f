"""One client's connection and the backend connection behind it.

Bytes go through as they come. Only three kinds of message are held back and read whole: commands
that the front may answer itself, hello replies, and replies to what the front itself asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from localatlas import wire
from localatlas.names import Names, keeps_names
from localatlas.upstream import Upstream

log = logging.getLogger(__name__)

HELLO = frozenset({"hello", "isMaster", "ismaster"})
ANSWERED = frozenset(
    {
        "aggregate",
        "explain",
        "createSearchIndexes",
        "updateSearchIndex",
        "dropSearchIndex",
        "listSearchIndexes",
        "renameCollection",
        "getLog",
    }
)
# What may define a view or update by a pipeline; ours have no place there.
WATCHED = frozenset({"create", "collMod", "update", "findAndModify", "findandmodify", "bulkWrite"})
LONGEST_WATCHED = 256 * 1024
# An aggregate that mentions none of these is the backend's business.
STAGES = (b"$vectorSearch", b"$listSearchIndexes", b"vectorSearchScore", b"$count")
_READ_AHEAD = 256 * 1024


class Exchange(Protocol):
    """A way to run a command on the client's own backend connection."""

    async def run(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The backend's reply; ConnectionError when the connection ends."""


Answer = Callable[[wire.Request, Exchange], Awaitable[Mapping[str, Any] | None]]
Dial = Callable[[asyncio.Protocol], Awaitable[asyncio.Transport]]


class Connection(asyncio.Protocol):
    """The client's half.

    `answer` returns the reply to a command, or None to have it forwarded untouched; `held` says
    which further commands, by name and size, it shall see. `dial` connects the backend's half.
    Requests of one connection are taken in order: while one is being answered here, those behind
    it wait.
    """

    def __init__(
        self,
        answer: Answer,
        dial: Dial,
        closed: Callable[[Connection], None],
        *,
        held: Callable[[str, int], bool],
        names: Names,
    ) -> None:
        self._names = names
        self._answer = answer
        self._held = held
        self._dial = dial
        self._closed = closed
        self._buffer = bytearray()
        self._streaming = 0  # bytes of the current message still to be passed on
        self._watched = False  # the current request is read whole to see whether it is ours
        self._refused = False  # the current request, though it is not one of ours
        self._busy = True  # until the backend's half is connected
        self._task: asyncio.Task[None] | None = None
        self._drained: asyncio.Task[None] | None = None
        self._ids = itertools.count(0x4000_0000)
        self.transport: asyncio.Transport | None = None
        self.backend = Upstream(self)
        self.address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker
        self.transport = transport
        host, port = transport.get_extra_info("sockname")[:2]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def connection_lost(self, exc: Exception | None) -> None:
        self.close()
        self._closed(self)

    def eof_received(self) -> bool:
        """Lets a client that only listens any more have the replies that it still waits for."""
        self._drained = asyncio.ensure_future(self._drain())
        return True

    async def _drain(self) -> None:
        while self._task is not None:
            await asyncio.wait([self._task])
        # The rest of half a message does not come any more, nor does its reply.
        if not self._streaming:
            with contextlib.suppress(ConnectionError):
                await self.backend.idle()
        self.close()

    def close(self) -> None:
        """Ends both halves; what was already written to the client is still sent."""
        for task in (self._task, self._drained):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        self._task = self._drained = None
        self._busy = True
        if self.transport is not None:
            self.transport.close()
        self.backend.close()
        self._names.lost(self)

    def pause_writing(self) -> None:
        self.backend.pause()

    def resume_writing(self) -> None:
        self.backend.resume()

    def pause(self) -> None:
        """Reads no more from the client for now."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._busy:
            if self._task is None:
                self._task = asyncio.ensure_future(self._connect())
            elif len(self._buffer) > _READ_AHEAD:
                self.pause()
            return
        self._take()

    async def _connect(self) -> None:
        try:
            await self._dial(self.backend)
        except OSError as error:
            log.info("the backend cannot be reached: %s", error.strerror or type(error).__name__)
            self._task = None
            self.close()
            return
        self._task = None
        self._busy = False
        self.resume()
        self._take()

    def _take(self) -> None:
        """Passes on or takes up as many whole requests as have arrived."""
        try:
            while self._buffer and not self._busy and self._take_one():
                pass
        except wire.WireError as error:
            log.info("a connection was closed: %s", error)
            self.close()

    def _take_one(self) -> bool:
        buffer = self._buffer
        if self._streaming:
            part = bytes(buffer[: self._streaming])
            del buffer[: len(part)]
            self._streaming -= len(part)
            self.backend.send(part)
            return True
        if len(buffer) < wire.HEADER_SIZE:
            return False
        head = wire.header(buffer)
        if head.op_code not in (wire.OP_MSG, wire.OP_QUERY):
            raise wire.WireError("an operation code is unknown")
        if len(buffer) < min(head.length, 26):
            return False
        name = wire.command_name(buffer, head.length)
        if name is None:
            return False
        flags = int.from_bytes(buffer[16:20], "little") if head.op_code == wire.OP_MSG else 0
        whole = None
        if head.op_code == wire.OP_MSG and self._may_concern_us(name, head.length):
            if len(buffer) < head.length:
                return False
            whole = bytes(buffer[: head.length])
            self._watched = False
            if self._refused or self._concerns_us(name, whole):
                del buffer[: head.length]
                self._busy, self._refused = True, False
                self._task = asyncio.ensure_future(self._handle(whole))
                return False
        self._expect(head, flags, name, whole)
        self._streaming = head.length
        return True

    def _may_concern_us(self, name: str, length: int) -> bool:
        if name in ANSWERED or not name or self._refused or self._watched:
            return True
        self._refused = self._held(name, length)
        self._watched = name in WATCHED and length <= LONGEST_WATCHED
        return self._refused or self._watched

    @staticmethod
    def _concerns_us(name: str, whole: bytes) -> bool:
        if name in ("aggregate", "explain") or name in WATCHED:
            return any(stage in whole for stage in STAGES)
        # Without a name at the front, the name may be any of ours.
        return bool(name) or any(stage in whole for stage in STAGES) or b"SearchIndex" in whole

    def _expect(self, head: wire.Header, flags: int, name: str, whole: bytes | None) -> None:
        """Notes a request that is about to be passed on."""
        if not keeps_names(name, whole):
            self._names.changing(self)
        if not flags & wire.MORE_TO_COME:
            self.backend.expect(head.request_id, hello=name in HELLO)
        elif not keeps_names(name, whole):
            self._names.lost(self)

    def settled(self) -> None:
        """The backend's half has passed on all replies."""
        self._names.settled(self)

    async def _handle(self, whole: bytes) -> None:
        request, reply = None, None
        try:
            if len(whole) > wire.LARGE:
                # It may take seconds, and the other connections do not wait for it.
                request = await asyncio.to_thread(wire.parse_request, whole)
            else:
                request = wire.parse_request(whole)
            await self.backend.idle()
            if not keeps_names(next(iter(request.body), ""), whole):
                self._names.changing(self)
            reply = await self._answered(request)
        except (wire.ChecksumError, ConnectionError) as error:
            log.info("a connection was closed: %s", error)
            self._task = None
            self.close()
            return
        except wire.WireError:
            pass  # the backend has its own words for what cannot be read
        self._task = None
        if request is None or reply is None:
            flags = int.from_bytes(whole[16:20], "little")
            name = next(iter(request.body), "") if request else ""
            self._expect(wire.header(whole), flags, name, whole)
            self.backend.send(whole)
        else:
            self._names.settled(self)
            self._reply(request, reply)
        self._busy = False
        self.resume()
        self._take()

    def _reply(self, request: wire.Request, reply: Mapping[str, Any]) -> None:
        if request.wants_reply and self.transport is not None:
            self.transport.write(
                wire.message(
                    reply,
                    request_id=next(self._ids),
                    response_to=request.request_id,
                    flags=request.flags & wire.CHECKSUM_PRESENT,
                )
            )

    async def _answered(self, request: wire.Request) -> Mapping[str, Any] | None:
        try:
            return await self._answer(request, self)
        except ConnectionError:
            raise
        except Exception:
            # A mistake of ours must not leave the client waiting.
            log.exception("a command could not be answered")
            return {
                "ok": 0.0,
                "errmsg": "localatlas failed to answer this command; its log says why",
                "code": 1,
                "codeName": "InternalError",
            }

    async def run(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The backend's reply to `body` on this connection; only while a request is taken up."""
        request_id = next(self._ids)
        return await self.backend.ask(request_id, wire.message(body, request_id=request_id))
