"""One picture of several whose turn comes too late."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from app.deps import Client
from app.gate import Gate
from app.routes.analyse import item


@contextlib.contextmanager
def pipeline(model: str | None) -> Iterator[None]:
    yield None


def late(gate: Gate, seconds: float) -> str:
    """The code of a picture's error when the time for it ends in so many seconds."""
    parts: Any = SimpleNamespace(engine=SimpleNamespace(pipeline=pipeline), gate=gate)
    client = Client(threading.Event(), time.monotonic() + seconds, lambda size: None)
    answer = item(parts, client, "image_2", b"x")
    assert answer.embedded is None
    assert answer.error is not None
    return answer.error.code


def test_a_picture_without_time_left_is_busy_and_the_others_keep_their_answers() -> None:
    gate = Gate(1, 4)
    assert late(gate, -1.0) == "busy"
    with gate.place(threading.Event(), time.monotonic() + 10):
        assert late(gate, 0.2) == "busy", "it waited for its place until its time was over"
