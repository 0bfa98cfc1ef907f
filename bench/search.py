"""The service under clients: search by photo and by vector, one at a time and eight at once."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from bench.report import Row, say
from bench.trees import Sampler
from faces.loading import largest, load_pipeline
from faces.models.files import recorded_choice
from faces.settings import load

CLIENTS = 8
CROWD = 64
CROWD_SECONDS = 60.0
SECONDS = 6.0
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "multipart/form-data; boundary=b"}


@dataclass(frozen=True)
class Call:
    """One request to repeat."""

    path: str
    body: bytes
    headers: dict[str, str]


def rows() -> Iterator[Row]:
    """The sample gallery, searched by the sample probes over loopback HTTP."""
    settings = load()
    samples = settings.var_dir / "samples"
    gallery = [path for path in sorted((samples / "gallery").rglob("*")) if path.is_file()]
    probes = [path for path in sorted((samples / "probes").rglob("*")) if path.is_file()]
    model = recorded_choice(settings.models_path) or "facenet128"
    photos = [path.read_bytes() for path in probes]
    say(f"search: the bare pipeline ({model})")
    bare = _bare(photos, model)
    with (
        tempfile.TemporaryDirectory(prefix="bench-search-") as name,
        _service(Path(name), model) as (port, pid),
    ):
        say(f"search: indexing {len(gallery)} photos by PUT")
        yield _puts(port, gallery, samples / "gallery")
        by_photo = [Call("/v1/search", _form(photo), FORM) for photo in photos]
        by_vector = [Call("/v1/search", _vector(port, photo), JSON) for photo in photos[:8]]
        sampler = Sampler(pid, limit_mib=1e9)
        yield from _one_client("photo", port, by_photo, bare)
        yield from _one_client("vector", port, by_vector, None)
        yield from _many("photo", port, by_photo, rate=15.0, p99=400.0)
        yield from _many("vector", port, by_vector, rate=300.0, p99=60.0)
        yield from _crowd(port, by_photo, sampler)


def _bare(photos: Sequence[bytes], model: str) -> float:
    """Median milliseconds of the pipeline alone on these photos."""
    pipeline = load_pipeline(load(), model)
    try:
        times = []
        for photo in [*photos[:5], *photos]:
            began = time.perf_counter()
            pipeline.analyse(photo, choose=largest)
            times.append((time.perf_counter() - began) * 1000)
        return statistics.median(times[5:])
    finally:
        pipeline.close()


def _puts(port: int, gallery: Sequence[Path], root: Path) -> Row:
    times = []
    connection = http.client.HTTPConnection("127.0.0.1", port)
    for path in gallery:
        place = f"/v1/collections/default/media/{quote(str(path.relative_to(root)))}"
        began = time.perf_counter()
        status, _ = _ask(connection, "PUT", Call(place, _form(path.read_bytes()), FORM))
        times.append((time.perf_counter() - began) * 1000)
        assert status == 201, status
    connection.close()
    return Row("PUT of a photo, p50", round(statistics.median(times), 1), "ms")


def _one_client(kind: str, port: int, calls: Sequence[Call], bare: float | None) -> Iterator[Row]:
    say(f"search by {kind}: one client")
    times, statuses = _load(port, calls, clients=1, seconds=SECONDS)
    _only_answers(statuses)
    yield Row(
        f"search by {kind}, p50",
        round(_share(times, 0.5), 2),
        "ms",
        limit=round(bare, 2) if bare else None,
        limit_name="bare pipeline" if bare else None,
    )
    yield Row(f"search by {kind}, p95", round(_share(times, 0.95), 2), "ms")


def _many(kind: str, port: int, calls: Sequence[Call], *, rate: float, p99: float) -> Iterator[Row]:
    say(f"search by {kind}: {CLIENTS} clients")
    times, statuses = _load(port, calls, clients=CLIENTS, seconds=SECONDS)
    _only_answers(statuses)
    served = len(times) / SECONDS
    yield Row(
        f"search by {kind}, {CLIENTS} clients", round(served, 1), "req/s", "higher", goal=rate
    )
    slow = round(_share(times, 0.99), 1)
    yield Row(f"search by {kind}, {CLIENTS} clients, p99", slow, "ms", goal=p99)


def _crowd(port: int, calls: Sequence[Call], sampler: Sampler) -> Iterator[Row]:
    say(f"search by photo: {CROWD} clients for {CROWD_SECONDS:.0f} s")
    sampler.mark()
    times, statuses = _load(port, calls, clients=CROWD, seconds=CROWD_SECONDS)
    served = [ms for ms, status in zip(times, statuses, strict=True) if status == 200]
    wrong = sum(status not in (200, 503) for status in statuses)
    slow = round(_share(served, 0.99), 0)
    yield Row(f"{CROWD} clients, p99 of those served", slow, "ms", goal=2000.0)
    yield Row(f"{CROWD} clients, answers but 200 and busy", wrong, "answers", goal=0.0)
    yield Row(f"{CROWD} clients, PSS of the web process", round(sampler.peak), "MiB", goal=440.0)


def _load(
    port: int, calls: Sequence[Call], *, clients: int, seconds: float
) -> tuple[list[float], list[int]]:
    """Milliseconds and status of every request that these clients made in this time."""
    times: list[float] = []
    statuses: list[int] = []
    end = time.monotonic() + seconds

    def work(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        turn = number
        while time.monotonic() < end:
            began = time.perf_counter()
            status, retry = _ask(connection, "POST", calls[turn % len(calls)])
            times.append((time.perf_counter() - began) * 1000)
            statuses.append(status)
            turn += clients
            if status == 503:
                time.sleep(min(retry, 0.5))
        connection.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times, statuses


def _ask(connection: http.client.HTTPConnection, method: str, call: Call) -> tuple[int, float]:
    connection.request(method, call.path, body=call.body, headers=call.headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status, float(answer.headers.get("retry-after") or 0)


def _only_answers(statuses: Sequence[int]) -> None:
    if any(status != 200 for status in statuses):
        raise RuntimeError(f"the service answered {sorted(set(statuses))}")


def _share(times: Sequence[float], share: float) -> float:
    ranked = sorted(times)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


def _form(photo: bytes) -> bytes:
    head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="p"\r\n\r\n'
    return head + photo + b"\r\n--b--\r\n"


def _vector(port: int, photo: bytes) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("POST", "/v1/embed", body=_form(photo), headers=FORM)
    found = json.loads(connection.getresponse().read())
    connection.close()
    return json.dumps({"vector": found["faces"][0]["embedding"]}).encode()


@contextlib.contextmanager
def _service(folder: Path, model: str) -> Iterator[tuple[int, int]]:
    """Port and process id of a ready web process on an embedded Atlas."""
    command = [sys.executable, "-m", "localatlas", "serve", "--data", str(folder / "atlas")]
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = int(sock.getsockname()[1])
    atlas = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    web = None
    assert atlas.stdout is not None
    try:
        env = os.environ | {
            "MONGODB_URI": atlas.stdout.readline().strip(),
            "FACE_MODEL": model,
            "PORT": str(port),
        }
        quiet = subprocess.DEVNULL
        up = [sys.executable, "-m", "migrations", "up", "--wait"]
        subprocess.run(up, env=env, check=True, stdout=quiet, stderr=quiet)
        with (folder / "web.log").open("wb") as log:
            web = subprocess.Popen([sys.executable, "-m", "app", "serve"], env=env, stderr=log)
        _until_ready(port)
        yield port, web.pid
    finally:
        for child in (web, atlas):
            if child is not None:
                child.terminate()
                child.wait(20)
        atlas.stdout.close()


def _until_ready(port: int) -> None:
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        with contextlib.suppress(OSError):
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        connection.close()
        time.sleep(0.1)
    raise RuntimeError("the service did not become ready")
