"""The line before the decoder."""

from __future__ import annotations

import threading
import time

import pytest

from faces.errors import Busy, Cancelled
from faces.gate import Gate


def wait_for(gate: Gate, load: int) -> None:
    deadline = time.monotonic() + 60
    while gate.load != load and time.monotonic() < deadline:
        time.sleep(0.001)
    assert gate.load == load


def test_callers_are_let_in_one_at_a_time_in_the_order_of_their_coming() -> None:
    gate, order, inside = Gate(waiting=20, patience=30), [], []

    def caller(number: int) -> None:
        with gate.enter():
            inside.append(number)
            assert len(inside) == 1
            order.append(number)
            time.sleep(0.001)
            inside.remove(number)

    threads = [threading.Thread(target=caller, args=(n,)) for n in range(10)]
    with gate.enter():
        for n, thread in enumerate(threads):
            thread.start()
            wait_for(gate, n + 2)
    for thread in threads:
        thread.join()
    assert order == list(range(10))
    assert gate.load == 0


def test_a_full_line_turns_away_at_once() -> None:
    gate = Gate(waiting=0, patience=30)
    with gate.enter(), pytest.raises(Busy) as caught, gate.enter():
        pytest.fail("it was let in")
    assert caught.value.retry_after > 0
    with gate.enter():
        assert gate.load == 1


def test_patience_ends() -> None:
    gate = Gate(waiting=1, patience=0.01)
    with gate.enter(), pytest.raises(Busy), gate.enter():
        pytest.fail("it was let in")
    assert gate.load == 0


def test_one_that_left_before_its_turn_is_not_let_in() -> None:
    gate = Gate()
    with pytest.raises(Cancelled), gate.enter(lambda: True):
        pytest.fail("it was let in")
    assert gate.load == 0


def test_an_error_inside_frees_the_place() -> None:
    gate = Gate(waiting=0)
    with pytest.raises(ZeroDivisionError), gate.enter():
        raise ZeroDivisionError
    with gate.enter():
        assert gate.load == 1
