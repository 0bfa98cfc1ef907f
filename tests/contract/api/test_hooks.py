"""`POST /v1/hooks/cms`: a signed word from the CMS."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable

import httpx2
import pytest

from app.keys import entry
from tests.contract.api.conftest import Service, Start
from tests.private import MARK

pytestmark = pytest.mark.xdist_group("api")
Check = Callable[..., dict[str, object]]
SECRET = f"{MARK} between us"
EVENT = {"event": "changed", "source_key": "65f0c2"}


@pytest.fixture(scope="module")
def hooked(start: Start, migrated: dict[str, str]) -> Service:
    return start(
        **migrated,
        FACE_RECOGNITION_ENABLED="false",
        CMS_HOOK_SECRET=SECRET,
        API_KEYS=entry("admin", "admin", "a key"),
    )


def call(
    service: Service,
    body: object,
    *,
    secret: str = SECRET,
    at: str | None = None,
    signature: str | None = None,
) -> httpx2.Response:
    stamp = at if at is not None else str(int(time.time()))
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    mac = hmac.new(secret.encode(), stamp.encode() + b"." + text, hashlib.sha256).hexdigest()
    headers = {"x-timestamp": stamp, "x-signature": signature or f"sha256={mac}"}
    with service.client() as client:
        return client.post("/v1/hooks/cms", content=text, headers=headers)


def test_a_signed_event_is_a_job_without_any_key(hooked: Service) -> None:
    for event in (EVENT, {"event": "deleted", "source_key": "a/b ü"}):
        answer = call(hooked, event)
        assert answer.status_code == 202, answer.text
        job = answer.json()["job_id"]
        assert answer.headers["location"] == f"/v1/jobs/{job}"
        with hooked.client(headers={"x-api-key": "a key"}) as client:
            assert client.get(f"/v1/jobs/{job}").json()["kind"] == "sync"


def test_a_mass_of_events_is_no_mass_of_jobs(hooked: Service) -> None:
    jobs = {
        call(hooked, {"event": event, "source_key": f"burst/{number}"}).json()["job_id"]
        for number in range(20)
        for event in ("changed", "deleted")
    }
    assert len(jobs) == 1


def test_an_event_that_is_not_signed_right_is_refused(hooked: Service, problem: Check) -> None:
    old = str(int(time.time()) - 3600)
    for answer in (
        call(hooked, EVENT, secret="another"),
        call(hooked, EVENT, at=old),
        call(hooked, EVENT, at=""),
        call(hooked, EVENT, at="now"),
        call(hooked, EVENT, signature="sha256="),
        call(hooked, EVENT, signature="sha1=00"),
    ):
        problem(answer, 401, "unauthorized")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        ([], 422),
        ({}, 422),
        ({**EVENT, "event": "moved"}, 422),
        ({**EVENT, "source_key": ""}, 422),
        ({**EVENT, "source_key": {"$gt": ""}}, 422),
        ({**EVENT, "more": 1}, 422),
    ],
)
def test_a_signed_event_of_no_use_is_refused(
    hooked: Service, body: object, status: int, problem: Check
) -> None:
    problem(call(hooked, body), status, "invalid_request")


def test_without_a_secret_the_hook_is_off(service: Service, problem: Check) -> None:
    body = problem(call(service, EVENT), 403, "forbidden")
    assert "CMS_HOOK_SECRET" in str(body["detail"])
