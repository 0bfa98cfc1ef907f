"""What holds around every route: the deadline, errors nobody foresaw, clients that leave."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from app import exchange
from app.bodies import Budget
from app.edge import Edge
from app.metrics import Metrics
from faces.errors import Busy, DatabaseUnavailable


def request(**more: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "GET",
        "path": "/x",
        "raw_path": b"/x",
        "client": ("127.0.0.1", 1),
        "headers": [(b"host", b"localhost")],
        **more,
    }


async def call(
    app: Any, scope: dict[str, Any], body: bytes | None = None
) -> tuple[dict[str, Any], bytes]:
    sent: list[dict[str, Any]] = []
    left = [] if body is None else [{"type": "http.request", "body": body}]
    edge = Edge(app, metrics=Metrics(), keyless=True, production=False)

    async def receive() -> dict[str, Any]:
        if left:
            return left.pop()
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await edge(scope, receive, send)
    return sent[0], b"".join(message.get("body", b"") for message in sent[1:])


def test_our_own_deadline_answers_and_tells_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "WORK_SECONDS", 0.1)
    seen: list[bool] = []
    told = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        gone = exchange.of(scope).gone
        seen.append(await asyncio.to_thread(gone.wait, 60))
        told.set()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def both() -> tuple[dict[str, Any], bytes]:
        answer = await call(slow, request())
        await asyncio.wait_for(told.wait(), 60)
        return answer

    start, body = asyncio.run(both())
    assert start["status"] == 504
    assert json.loads(body)["code"] == "request_timeout"
    assert seen == [True]


def test_the_deadline_counts_from_the_bodys_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that came at once left the work ten seconds more, and the router gave up first."""
    monkeypatch.setattr(exchange, "WORK_SECONDS", 0.1)
    monkeypatch.setattr(exchange, "BODY_SECONDS", 3600)

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        async for _ in exchange.of(scope).chunks(10):
            pass
        await asyncio.to_thread(exchange.of(scope).gone.wait, 60)

    async def bounded() -> tuple[dict[str, Any], bytes]:
        headers = [(b"host", b"localhost"), (b"content-length", b"2")]
        sending = request(method="POST", headers=headers)
        return await asyncio.wait_for(call(slow, sending, b"{}"), 30)

    start, _ = asyncio.run(bounded())
    assert start["status"] == 504


def test_an_error_that_nobody_foresaw_says_nothing_of_itself(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("canary-9d3e")

    start, body = asyncio.run(call(broken, request()))
    assert start["status"] == 500
    assert json.loads(body)["code"] == "internal_error"
    assert b"canary" not in body
    captured = capsys.readouterr()
    assert "canary" not in captured.out + captured.err
    assert "RuntimeError" in captured.out + captured.err


def test_what_a_stopping_server_cuts_off_is_told_to_come_again() -> None:
    gone: list[bool] = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            gone.append(exchange.of(scope).gone.is_set())
            await send({"type": "http.response.start", "status": 500, "headers": []})

    async def stopped() -> tuple[dict[str, Any], bytes]:
        task = asyncio.create_task(call(slow, request()))
        await asyncio.sleep(0.05)
        task.cancel()
        return await task

    start, body = asyncio.run(stopped())
    assert start["status"] == 503
    assert json.loads(body)["code"] == "busy"
    assert "stopping" in json.loads(body)["detail"]
    assert dict(start["headers"])[b"retry-after"]
    assert gone == [True]


def test_our_errors_have_their_status_wherever_they_come_from() -> None:
    async def away(scope: Any, receive: Any, send: Any) -> None:
        raise DatabaseUnavailable

    start, body = asyncio.run(call(away, request()))
    assert start["status"] == 503
    assert (b"retry-after", b"2") in start["headers"]
    assert json.loads(body)["code"] == "database_unavailable"


def test_a_request_id_is_taken_only_when_it_is_a_uuid() -> None:
    async def fine(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def answered(given: bytes) -> bytes:
        headers = [(b"host", b"localhost"), (b"x-request-id", given)]
        start, _ = asyncio.run(call(fine, request(headers=headers)))
        return dict(start["headers"])[b"x-request-id"]

    known = b"5f0c6f2e-4c2a-4a57-9d0e-0a1b2c3d4e5f"
    assert answered(known) == known
    for odd in (b"", b"a\nb", b"x" * 36, b"{" + known + b"}", known[:-1] + b"\xff"):
        assert answered(odd) != odd


def test_bodies_beyond_the_budget_are_busy() -> None:
    budget = Budget(100)
    budget.take(60)
    with pytest.raises(Busy):
        budget.take(41)
    budget.take(40)
    budget.give_back(100)
    assert budget.held == 0


def test_a_body_that_is_alone_is_never_told_to_come_again() -> None:
    budget = Budget(100)
    budget.take(90)
    budget.take(90, mine=90)
    with pytest.raises(Busy):
        budget.take(1)
    with pytest.raises(Busy):
        budget.take(1, mine=10)


def test_bodies_of_strangers_never_fill_the_budget_of_those_who_are_known() -> None:
    whole = Budget(100)
    strangers = Budget(50, whole)
    strangers.take(50)
    with pytest.raises(Busy):
        strangers.take(1)
    whole.take(50)
    strangers.give_back(50)
    assert (whole.held, strangers.held) == (50, 0)
    strangers.take(50)
    strangers.hand_over(50)
    assert (whole.held, strangers.held) == (100, 0)
    whole.give_back(100)


def test_no_cookie_reaches_the_framework() -> None:
    """It took them apart before anything else, which strangers could make last a second."""
    seen: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(name for name, _ in scope["headers"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    cookies = [(b"cookie", b'"' + rb"\\" * 10 + b'"'), (b"cookie", b"a=b")]
    sent = request(headers=[(b"host", b"localhost"), *cookies, (b"accept", b"*/*")])
    start, _ = asyncio.run(call(app, sent))
    assert start["status"] == 200
    assert seen == [b"host", b"accept"]
