"""Clients on threads that repeat an operation, and what they saw: answers, refusals, latencies."""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

import httpx2

from bench.report import Row

REFUSED = ("busy", "rate_limited")
"""Codes that tell a client to come again: expected under load, and counted."""
Act = Callable[[httpx2.Client, int], httpx2.Response]


class Crowd:
    """Clients that work until told to stop.

    Each waits for its answer before it sends again, and keeps the `Retry-After` of a refusal, as a
    client should, unless it is `rude`.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.took: dict[str, list[float]] = {}
        self.codes: dict[str, Counter[str]] = {}
        self.unhinted: Counter[str] = Counter()
        """Refusals without a `Retry-After` of at least a second, by operation."""
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._began = self._ended = 0.0

    def start(
        self,
        name: str,
        clients: int,
        act: Act,
        *,
        every: float = 0.0,
        rude: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Start clients that repeat `act`, each at most once in `every` seconds."""
        self._began = self._began or time.monotonic()
        self.took.setdefault(name, [])
        self.codes.setdefault(name, Counter())
        for number in range(clients):
            thread = threading.Thread(
                target=self._run, args=(name, number, act, every, rude, headers), daemon=True
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
        return sum(n for code, n in self.codes[name].items() if _refusal(code))

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
        """A sentence for each operation that was answered as it may not be."""
        found = []
        for name, codes in self.codes.items():
            bad = {c: n for c, n in codes.items() if c[:1] != "2" and not _refusal(c)}
            if bad:
                found.append(f"{name} was answered {bad}")
            if not self.took[name]:
                found.append(f"{name} was never answered")
        found += [f"{name} was refused {n} times without Retry-After"
                  for name, n in self.unhinted.items()]  # fmt: skip
        return found

    def _run(
        self,
        name: str,
        number: int,
        act: Act,
        every: float,
        rude: bool,
        headers: Mapping[str, str] | None,
    ) -> None:
        turn = number
        with httpx2.Client(
            base_url=self.url, timeout=40, trust_env=False, headers=dict(headers or {})
        ) as client:
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    answer = act(client, turn)
                except httpx2.TransportError as error:
                    self._count(name, type(error).__name__, None)
                    self._stop.wait(0.5)
                    continue
                finally:
                    turn += 100
                took = time.monotonic() - began
                if answer.is_success:
                    self._count(name, str(answer.status_code), took)
                    self._stop.wait(max(0.0, every - took))
                    continue
                self._refused(name, answer, rude)

    def _refused(self, name: str, answer: httpx2.Response, rude: bool) -> None:
        code = f"{answer.status_code} {answer.json().get('code')}"
        self._count(name, code, None)
        after = float(answer.headers.get("retry-after", 0))
        if after < 1 and _refusal(code):
            with self._lock:
                self.unhinted[name] += 1
        if not rude:
            self._stop.wait(min(5.0, max(1.0, after)))

    def _count(self, name: str, code: str, took: float | None) -> None:
        with self._lock:
            self.codes[name][code] += 1
            if took is not None:
                self.took[name].append(took)


def _refusal(code: str) -> bool:
    return code in {f"{503 if word == 'busy' else 429} {word}" for word in REFUSED}
