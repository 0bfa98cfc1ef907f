"""The outermost layer of the application: what holds for every request, whatever its route.

It gives each request an id, refuses what may not reach the routes, holds the deadline, turns every
exception into a problem document, adds the security headers, counts, and writes one log line.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import exchange as exchanges
from app import problems
from app.exchange import Exchange
from app.gate import ClientGone
from app.metrics import Metrics
from app.peers import only_this_machine
from app.tracing import Stages, Tracing
from faces.errors import Busy, DeadlineExceeded, LikenessError, MalformedRequest

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
LINGER_SECONDS = 2.0
LINGER_BYTES = 64 * 1024 * 1024

_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
_DEFAULTS = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)
_HSTS = (b"strict-transport-security", b"max-age=31536000")


@dataclass(frozen=True, slots=True)
class Dialect:
    """Another protocol at some paths: how it words errors, and whether it has no keys either."""

    paths: tuple[str, ...]
    word: Callable[[LikenessError, str], Response]
    keyless: bool


class Edge:
    """ASGI middleware around the whole application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        tracing: Tracing | None = None,
        keyless: bool,
        production: bool,
        dialects: Sequence[Dialect] = (),
    ) -> None:
        self.app = app
        self._metrics = metrics
        self._tracing = tracing
        self._keyless = keyless
        self._dialects = {path: dialect for dialect in dialects for path in dialect.paths}
        self._fixed = (*_HEADERS, _HSTS) if production else _HEADERS
        self._stragglers: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger("likeness.http")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # Nobody here reads cookies, and the framework takes them apart for every request: those of
        # 30 kB take Python's parser more than a second, whoever sends them.
        headers = [pair for pair in scope["headers"] if pair[0] != b"cookie"]
        scope = {**scope, "headers": headers}
        reply = _Reply(send, self._fixed)
        refused: LikenessError | None = None
        stages = self._tracing.begin() if self._tracing is not None else None
        try:
            exchange = Exchange(scope, receive)
        except MalformedRequest as error:
            refused = error
            exchange = Exchange({**scope, "headers": []}, receive)
        scope[exchanges.KEY] = exchange
        reply.request_id = exchange.request_id
        reply.exchange = exchange
        try:
            if refused is not None:
                raise refused
            self._admit(scope, exchange)
            await self._answer(scope, exchange, reply)
        except LikenessError as error:
            await self._problem(self._worded(error, scope, exchange), scope, reply)
        except ClientGone:
            reply.status = 499
        except asyncio.CancelledError:
            # Only the server cancels: it is told to end, and its grace is over.
            if reply.started:
                raise
            stopping = Busy("The service is stopping and did not finish this: send it again.")
            await self._problem(self._worded(stopping, scope, exchange), scope, reply)
        except Exception as error:
            self._report(error, exchange)
            await self._problem(self._worded(LikenessError(), scope, exchange), scope, reply)
        finally:
            exchange.close()
            self._record(scope, exchange, reply.status, stages)

    def _worded(self, error: LikenessError, scope: Scope, exchange: Exchange) -> Response:
        """The error in the words of the protocol that is spoken at this path."""
        dialect = self._dialects.get(scope["path"])
        word = dialect.word if dialect else problems.from_error
        return word(error, exchange.request_id)

    def _admit(self, scope: Scope, exchange: Exchange) -> None:
        dialect = self._dialects.get(scope["path"])
        keyless = dialect.keyless if dialect else self._keyless
        if keyless and scope["path"] not in OPEN_PATHS:
            only_this_machine(scope, exchange.headers)
        for name, part in (("path", "raw_path"), ("query", "query_string")):
            try:
                unquote_to_bytes(scope.get(part) or b"").decode("utf-8")
            except UnicodeDecodeError:
                raise MalformedRequest(
                    f"The {name} is not UTF-8 once its escapes are resolved."
                ) from None

    async def _answer(self, scope: Scope, exchange: Exchange, reply: _Reply) -> None:
        """Run the application until it is done or the deadline passes.

        A thread cannot be stopped: what still works after the deadline sees `gone`, and whatever
        it answers is dropped.
        """
        task = asyncio.create_task(self._run(scope, exchange, reply))
        try:
            while not task.done():
                left = exchange.deadline - time.monotonic()
                if left <= 0 and not reply.started:
                    break
                # The deadline moves once the body is there: look again before it can have passed.
                pause = min(max(left, 0.05), exchanges.WORK_SECONDS) if left > 0 else None
                await asyncio.wait({task}, timeout=pause)
        except asyncio.CancelledError:
            exchange.gone.set()
            task.cancel()
            if not reply.started:
                reply.detach()
            raise
        if task.done():
            task.result()
            return
        exchange.gone.set()
        self._stragglers.add(task)
        task.add_done_callback(self._forget)
        reply.detach()
        raise DeadlineExceeded

    async def _run(self, scope: Scope, exchange: Exchange, reply: _Reply) -> None:
        await self.app(scope, exchange.receive, reply.send)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._stragglers.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.warning("late_end", error=type(error).__name__)

    async def _problem(self, response: Any, scope: Scope, reply: _Reply) -> None:
        if not reply.started:
            await response(scope, _nothing, reply.finish)

    def _report(self, error: Exception, exchange: Exchange) -> None:
        """The stack without the exception's text, which may hold what nobody should log."""
        frames = traceback.extract_tb(error.__traceback__)
        self._log.error(
            "unexpected_error",
            request_id=exchange.request_id,
            error=type(error).__name__,
            frames=[f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-12:]],
        )

    def _record(self, scope: Scope, exchange: Exchange, status: int, stages: Stages | None) -> None:
        seconds = time.monotonic() - exchange.started
        route = getattr(scope.get("route"), "path_format", "unmatched")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.request(method, route, status, seconds)
        if self._tracing is not None:
            self._tracing.end(
                exchange.headers, method, route, status, seconds, exchange.request_id, stages
            )
        # Polls and pages are many and say little; what went wrong is told wherever it happened.
        quiet = status < 500 and not route.startswith(("/v1/", "/aws "))
        tell = self._log.debug if quiet else self._log.info
        tell(
            "request",
            request_id=exchange.request_id,
            method=method,
            route=route,
            status=status,
            ms=round(seconds * 1000, 1),
            caller=exchange.caller,
        )


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


class _Reply:
    """Passes the answer on, with headers added, and keeps a client that still sends listening."""

    def __init__(self, send: Send, fixed: Sequence[tuple[bytes, bytes]]) -> None:
        self._send = send
        self._fixed = fixed
        self._detached = False
        self.request_id = ""
        self.exchange: Exchange | None = None
        self.started = False
        self.status = 500

    def detach(self) -> None:
        """Drop whatever the application still sends."""
        self._detached = True

    async def send(self, message: Message) -> None:
        """The ASGI `send` of the application."""
        if not self._detached:
            await self.finish(message)

    async def finish(self, message: Message) -> None:
        """Send, also after `detach`."""
        pending = self.exchange is not None and self.exchange.body_pending
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            headers = list(message.get("headers", ()))
            present = {name.lower() for name, _ in headers}
            headers += [pair for pair in self._fixed if pair[0] not in present]
            headers += [pair for pair in _DEFAULTS if pair[0] not in present]
            headers.append((b"x-request-id", self.request_id.encode()))
            if pending:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        elif (
            pending
            and self.exchange is not None
            and self.status != 408  # that client has had its time
            and not message.get("more_body", False)
        ):
            await self._send({**message, "more_body": True})
            await self.exchange.drain(LINGER_SECONDS, LINGER_BYTES)
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)
