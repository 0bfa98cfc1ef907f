"""A real session, good and bad, leaves no secret in any log line, error or command's output."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bson
import httpx2
import pytest
from pymongo.database import Database

from app.keys import entry
from faces import processes
from tests import media_server
from tests.indexing import ROOT, Index, prepared
from tests.media_server import Server

KEY = "canary-key-0d6f1c"
SECRETS = {
    "API key": KEY,
    "refused API key": "canary-badkey-7a21",
    "subject's name": "Canary Ülfbert",
    "subject's name, escaped": "Canary \\u00dclfbert",
    "title": "canary-title-93be",
    "metadata": "canary-city-5512",
    "media query": "canary-token-c07d",
    "user in a URL": "canary-user-e8e1",
    "value of a bad field": "canary-value-44d9",
    "header": "canary-header-b20c",
    "file name": "canary-file-6f3a",
    "hook's secret": "canary-hook-18cc",
    "database password": "canary-password-2e97",
}
BASE = "/v1/collections/default"


class Heard:
    """Everything that the service said which is no regular answer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[tuple[str, bytes]] = []

    def answer(self, answer: httpx2.Response, status: int) -> Any:
        """The JSON of an answer of this status; kept when it is an error."""
        assert answer.status_code == status, answer.text
        if status >= 400:
            self.said.append((f"answer {answer.request.method} {status}", answer.content))
            self.said.append(("headers", str(answer.headers.raw).encode()))
        return answer.json() if "json" in answer.headers.get("content-type", "") else None

    def everything(self) -> Iterator[tuple[str, bytes]]:
        yield from self.said
        for path in sorted(self.folder.glob("*.log")):
            yield path.name, path.read_bytes()


@pytest.fixture
def photo(samples_dir: Path) -> bytes:
    return sorted((samples_dir / "gallery" / "madonna").iterdir())[0].read_bytes()


