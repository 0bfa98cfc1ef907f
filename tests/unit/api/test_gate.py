"""The CPU gate: places, a queue, and who leaves it."""

from __future__ import annotations

import threading
import time

import pytest

from app.gate import ClientGone, Gate
from faces.errors import Busy, DeadlineExceeded


def later() -> float:
    return time.monotonic() + 60


def test_no_more_than_its_width_are_inside_and_all_get_in() -> None:
    gate = Gate(2, 50)
    inside, most, done = [0], [0], [0]
    lock = threading.Lock()

    def work() -> None:
        with gate.place(threading.Event(), later()):
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            time.sleep(0.002)
            with lock:
                inside[0] -= 1
                done[0] += 1

    threads = [threading.Thread(target=work) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 2
    assert done[0] == 40
    assert (gate.held, gate.waiting) == (0, 0)


def test_a_full_queue_turns_away_at_once() -> None:
    gate = Gate(1, 0)
    with gate.place(threading.Event(), later()):
        with pytest.raises(Busy) as caught, gate.place(threading.Event(), later()):
            pass
        assert caught.value.retry_after >= 1
    with gate.place(threading.Event(), later()):
        pass


def waiting_thread(gate: Gate, gone: threading.Event, deadline: float) -> list[str]:
    outcome: list[str] = []

    def wait() -> None:
        try:
            with gate.place(gone, deadline):
                outcome.append("in")
        except (ClientGone, DeadlineExceeded) as error:
            outcome.append(type(error).__name__)

    thread = threading.Thread(target=wait)
    thread.start()
    while not gate.waiting and not outcome:
        time.sleep(0.001)
    outcome.append("waiting")
    outcome.clear()
    gone_or_late = gone
    if deadline > time.monotonic() + 1:
        gone_or_late.set()
    thread.join()
    return outcome


def test_a_client_that_left_leaves_the_queue() -> None:
    gate = Gate(1, 5)
    with gate.place(threading.Event(), later()):
        assert waiting_thread(gate, threading.Event(), later()) == ["ClientGone"]
        assert gate.waiting == 0
    assert gate.held == 0


def test_a_deadline_that_passes_leaves_the_queue() -> None:
    gate = Gate(1, 5)
    with gate.place(threading.Event(), later()):
        soon = time.monotonic() + 0.2
        assert waiting_thread(gate, threading.Event(), soon) == ["DeadlineExceeded"]
    assert (gate.held, gate.waiting) == (0, 0)
