"""Finding photos on the page, in a real browser."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pymongo
import pytest

from app.keys import entry
from faces.database import MEDIA, Document
from tests.contract.api.conftest import Service, Start, until_searchable
from tests.contract.api.test_search import group_photo
from tests.ui.browser import Page

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("ui")]
Shot = Callable[[str], None]
RESULTS = "document.querySelectorAll('#answer .match').length"
VIEW = "document.getElementById('results').dataset.view === '{}'"
LOADED = "[...document.querySelectorAll('#gallery img')].every((i) => i.complete)"
STATUS = "document.getElementById('status').textContent"
TITLE = "document.getElementById('results-title').textContent"


def test_a_photo_from_the_disk_finds_the_person(
    page: Page, service: Service, probes: dict[str, Path], shot: Shot
) -> None:
    page.open(service.url)
    page.until("document.querySelectorAll('#gallery img').length > 5 && " + LOADED)
    shot("gallery")
    page.upload("#image", probes["madonna"])
    page.until(f"{RESULTS} > 0")
    assert "1 face in the photo" in page.run(STATUS)
    first = page.run("document.querySelector('#answer .match strong').textContent")
    assert "madonna" in first
    assert page.run("document.activeElement.id") == "results"
    assert page.run("document.querySelectorAll('rect.searched').length") == 1
    assert page.run("document.querySelector('.face-button').offsetWidth") >= 24
    shot("results")


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_photo_is_dropped_or_pasted(
    page: Page, service: Service, probes: dict[str, Path], kind: str
) -> None:
    page.open(service.url)
    page.until(VIEW.format("gallery"))
    data = base64.b64encode(probes["elton_john"].read_bytes()).decode()
    page.run(
        f"(() => {{ const bytes = Uint8Array.from(atob({json.dumps(data)}), (c) => c.charCodeAt());"
        "const carried = new DataTransfer();"
        "carried.items.add(new File([bytes], 'photo.jpg', {type: 'image/jpeg'}));"
        "document.body.dispatchEvent("
        + {
            "drop": "new DragEvent('drop', {bubbles: true, cancelable: true, "
            "dataTransfer: carried})",
            "paste": "new ClipboardEvent('paste', {bubbles: true, clipboardData: carried})",
        }[kind]
        + ") })()"
    )
    page.until(VIEW.format("photo") + f" && {RESULTS} > 0")
    assert "elton_john" in page.run("document.querySelector('#answer .match strong').textContent")


def test_each_face_of_a_group_is_a_button(
    page: Page, service: Service, probes: dict[str, Path], tmp_path: Path, shot: Shot
) -> None:
    path = tmp_path / "group.jpg"
    path.write_bytes(group_photo(*probes.values()))
    page.open(service.url)
    page.upload("#image", path)
    page.until("document.querySelectorAll('.face-button').length === 3")
    names = set()
    for index in range(3):
        page.run(f"document.querySelectorAll('.face-button')[{index}].click()")
        pressed = "[...document.querySelectorAll('.face-button')].map((b) => b.ariaPressed)"
        assert page.run(f"{pressed}.indexOf('true')") == index
        name = page.run("document.querySelector('#answer .match strong')?.textContent ?? ''")
        names.add(name.split("/")[0])
    assert len(names) == 3
    shot("group")


def test_links_and_the_back_button_lead_where_they_say(
    page: Page, service: Service, shot: Shot
) -> None:
    page.open(f"{service.url}/?limit=3&min_similarity=-1")
    page.until(VIEW.format("gallery"))
    page.click("#gallery button")
    page.until(VIEW.format("media") + f" && {RESULTS} === 3")
    assert "media_id=" in page.run("location.search")
    assert page.run("document.querySelectorAll('#photo .face-button').length") >= 1
    shot("photo")
    page.press("Similar")
    page.until(VIEW.format("face") + f" && {RESULTS} === 3")
    link = page.run("location.href")
    assert "face_id=" in link
    page.run("history.back()")
    page.until(VIEW.format("media"))
    page.run("history.back()")
    page.until(VIEW.format("gallery"))
    page.open(link)
    page.until(VIEW.format("face") + f" && {RESULTS} === 3")
    assert page.run("document.getElementById('limit').value") == "3"


def test_filters_are_in_the_link_and_go_back(page: Page, service: Service) -> None:
    page.open(f"{service.url}/?min_similarity=-1&limit=5")
    page.until(VIEW.format("gallery"))
    page.click("#gallery button")
    page.until(VIEW.format("media") + f" && {RESULTS} === 5")
    page.run(
        "(() => { const field = document.getElementById('taken_from'); field.value = '2030-01-01';"
        "field.dispatchEvent(new Event('change', {bubbles: true})) })()"
    )
    page.until(f"{RESULTS} === 0")
    assert "taken_from=2030-01-01" in page.run("location.search")
    assert "media_id=" in page.run("location.search")
    page.run("history.back()")
    page.until(f"{RESULTS} === 5")
    assert page.run("document.getElementById('taken_from').value") == ""
    page.click("#one_per_media")
    page.until("location.search.includes('one_per_media=1')")
    page.open(page.run("location.href"))
    page.until(VIEW.format("media") + f" && {RESULTS} === 5")
    assert page.run("document.getElementById('one_per_media').checked")


def test_back_leads_to_the_photo_that_was_searched_with(
    page: Page, service: Service, probes: dict[str, Path]
) -> None:
    page.open(service.url)
    page.upload("#image", probes["madonna"])
    page.until(VIEW.format("photo") + f" && {RESULTS} > 0")
    shown = page.run(STATUS)
    page.press("Similar")
    page.until(VIEW.format("face"))
    page.run("history.back()")
    page.until(VIEW.format("photo") + f" && {RESULTS} > 0")
    assert page.run(STATUS) == shown
    page.until("document.querySelector('#photo img').naturalWidth > 0")


def test_the_keyboard_alone_is_enough(page: Page, service: Service) -> None:
    page.open(service.url)
    page.until("document.querySelectorAll('#gallery button').length > 5")
    page.key("Tab", 9)
    assert page.run("document.activeElement.className") == "skip"
    page.key("Enter", 13, "\r")
    page.key("Tab", 9)
    page.until("document.activeElement.closest('#gallery') !== null")
    page.key("Enter", 13, "\r")
    page.until(VIEW.format("media"))
    page.until("document.activeElement.id === 'results'")
    page.key("Tab", 9)
    page.until("document.activeElement.getAttribute('aria-label') === 'Face 1'")
    page.key("Enter", 13, "\r")
    page.until("document.querySelector('.face-button').ariaPressed === 'true'")
    page.until("document.querySelector('#photo .row button') !== null")
    page.until("document.getElementById('results').getAttribute('aria-busy') === null")
    page.key("Tab", 9)
    page.until("document.activeElement.textContent === 'Similar'")
    page.key("Enter", 13, "\r")
    page.until("location.search.includes('face_id=')")


def test_a_key_is_asked_for_and_kept_in_memory_only(
    page: Page, start: Start, migrated: dict[str, str], service: Service, shot: Shot
) -> None:
    guarded = start(
        "/readyz", **migrated, API_KEYS=entry("ui", "search", "a key"), LAZY_LOAD_ML="true"
    )
    page.open(guarded.url)
    page.until(f"{STATUS}.includes('API key')")
    shot("key")
    page.run("document.getElementById('api_key').focus()")
    page.type("a key")
    page.key("Tab", 9)
    page.until("document.querySelectorAll('#gallery img[src^=\"blob:\"]').length > 2")
    kept = "JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])"
    assert "a key" not in page.run(kept)


def test_a_service_that_is_off_says_so_in_words(page: Page, start: Start, shot: Shot) -> None:
    off = start(FACE_RECOGNITION_ENABLED="false")
    page.open(off.url)
    assert "switched off" in page.run("document.getElementById('health').textContent")
    assert "switched off" in page.run(STATUS)
    assert page.run("document.getElementById('go').disabled")
    shot("disabled")


def test_loading_is_explained_until_it_is_over(
    page: Page,
    start: Start,
    migrated: dict[str, str],
    probes: dict[str, Path],
    tmp_path: Path,
    shot: Shot,
) -> None:
    awaited = tmp_path / "samples-are-there"
    loading = start(**migrated, READY_FILE=str(awaited))
    with loading.client() as client:
        client.post("/v1/collections", json={"collection": "ui-late"})
        page.open(f"{loading.url}/?collection=ui-late")
        page.until("document.getElementById('health').textContent.includes('being indexed')")
        page.until(f"{STATUS}.includes('no photos yet')")
        shot("loading")
        image = {"image": probes["madonna"].read_bytes()}
        limit = time.monotonic() + 60
        while client.put("/v1/collections/ui-late/media/m", files=image).status_code != 201:
            assert time.monotonic() < limit  # the models are loading
            time.sleep(0.2)
    awaited.touch()
    page.until("document.getElementById('health').textContent.includes('Ready')")
    page.until("document.querySelectorAll('#gallery button').length === 1")


def test_an_index_that_is_not_there_is_explained(
    page: Page, start: Start, migrated: dict[str, str], shot: Shot
) -> None:
    new = start(**{**migrated, "MONGODB_DATABASE": "ui_never_migrated"})
    page.open(new.url)
    page.until("document.getElementById('health').textContent.includes('migrations up')")
    shot("no-index")
    page.complaints.clear()  # the browser itself tells its console of each refused request


def test_what_is_no_photo_or_shows_nobody_is_said_in_words(
    page: Page, service: Service, tmp_path: Path, shot: Shot
) -> None:
    from PIL import Image

    page.open(service.url)
    path = tmp_path / "text.jpg"
    path.write_text("this is no photo")
    page.upload("#image", path)
    page.until("document.getElementById('status').classList.contains('error')")
    assert "JPEG" in page.run(STATUS)
    shot("unsupported")
    page.complaints.clear()  # the browser itself tells its console of each refused request
    path = tmp_path / "grey.png"
    Image.new("RGB", (400, 300), "grey").save(path)
    page.upload("#image", path)
    page.until(f"{STATUS}.includes('No face') || {STATUS}.includes('0 faces')")
    shot("no-face")
    page.complaints.clear()


def test_what_others_wrote_is_text_and_never_markup(
    page: Page, service: Service, probes: dict[str, Path]
) -> None:
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    where = "/v1/collections/ui-markup"
    with service.client() as client:
        client.post("/v1/collections", json={"collection": "ui-markup"})
        for media_id in ("<b>one</b>", "<i>two</i>"):
            put = client.put(
                f"{where}/media/{quote(media_id, safe='')}",
                files={"image": probes["madonna"].read_bytes()},
                data={"title": evil},
            )
            assert put.status_code == 201, put.text
        person = {"subject_id": "evil", "name": evil}
        assert client.post(f"{where}/subjects", json=person).status_code == 201
        faces = {"face_ids": [put.json()["faces"][0]["face_id"]]}
        assert client.post(f"{where}/subjects/evil/faces", json=faces).status_code == 200
        until_searchable(client, faces["face_ids"][0], "ui-markup")
    for look in ("media_id=%3Cb%3Eone%3C/b%3E", "person=evil", "like=evil"):
        page.open(f"{service.url}/?collection=ui-markup&{look}")
        page.until(f"{TITLE}.includes('onerror=alert')")
        page.until("document.getElementById('results').getAttribute('aria-busy') === null")
        assert (
            page.run("document.querySelectorAll('#results script, #results [onerror]').length") == 0
        )


def test_an_empty_collection_says_so(page: Page, service: Service, shot: Shot) -> None:
    with service.client() as client:
        made = client.post("/v1/collections", json={"collection": "ui-empty"})
        assert made.status_code == 201
    page.open(f"{service.url}/?collection=ui-empty")
    page.until(f"{STATUS}.includes('no photos yet')")
    shot("empty")


def test_it_fits_a_phone_and_a_dark_room(
    page: Page, service: Service, probes: dict[str, Path], shot: Shot
) -> None:
    page.resize(360, 740)
    page.open(service.url)
    page.upload("#image", probes["elton_john"])
    page.until(f"{RESULTS} > 0")
    assert page.run("document.documentElement.scrollWidth") <= 360
    shot("phone")
    page.open(f"{service.url}/docs")
    assert page.run("document.documentElement.scrollWidth") <= 360
    shot("docs-phone")


def test_the_audit_sees_what_is_wrong(page: Page, service: Service, axe: str) -> None:
    page.open(service.url)
    page.until(VIEW.format("gallery"))
    assert page.audit(axe) == []
    page.run(
        "(() => { document.querySelector('#gallery img').removeAttribute('alt');"
        "document.querySelector('#gallery button').removeAttribute('title');"
        "document.getElementById('status').style.color = '#ddd' })()"
    )
    found = " ".join(page.audit(axe))
    assert "image-alt" in found
    assert "color-contrast" in found


def test_everything_has_a_name(page: Page, service: Service, probes: dict[str, Path]) -> None:
    page.open(service.url)
    page.upload("#image", probes["madonna"])
    page.until(f"{RESULTS} > 0")
    tree = page.send("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "link", "textbox", "spinbutton", "checkbox", "combobox", "image", "Date"}
    nameless = [
        node["role"]["value"]
        for node in tree
        if not node.get("ignored")
        and node.get("role", {}).get("value") in roles
        and not node.get("name", {}).get("value")
    ]
    assert not nameless
    headings = "[...document.querySelectorAll('h1,h2,h3')].map((h) => Number(h.tagName[1]))"
    levels = page.run(f"{headings}.filter((l, i, all) => i && l > all[i - 1] + 1)")
    assert levels == []
    assert page.run("document.documentElement.lang") == "en"


def test_a_result_links_to_its_source_on_the_web_only(
    page: Page, service: Service, migrated: dict[str, str], probes: dict[str, Path]
) -> None:
    with pymongo.MongoClient[Document](migrated["MONGODB_URI"]) as direct:
        media = direct[migrated["MONGODB_DATABASE"]][MEDIA]
        two = list(media.find({"collection": "default", "media_id": {"$regex": "^elton"}}))[:2]
        urls = ("https://media.example/elton.jpg", "javascript:alert(1)")
        for one, url in zip(two, urls, strict=True):
            media.update_one({"_id": one["_id"]}, {"$set": {"url": url}})
        links = "[...document.querySelectorAll('#answer a')].map((a) => a.href)"
        try:
            page.open(service.url)
            page.upload("#image", probes["elton_john"])
            page.until(f"{RESULTS} === 4")
            scripted = page.run(links)
            with service.client() as client:
                plain = client.post("/", files={"image": probes["elton_john"].read_bytes()}).text
        finally:
            for one in two:
                media.update_one({"_id": one["_id"]}, {"$set": {"url": one.get("url")}})
    assert scripted == [urls[0]]
    assert f'<a href="{urls[0]}"' in plain
    assert "javascript:" not in plain


def test_without_scripts_the_form_still_searches(
    page: Page, service: Service, probes: dict[str, Path], shot: Shot
) -> None:
    page.send("Emulation.setScriptExecutionDisabled", value=True)
    page.open(service.url)
    page.upload("#image", probes["madonna"])
    root = page.send("DOM.getDocument")["root"]["nodeId"]
    node = page.send("DOM.querySelector", nodeId=root, selector="#go")["nodeId"]
    page.send("DOM.focus", nodeId=node)
    page.key("Enter", 13, "\r")
    page.until("document.querySelectorAll('#answer .match img').length > 0")
    assert page.run("document.querySelectorAll('#photo rect').length") == 1
    page.send("Emulation.setScriptExecutionDisabled", value=False)  # for the audit alone
    shot("no-scripts")