@pytest.fixture
def media(samples_dir: Path) -> Iterator[Server]:
    token = SECRETS["media query"]
    with media_server.serving() as server:
        data = sorted((samples_dir / "gallery" / "elton_john").iterdir())[0].read_bytes()
        server.files["/good.jpg"] = data
        server.files["/cut.jpg"] = data[: len(data) // 2]
        server.files["/text.jpg"] = b"<html>no picture</html>"
        server.behaviours["/away.jpg"] = media_server.failing(404)
        server.behaviours["/broken.jpg"] = media_server.failing(500)
        server.behaviours["/moved.jpg"] = media_server.redirect(
            f"http://{SECRETS['user in a URL']}:pw@10.0.0.1/x?token={token}"
        )
        urls = [server.url(f"/{n}.jpg?token={token}") for n in
                ("good", "cut", "text", "away", "broken", "moved")]  # fmt: skip
        urls += [f"file:///etc/passwd?{token}", f"http://169.254.169.254/?{token}", ""]
        items = [
            {"_id": f"cms-{n}", "url": url, "updated_at": "1", "title": SECRETS["title"]}
            for n, url in enumerate(urls)
        ]
        page = json.dumps({"items": items, "next_cursor": None}).encode()
        server.behaviours["/list"] = lambda handler: handler.reply(200, page)
        yield server


@pytest.fixture
def index(database: Database[dict[str, Any]], atlas: str, models_dir: Path, media: Server) -> Index:
    index = prepared(database, atlas, models_dir)
    index.env |= {
        "MODEL_AUTO_FETCH": "false",
        "API_KEYS": entry("tester", "admin", KEY),
        "CMS_SOURCE": "http",
        "CMS_SOURCE_NAME": "cms",
        "CMS_HTTP_URL": media.url(f"/list?token={SECRETS['media query']}"),
        "CMS_HOOK_SECRET": SECRETS["hook's secret"],
        "MEDIA_ALLOWED_HOSTS": media.origin,
    }
    return index


@contextlib.contextmanager
def running(name: str, heard: Heard, env: dict[str, str], *argv: str) -> Iterator[None]:
    """A process of the service whose every line is kept."""
    with (heard.folder / f"{name}.log").open("wb") as log:
        process = processes.start(
            [sys.executable, "-m", *argv], env=env, cwd=ROOT, stdout=log, stderr=log
        )
        try:
            yield
        finally:
            processes.stop([process], grace=20)


def eventually(true: Callable[[], bool], what: str, within: float = 60) -> None:
    end = time.monotonic() + within
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


def bad_requests(client: httpx2.Client, heard: Heard, photo: bytes, media: Server) -> None:
    """What a client may send wrongly, each with something that must not come back."""
    value, token = SECRETS["value of a bad field"], SECRETS["media query"]
    as_json = {"Content-Type": "application/json"}
    for body, status in (
        ({"vector": [value]}, 422),
        ({"vector": [1.5, float("nan")]}, 422),
        ({"face_id": {"$gt": value}}, 422),
        ({"face_id": value}, 404),
        ({"filter": {"$where": value}, "face_id": "x"}, 422),
        ({"filter": {"metadata.none": value}, "face_id": "x"}, 422),
        ({value: value}, 422),
        ({"image_url": f"http://10.0.0.1/{value}?token={token}"}, 422),
        ({"image_url": media.url(f"/away.jpg?token={token}")}, 502),
        ({"image_url": f"file:///{value}"}, 422),
        ({"image_base64": value + "%"}, 422),
        ({"collection": value, "image_base64": "AAAA"}, None),
    ):
        text = json.dumps(body)
        answer = client.post("/v1/search", content=text, headers=as_json)
        assert 400 <= answer.status_code < 500 or answer.status_code == 502, answer.text
        if status is not None and answer.status_code != status:
            assert answer.status_code in (404, 422), answer.text
        heard.answer(answer, answer.status_code)
    heard.answer(
        client.post("/v1/search", content=b'{"a": "' + value.encode(), headers=as_json), 400
    )
    for name, data in (("cut", photo[:3000]), ("text", value.encode()), ("none", b"")):
        files = {"image": (f"{SECRETS['file name']}-{name}.jpg", data)}
        answer = client.put(f"{BASE}/media/bad-{name}", files=files)
        heard.answer(answer, answer.status_code)
        assert answer.status_code in (415, 422)
    heard.answer(client.get(f"/v1/faces/{value}", params={value: value}), 422)
    heard.answer(client.get(f"{BASE}/faces", params={"cursor": value}), 400)
    heard.answer(client.get(f"/{value}?token={token}"), 404)
    heard.answer(client.get("/v1/models", headers={"X-API-Key": SECRETS["refused API key"]}), 401)
    heard.answer(
        client.post("/v1/hooks/cms", json={"event": value}, headers={"X-Signature": value}), 401
    )
    heard.answer(
        client.post(f"{BASE}/subjects", json={"subject_id": "p-2", "name": 5, value: 1}), 422
    )


def test_nothing_that_is_private_is_logged_or_comes_back_in_an_error(
    index: Index, media: Server, photo: bytes, tmp_path: Path
) -> None:
    heard = Heard(tmp_path)
    port = free_port()
    env = index.environment() | {"PORT": str(port)}
    headers = {"X-API-Key": KEY, "User-Agent": SECRETS["header"], "Referer": SECRETS["header"]}
    with (
        running("web", heard, env, "app", "serve"),
        running("worker", heard, env, "indexer", "run"),
        httpx2.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False, headers=headers
        ) as client,
    ):

        def ready() -> bool:
            with contextlib.suppress(httpx2.TransportError):
                return client.get("/readyz").status_code == 200
            return False

        eventually(ready, "the service did not become ready")
        form = {"title": SECRETS["title"], "metadata": json.dumps({"city": SECRETS["metadata"]})}
        files = {"image": (SECRETS["file name"], photo)}
        item = heard.answer(client.put(f"{BASE}/media/one", files=files, data=form), 201)
        face = item["faces"][0]["face_id"]
        vector = heard.answer(client.post("/v1/embed", files=files), 200)["faces"][0]["embedding"]
        heard.answer(client.post("/v1/search", files=files), 200)
        heard.answer(client.post("/v1/search", json={"vector": vector}), 200)
        heard.answer(client.post("/v1/search", json={"vector": vector[1:]}), 422)
        named = {"subject_id": "p-1", "name": SECRETS["subject's name"]}
        heard.answer(client.post(f"{BASE}/subjects", json=named), 201)
        heard.answer(client.post(f"{BASE}/subjects", json=named), 409)
        heard.answer(client.get(f"{BASE}/subjects", params={"q": SECRETS["subject's name"]}), 200)
        own = {"face_ids": [face]}
        heard.answer(client.post(f"{BASE}/subjects/p-1/faces", json=own), 200)
        bad_requests(client, heard, photo, media)
        erasing = heard.answer(client.post(f"{BASE}/subjects/p-1/erase"), 202)["job_id"]
        jobs = index.db.likeness_jobs

        def ended() -> bool:
            return not jobs.count_documents({"state": {"$in": ["queued", "running"]}})

        eventually(lambda: jobs.count_documents({"kind": "backfill"}) > 0, "no backfill began")
        eventually(ended, "the jobs did not end")
        job = client.get(f"/v1/jobs/{erasing}").json()
        assert job["state"] == "succeeded", job
        done = index.db.likeness_media.find_one({"media_id": "cms-0"})
        assert done is not None
        assert done["state"] == "done", "the CMS's good picture was not indexed"
        listed = client.get("/v1/jobs").json()
        heard.said.append(("jobs", json.dumps(listed).encode()))
        for each in listed["items"]:
            failures = client.get(f"/v1/jobs/{each['job_id']}/failures")
            heard.said.append(("failures", failures.content))
    for command in (("indexer", "status"), ("indexer", "audit"), ("migrations", "status")):
        output(heard, env, *command)
    no_secret(heard, vector, photo)
    logs = b"".join(data for name, data in heard.everything() if name == "web.log")
    assert b'"status": 422' in logs, "the web process logged nothing: this test shows nothing"
    gone = SECRETS["subject's name"].encode()
    for name in index.db.list_collection_names():
        for document in index.db[name].find():
            assert gone not in bson.encode(document), f"an erased name is left in {name}"


