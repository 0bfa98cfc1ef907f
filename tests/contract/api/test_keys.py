"""Who may do what: keys, roles, collections, the loopback rule, rate limits, production."""

from __future__ import annotations

import hashlib
import os
import secrets
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from tests.contract.api.conftest import ROOT, Service, Start
from tests.private import MARK

pytestmark = pytest.mark.xdist_group("api")
Check = Callable[..., dict[str, object]]
KEYS = {
    name: f"{MARK}-{secrets.token_urlsafe(24)}" for name in ("search", "index", "admin", "bound")
}
NOBODY = "00000000-0000-4000-8000-000000000000"


def entry(name: str, role: str, bound: str = "") -> str:
    digest = hashlib.sha256(KEYS[name].encode()).hexdigest()
    return f"{name}:{role}:{digest}{bound}"


@pytest.fixture(scope="module")
def guarded(start: Start, migrated: dict[str, str]) -> Service:
    """A service with keys. It needs no model for what is asked here."""
    entries = [entry(role, role) for role in ("search", "index", "admin")]
    entries.append(entry("bound", "admin", ":mine+ours"))
    return start(
        **migrated,
        FACE_RECOGNITION_ENABLED="false",
        API_KEYS=",".join(entries),
        RATE_LIMIT_PER_KEY="5000/minute",
    )


@pytest.fixture
def ask(guarded: Service) -> Iterator[Callable[..., httpx2.Response]]:
    with guarded.client() as client:

        def call(key: str | None, method: str, path: str, **options: object) -> httpx2.Response:
            headers = {"x-api-key": KEYS.get(key, key)} if key is not None else {}
            return client.request(method, path, headers=headers, **options)

        yield call


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-api-key": ""},
        {"x-api-key": "wrong"},
        {"x-api-key": "k" * 10_000},
        {"authorization": "Bearer"},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {KEYS['admin']}"},
        {"cookie": f"api_key={KEYS['admin']}"},
    ],
    ids=["none", "empty", "wrong", "long", "no token", "wrong token", "basic", "cookie"],
)
def test_without_a_right_key_everything_says_the_same(
    guarded: Service, headers: dict[str, str], problem: Check
) -> None:
    with guarded.client() as client:
        body = problem(client.get("/v1/collections", headers=headers), 401, "unauthorized")
        other = problem(client.get("/v1/collections"), 401, "unauthorized")
    assert {**body, "instance": ""} == {**other, "instance": ""}


def test_a_key_in_the_query_string_is_no_key(guarded: Service, problem: Check) -> None:
    with guarded.client() as client:
        answer = client.get(f"/v1/collections?api_key={KEYS['admin']}")
        problem(answer, 401, "unauthorized")


def test_both_headers_carry_a_key(guarded: Service) -> None:
    with guarded.client() as client:
        for headers in (
            {"x-api-key": KEYS["search"]},
            {"authorization": f"Bearer {KEYS['search']}"},
        ):
            assert client.get("/v1/collections", headers=headers).status_code == 200


ROUTES = [
    ("search", "GET", "/v1/models", None),
    ("search", "GET", "/v1/collections/default/media", None),
    ("search", "GET", "/v1/jobs", None),
    ("search", "GET", "/metrics", None),
    ("search", "GET", "/openapi.json", None),
    ("index", "DELETE", "/v1/collections/default/media/none", None),
    ("index", "DELETE", f"/v1/faces/{NOBODY}", None),
    ("index", "POST", "/v1/collections/default/subjects", {"subject_id": "s"}),
    ("index", "DELETE", "/v1/collections/default/subjects/none", None),
    ("index", "POST", "/v1/jobs", {"kind": "none"}),
    ("admin", "POST", "/v1/collections", {"collection": "a b"}),
    ("admin", "PATCH", "/v1/collections/none", {"metadata_fields": {}}),
    ("admin", "DELETE", "/v1/collections/none", None),
    ("admin", "POST", "/v1/collections/default/subjects/none/erase", None),
]


@pytest.mark.parametrize(("role", "method", "path", "body"), ROUTES)
def test_a_route_takes_its_role_and_those_above(
    ask: Callable[..., httpx2.Response],
    role: str,
    method: str,
    path: str,
    body: object,
    problem: Check,
) -> None:
    ranks = ["search", "index", "admin"]
    options = {"json": body} if body is not None else {}
    for name in ranks:
        answer = ask(name, method, path, **options)
        if ranks.index(name) < ranks.index(role):
            problem(answer, 403, "forbidden")
        else:
            assert answer.status_code not in (401, 403), answer.text
    problem(ask(None, method, path, **options), 401, "unauthorized")


