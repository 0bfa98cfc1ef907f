"""What reading a body takes and leaves behind."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from app import bodies
from app.bodies import Budget, Shape
from app.exchange import Exchange
from app.forms import DetectForm, SearchForm
from faces.errors import Busy, InvalidRequest

MIB = 1024 * 1024
FORM = b"multipart/form-data; boundary=x"
OPENING = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n'


def sending(kind: bytes, *chunks: bytes) -> Exchange:
    """A request whose body comes in these chunks."""
    left = list(chunks)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    headers = [(b"content-type", kind), (b"transfer-encoding", b"chunked")]
    return Exchange({"type": "http", "headers": headers}, receive)


def read(
    exchange: Exchange, shape: Shape[Any], budget: Budget, taken: list[int]
) -> Coroutine[Any, Any, Any]:
    return bodies.read(
        exchange, shape, picture_cap=15 * MIB, budget=budget, taken=lambda size: taken.append(size)
    )


def full(size: int) -> Budget:
    """A budget in which somebody else holds what leaves room for `size`."""
    budget = Budget(64 * MIB)
    budget.take(64 * MIB - size)
    return budget


@pytest.mark.parametrize(
    "start",
    [
        lambda: read(
            sending(FORM, OPENING, *(bytes(MIB) for _ in range(9))),
            Shape(DetectForm, pictures=("image",)),
            full(8 * MIB),
            [],
        ),
        lambda: read(
            sending(b"application/json", b'{"image_base64":"', *(b"A" * MIB for _ in range(9))),
            Shape(DetectForm, pictures=("image",)),
            full(16 * MIB),
            [],
        ),
        lambda: bodies.raw(
            sending(b"application/json", *(bytes(MIB) for _ in range(9))), 15 * MIB, full(8 * MIB)
        ),
    ],
    ids=["form", "json", "raw"],
)
def test_a_body_that_is_refused_is_let_go_of_before_its_answer(
    start: Callable[[], Coroutine[Any, Any, Any]],
) -> None:
    async def refused() -> int:
        with pytest.raises(Busy) as caught:
            await start()
        held, _ = tracemalloc.get_traced_memory()
        assert caught.value.__traceback__ is not None
        return held

    tracemalloc.start()
    held = asyncio.run(refused())
    tracemalloc.stop()
    assert held < 3 * MIB


def test_a_raw_body_counts_while_it_comes() -> None:
    budget = Budget(3 * MIB)
    body = asyncio.run(bodies.raw(sending(b"", bytes(MIB), bytes(MIB)), 2 * MIB, budget))
    assert (len(body), budget.held) == (2 * MIB, 0)
    with pytest.raises(Busy):
        asyncio.run(bodies.raw(sending(b"", bytes(MIB), bytes(MIB)), 2 * MIB, full(MIB)))


def test_a_json_body_counts_with_what_its_values_will_take() -> None:
    taken: list[int] = []
    text = b'{"vector":[' + b"[]," * 20_000 + b"[]]}"
    exchange = sending(b"application/json", text)
    with pytest.raises(InvalidRequest):
        asyncio.run(read(exchange, Shape(SearchForm), Budget(64 * MIB), taken))
    assert sum(taken) > 20_000 * 64
    with pytest.raises(Busy):
        asyncio.run(
            read(sending(b"application/json", text), Shape(SearchForm), full(200_000), taken)
        )


def test_a_json_body_in_small_chunks_is_searched_for_its_picture_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A search of the first MiB for each of 40,000 chunks kept a core busy for one stranger."""
    searched: list[int] = []

    class Counting:
        def search(self, body: bytearray, start: int, end: int) -> bool:
            searched.append(len(body))
            return True

    monkeypatch.setattr(bodies, "_BASE64_BEGINS", Counting())
    body = b'{"image_base64":"' + b"A" * (2 * MIB) + b'"}'
    chunks = [body[at : at + 1000] for at in range(0, len(body), 1000)]
    shape = Shape(DetectForm, pictures=("image",))
    incoming = asyncio.run(read(sending(b"application/json", *chunks), shape, Budget(64 * MIB), []))
    assert len(incoming.pictures["image"]) == 1536 * 1024
    assert len(searched) == 1
