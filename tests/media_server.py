"""A local media server for tests that can be slow, fail, redirect, truncate and change."""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.private import MARK

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers from the server's table of files and behaviours."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        with self.server.lock:
            self.server.requests.append((path, dict(self.headers.items())))
            behaviour = self.server.behaviours.get(path)
            data = self.server.files.get(path)
        try:
            if behaviour is not None:
                behaviour(self)
            elif data is None:
                self.reply(404, b"")
            else:
                self.file(data)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def file(self, data: bytes) -> None:
        """A whole file with an ETag, or 304."""
        tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        if self.headers.get("If-None-Match") == tag:
            self.reply(304, b"", ETag=tag)
        else:
            self.reply(200, data, ETag=tag)

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        """One answer with its length."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if status != 304:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


class Server(ThreadingHTTPServer):
    """Files by path, behaviours by path, and what was asked for."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.files: dict[str, bytes] = {}
        self.behaviours: dict[str, Answer] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []

    @property
    def origin(self) -> str:
        """`127.0.0.1:port`, as the allow-list wants it."""
        return f"127.0.0.1:{self.server_port}"

    def url(self, path: str) -> str:
        """The URL of a path, with a query that nobody but the CMS may read."""
        return f"http://{self.origin}{path}{'&' if '?' in path else '?'}t={MARK}-query"

    def counts(self) -> Counter[str]:
        """How often each path was asked for."""
        with self.lock:
            return Counter(path for path, _ in self.requests)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A running server, closed afterwards."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(60)


def redirect(to: str, status: int = 302) -> Answer:
    """A redirect."""
    return lambda handler: handler.reply(status, b"", Location=to)


def failing(status: int, **headers: str) -> Answer:
    """A status without a file."""
    return lambda handler: handler.reply(status, b"", **headers)


def dated(data: bytes, modified: int) -> Answer:
    """A file without an ETag, last modified so many seconds into 1970."""
    date = email.utils.formatdate(modified, usegmt=True)

    def answer(handler: Handler) -> None:
        since = handler.headers.get("If-Modified-Since")
        fresh = since and email.utils.parsedate_to_datetime(since).timestamp() >= modified
        handler.reply(304 if fresh else 200, b"" if fresh else data, Last_Modified=date)

    return answer


def dripping(data: bytes, pause: float) -> Answer:
    """A file that comes byte by byte."""

    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        for position in range(len(data)):
            handler.wfile.write(data[position : position + 1])
            handler.wfile.flush()
            time.sleep(pause)

    return answer


def truncated(data: bytes, claimed: int) -> Answer:
    """Fewer bytes than announced, then the end."""

    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(claimed))
        handler.end_headers()
        handler.wfile.write(data)
        handler.close_connection = True

    return answer


def raw(*chunks: bytes, pause: float = 0.0) -> Answer:
    """Bytes as they are, with pauses between them; then the end."""

    def answer(handler: Handler) -> None:
        for chunk in chunks:
            handler.wfile.write(chunk)
            handler.wfile.flush()
            time.sleep(pause)
        handler.close_connection = True

    return answer


class Canary:
    """A loopback listener that counts connections: the count must stay zero."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(0.02)
        self.port = self._socket.getsockname()[1]
        self.connections = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._done.is_set():
            try:
                connection, _ = self._socket.accept()
            except TimeoutError:
                continue
            self.connections += 1
            connection.close()

    def close(self) -> None:
        """Stop listening."""
        self._done.set()
        self._thread.join(60)
        self._socket.close()