def test_a_bound_key_sees_only_its_collections(
    ask: Callable[..., httpx2.Response], problem: Check
) -> None:
    for name in ("mine", "theirs"):
        made = ask("admin", "POST", "/v1/collections", json={"collection": name})
        assert made.status_code == 201, made.text
    listed = ask("bound", "GET", "/v1/collections").json()["items"]
    assert [one["collection"] for one in listed] == ["mine"]
    assert ask("bound", "GET", "/v1/collections/mine").status_code == 200
    absent = problem(ask("bound", "GET", "/v1/collections/nowhere"), 404, "not_found")
    for method, path in (
        ("GET", "/v1/collections/theirs"),
        ("GET", "/v1/collections/theirs/media"),
        ("GET", "/v1/collections/theirs/media/m"),
        ("GET", "/v1/collections/theirs/subjects"),
        ("DELETE", "/v1/collections/theirs"),
        ("DELETE", "/v1/collections/theirs/media/m"),
    ):
        other = problem(ask("bound", method, path), 404, "not_found")
        if path == "/v1/collections/theirs" and method == "GET":
            assert {**other, "instance": ""} == {**absent, "instance": ""}
    problem(ask("bound", "POST", "/v1/collections", json={"collection": "x"}), 403, "forbidden")
    assert ask("bound", "POST", "/v1/collections", json={"collection": "ours"}).status_code == 201
    first = ask("bound", "GET", "/v1/collections?limit=1").json()
    rest = ask("bound", "GET", f"/v1/collections?limit=1&cursor={first['next_cursor']}").json()
    assert [item["collection"] for item in first["items"] + rest["items"]] == ["mine", "ours"]
    assert rest["next_cursor"] is None
    problem(ask("bound", "GET", "/v1/collections?cursor=AAAA"), 400, "invalid_request")
    job = ask("admin", "DELETE", "/v1/collections/theirs").json()["job_id"]
    problem(ask("bound", "GET", f"/v1/jobs/{job}"), 404, "not_found")
    assert job not in ask("bound", "GET", "/v1/jobs").text


def test_health_and_the_page_need_no_key(guarded: Service) -> None:
    with guarded.client() as client:
        for path in ("/healthz", "/readyz", "/", "/static/page.css", "/static/page.js"):
            assert client.get(path, headers={"host": "faces.example"}).status_code == 200


def test_the_form_of_the_page_takes_the_key(guarded: Service) -> None:
    with guarded.client() as client:
        for key, status in (("", 401), ("wrong", 401), (KEYS["search"], 503)):
            answer = client.post("/", data={"api_key": key}, files={"image": b"x"})
            assert answer.status_code == status
            assert answer.headers["content-type"].startswith("text/html")
            assert "wrong" not in answer.text.replace("wrong-", "")


def test_a_key_over_its_rate_is_told_to_wait_and_others_are_not(
    start: Start, migrated: dict[str, str], problem: Check
) -> None:
    service = start(
        **migrated,
        FACE_RECOGNITION_ENABLED="false",
        API_KEYS=",".join([entry("search", "search"), entry("admin", "admin")]),
        RATE_LIMIT_PER_KEY="5/minute",
        TRUSTED_PROXIES="127.0.0.1",
        RATE_LIMIT_PER_ADDRESS="20/minute",
    )
    with service.client() as client:

        def get(key: str, forwarded: str) -> httpx2.Response:
            headers = {"x-api-key": KEYS[key], "x-forwarded-for": forwarded}
            return client.get("/v1/models", headers=headers)

        answers = [get("search", "198.51.100.1") for _ in range(6)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429]
        body = problem(answers[-1], 429, "rate_limited")
        assert "5 requests" in str(body["detail"])
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
        assert get("admin", "198.51.100.2").status_code == 200
        # The rightmost address counts: what stands before it is the client's own claim.
        forged = [
            client.get("/v1/models", headers={"x-forwarded-for": f"10.0.0.{n}, 198.51.100.9"})
            for n in range(21)
        ]
        assert [answer.status_code for answer in forged] == [401] * 20 + [429]


def test_the_pages_form_counts_for_its_key(start: Start, migrated: dict[str, str]) -> None:
    """It was a way around the limit."""
    service = start(
        **migrated,
        FACE_RECOGNITION_ENABLED="false",
        API_KEYS=entry("search", "search"),
        RATE_LIMIT_PER_KEY="2/hour",
    )
    sent: dict[str, Any] = {"data": {"api_key": KEYS["search"]}, "files": {"image": b"x"}}
    with service.client() as client:
        told = [client.post("/", **sent).status_code for _ in range(3)]
        assert told == [503, 503, 429]
        assert client.get("/v1/models", headers={"x-api-key": KEYS["search"]}).status_code == 429


