"""Connections of clients that keep silent take nothing from those that speak."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from app.crowd import BACKLOG, MOST, Crowd, most_connections
from app.server import Protocol

ASK = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Served:
    """A server that keeps `most` connections; it is connected to, and tells what ended."""

    def __init__(self, most: int, app: Any) -> None:
        self.crowd = Crowd(most)
        self.lost: asyncio.Queue[None] = asyncio.Queue()
        self._accepted: asyncio.Queue[None] = asyncio.Queue()
        self._opened: list[asyncio.StreamWriter] = []
        self._config = uvicorn.Config(app, log_config=None, lifespan="off")
        self._config.load()
        self._state = ServerState()

    def _protocol(self) -> Protocol:
        served = self

        class Telling(Protocol):
            def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
                super().connection_made(transport)
                served._accepted.put_nowait(None)

            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                served.lost.put_nowait(None)

        return Telling(
            config=self._config, server_state=self._state, app_state={}, crowd=self.crowd
        )

    async def __aenter__(self) -> Served:
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._protocol, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        for writer in self._opened:
            writer.transport.abort()
        self._listener.close()
        await self._listener.wait_closed()

    async def connect(self, sent: bytes) -> Connection:
        """A connection that was accepted, and over which this was sent."""
        port = self._listener.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        self._opened.append(writer)
        await asyncio.wait_for(self._accepted.get(), 60)
        writer.write(sent)
        return reader, writer


async def answered(reader: asyncio.StreamReader) -> bool:
    """Whether an answer comes, and not the end."""
    with contextlib.suppress(ConnectionError):
        head = await asyncio.wait_for(reader.read(12), 60)
        if head:
            assert head == b"HTTP/1.1 204"
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
            return True
    return False


async def quick(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers at once."""
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


HALF = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n1"


@pytest.mark.parametrize(
    "silent",
    [b"", b"GET / HTTP/1.1\r\nHost:", HALF],
    ids=["nothing", "half a head", "half a body"],
)
def test_who_has_been_waited_for_the_longest_makes_room(silent: bytes) -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await quick(scope, receive, send)

    async def main() -> None:
        async with Served(3, slow) as served:
            first, *_ = [await served.connect(silent) for _ in range(3)]
            for _ in range(5):
                reader, _ = await served.connect(ASK)
                assert await answered(reader)
            assert not await answered(first[0])

    asyncio.run(main())


@pytest.mark.parametrize("more", [b"", b"Connection: close\r\n", b"Upgrade: h2c\r\n"])
def test_what_is_being_worked_on_stays(more: bytes) -> None:
    async def main() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            begun.set()
            await go_on.wait()
            await quick(scope, receive, send)

        async with Served(2, app) as served:
            reader, _ = await served.connect(ASK.replace(b"\r\n\r\n", b"\r\n" + more + b"\r\n"))
            await begun.wait()
            silent = [await served.connect(b"") for _ in range(6)]
            for other, _ in silent[:-1]:
                assert not await answered(other)
            go_on.set()
            assert await answered(reader)

    asyncio.run(main())


def test_a_kept_connection_waits_anew_after_each_answer() -> None:
    async def main() -> None:
        async with Served(2, quick) as served:
            kept, writer = await served.connect(ASK)
            assert await answered(kept)
            silent, _ = await served.connect(b"")
            writer.write(ASK)
            assert await answered(kept)
            await served.connect(b"")
            assert not await answered(silent)
            writer.write(ASK)
            assert await answered(kept)

    asyncio.run(main())


def test_nothing_is_kept_of_connections_that_are_gone() -> None:
    async def main() -> None:
        async with Served(2, quick) as served:
            for _ in range(5):
                reader, writer = await served.connect(ASK)
                assert await answered(reader)
                writer.close()
                await asyncio.wait_for(served.lost.get(), 60)
            assert served.crowd.waiting == 0

    asyncio.run(main())


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "most"),
    [
        (1024, 1_048_576, 1768, MOST),
        (1024, 1024, None, 256),
        (1024, resource.RLIM_INFINITY, 1768, MOST),
        (20_000, 20_000, None, MOST),
        (256, 256, None, 16),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None, MOST),
    ],
)
def test_there_are_no_more_than_the_system_allows(
    soft: int, hard: int, raised: int | None, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: told.append(limits[0]))
    assert most_connections() == most
    assert told == ([raised] if raised else [])
    assert BACKLOG < 1024