def test_a_wrong_configuration_or_a_database_that_is_away_gives_no_secret_away(
    tmp_path: Path, models_dir: Path
) -> None:
    heard = Heard(tmp_path)
    password = SECRETS["database password"]
    away = f"mongodb://{SECRETS['user in a URL']}:{password}@127.0.0.1:{free_port()}/"
    env = {"PATH": os.environ["PATH"], "MODEL_DIR": str(models_dir), "MONGODB_TIMEOUT_MS": "300"}
    for command in (("app", "doctor"), ("indexer", "status"), ("migrations", "status")):
        output(heard, env | {"MONGODB_URI": away}, *command)
    for wrong in (
        {"MONGODB_URI": f"mongodb://u:{password}@[::"},
        {"MONGODB_URI": password},
        {"API_KEYS": KEY},
        {"API_KEY": KEY},
        {"AWS_DIALECT_KEYS": KEY},
        {"PORT": KEY},
        {"CMS_SOURCE": "http", "CMS_HTTP_URL": f"ftp://u:{password}@x/?{KEY}"},
    ):
        commands = [("app", "serve")] if "CMS_SOURCE" not in wrong else []
        for command in (*commands, ("indexer", "once", "--deadline", "1s")):
            output(heard, env | wrong, *command)
    no_secret(heard, None, None)
    assert len(heard.said) > 10


def output(heard: Heard, env: dict[str, str], *argv: str) -> None:
    """Run a command of the service and keep what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", *argv], env=env, cwd=ROOT, capture_output=True, timeout=60
    )
    heard.said.append((" ".join(argv), done.stdout + done.stderr))


def no_secret(heard: Heard, vector: list[float] | None, photo: bytes | None) -> None:
    """Fails naming what was found and where, not how it reads."""
    needles = {name: secret.encode() for name, secret in SECRETS.items()}
    if vector is not None:
        packed = struct.pack(f"<{len(vector)}f", *vector)
        needles |= {
            "embedding": str(abs(vector[0]))[:8].encode(),
            "embedding, two numbers": ",".join(str(v)[:6] for v in vector[:2]).encode(),
            "embedding's bytes": packed[:12],
            "embedding in base64": base64.b64encode(packed)[:16],
            "embedding in hex": packed[:12].hex().encode(),
        }
    if photo is not None:
        needles |= {
            "JPEG": b"\xff\xd8\xff",
            "JPEG in base64": base64.b64encode(photo)[:12],
            "JPEG, as Python shows it": b"\\xff\\xd8",
            "photo's bytes": photo[1000:1016],
        }
    found = [
        (name, where)
        for where, text in heard.everything()
        for name, needle in needles.items()
        if needle in text
    ]
    assert not found
