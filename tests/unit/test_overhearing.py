"""The run fails when anything private is said anywhere, and names it without repeating it."""

from __future__ import annotations

import base64
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.private import MARK, Secrets

ROOT = Path(__file__).resolve().parents[2]
CONFTEST = """
from tests.overhearing import Overhearing
def pytest_configure(config):
    config.pluginmanager.register(Overhearing(), "overhearing")
"""
HEAD = """
import logging, subprocess, sys, threading
from http.server import BaseHTTPRequestHandler, HTTPServer
import httpx2, pytest
from faces.errors import InvalidRequest
SECRET = "a-key-that-nobody-may-read"
PRINT = "import sys; print(*sys.argv[1:]); print(*sys.argv[1:], file=sys.stderr)"
def say(name):
    return [sys.executable, "-c", PRINT, name, SECRET]
class Echo(BaseHTTPRequestHandler):
    def do_POST(self):
        said = (self.headers["X-API-Key"] or "none").encode()
        self.send_response(400)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)
    def log_message(self, *_):
        pass
@pytest.fixture(scope="session", autouse=True)
def secret():
    server = HTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    def send(**headers):
        httpx2.post(url, headers=headers, json={"a": 1}, trust_env=False)
    if KNOWN:
        send(**{"X-API-Key": SECRET})
    yield send
    server.shutdown()
    server.server_close()
"""
LEAKS = {
    "taken": "subprocess.run(say('taken'), capture_output=True)",
    "inherited": "subprocess.run(say('inherited'))",
    "nowhere": "subprocess.run(say('nowhere'), stdout=subprocess.DEVNULL, stderr=-3)",
    "written": "with (tmp_path / 'l').open('wb') as log: subprocess.run(say('w'), stderr=log)",
    "read": "with subprocess.Popen(say('r'), stdout=-1, text=True) as c: c.stdout.readline()",
    "logged": "logging.getLogger('x').warning('it is %s', SECRET)",
    "captured": "print(SECRET); capsys.readouterr()",
    "raised": "InvalidRequest(f'not {SECRET}')",
}


def run(folder: Path, known: bool, *options: str) -> tuple[int, str]:
    """Exit status and output of a run of one test for each leak."""
    tests = [f"def test_{name}(tmp_path, capsys):\n    {body}\n" for name, body in LEAKS.items()]
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_leaks.py").write_text(f"KNOWN = {known}\n" + HEAD + "\n".join(tests))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, str(folder)],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,  # so that this run does not listen to that one's output
        capture_output=True,
        text=True,
        timeout=240,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "in workers"])
def test_every_way_to_say_a_key_fails_the_run(tmp_path: Path, options: tuple[str, ...]) -> None:
    status, said = run(tmp_path, True, *options)
    assert status == 1, said
    assert f"{len(LEAKS)} passed" in said, said
    for name in LEAKS:
        assert f"test_leaks.py::test_{name}" in said, said
    assert "a key in answer 400 to POST" in said
    assert "nobody-may-read" not in said


def test_what_is_no_secret_may_be_said(tmp_path: Path) -> None:
    status, said = run(tmp_path, False)
    assert status == 0, said
    assert "private values" not in said


def test_private_things_are_known_by_how_they_look() -> None:
    vector = [0.01 * n - 0.73 for n in range(128)]
    jpeg = b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(range(256)) * 2
    for text, kind in (
        (json.dumps(vector), "numbers of an embedding"),
        (str(vector).replace(",", ""), "numbers of an embedding"),
        (repr(jpeg), "a JPEG"),
        (repr(struct.pack("<128f", *vector)), "bytes as Python shows them"),
        (struct.pack("<128f", *vector).hex(), "more than 400 bytes in base64"),
        (base64.b64encode(jpeg).decode(), "a JPEG"),
        (base64.b64encode(bytes(range(200)) * 3).decode(), "more than 400 bytes in base64"),
        (f"cannot reach mongodb://user:secret@db.example/ {MARK}", "a database password"),
        (f"no {MARK}-name here", "a value made up by a fixture"),
    ):
        assert kind in set(Secrets().found(f"before {text} after".encode())), kind


def test_ordinary_lines_are_not_private() -> None:
    for text in (
        "mongodb://127.0.0.1:27017/ and mongodb+srv://USER:PASSWORD@cluster.example/",
        '{"box": [1.5, 2.5, 30.25, 40.75], "similarity": 0.83}',
        "sha256 " + "0f" * 32,
        "/v1/collections/default/media/{media_id} 200 0.013 0.2 1.5",
    ):
        assert list(Secrets().found(text.encode())) == []


def test_secrets_are_gathered_where_they_are_used() -> None:
    secrets = Secrets()
    secrets.add_environment(
        {"CMS_HOOK_SECRET": "between-the-two", "AWS_DIALECT_KEYS": "AK:access-secret:admin",
         "CMS_HTTP_URL": "https://cms.example/list?token=listing-token"}
    )  # fmt: skip
    secrets.add_body("/v1/collections/a/subjects", {"subject_id": "p", "name": "Ada Lovelace"})
    secrets.add_body("/v1/search", {"image_url": "https://u:pass-word@x.example/a?sig=1234abcd9"})
    secrets.add_authorization("Bearer a-bearer-token")
    secrets.add_authorization(
        f"AWS4-HMAC-SHA256 Credential=AK/1/x, Signature={'0123456789abcdef' * 4}"
    )
    for value, kind in (
        ("a-bearer-token", "a key"),
        ("0123456789abcdef" * 4, "a signature"),
        ("between-the-two", "the value of CMS_HOOK_SECRET"),
        ("access-secret", "a secret access key"),
        ("listing-token", "the query of a media URL"),
        ("Ada Lovelace", "the name of a person"),
        ("1234abcd9", "the query of a media URL"),
        ("pass-word", "the password of a URL"),
    ):
        assert kind in set(secrets.found(f"it was {value}!".encode()))
    secrets.add("a key", "short")
    secrets.add("a key", "000000000000")
    assert list(secrets.found(b"short 000000000000 AWS4-HMAC-SHA256")) == []
