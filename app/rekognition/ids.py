"""Between media ids (any printable text) and ExternalImageIds (`[a-zA-Z0-9_.\\-:]`, at most 255).

A media id of those letters is its own ExternalImageId and the other way round. Any other character
becomes `:XX` for each byte of its UTF-8, in upper-case hex: `2024/ada.jpg` is `2024:2Fada.jpg`. A
text that could be read both ways is read as the escaped form of another id; its own media id is
then written with its colon escaped (`:3A`). What would exceed 255 is `sha256:<hex>` of the media
id, which the service remembers. Reading what was written gives what was there, both ways.
"""

from __future__ import annotations

import hashlib
import re

from app.forms import media_id as checked

LONGEST = 255
NAMELESS = "sha256/"
"""The media id of a picture without ExternalImageId begins so; the hash of its bytes follows."""
_MARK = re.compile(r"\?[0-9a-f]{20}")
_PLAIN = re.compile(r"[a-zA-Z0-9_.\-:]+")
_ESCAPE = re.compile(r"(?::[0-9A-F]{2})+")
_READS_AS_ESCAPE = re.compile(r":(?=[0-9A-F]{2})")
_ALIAS = re.compile(r"sha256:[0-9a-f]{64}")


def encode(media_id: str) -> str:
    """The ExternalImageId of a media id; it may exceed 255, see `alias`."""
    if _PLAIN.fullmatch(media_id) and decode(media_id) == media_id:
        return media_id
    return _escaped(media_id)


def decode(external: str) -> str:
    """The media id that an ExternalImageId, which is no alias, stands for."""
    media_id = _unescaped(external)
    if media_id is None or media_id == external:
        return external
    return media_id if encode(media_id) == external else external


def alias(media_id: str) -> str:
    """The ExternalImageId of a media id whose encoding exceeds 255."""
    return "sha256:" + hashlib.sha256(media_id.encode()).hexdigest()


def is_alias(external: str) -> bool:
    """Whether an ExternalImageId may be an alias."""
    return _ALIAS.fullmatch(external) is not None


def nameless(content: str) -> str:
    """The media id of a picture that was indexed without ExternalImageId, by its bytes' hash."""
    return NAMELESS + content


def is_nameless(media_id: str) -> bool:
    """Whether a media id is one of those."""
    return re.fullmatch(NAMELESS + "[0-9a-f]{64}", media_id) is not None


def another(media_id: str, content: str) -> str:
    """The media id of one more picture, by its bytes' hash, under the ExternalImageId of another.

    An ExternalImageId may name many pictures (a person's, say); a media id names one.
    """
    return f"{media_id}?{content[:20]}"


def unmarked(media_id: str) -> str:
    """The media id whose ExternalImageId this one has, too."""
    return media_id[:-21] if _MARK.fullmatch(media_id[-21:]) and len(media_id) > 21 else media_id


def _escaped(media_id: str) -> str:
    colons = _READS_AS_ESCAPE.sub(":3A", media_id)
    return re.sub(
        r"[^a-zA-Z0-9_.\-:]",
        lambda found: "".join(f":{byte:02X}" for byte in found[0].encode()),
        colons,
    )


def _unescaped(external: str) -> str | None:
    """The text without escapes; None when it is no media id."""

    def plain(found: re.Match[str]) -> str:
        return bytes.fromhex(found[0].replace(":", "")).decode("utf-8")

    try:
        return checked(_ESCAPE.sub(plain, external))
    except ValueError:  # a UnicodeDecodeError is one, too
        return None
