"""A TCP proxy that can fail the way networks do, and the way a database fails single commands."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Collection, Coroutine
from dataclasses import dataclass
from typing import Any, Literal

from bench import fault_wire

CHUNK = 64 * 1024
Kind = Literal[
    "none", "delay", "black_hole", "half_open", "reset_after", "refuse", "drip",
    "unsent", "unanswered", "late", "error",
]  # fmt: skip
"""What happens to bytes: `black_hole` keeps them back in both directions and delivers them late;
`half_open` delivers the requests and loses the answers; `reset_after` resets a connection when so
many bytes of answers have passed; `drip` lets answers pass byte by byte.

The last four strike only the database commands that the fault names: `unsent` resets the
connection instead of passing one on; `unanswered` passes it on, and resets the connection when it
has been carried out; `late` keeps the answer back; `error` answers with an error code itself."""


@dataclass(frozen=True, slots=True, eq=False)
class Fault:
    """What the proxy does at present. Two are never equal: a new one ends the one before."""

    kind: Kind = "none"
    seconds: float = 0.0
    count: int = 0
    commands: frozenset[str] = frozenset()
    code: int = 0


class Proxy:
    """Listens on a loopback port and forwards to another, on a thread of its own.

    With `database` it forwards whole messages of MongoDB's protocol, so that a fault can strike
    single commands.
    """

    def __init__(self, target: tuple[str, int], *, database: bool = False) -> None:
        self._target = target
        self._database = database
        self._left = 0
        self._answer_struck: dict[asyncio.StreamWriter, Fault] = {}
        self._fault = Fault()
        self._changed = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()
        self._tainted: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = 0
        self.struck = 0
        """How often a fault met traffic."""
        self._call(self._listen())

    def set(
        self,
        kind: Kind,
        *,
        seconds: float = 0.0,
        count: int = 0,
        commands: Collection[str] = (),
        code: int = 0,
    ) -> None:
        """Begin a fault; it holds until another or `heal`.

        One that names commands strikes `count` of them, all where that is 0.
        """
        self._call(self._change(Fault(kind, seconds, count, frozenset(commands), code)))

    def heal(self) -> None:
        """Forward everything again. Connections that lost bytes are reset."""
        self._call(self._change(Fault()))

    def cut(self) -> None:
        """Reset every connection that is open."""
        self._call(self._cut())

    def close(self) -> None:
        """Stop listening and drop every connection."""
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _change(self, fault: Fault) -> None:
        self._fault = fault
        self._left = fault.count or -1
        self._answer_struck.clear()
        self._changed.set()
        self._changed = asyncio.Event()
        for writer in list(self._tainted):
            _reset(writer)
        self._tainted.clear()
        if fault.kind == "refuse":
            if self._server is not None:
                self._server.close()
                self._server = None
            await self._cut()
        elif self._server is None:
            await self._listen()

    async def _cut(self) -> None:
        for writer in list(self._open):
            self.struck += 1
            _reset(writer)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            there, onward = await asyncio.open_connection(*self._target)
        except OSError:
            _reset(writer)
            return
        self._open |= {writer, onward}
        try:
            asking = asyncio.create_task(self._pump(reader, onward, writer, answers=False))
            answering = asyncio.create_task(self._pump(there, writer, writer, answers=True))
            await asyncio.wait({asking, answering}, return_when=asyncio.FIRST_COMPLETED)
            for pump in (asking, answering):
                pump.cancel()
            await asyncio.gather(asking, answering, return_exceptions=True)
        finally:
            self._answer_struck.pop(writer, None)
            for each in (writer, onward):
                self._open.discard(each)
                self._tainted.discard(each)
                each.close()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
        *,
        answers: bool,
    ) -> None:
        passed = 0
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while data := await self._next(reader):
                if self._fault.commands or self._answer_struck:
                    if not await self._command(data, client, answers=answers):
                        continue
                else:
                    self.struck += self._fault.kind not in ("none", "reset_after")
                while (fault := self._fault).kind == "black_hole":
                    await self._changed.wait()
                if fault.kind == "delay":
                    await asyncio.sleep(fault.seconds)
                if answers and fault.kind == "half_open":
                    self._tainted.add(client)
                    continue
                if answers and fault.kind == "reset_after" and passed + len(data) > fault.count:
                    self.struck += 1
                    writer.write(data[: max(0, fault.count - passed)])
                    _reset(client)
                    return
                if answers and fault.kind == "drip":
                    await self._drip(data, writer, fault)
                    continue
                passed += len(data)
                writer.write(data)
                await writer.drain()

    async def _next(self, reader: asyncio.StreamReader) -> bytes:
        """Some bytes; of a database connection a whole message."""
        return await (fault_wire.read_message(reader) if self._database else reader.read(CHUNK))

    async def _command(self, data: bytes, client: asyncio.StreamWriter, *, answers: bool) -> bool:
        """Whether a message goes on, under a fault that strikes single commands."""
        if answers:
            fault = self._answer_struck.pop(client, None)
            if fault is not None and fault.kind == "unanswered":
                _reset(client)
            elif fault is not None:
                await asyncio.sleep(fault.seconds)
            return fault is None or fault.kind == "late"
        fault = self._fault
        if fault_wire.command_of(data) not in fault.commands or not self._left:
            return True
        self._left -= 1
        self.struck += 1
        if fault.kind in ("unanswered", "late"):
            self._answer_struck[client] = fault
            return True
        if fault.kind == "error":
            client.write(fault_wire.error_reply(data, fault.code))
            await client.drain()
        else:
            _reset(client)
        return False

    async def _drip(self, data: bytes, writer: asyncio.StreamWriter, fault: Fault) -> None:
        for position in range(len(data)):
            if self._fault is not fault:
                writer.write(data[position:])
                break
            writer.write(data[position : position + 1])
            await asyncio.sleep(fault.seconds)
        await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST instead of FIN."""
    raw = writer.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
