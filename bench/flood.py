"""One person's key floods far over its rate limit; another's must not feel it."""

from __future__ import annotations

import hashlib
import secrets
import time

import httpx2

from bench.crowd import Crowd, Manners
from bench.fault_system import eventually
from bench.load_system import Plain, gallery
from bench.report import Row, say

LIMIT = 600
"""Requests of a key in a minute, in this measurement."""
FLOOD = "flood"
FLOODERS = 8
EVERY = 0.04
"""Seconds between two requests of a flooder: together twenty times the limit. More would only
measure how these clients and the service share two cores."""
QUIET = "quiet key"
NEAR = 2.0
"""How many times its own p95 the quiet client's may be, to be near it."""


def measure(system: Plain, seconds: float) -> tuple[list[Row], list[str]]:
    """The quiet client's latencies alone and beside the flood, and what was answered wrongly."""
    keys = {name: secrets.token_urlsafe(24) for name in ("quiet", "greedy")}
    entries = [f"{n}:search:{hashlib.sha256(k.encode()).hexdigest()}" for n, k in keys.items()]
    system.restart_web(
        API_KEYS=",".join(entries),
        RATE_LIMIT_PER_KEY=f"{LIMIT}/minute",
        RATE_LIMIT_PER_ADDRESS="",  # all of them come from this machine
    )
    quiet = Manners(every=0.4, headers={"X-API-Key": keys["quiet"]})
    greedy = Manners(every=EVERY, rude=True, headers={"X-API-Key": keys["greedy"]})
    photos = list(gallery().values())

    def search(http: httpx2.Client, turn: int) -> httpx2.Response:
        files = {"image": ("p.jpg", photos[turn % len(photos)])}
        return http.post("/v1/search", files=files, data={"min_similarity": "-1"})

    def read(http: httpx2.Client, turn: int) -> httpx2.Response:
        return http.get("/v1/models")

    say(f"load: one key searches for {seconds:.0f} s, alone")
    alone = Crowd(system.port)
    alone.start(QUIET, 2, search, quiet)
    time.sleep(seconds)
    alone.join()
    say(f"load: it searches for {seconds:.0f} s beside another that floods")
    flood, beside = Crowd(system.port), Crowd(system.port)
    flood.start(FLOOD, FLOODERS // 2, read, greedy)
    flood.start(FLOOD, FLOODERS // 2, search, greedy)
    eventually(lambda: flood.refusals(FLOOD) > 0, "the flood was not refused")
    beside.start(QUIET, 2, search, quiet)
    time.sleep(seconds)
    beside.join()
    flood.join()
    return _rows(alone, beside, flood), _wrong(alone, beside, flood)


def _rows(alone: Crowd, beside: Crowd, flood: Crowd) -> list[Row]:
    own, then = alone.p(QUIET, 95), beside.p(QUIET, 95)
    codes = ", ".join(f"{n} x {code}" for code, n in sorted(flood.codes[FLOOD].items()))
    return [
        Row("flood of one key, refused", flood.refusals(FLOOD), "answers", "higher", note=codes),
        Row(f"{QUIET} alone, p95", round(own), "ms"),
        Row(f"{QUIET} beside the flood, p95", round(then), "ms"),
        Row(f"{QUIET}, beside to alone", round(then / own, 2), "times", goal=NEAR),
        Row(f"{QUIET}, refused", beside.refusals(QUIET), "answers", goal=0.0),
    ]


def _wrong(alone: Crowd, beside: Crowd, flood: Crowd) -> list[str]:
    found = alone.wrong() + beside.wrong() + flood.wrong()
    if alone.refusals(QUIET) + beside.refusals(QUIET):
        found.append("the key within its limit was refused because of another's flood")
    return found
