"""The circuit breaker."""

from __future__ import annotations

from faces.breaker import Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_it_lets_calls_through_until_the_last_allowed_failure_in_a_row() -> None:
    breaker = Breaker(failures=3, pause=5, clock=Clock())
    for outcome in (breaker.failed, breaker.failed, breaker.succeeded, breaker.failed):
        outcome()
        assert breaker.wait() == 0


def test_open_it_says_how_long_to_wait() -> None:
    clock = Clock()
    breaker = Breaker(failures=2, pause=5, clock=clock)
    breaker.failed()
    breaker.failed()
    clock.now += 2
    assert breaker.wait() == 3


def test_after_the_pause_one_trial_goes_through_and_decides() -> None:
    clock = Clock()
    breaker = Breaker(failures=1, pause=5, clock=clock)
    breaker.failed()
    clock.now += 5
    assert breaker.wait() == 0, "the trial"
    assert breaker.wait() == 5, "the others wait for it"
    breaker.succeeded()
    assert breaker.wait() == 0


def test_a_trial_that_fails_opens_it_again() -> None:
    clock = Clock()
    breaker = Breaker(failures=1, pause=5, clock=clock)
    breaker.failed()
    clock.now += 6
    assert breaker.wait() == 0
    breaker.failed()
    clock.now += 4
    assert breaker.wait() == 1
