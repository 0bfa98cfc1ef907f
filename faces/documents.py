"""Between stored documents and records: pure, no reads, no writes."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from bson.binary import Binary, BinaryVectorDtype

from faces.database import Document
from faces.errors import FieldError, InvalidRequest
from faces.records import (
    API_SOURCE,
    ActiveModel,
    CollectionInfo,
    FieldType,
    Item,
    KnownItem,
    Scalar,
    StoredFace,
    Subject,
    Unindexed,
)
from faces.types import Box, Detection, Landmarks, MediaInfo, MediaRef, Vector

METADATA_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
MAX_METADATA = 64
"""The most metadata fields of one item."""
MAX_STRING = 4096
"""The longest metadata string, in characters; the index cuts terms at 8,191."""
MAX_METADATA_BYTES = 8192
"""All names and texts of one item's metadata: every face and every match carries them along."""

FACE_FIELDS: Document = {"embeddings": 0}
"""The projection of every read of faces: vectors stay in the database."""
ITEM_FIELDS: Document = {"unindexed": 0}
"""The projection of lists of items: a crowd's picture names hundreds of faces left out."""


def pack_vector(vector: Vector) -> Binary:
    """BinData subtype 9, float32: the form in which vectors are stored and sent."""
    return Binary.from_vector(vector.astype("float32").tolist(), BinaryVectorDtype.FLOAT32)


def unpack_vector(value: Any) -> Vector:
    """The float32 vector of a stored BinData (or, in data from elsewhere, of an array)."""
    import numpy as np  # only where there are vectors: a process without faces does without it

    if isinstance(value, Binary):
        value = value.as_vector().data
    return np.asarray(value, dtype=np.float32)


def box_document(box: Box) -> Document:
    """Pixels as stored: plain floats."""
    return {
        "x": float(box.x),
        "y": float(box.y),
        "width": float(box.width),
        "height": float(box.height),
    }


def box_record(document: Mapping[str, Any]) -> Box:
    """The inverse of `box_document`."""
    return Box(document["x"], document["y"], document["width"], document["height"])


def relative_box(face: Document) -> Box:
    """A stored face's box as fractions of the picture that it was found in."""
    width, height = face["frame"]
    return box_record(face["box"]).relative(width, height)


def face_record(document: Document, *, unassigned: frozenset[str] = frozenset()) -> StoredFace:
    """The face; a subject in `unassigned` is being deleted and shows as none."""
    points = [(float(x), float(y)) for x, y in document["landmarks"]]
    subject = document["subject_id"]
    return StoredFace(
        face_id=document["_id"],
        collection=document["collection"],
        media_id=document["media_id"],
        image_id=document["image_id"],
        source=document["source"],
        box=box_record(document["box"]),
        landmarks=cast(Landmarks, tuple(points)),
        confidence=document["confidence"],
        quality=document["quality"],
        subject_id=None if subject in unassigned else subject,
        metadata=document.get("metadata") or {},
        taken_at=document.get("taken_at"),
        created_at=document["created_at"],
        hidden=document["hidden"],
        models=tuple(sorted(document.get("builds") or {})),
        frame=(int(document["frame"][0]), int(document["frame"][1])),
    )


def face_detection(document: Document) -> Detection:
    """Where a stored face was found."""
    points = [(float(x), float(y)) for x, y in document["landmarks"]]
    landmarks = cast(Landmarks, tuple(points))
    return Detection(box_record(document["box"]), document["confidence"], landmarks)


def item_record(document: Document, faces: Sequence[StoredFace] = ()) -> Item:
    """The item, with its `faces`, largest first, when they were read."""
    error = document.get("error") or {}
    return Item(
        collection=document["collection"],
        media_id=document["media_id"],
        source=document["source"],
        source_key=source_key(document),
        state=document["state"],
        image_id=document.get("image_id"),
        sha256=document.get("sha256"),
        width=document.get("width", 0),
        height=document.get("height", 0),
        url=document.get("url"),
        title=document.get("title"),
        taken_at=document.get("taken_at"),
        metadata=document.get("metadata") or {},
        hidden=document.get("hidden", False),
        etag=document.get("etag"),
        error=error.get("class"),
        error_permanent=error.get("permanent", False),
        attempts=document.get("attempts", 0),
        next_at=document.get("next_at"),
        pipeline_version=document.get("pipeline_version", ""),
        rev=document["rev"],
        face_count=document.get("face_count", 0),
        created_at=document["created_at"],
        updated_at=document["updated_at"],
        faces=tuple(sorted(faces, key=lambda f: (-f.box.area, f.box.x, f.box.y, f.face_id))),
        unindexed=tuple(
            Unindexed(box_record(entry["box"]), entry["reason"])
            for entry in document.get("unindexed") or ()
        ),
    )


def known_record(document: Document) -> KnownItem:
    """What the reconciler compares with its source's list."""
    error = document.get("error") or {}
    return KnownItem(
        source_key=source_key(document),
        media_id=document["media_id"],
        etag=document.get("etag"),
        sha256=document.get("sha256"),
        state=document["state"],
        pipeline_version=document.get("pipeline_version", ""),
        attempts=document.get("attempts", 0),
        next_at=document.get("next_at"),
        error=error.get("class"),
        error_permanent=error.get("permanent", False),
        hidden=document.get("hidden", False),
        updated_at=document["updated_at"],
        rev=document["rev"],
        url=document.get("url"),
        collection=document["collection"],
    )


