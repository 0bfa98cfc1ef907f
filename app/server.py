"""`python -m app serve`: uvicorn with the protocol settings that the HTTP contract promises.

Headers that do not arrive within 10 s end the connection, and so does an answer that is not taken;
header blocks are bounded; a request with both Content-Length and Transfer-Encoding is refused.
Proxy headers stay off (the platform would make uvicorn believe the leftmost forwarded address), and
so does the access log, which would hold full paths.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import fcntl
import functools
import socket
import struct
import termios
from collections.abc import Sequence
from typing import Any, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from app import log
from app.crowd import BACKLOG, MOST, Crowd, most_connections
from app.web import create_app
from faces.errors import ConfigError
from faces.memory import keep_one_heap
from faces.settings import load

HEADER_SECONDS = 9.5
LINGER_SECONDS = 1.0
HEADER_BYTES = 32 * 1024
READ_BYTES = 64 * 1024
"""What is read of a connection at once; with asyncio's 256 KiB, bodies that nobody wants and that
come over hundreds of connections in the same moment take 400 KB each before they are refused."""
TAKE_SECONDS = 30.0
TAKE_BYTES = 16 * 1024
"""What a client has to take of its answer in TAKE_SECONDS; else the answer lay here for ever."""
KEEP_ALIVE_SECONDS = 65
_UNSENT = (h11.IDLE, h11.SEND_BODY, h11.ERROR, h11.CLOSED)
"""Where a client is that has not sent a whole request. Java's, which offer HTTP/2 with each, are
not `DONE` after it."""
_AMBIGUOUS = "Content-Length and Transfer-Encoding must not both be sent."


class _Connection(h11.Connection):
    """An h11 connection that also refuses ambiguous framing and knows the status to refuse with."""

    refusal = 400

    def next_event(self) -> Any:
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            self.refusal = 431 if error.error_status_hint == 431 else 400
            raise
        if isinstance(event, h11.Request):
            names = [name for name, _ in event.headers]
            if b"content-length" in names and b"transfer-encoding" in names:
                raise h11.RemoteProtocolError(_AMBIGUOUS)
        return event


class GuardedProtocol(H11Protocol):
    """uvicorn's h11 protocol with a deadline for request heads, and one for taking answers.

    `crowd` bounds how many connections wait for their clients.
    """

    def __init__(self, *args: Any, crowd: Crowd | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._crowd = crowd or Crowd(MOST)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]
        transport.set_write_buffer_limits(high=0)  # tell whenever the system takes no more
        self._take_timer: asyncio.TimerHandle | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._refused = False
        self._await_head()
        self._crowd.wait(self)
        self._crowd.make_room(len(self.connections))

    def connection_lost(self, exc: Exception | None) -> None:
        self._drop_timer()
        self._drop_take_timer()
        self._crowd.leave(self)
        super().connection_lost(exc)

    def turn_out(self) -> None:
        """End at once: others want the place of a connection that waits for its client."""
        self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_taking()

    def resume_writing(self) -> None:
        self._drop_take_timer()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return  # read and dropped, so that the client sees its answer and not a reset
        if self._idle() and self._head_timer is None:
            self._await_head()
        super().data_received(data)
        if not self._idle():
            self._drop_timer()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request with 400, or 431 for too large a head, then close."""
        status = self.conn.refusal if isinstance(self.conn, _Connection) else 400
        text = msg.encode("ascii")
        self._refused = True
        self._drop_timer()
        waiting = self.cycle is not None and not self.cycle.response_complete
        if waiting and not self.cycle.response_started:
            # The body broke the framing: whoever reads it learns that it will not go on, and
            # the answer is given here, as nothing can be sent in the present state any more.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            waiting = False
        if not waiting:
            reason = b"Bad Request" if status == 400 else b"Request Header Fields Too Large"
            self.transport.write(
                b"HTTP/1.1 %d %s\r\ncontent-type: text/plain; charset=utf-8\r\n"
                b"content-length: %d\r\nconnection: close\r\n\r\n%s"
                % (status, reason, len(text), text)
            )
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def eof_received(self) -> None:
        if self._refused:
            self.transport.close()

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._drop_timer()
        if self.conn.their_state not in _UNSENT:
            self._crowd.leave(self)

    def on_response_complete(self) -> None:
        self._crowd.leave(self)  # it waits anew
        self._crowd.wait(self)
        super().on_response_complete()
        if self._idle() and self.conn.trailing_data[0]:
            self._await_head()

    def _idle(self) -> bool:
        """Whether no request is under way: its head has not come yet."""
        return self.conn.their_state is h11.IDLE

    def _await_head(self) -> None:
        self._drop_timer()
        self._head_timer = self.loop.call_later(HEADER_SECONDS, self._head_is_late)

    def _drop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _await_taking(self) -> None:
        self._drop_take_timer()
        self._take_timer = self.loop.call_later(TAKE_SECONDS, self._has_taken, self._left())

    def _drop_take_timer(self) -> None:
        if self._take_timer is not None:
            self._take_timer.cancel()
            self._take_timer = None

    def _has_taken(self, before: int) -> None:
        """Go on waiting for a client that takes its answer, and leave one that does not.

        Closing would wait for it, too, so that this is also what ends a connection that is closed.
        """
        if before - self._left() < TAKE_BYTES:
            self.transport.abort()
        else:
            self._await_taking()

    def _left(self) -> int:
        """How many bytes the client has not taken, here and on their way.

        What the system takes from here says little: it has room for megabytes, and wants more only
        when a third of them are gone.
        """
        left = self.transport.get_write_buffer_size()
        peer = self.transport.get_extra_info("socket")
        with contextlib.suppress(OSError):  # a sandbox may not tell: then what is here counts
            if peer is not None:
                (sent,) = struct.unpack("i", fcntl.ioctl(peer.fileno(), termios.TIOCOUTQ, bytes(4)))
                left += sent
        return left

    def _head_is_late(self) -> None:
        if not self.transport.is_closing() and self._idle():
            self.transport.close()


