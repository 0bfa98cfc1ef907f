"""How the server's protocol reads."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from app import server
from app.server import READ_BYTES, TAKE_BYTES, Protocol


@contextlib.asynccontextmanager
async def serving(protocol: type[Protocol], app: Any) -> AsyncIterator[int]:
    """The port at which the ASGI application is served by the protocol."""
    config = uvicorn.Config(app, log_config=None, lifespan="off")
    config.load()
    state = ServerState()

    def made() -> Protocol:
        return protocol(config=config, server_state=state, app_state={})

    listener = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        await listener.wait_closed()


def answering(size: int) -> Any:
    """An application whose every answer has so many bytes."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(size)})

    return app


def test_a_connection_is_read_in_small_pieces() -> None:
    """A body that nobody asked for takes this much of memory, and hundreds come at once."""
    sizes: list[int] = []

    class Recording(Protocol):
        def data_received(self, data: bytes) -> None:
            sizes.append(len(data))
            super().data_received(data)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def main() -> bytes:
        async with serving(Recording, app) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2000000"
            writer.write(head + b"\r\n\r\n" + bytes(2_000_000))
            answer = await reader.read()
            writer.close()
        return answer

    assert asyncio.run(main()).startswith(b"HTTP/1.1 204")
    assert sum(sizes) > 2_000_000
    assert max(sizes) <= READ_BYTES


ANSWER = 32 * 1024 * 1024


@pytest.mark.parametrize("closing", [False, True], ids=["kept", "closed"])
def test_an_answer_that_nobody_takes_ends_its_connection(
    closing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would lie in memory for as long as its client likes, also after the connection's end."""
    monkeypatch.setattr(server, "TAKE_SECONDS", 0.2)

    async def main() -> None:
        lost = asyncio.Event()

        class Losing(Protocol):
            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                lost.set()

        async with serving(Losing, answering(ANSWER)) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            how = b"close" if closing else b"keep-alive"
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: " + how + b"\r\n\r\n")
            await asyncio.wait_for(lost.wait(), 30)
            writer.transport.abort()

    asyncio.run(main())


def test_what_a_client_takes_counts_before_the_system_asks_for_more() -> None:
    """It asks when megabytes are gone: a client that took 40 KB a second was left."""
    paused = asyncio.Event()
    connections: list[Watched] = []

    class Watched(Protocol):
        def pause_writing(self) -> None:
            super().pause_writing()
            connections.append(self)
            paused.set()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with serving(Watched, answering(ANSWER)) as port:
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
                client.setblocking(False)
                await loop.sock_connect(client, ("127.0.0.1", port))
                await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await asyncio.wait_for(paused.wait(), 60)
                (connection,) = connections
                for _ in range(5):
                    before, taken = connection._left(), 0
                    while taken < 8 * TAKE_BYTES:
                        taken += len(await loop.sock_recv(client, 8 * TAKE_BYTES - taken))
                    deadline = loop.time() + 60
                    while before - connection._left() < TAKE_BYTES:
                        assert loop.time() < deadline
                        await asyncio.sleep(0.01)
                    connection._has_taken(before)
                    assert not connection.transport.is_closing()
                connection.transport.abort()

    asyncio.run(main())


def test_a_client_that_takes_its_answer_slowly_is_waited_for() -> None:
    """As long as it takes some of it in each of the times that are looked at."""

    class Taking(asyncio.Transport):
        left, aborted = 100_000, False

        def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
            assert high == 0

        def get_write_buffer_size(self) -> int:
            return self.left

        def abort(self) -> None:
            self.aborted = True

        def close(self) -> None:
            pass

    async def main() -> None:
        config = uvicorn.Config(answering(0), log_config=None, lifespan="off")
        config.load()
        protocol = Protocol(config=config, server_state=ServerState(), app_state={})
        transport = Taking()
        protocol.connection_made(transport)
        protocol.pause_writing()
        for left, aborted in ((80_000, False), (60_000, False), (59_999, True)):
            before, transport.left = transport.left, left
            protocol._has_taken(before)
            assert transport.aborted == aborted
        protocol.connection_lost(None)

    asyncio.run(main())