def source_key(document: Document) -> str:
    """The item's id at its source; items of the API are known by their media id."""
    own = document["source"] == API_SOURCE or not document.get("source_key")
    key: str = document["media_id"] if own else document["source_key"]
    return key


def ref_of(document: Document) -> MediaRef:
    """The reference of a stored item."""
    return MediaRef(
        document["collection"], document["media_id"], document["source"], source_key(document)
    )


def info_of(document: Document) -> MediaInfo:
    """What its source said about a stored item."""
    return MediaInfo(
        url=document.get("url"),
        title=document.get("title"),
        taken_at=document.get("taken_at"),
        metadata=document.get("metadata") or {},
        etag=document.get("etag"),
        hidden=document.get("hidden", False),
    )


def collection_record(document: Document, **counts: int) -> CollectionInfo:
    """The collection with the counts that were made."""
    return CollectionInfo(
        name=document["_id"],
        metadata_fields=dict(document.get("metadata_fields") or {}),
        created_at=document["created_at"],
        facets_job=document.get("facets_job"),
        pending_fields=tuple(document.get("pending_fields") or ()),
        **counts,
    )


def subject_record(document: Document, face_count: int | None = None) -> Subject:
    """The subject, with its number of faces when they were counted."""
    return Subject(
        collection=document["collection"],
        subject_id=document["subject_id"],
        name=document.get("name"),
        metadata=document.get("metadata") or {},
        rev=document["rev"],
        created_at=document["created_at"],
        updated_at=document["updated_at"],
        face_count=face_count,
    )


def model_record(document: Document) -> ActiveModel:
    """The active model, with the one that a switch prepares."""
    upcoming, before = document.get("next"), document.get("previous")
    return ActiveModel(
        key=document["model"],
        build=document["build"],
        index=document["index"],
        quantization=document.get("quantization", "none"),
        rolled_back=document.get("rolled_back", False),
        next=model_record(upcoming) if upcoming else None,
        previous=model_record(before) if before else None,
        left_behind=document.get("left_behind", 0),
        preparing=document.get("preparing", False),
        both=document.get("both", False),
        since=document.get("since"),
    )


def facet(name: str, value: Scalar) -> str:
    """`name=value`, the form in which a declared field is filtered; 3 and 3.0 are one value."""
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, int | float):
        number = float(value)
        text = str(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)
    else:
        text = value
    return f"{name}={text}"


def of_type(value: object, declared: FieldType) -> bool:
    """Whether a value is of a declared type; a bool is no number."""
    if declared == "bool":
        return isinstance(value, bool)
    if declared == "number":
        return (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and abs(value) < 2**63
            and math.isfinite(value)
        )
    return isinstance(value, str)


def facets(metadata: Mapping[str, Scalar], declared: Mapping[str, FieldType]) -> list[str]:
    """The facets of an item, sorted; a value that is not of its declared type gives none."""
    return sorted(
        facet(name, value)
        for name, value in metadata.items()
        if name in declared and of_type(value, declared[name])
    )


def metadata_size(metadata: Mapping[str, object]) -> int:
    """Bytes of the names and texts, as UTF-8; a number or boolean counts as eight."""
    return sum(
        len(name.encode()) + (len(value.encode()) if isinstance(value, str) else 8)
        for name, value in metadata.items()
    )


def check_metadata(
    metadata: Mapping[str, object], declared: Mapping[str, FieldType] | None = None
) -> None:
    """Raises InvalidRequest naming each field that cannot be stored or is not as declared."""
    errors = []
    if len(metadata) > MAX_METADATA:
        errors.append(FieldError("metadata", f"has more than {MAX_METADATA} fields"))
    elif metadata_size(metadata) > MAX_METADATA_BYTES:
        errors.append(
            FieldError(
                "metadata", f"names and texts have more than {MAX_METADATA_BYTES} bytes in UTF-8"
            )
        )
    for name, value in list(metadata.items())[:MAX_METADATA]:
        if not METADATA_NAME.fullmatch(name):
            errors.append(FieldError("metadata", "names are 1 to 64 of A-Z a-z 0-9 _ -"))
        elif isinstance(value, str):
            if len(value) > MAX_STRING or "\0" in value:
                errors.append(
                    FieldError(f"metadata.{name}", f"must be at most {MAX_STRING} characters")
                )
        elif not (isinstance(value, bool) or of_type(value, "number")):
            errors.append(
                FieldError(f"metadata.{name}", "must be a string, a finite number or a bool")
            )
        if declared and name in declared and not of_type(value, declared[name]):
            errors.append(
                FieldError(f"metadata.{name}", f"must be a {declared[name]}, as declared")
            )
    if errors:
        raise InvalidRequest(errors=errors)


def millis(moment: dt.datetime | None) -> dt.datetime | None:
    """`utc`, or None for None."""
    return None if moment is None else utc(moment)


def utc(moment: dt.datetime) -> dt.datetime:
    """The moment as the database keeps it: UTC, whole milliseconds; a naive one is UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    moment = moment.astimezone(dt.UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
