"""Clients on threads that repeat an operation, and what they saw: answers, refusals, latencies."""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import httpx2

from bench.report import Row

REFUSED = ("503 busy", "429 rate_limited")
"""Answers that tell a client to come again: expected under load, and counted."""
Act = Callable[[httpx2.Client, int], httpx2.Response]


@dataclass(frozen=True, slots=True)
class Manners:
    """How a client repeats its operation.

    At most once in `every` seconds; with `headers`; it keeps the `Retry-After` of a refusal unless
    it is `rude`. `right` names the statuses beyond 2xx that answer it as they should.
    """

    every: float = 0.0
    rude: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    right: Collection[int] = ()


class Crowd:
    """Clients that work until told to stop; each waits for its answer before it sends again."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.took: dict[str, list[float]] = {}
        self.codes: dict[str, Counter[str]] = {}
        self._bad: dict[str, Counter[str]] = {}
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._began = self._ended = 0.0

    def start(self, name: str, clients: int, act: Act, manners: Manners | None = None) -> None:
        """Start clients that repeat `act`, which gets the client's number plus 100 a turn."""
        if not clients:
            return
        self._began = self._began or time.monotonic()
        self.took.setdefault(name, [])
        self.codes.setdefault(name, Counter())
        self._bad.setdefault(name, Counter())
        for number in range(clients):
            thread = threading.Thread(
                target=self._run, args=(name, number, act, manners or Manners()), daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def join(self) -> None:
        """Stop all clients and wait for their last answers."""
        self._ended = time.monotonic()
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def p(self, name: str, percent: int) -> float:
        """This percentile of the operation's latencies, in milliseconds; NaN below two answers."""
        took = self.took[name]
        if len(took) < 2:
            return float("nan")
        return statistics.quantiles(took, n=100, method="inclusive")[percent - 1] * 1000

    def refusals(self, name: str) -> int:
        """How often the operation was refused with a code that says: come again."""
        return sum(self.codes[name][code] for code in REFUSED)

    def rows(self, goal_p99: float | None = None) -> list[Row]:
        """Throughput, latencies of what was answered, and refusals, for each operation."""
        rows = []
        for name, took in self.took.items():
            seconds = self._ended - self._began
            codes = ", ".join(f"{n} x {code}" for code, n in sorted(self.codes[name].items()))
            rate = round(len(took) / seconds, 1)
            rows.append(Row(f"{name}, answered", rate, "/s", "higher", note=codes))
            if len(took) > 1:
                rows += [
                    Row(f"{name}, p{percent}", round(self.p(name, percent)), "ms",
                        goal=goal_p99 if percent == 99 else None)
                    for percent in (50, 95, 99)
                ]  # fmt: skip
            rows.append(Row(f"{name}, refused", self.refusals(name), "answers"))
        return rows

    def wrong(self) -> list[str]:
        """A sentence for each operation that was answered as it may not be, or never."""
        found = []
        for name, bad in self._bad.items():
            found += [f"{name} was answered {code}, {n} times" for code, n in sorted(bad.items())]
            if not self.took[name]:
                found.append(f"{name} was never answered")
        return found

    def _run(self, name: str, number: int, act: Act, manners: Manners) -> None:
        turn = number
        with httpx2.Client(
            base_url=self.url, timeout=40, trust_env=False, headers=dict(manners.headers)
        ) as client:
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    answer = act(client, turn)
                except httpx2.TransportError as error:
                    self._count(name, type(error).__name__, bad=True)
                    self._stop.wait(0.5)
                    continue
                finally:
                    turn += 100
                took = time.monotonic() - began
                pause = max(0.0, manners.every - took)
                if answer.is_success or answer.status_code in manners.right:
                    self._count(name, str(answer.status_code), took)
                else:
                    after = self._refused(name, answer)
                    pause = pause if manners.rude else min(5.0, max(1.0, after))
                self._stop.wait(pause)

    def _refused(self, name: str, answer: httpx2.Response) -> float:
        """Count a refusal; when it says to come again, in seconds."""
        code = f"{answer.status_code} {answer.json().get('code')}"
        after = float(answer.headers.get("retry-after", 0))
        if code in REFUSED and after < 1:
            code += " without Retry-After"
        self._count(name, code, bad=code not in REFUSED)
        return after

    def _count(self, name: str, code: str, took: float | None = None, bad: bool = False) -> None:
        with self._lock:
            self.codes[name][code] += 1
            if bad:
                self._bad[name][code] += 1
            if took is not None:
                self.took[name].append(took)
