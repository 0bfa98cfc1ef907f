"""Media ids and ExternalImageIds: reading what was written gives what was there, both ways."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.rekognition import ids

# Colons and hex digits come often: they are what could be read two ways.
EXTERNAL = st.text("abAB01239CF_.-:", min_size=1, max_size=255)
MEDIA = st.text(
    st.sampled_from("ab3AC9:/ é猫?.") | st.characters(), min_size=1, max_size=80
).filter(lambda text: text.isprintable() and unicodedata.is_normalized("NFC", text))


@given(EXTERNAL)
@example("a:3A")
@example("a:3A3A")
@example(":C3:A9")
@example(":C3")
@example(":41")
@example("::2F")
def test_an_external_id_comes_back_as_it_was(external: str) -> None:
    media_id = ids.decode(external)
    assert ids.encode(media_id) == external
    assert media_id.isprintable()
    assert 1 <= len(media_id) <= 255


@given(MEDIA)
@example("2024/ada.jpg")
@example("a:3A")
@example("a:3A/b")
@example("::2F")
@example(":é")
@example("é:AB")
def test_a_media_id_comes_back_as_it_was(media_id: str) -> None:
    external = ids.encode(media_id)
    assert re.fullmatch(r"[a-zA-Z0-9_.\-:]+", external)
    assert ids.decode(external) == media_id


@given(st.lists(MEDIA, min_size=2, max_size=2, unique=True))
def test_two_media_ids_never_share_an_external_id(pair: list[str]) -> None:
    assert ids.encode(pair[0]) != ids.encode(pair[1])


@pytest.mark.parametrize(
    ("media_id", "external"),
    [
        ("IMG_0001.jpg", "IMG_0001.jpg"),
        ("2024/ada.jpg", "2024:2Fada.jpg"),
        ("ada lovelace", "ada:20lovelace"),
        ("café", "caf:C3:A9"),
        ("a:b", "a:b"),
    ],
)
def test_examples_of_the_documentation(media_id: str, external: str) -> None:
    assert ids.encode(media_id) == external
    assert ids.decode(external) == media_id


def test_more_pictures_of_one_external_id_have_media_ids_of_their_own() -> None:
    one, two = (ids.another("ada", content * 64) for content in "ab")
    assert len({"ada", one, two}) == 3
    assert ids.unmarked(one) == ids.unmarked(two) == "ada"
    for media_id in ("ada", "ada?x", "?0123456789abcdef0123", "photo.jpg?width=200"):
        assert ids.unmarked(media_id) == media_id


def test_a_picture_without_external_id_is_known_by_its_bytes() -> None:
    assert ids.is_nameless(ids.nameless("0" * 64))
    assert not ids.is_nameless("sha256/ada.jpg")
