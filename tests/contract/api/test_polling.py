"""What is asked for again and again is not sent again."""

from __future__ import annotations

import httpx2
import pytest

pytestmark = pytest.mark.xdist_group("api")


def test_a_list_of_jobs_is_not_sent_twice(client: httpx2.Client) -> None:
    first = client.get("/v1/jobs?limit=10")
    assert first.status_code == 200
    for known in (first.headers["etag"], f'W/{first.headers["etag"]}, "other"', "*"):
        again = client.get("/v1/jobs?limit=10", headers={"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    other = client.get("/v1/jobs?limit=10", headers={"if-none-match": '"other"'})
    assert (other.status_code, other.content) == (200, first.content)


def test_a_new_job_has_a_new_etag(client: httpx2.Client, collection: str) -> None:
    before = client.get("/v1/jobs?limit=10").headers["etag"]
    job = client.post("/v1/jobs", json={"kind": "audit", "collection": collection})
    assert job.status_code == 202, job.text
    after = client.get("/v1/jobs?limit=10", headers={"if-none-match": before})
    assert after.status_code == 200
    assert after.headers["etag"] != before
    client.post(f"/v1/jobs/{job.json()['job_id']}/cancel")


def test_the_page_hears_the_state_without_a_failed_request(client: httpx2.Client) -> None:
    assert client.get("/state").json() == client.get("/readyz").json()
