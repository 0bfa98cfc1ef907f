"""Pictures by URL: fetched from an allow-listed server, or refused and failed by name."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from tests.contract.api.conftest import Service, Start
from tests.media_server import Server, dripping, failing, redirect, serving

pytestmark = pytest.mark.xdist_group("api")
Check = Callable[..., dict[str, object]]
CAP = 2_000_000


@pytest.fixture(scope="module")
def media(probes: dict[str, Path]) -> Iterator[Server]:
    """A media server with a photo of each person."""
    with serving() as server:
        server.files |= {f"/{person}.jpg": path.read_bytes() for person, path in probes.items()}
        yield server


@pytest.fixture(scope="module")
def fetching(
    start: Start, migrated: dict[str, str], service: Service, media: Server
) -> Iterator[httpx2.Client]:
    """A client of a service that may fetch from the media server, over the shared gallery."""
    allowed = {"MEDIA_ALLOWED_HOSTS": media.origin, "MAX_UPLOAD_BYTES": str(CAP)}
    with start("/readyz", **migrated, **allowed).client() as client:
        yield client


@pytest.fixture
def album(fetching: httpx2.Client) -> str:
    name = f"u-{secrets.token_hex(4)}"
    assert fetching.post("/v1/collections", json={"collection": name}).status_code == 201
    return f"/v1/collections/{name}"


def search(client: httpx2.Client, url: str) -> httpx2.Response:
    return client.post("/v1/search", json={"image_url": url})


def test_a_search_by_url_finds_what_the_same_photo_finds(
    fetching: httpx2.Client, media: Server, probes: dict[str, Path]
) -> None:
    by_url = search(fetching, media.url("/madonna.jpg"))
    assert by_url.status_code == 200, by_url.text
    by_form = fetching.post("/v1/search", files={"image": probes["madonna"].read_bytes()})
    assert by_url.json()["faces"] == by_form.json()["faces"]
    assert by_url.json()["faces"][0]["matches"][0]["media_id"].startswith("madonna/")


def test_a_comparison_takes_urls_on_either_side(fetching: httpx2.Client, media: Server) -> None:
    same = {"image_url": media.url("/elton_john.jpg")}
    answer = fetching.post("/v1/compare", json={"source": same, "target": same})
    assert answer.status_code == 200, answer.text
    assert answer.json()["matches"][0]["similarity"] == pytest.approx(1, abs=1e-3)


def test_detect_and_embed_take_a_url(fetching: httpx2.Client, media: Server) -> None:
    query = {"image_url": media.url("/ben_afflek.jpg")}
    assert fetching.post("/v1/detect", json=query).json()["faces"]
    assert len(fetching.post("/v1/embed", json=query).json()["faces"][0]["embedding"]) == 128


def test_a_put_by_url_keeps_the_url_and_is_unchanged_again(
    fetching: httpx2.Client, media: Server, album: str
) -> None:
    url = media.url("/madonna.jpg")
    new = fetching.put(f"{album}/media/m", json={"image_url": url, "title": "M"})
    assert new.status_code == 201, new.text
    assert new.json()["faces"]
    again = fetching.put(f"{album}/media/m", json={"image_url": url})
    assert (again.status_code, again.json()["unchanged"]) == (200, True)
    item = fetching.get(f"{album}/media/m").json()
    assert (item["url"], item["title"]) == (url, "M")


def test_a_redirect_within_the_list_is_followed_and_none_beyond_it(
    fetching: httpx2.Client, media: Server, problem: Check
) -> None:
    media.behaviours["/moved"] = redirect(media.url("/madonna.jpg"))
    media.behaviours["/away"] = redirect("http://127.0.0.1:1/madonna.jpg")
    media.behaviours["/round"] = redirect(media.url("/round"))
    assert search(fetching, media.url("/moved")).status_code == 200
    problem(search(fetching, media.url("/away")), 422, "url_not_allowed")
    problem(search(fetching, media.url("/round")), 502, "fetch_failed")


def test_what_cannot_be_fetched_is_named(
    fetching: httpx2.Client, media: Server, album: str, problem: Check
) -> None:
    media.files["/huge.jpg"] = b"\xff\xd8\xff" + bytes(CAP)
    media.files["/text.jpg"] = b"hello"
    media.files["/empty.jpg"] = b""
    media.behaviours["/broken"] = failing(500)
    media.behaviours["/slow"] = dripping(bytes(1000), 0.1)
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(search, fetching, media.url("/slow"))
        problem(search(fetching, media.url("/huge.jpg")), 413, "image_too_large")
        problem(search(fetching, media.url("/none.jpg")), 502, "fetch_failed")
        problem(search(fetching, media.url("/broken")), 502, "fetch_failed")
        problem(search(fetching, media.url("/text.jpg")), 415, "unsupported_image")
        empty = problem(search(fetching, media.url("/empty.jpg")), 422, "invalid_image")
        assert empty["reason"] == "empty"
        missing = {"image_url": media.url("/none.jpg")}
        problem(fetching.put(f"{album}/media/m", json=missing), 502, "fetch_failed")
        problem(fetching.get(f"{album}/media/m"), 404, "not_found")
        sides = {"source": {"image_url": media.url("/madonna.jpg")}, "target": missing}
        problem(fetching.post("/v1/compare", json=sides), 502, "fetch_failed")
        late = problem(slow.result(30), 502, "fetch_failed")
        assert media.origin not in str(late)


def test_a_thumbnail_never_shows_another_picture_for_long(
    fetching: httpx2.Client, media: Server, album: str, probes: dict[str, Path]
) -> None:
    """What stands behind a URL may change before the index knows of it."""
    media.files["/changing.jpg"] = probes["madonna"].read_bytes()
    url = media.url("/changing.jpg")
    image_id = fetching.put(f"{album}/media/m", json={"image_url": url}).json()["image_id"]
    path = f"{album}/thumbnails/{image_id}"
    media.files["/changing.jpg"] = probes["ben_afflek"].read_bytes()
    other = fetching.get(path)
    assert other.status_code == 200
    assert other.headers["cache-control"] == "no-store"
    assert "etag" not in other.headers
    media.files["/changing.jpg"] = probes["madonna"].read_bytes()
    own = fetching.get(path)
    assert own.content != other.content
    assert own.headers["etag"] == f'"{image_id}"'
    media.files["/changing.jpg"] = probes["ben_afflek"].read_bytes()
    assert fetching.get(path).content == own.content


def test_a_replaced_picture_is_not_searchable_at_once(
    fetching: httpx2.Client, album: str, probes: dict[str, Path]
) -> None:
    def put(data: bytes) -> dict[str, object]:
        answer = fetching.put(f"{album}/media/m", files={"image": data})
        return dict(answer.json())

    photo = probes["madonna"].read_bytes()
    assert put(photo)["searchable"] is False
    end = time.monotonic() + 60
    while not put(photo)["searchable"]:
        assert time.monotonic() < end
        time.sleep(0.2)
    # The same place, so the same face and an old one: but its vector is new.
    assert put(photo + b"\0")["searchable"] is False
