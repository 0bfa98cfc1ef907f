"""What editors do about people, in a real browser, with a worker that does the long work."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from tests.contract.api.conftest import Service
from tests.ui.browser import Page
from tests.ui.test_page import RESULTS, STATUS, TITLE, VIEW

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("ui")]
Shot = Callable[[str], None]
NAMES = "[...document.querySelectorAll('#answer .match strong')].map((s) => s.textContent)"
DIALOG = "document.getElementById('dialog').open"
OWN = "document.querySelector('#photo .row')"
IDLE = "document.getElementById('results').getAttribute('aria-busy') === null"


def name_the_face(page: Page, service: Service, name: str, photo: str = "madonna") -> None:
    """Open a photo of the gallery, and give its face a name."""
    page.open(f"{service.url}/?min_similarity=-1")
    page.until(VIEW.format("gallery"))
    page.click(f"#gallery button[title*='{photo}']")
    page.until(VIEW.format("media") + f" && {RESULTS} > 0 && {IDLE}")
    page.press("Name", OWN)
    page.until(DIALOG)
    page.type(name)
    page.key("Enter", 13, "\r")
    page.until(f"{STATUS}.includes('Saved')")
    page.until(f"document.getElementById('photo').textContent.includes({json.dumps(name)})")


def test_a_face_is_named_listed_renamed_and_unassigned(
    page: Page, staffed: Service, shot: Shot
) -> None:
    page.open(f"{staffed.url}/?min_similarity=-1&limit=1")
    page.until(VIEW.format("gallery"))
    page.click("#gallery button[title*='elton']")
    page.until(VIEW.format("media") + f" && {RESULTS} === 1 && {IDLE}")
    page.press("Name", OWN)
    page.until(DIALOG)
    page.type("Ada Lovelace")
    shot("name")
    page.key("Enter", 13, "\r")
    page.until(f"{STATUS}.includes('Saved: Ada Lovelace')")
    shot("named")
    page.press("All photos", OWN)
    page.until(f"{TITLE} === 'Ada Lovelace'")
    page.until("document.querySelectorAll('#gallery button').length === 1")
    shot("person")
    page.press("Rename")
    page.until(DIALOG)
    page.run("document.getElementById('name-input').select()")
    page.type("Countess Ada")
    page.key("Enter", 13, "\r")
    page.until(f"{TITLE} === 'Countess Ada'")
    page.run("history.back()")
    page.until(VIEW.format("media") + f" && {IDLE}")
    page.press("Unassign", OWN)
    page.until(f"{STATUS}.includes('nobody named')")
    page.until("document.getElementById('photo').textContent.includes('nobody named yet')")


def test_who_is_not_this_person_stays_hidden(page: Page, staffed: Service, shot: Shot) -> None:
    name_the_face(page, staffed, "Grace Hopper")
    page.press("All photos", OWN)
    page.until(f"{TITLE} === 'Grace Hopper'")
    page.press("Find more of this person")
    page.until(VIEW.format("like") + f" && {RESULTS} > 2")
    link = page.run("location.href")
    assert "like=" in link
    shot("like")
    before = page.run(NAMES)
    page.press("Not this person")
    page.until(f"{STATUS}.includes('does not come up again')")
    assert page.run(NAMES) == before[1:]
    page.open(link)
    page.until(VIEW.format("like") + f" && {RESULTS} > 1")
    assert before[0] not in page.run(NAMES)
    page.press("This person")
    page.until(f"{STATUS}.includes('this is Grace Hopper')")
    page.press("All photos")
    page.until("document.querySelectorAll('#gallery button').length === 2")


def test_a_photos_faces_are_deleted_once_that_is_confirmed(page: Page, staffed: Service) -> None:
    page.open(staffed.url)
    page.until(VIEW.format("gallery"))
    photos = "document.querySelectorAll(\"#gallery button[title*='ben_afflek']\").length"
    before = page.run(photos)
    page.click("#gallery button[title*='ben_afflek']")
    page.until(VIEW.format("media") + f" && {IDLE}")
    page.press("Delete this photo’s faces")
    page.until(DIALOG)
    page.press("Cancel")
    page.until(f"!{DIALOG}")
    assert "media_id=" in page.run("location.search")
    page.press("Delete this photo’s faces")
    page.until(DIALOG)
    page.press("Delete", "document.getElementById('dialog')")
    page.until(VIEW.format("gallery") + f" && {STATUS}.includes('1 face(s) deleted')")
    assert page.run(photos) == before - 1


def test_a_person_is_erased_with_a_receipt(page: Page, staffed: Service, shot: Shot) -> None:
    name_the_face(page, staffed, "Mary Somerville", "elton")
    title = page.run(TITLE)
    page.press("All photos", OWN)
    page.until(f"{TITLE} === 'Mary Somerville'")
    page.press("Erase this person")
    page.until(DIALOG)
    shot("erase")
    page.press("Erase", "document.getElementById('dialog')")
    page.until(f"{DIALOG} && document.querySelector('#dialog pre') !== null")
    receipt = json.loads(page.run("document.querySelector('#dialog pre').textContent"))
    assert re.search(r'"faces_\w+": 1\b|"faces": 1\b', json.dumps(receipt)), receipt
    shot("receipt")
    page.press("Close", "document.getElementById('dialog')")
    page.until(VIEW.format("gallery") + f" && {STATUS}.includes('erased')")
    left = "[...document.querySelectorAll('#gallery button')].map((b) => b.title)"
    with staffed.client() as client:
        people = client.get("/v1/collections/default/subjects").json()["items"]
        gone = client.get("/v1/collections/default/media").json()["items"]
    assert "Mary Somerville" not in [person["name"] for person in people]
    assert title in page.run(left) or any(one["title"] == title for one in gone)
    assert sum(one["face_count"] for one in gone if one["title"] == title) == 0
