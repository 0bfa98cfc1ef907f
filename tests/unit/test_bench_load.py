"""What `make load` and `make soak` count, and what they call wrong."""

from __future__ import annotations

import http.server
import json
import os
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx2
import numpy as np
import pytest

from bench.crowd import Crowd, Manners
from bench.load import Uploads, growth
from bench.soak import grown
from bench.vitals import Slope, Vitals, slope


class Answers(http.server.BaseHTTPRequestHandler):
    """`/200`, `/503/busy?1` and so on: status, code and Retry-After as the path says."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, _, after = self.path.partition("?")
        status, _, code = path[1:].partition("/")
        body = json.dumps({"code": code}).encode()
        self.send_response(int(status))
        if after:
            self.send_header("Retry-After", after)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def worked(port: int, *paths: str, manners: Manners | None = None) -> Crowd:
    """A crowd of one that was answered at least once by each path in turn."""
    crowd = Crowd(port)
    turns = iter(range(1_000_000))

    def act(http: httpx2.Client, turn: int) -> httpx2.Response:
        return http.get(paths[next(turns) % len(paths)])

    crowd.start("work", 1, act, manners or Manners(rude=True))
    while sum(crowd.codes["work"].values()) < 2 * len(paths):
        time.sleep(0.005)
    crowd.join()
    return crowd


def test_refusals_that_say_when_to_come_again_are_counted_and_right(port: int) -> None:
    crowd = worked(port, "/200", "/503/busy?1", "/429/rate_limited?2")
    assert crowd.wrong() == []
    assert crowd.refusals("work") >= 2
    rows = {row.name: row for row in crowd.rows()}
    assert "x 503 busy" in rows["work, answered"].note
    assert rows["work, refused"].value == crowd.refusals("work")
    assert {"work, p50", "work, p95", "work, p99"} <= set(rows)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/500/internal_error", "500 internal_error"),
        ("/504/request_timeout", "504 request_timeout"),
        ("/503/database_unavailable?1", "503 database_unavailable"),
        ("/422/no_face", "422 no_face"),
        ("/503/busy", "503 busy without Retry-After"),
        ("/429/rate_limited?0", "429 rate_limited without Retry-After"),
    ],
)
def test_any_other_answer_is_wrong(port: int, path: str, said: str) -> None:
    found = worked(port, "/200", path).wrong()
    assert len(found) == 1
    assert said in found[0]


def test_what_is_right_for_an_operation_is_answered(port: int) -> None:
    crowd = worked(port, "/422/invalid_image", manners=Manners(rude=True, right=(422,)))
    assert crowd.wrong() == []
    assert crowd.took["work"]


def test_no_answer_at_all_is_wrong() -> None:
    crowd = Crowd(1)
    crowd.start("work", 1, lambda http, turn: http.get("/200"))
    while not crowd.codes["work"]:
        time.sleep(0.005)
    crowd.join()
    assert any("ConnectError" in line for line in crowd.wrong())
    assert "work was never answered" in crowd.wrong()


class Stored:
    """As much of a system as `Uploads.lost` reads."""

    def __init__(self, rows: dict[str, tuple[str, set[str]]]) -> None:
        def media(key: dict[str, str]) -> Any:
            found = rows.get(key["media_id"])
            return found and {"state": "done", "sha256": found[0]}

        def faces(key: dict[str, str], fields: object) -> list[dict[str, str]]:
            return [{"_id": face} for face in rows.get(key["media_id"], ("", set()))[1]]

        self.db = SimpleNamespace(
            likeness_media=SimpleNamespace(find_one=media),
            likeness_faces=SimpleNamespace(find=faces),
        )


def test_an_acknowledged_upload_that_is_not_there_is_lost() -> None:
    uploads = Uploads([b"photo"])
    uploads.acknowledged = {"a": ("1", {"f"}), "b": ("2", {"g"}), "c": ("3", set())}
    whole = dict(uploads.acknowledged)
    assert uploads.lost(Stored(whole)) == []  # type: ignore[arg-type]
    for changed in ({"a": ("9", {"f"})}, {"a": ("1", {"h"})}, {"b": ("2", set())}):
        (said,) = uploads.lost(Stored(whole | changed))  # type: ignore[arg-type]
        assert said.startswith(("the acknowledged upload of a", "a: ", "b: "))
    del whole["c"]
    assert uploads.lost(Stored(whole)) == ["the acknowledged upload of c is lost"]  # type: ignore[arg-type]


def test_an_upload_without_an_answer_may_be_there_or_not() -> None:
    uploads = Uploads([b"photo"])

    def handler(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ReadError("gone")

    with (
        httpx2.Client(transport=httpx2.MockTransport(handler), base_url="http://x") as client,
        pytest.raises(httpx2.ReadError),
    ):
        uploads.act(client, 0)
    uploads.acknowledged["load-0-0"] = ("1", set())
    assert uploads.lost(Stored({})) == []  # type: ignore[arg-type]


def line(rise: float, noise: float) -> Slope:
    rng = np.random.default_rng(1)
    times = np.arange(1200.0)
    return slope(times.tolist(), (50 + rise / 3600 * times + rng.normal(0, noise, 1200)).tolist())


def test_a_leak_is_told_from_noise() -> None:
    for rise in (0.0, 60.0, -60.0):
        found = line(rise, 3.0)
        assert abs(found.per_hour - rise) < 4 * found.error < 8
    assert grown({"web": {"memory": line(0.0, 3.0)}}) == []
    assert grown({"web": {"memory": line(60.0, 3.0)}})[0].startswith("web: memory grow by ")
    assert grown({"web": {"threads": line(40.0, 0.1)}})[0].startswith("web: threads grow by ")
    assert grown({"web": {"memory": line(10.0, 100.0)}}) == []


def test_a_leak_of_minutes_is_called_wrong() -> None:
    kept = {"worker's lane": {"memory": Slope(2400.0, 200.0, 300.0)}}  # 40 MiB a minute
    (row,), (said,) = growth(kept)
    assert row.value == 40.0
    assert said == "worker's lane: memory grows by 40 MiB a minute"
    assert growth({"worker's lane": {"memory": Slope(2400.0, 500.0, 300.0)}})[1] == []
    assert growth({"atlas's engine": kept["worker's lane"]}) == ([], [])


def test_only_the_memory_of_the_embedded_engine_is_not_judged() -> None:
    growing = Slope(200.0, 1.0, 100.0)
    assert grown({"atlas's engine": {"memory": growing}}) == []
    assert grown({"atlas's engine": {"files": growing}})
    assert grown({"atlas": {"memory": growing}})


def test_each_process_of_a_tree_is_sampled() -> None:
    vitals = Vitals({"own": os.getpid()}, period=0.01)
    while len(vitals.series.get("own", SimpleNamespace(at=[])).at) < 3:
        time.sleep(0.01)
    vitals.close()
    own = vitals.series["own"]
    assert own.pids == {os.getpid()}
    assert min(own.memory) > 5
    assert own.highest >= 5
    assert min(own.threads) >= 1
    assert min(own.files) >= 3
    assert any(row.name == "own, memory at most" for row in vitals.peaks())