def test_one_key_that_floods_takes_nothing_from_another(
    start: Start, migrated: dict[str, str]
) -> None:
    service = start(
        **migrated,
        FACE_RECOGNITION_ENABLED="false",
        API_KEYS=",".join([entry("search", "search"), entry("admin", "admin")]),
        RATE_LIMIT_PER_KEY="100/hour",
        RATE_LIMIT_PER_ADDRESS="",
    )

    def ask(key: str, times: int) -> list[httpx2.Response]:
        with service.client() as client:
            headers = {"x-api-key": KEYS[key]}
            return [client.get("/v1/models", headers=headers) for _ in range(times)]

    with ThreadPoolExecutor(7) as threads:
        flood = [threads.submit(ask, "search", 100) for _ in range(6)]
        quiet = threads.submit(ask, "admin", 80)
        greedy = [answer for asked in flood for answer in asked.result()]
        assert [answer.status_code for answer in quiet.result()] == [200] * 80
    assert Counter(answer.status_code for answer in greedy) == {200: 100, 429: 500}
    refused = [answer for answer in greedy if answer.status_code == 429]
    assert {answer.json()["code"] for answer in refused} == {"rate_limited"}
    assert all(1 <= int(answer.headers["retry-after"]) <= 3600 for answer in refused)


@pytest.fixture(scope="module")
def keyless(start: Start) -> Service:
    return start(FACE_RECOGNITION_ENABLED="false")


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "faces.example"},
        {"host": "127.0.0.1.nip.example"},
        {"host": ""},
        {"x-forwarded-for": "127.0.0.1"},
        {"x-forwarded-proto": "https"},
        {"forwarded": "for=127.0.0.1"},
    ],
)
def test_without_keys_only_this_machine_is_answered(
    keyless: Service, headers: dict[str, str], problem: Check
) -> None:
    with keyless.client() as client:
        for path in ("/v1/models", "/", "/metrics", "/nowhere"):
            body = problem(client.get(path, headers=headers), 403, "forbidden")
            assert "API_KEYS" in str(body["detail"])
        for path in ("/healthz", "/readyz"):
            assert client.get(path, headers=headers).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST", "127.0.0.9"])
def test_loopback_names_are_this_machine(keyless: Service, host: str) -> None:
    with keyless.client() as client:
        for name in (host, f"{host}:{keyless.port}"):
            assert client.get("/v1/models", headers={"host": name}).status_code == 200


def test_a_page_of_another_origin_changes_nothing(keyless: Service, problem: Check) -> None:
    with keyless.client() as client:
        for headers in (
            {"origin": "https://evil.example"},
            {"origin": "null"},
            {"origin": "http://localhost:1"},
            {"sec-fetch-site": "cross-site"},
        ):
            answer = client.post("/v1/jobs", json={"kind": "backfill"}, headers=headers)
            problem(answer, 403, "forbidden")
        own = {"origin": keyless.url, "sec-fetch-site": "same-origin"}
        assert client.post("/v1/jobs", json={"kind": "x"}, headers=own).status_code == 422


def test_production_without_keys_does_not_start() -> None:
    for extra in ({"APP_ENV": "production"}, {"DYNO": "web.1"}):
        done = subprocess.run(
            [sys.executable, "-c", "import app.main"],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "FACE_RECOGNITION_ENABLED": "false", **extra},
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.returncode != 0
        assert "API_KEYS" in done.stderr
        assert "python -m app keys new" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_new_key_opens_what_its_entry_says(start: Start) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app", "keys", "new", "--role", "index", "--name", "cms"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    lines = dict(line.split(None, 1) for line in done.stdout.splitlines()[:2])
    service = start(FACE_RECOGNITION_ENABLED="false", API_KEYS=lines["entry"])
    with service.client(headers={"x-api-key": lines["key"]}) as client:
        assert client.get("/v1/models").status_code == 200
        assert client.post("/v1/collections", json={}).status_code == 403
    assert lines["key"] not in service.log.read_text()


@pytest.mark.parametrize(
    ("setting", "path"), [("DOCS_ACCESS", "/docs"), ("METRICS_ACCESS", "/metrics")]
)
def test_documentation_and_metrics_can_be_opened_and_closed(
    start: Start, setting: str, path: str
) -> None:
    keys = {"API_KEYS": entry("search", "search"), "FACE_RECOGNITION_ENABLED": "false"}
    for value, status in (("open", 200), ("off", 404)):
        service = start(**keys, **{setting: value})
        with service.client() as client:
            assert client.get(path).status_code == status


def test_browsers_of_other_origins_are_let_in_only_by_name(start: Start) -> None:
    service = start(
        FACE_RECOGNITION_ENABLED="false",
        API_KEYS=entry("search", "search"),
        CORS_ORIGINS="https://cms.example",
    )
    ask = {"access-control-request-method": "GET", "access-control-request-headers": "x-api-key"}
    with service.client() as client:
        known = client.options("/v1/models", headers={"origin": "https://cms.example", **ask})
        assert known.headers["access-control-allow-origin"] == "https://cms.example"
        other = client.options("/v1/models", headers={"origin": "https://evil.example", **ask})
        assert "access-control-allow-origin" not in other.headers
