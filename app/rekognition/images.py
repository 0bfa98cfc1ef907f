"""Pictures of a call: where their bytes come from, their faces, and which pass a quality filter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app import photos
from app.rekognition.call import Call
from app.rekognition.faults import InvalidParameter, NoSuchObject
from faces.errors import LikenessError, UnsupportedImage
from faces.image import probe
from faces.originals import Originals, folders_of
from faces.records import API_SOURCE
from faces.types import Analysis

BARS: Mapping[str, float] = {"NONE": 0.0, "LOW": 0.1, "MEDIUM": 0.25, "HIGH": 0.5}
"""The least quality that each filter lets pass; AUTO is the service's own, FACE_MIN_QUALITY."""
_FORMATS = ("JPEG", "PNG")


def bar(call: Call) -> float:
    """The least quality of the call's QualityFilter."""
    wish = str(call.given["QualityFilter"])
    return call.parts.settings.face_min_quality if wish == "AUTO" else BARS[wish]


def analyse(
    call: Call, data: bytes, *, choose: photos.Choose | None = None, model: str | None = None
) -> Analysis:
    """The faces of a picture, largest first. Raises as the pipeline does."""
    return photos.analyse(call.parts, call.client, data, call.operation, choose=choose, model=model)


def picture(call: Call, member: str = "Image") -> bytes:
    """The bytes of one of the call's pictures: a JPEG or PNG.

    Raises ImageTooLarge, UnsupportedImage, InvalidImage and NoSuchObject.
    """
    image: Mapping[str, Any] = call.given[member]
    data = image["Bytes"] if "Bytes" in image else _object(call, image["S3Object"])
    if probe(data).format not in _FORMATS:
        raise UnsupportedImage(f"{member}: must be a JPEG or PNG picture by its bytes.")
    return bytes(data)


def no_face(member: str) -> LikenessError:
    """The error for a picture in which a face is needed and none was found."""
    return InvalidParameter(f"{member}: no face was found in the picture; one at least is needed.")


def _object(call: Call, place: Mapping[str, str]) -> bytes:
    """The bytes of an indexed item: Bucket is its source's name, Name its id there."""
    parts = call.parts
    if "Bucket" not in place or "Name" not in place:
        raise InvalidParameter("S3Object: must hold Bucket and Name.")
    if "Version" in place:
        raise NoSuchObject("S3Object.Version: the service keeps no versions of pictures.")
    item = parts.store.item_of_source(place["Bucket"], place["Name"])
    if item is None or item.source == API_SOURCE or not call.caller.sees(item.collection):
        raise NoSuchObject(
            "S3Object: Bucket must name a CMS source of this service, and Name an item of it that "
            "was indexed. Buckets of S3 are not reached."
        )
    cap = parts.settings.max_upload_bytes
    with parts.originals_gate.place(call.client.gone, call.client.deadline):
        data = Originals(folders_of(parts.settings), parts.originals).read(item, max_bytes=cap)
    if data is None:
        raise NoSuchObject(
            f"S3Object: the item's picture cannot be read from its source now, or has more than "
            f"{cap} bytes."
        )
    call.client.take(len(data))
    return data
