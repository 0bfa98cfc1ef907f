"""Forms, however they are cut into chunks."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.multipart import MAX_TEXT, PartsReader
from faces.errors import ImageTooLarge, InvalidRequest, LikenessError

KIND = b"multipart/form-data; boundary=xyz"
NAMES = st.text(st.characters(categories=["Ll", "Lu", "Nd"]), min_size=1, max_size=12)
TEXTS = st.dictionaries(NAMES.filter(lambda n: n != "image"), st.text(max_size=60), max_size=5)


def encode(texts: dict[str, str], image: bytes) -> bytes:
    body = b""
    for name, text in texts.items():
        head = f'--xyz\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
        body += head.encode() + text.encode() + b"\r\n"
    body += b'--xyz\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n'
    return body + b"Content-Type: image/jpeg\r\n\r\n" + image + b"\r\n--xyz--\r\n"


@given(
    TEXTS.filter(lambda texts: not any("--xyz" in text for text in texts.values())),
    st.binary(max_size=300).filter(lambda data: b"--xyz" not in data),
    st.integers(1, 50),
)
def test_what_was_sent_is_what_is_read(texts: dict[str, str], image: bytes, step: int) -> None:
    reader = PartsReader(KIND, pictures=("image",), known=("image", "filter"), picture_cap=1000)
    body = encode(texts, image)
    for at in range(0, len(body), step):
        reader.feed(body[at : at + step])
    parts = reader.finish()
    assert parts.pictures == {"image": image}
    assert parts.texts == texts


@given(st.binary(max_size=200), st.integers(1, 20))
def test_any_bytes_end_in_our_own_error_or_parts(data: bytes, step: int) -> None:
    reader = PartsReader(KIND, pictures=("image",), known=("image", "filter"), picture_cap=100)
    with contextlib.suppress(LikenessError):
        for at in range(0, len(data), step):
            reader.feed(data[at : at + step])
        reader.finish()


def test_a_picture_stops_at_its_cap() -> None:
    reader = PartsReader(KIND, pictures=("image",), known=("image", "filter"), picture_cap=10)
    reader.feed(encode({}, bytes(10)))
    assert len(reader.finish().pictures["image"]) == 10
    with pytest.raises(ImageTooLarge):
        PartsReader(KIND, pictures=("image",), known=("image", "filter"), picture_cap=10).feed(
            encode({}, bytes(11))
        )


def test_a_name_stands_for_one_part() -> None:
    body = encode({}, b"a").removesuffix(b"--xyz--\r\n") + encode({}, b"b")
    with pytest.raises(InvalidRequest):
        PartsReader(KIND, pictures=("image",), known=("image", "filter"), picture_cap=10).feed(body)


@pytest.mark.parametrize("picture", [b"\xff\xd8\xff", b"a" * (MAX_TEXT + 1)])
def test_a_picture_under_another_name_is_told_the_names_that_there_are(picture: bytes) -> None:
    reader = PartsReader(KIND, pictures=("image",), known=("image", "filter"), picture_cap=10)
    body = encode({}, picture).replace(b'name="image"', b'name="photo"')
    with pytest.raises(InvalidRequest) as caught:
        reader.feed(body)
    assert caught.value.errors[0].field == "body"
    assert "image, filter" in caught.value.detail or "filter, image" in caught.value.detail
    assert "photo" not in caught.value.detail
