"""How the server's protocol reads."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from app.server import READ_BYTES, Protocol


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
        config = uvicorn.Config(app, log_config=None, lifespan="off")
        config.load()
        state = ServerState()

        def made() -> Recording:
            return Recording(config=config, server_state=state, app_state={})

        server = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2000000\r\n\r\n"
        writer.write(head + bytes(2_000_000))
        answer = await reader.read()
        writer.close()
        server.close()
        await server.wait_closed()
        return answer

    assert asyncio.run(main()).startswith(b"HTTP/1.1 204")
    assert sum(sizes) > 2_000_000
    assert max(sizes) <= READ_BYTES