class Protocol(GuardedProtocol):
    """The protocol to serve with."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conn = _Connection(h11.SERVER, HEADER_BYTES)


def main(argv: Sequence[str], *, encoder: bool = False) -> int:
    """Serve until SIGTERM or SIGINT, which end the process as ever once all is answered.

    Raises ConfigError for what cannot be served.
    """
    program = "encoder" if encoder else "serve"
    parser = argparse.ArgumentParser(prog=f"python -m app {program}", description=__doc__)
    parser.add_argument("--workers", type=int, default=1, help="1: models are held per process")
    parser.add_argument(
        "--graceful", type=int, default=5, metavar="SECONDS", help="for requests in flight at stop"
    )
    options = parser.parse_args(argv)
    if options.workers != 1:
        raise ConfigError(
            "--workers: only 1 is possible; each process would hold the models once more. "
            "Run more processes behind a balancer instead."
        )
    settings = load()
    keep_one_heap()
    log.configure()
    app = create_app(settings, encoder_only=encoder)
    listener = _bind(settings.host, settings.port)
    config = uvicorn.Config(
        app,
        http=cast(Any, functools.partial(Protocol, crowd=Crowd(most_connections()))),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=options.graceful,
        backlog=BACKLOG,
    )
    server = uvicorn.Server(config)
    try:
        server.run(sockets=[listener])
    finally:
        listener.close()
    return 0


def _bind(host: str, port: int) -> socket.socket:
    """A bound listening socket. Raises ConfigError when the port is taken or not ours to bind."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's algorithm off only where the protocol is named: 40 ms an answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        busy = error.errno == errno.EADDRINUSE
        why = "is in use: stop what uses it" if busy else "cannot be bound: choose another HOST"
        raise ConfigError(f"Port {port} {why}, or set PORT to another one.") from error
    return listener
